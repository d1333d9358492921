"""Where the members of a gang go; and plans of large gangs, made beside the cluster.

A place costs a fraction of a millisecond, a thousand of them more than anybody may wait for. So a
large gang is planned on a copy, step by step, by whoever has the time; only what comes of it is
checked against the state of then and held. The steps are those by which a small gang is planned at
once, and on an unchanged cluster end in the same places.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.gangs.states import Question
from scheduler.core.model import GangKey, NodeSelection, PodRequest, Reason, Shape

__all__ = [
    "BEING_PLANNED",
    "Draft",
    "GangAnswer",
    "Wanted",
    "offer",
    "places",
]

BEING_PLANNED = f"{Reason.GANG_DOES_NOT_FIT.text}: its places are still being planned"

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GangAnswer:
    """What a member is told: its row, or -1 and why there is none."""

    row: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who needs a place.

    Attributes
    ----------
    needed
        Members without whom the gang cannot start, and that have none yet.
    extra
        Members that exist besides.
    question
        As an answer to what.
    missing
        How many have to start in all.
    minimum
        How many the gang needs, running ones included.
    reserve
        Whether what can be had may be kept.
    """

    needed: list[PodRequest]
    extra: list[PodRequest]
    question: Question
    missing: int
    minimum: int
    reserve: bool

    @property
    def everybody(self) -> list[PodRequest]:
        """All that are to have a place if there is one."""
        return self.needed + self.extra


def places(
    engine: Engine, wanted: Wanted, request: PodRequest, known: IntArray
) -> Iterator[tuple[PodRequest, str]]:
    """A node for each member: those needed first, the largest of them first.

    Ends with the first needed one that has none; extra ones without are left out. Whoever takes
    the places puts each member there before it asks for the next.

    Parameters
    ----------
    engine
        Says what is best.
    wanted
        Who needs a place.
    request
        Who asks. What was offered is where those may go that ask for the same by the same rules,
        whatever is known of the nodes here; for the others their own rules tell.
    known : (R,) int64
        Rows that were offered.
    """
    for member in sorted(wanted.needed, key=_largest_first):
        node = _place(engine, member, request, known)
        if not node:
            return
        yield member, node
    hopeless: set[tuple[Shape, NodeSelection]] = set()
    for member in sorted(wanted.extra, key=_largest_first):
        kind = (member.shape, member.selection)
        node = "" if kind in hopeless else _place(engine, member, request, known)
        if node:
            yield member, node
        else:
            hopeless.add(kind)


def _largest_first(member: PodRequest) -> int:
    return -member.gpu.requested_milli


def _place(engine: Engine, member: PodRequest, request: PodRequest, known: IntArray) -> str:
    like = (member.shape, member.selection) == (request.shape, request.selection)
    row = engine.best(member, known if like else None, selection=not like)
    node = engine.state.nodes[row] if row >= 0 else None
    return node.name if node is not None else ""


def offer(rows: IntArray) -> bytes:
    """The same for the same rows in any order, and for no others."""
    return hashlib.blake2b(np.sort(rows).tobytes(), digest_size=16).digest()


class Draft:
    """A plan in the making.

    Parameters
    ----------
    engine
        On a copy of the state; nobody else uses it.
    key
        The gang.
    wanted
        Who needs a place.
    request, known
        As in :func:`places`.
    kept
        Who has a place already.

    Attributes
    ----------
    places : list of (PodRequest, str)
        Members that have a place so far, and its node.
    done, broken
        Whether it is finished; whether it has failed for a fault of ours.
    taken, touched
        Whether somebody is at it; when somebody was last, in the driver's time.
    """

    def __init__(
        self,
        engine: Engine,
        key: GangKey,
        wanted: Wanted,
        request: PodRequest,
        known: IntArray,
        kept: Sequence[str],
    ) -> None:
        self.key, self.wanted, self.request = key, wanted, request
        self.kept = tuple(kept)
        self.places: list[tuple[PodRequest, str]] = []
        self.done = self.taken = self.broken = False
        self.touched = 0.0
        self._engine, self._known = engine, known
        self._steps = self._made()

    def steps(self) -> Iterator[None]:
        """Go on where it was left; needs no lock."""
        self.broken = True  # until it turns out otherwise
        for _ in self._steps:
            self.broken = False
            yield
            self.broken = True
        self.broken = not self.done

    def _made(self) -> Iterator[None]:
        for member, node in places(self._engine, self.wanted, self.request, self._known):
            self._engine.reserve_until(member, node, math.inf)
            self.places.append((member, node))
            yield
        self.done = True
