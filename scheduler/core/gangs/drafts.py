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
    "Offer",
    "Wanted",
    "places",
]

BEING_PLANNED = f"{Reason.GANG_DOES_NOT_FIT.text}: its places are still being planned"

IntArray = NDArray[np.int64]
_NO_ROWS: IntArray = np.zeros(0, dtype=np.int64)


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


@dataclass(frozen=True, slots=True)
class Offer:
    """Where the member that is asked about may go.

    Attributes
    ----------
    request
        The member.
    rows : (R,)
        Rows offered; -1 for unknown nodes.
    late : (K,)
        Those of which the state is late: kube-scheduler has found room there, for this member. So
        what it counts itself is no reason against any member there, but where it is reserved for
        others. Empty beside a cluster that is as the state says.
    alone
        Whether ``late`` counts for the member that is asked about alone: nobody keeps it from
        being bound before there is room for the others.
    """

    request: PodRequest
    rows: IntArray
    late: IntArray
    alone: bool = False

    @property
    def known(self) -> IntArray:
        """Rows offered of known nodes."""
        return self.rows[self.rows >= 0]

    @property
    def name(self) -> bytes:
        """The same for the same rows in any order, and for no others."""
        return hashlib.blake2b(np.sort(self.rows).tobytes(), digest_size=16).digest()

    @property
    def question(self) -> bytes:
        """The same where the same rows would do: for anybody, or as far as it is about one."""
        if not len(self.late):
            return self.name
        return b"|".join((self.name, np.sort(self.late).tobytes(), self.request.uid.encode()))

    def late_for(self, member: PodRequest) -> IntArray:
        """Rows where what kube-scheduler counts is no reason against this member. (K,)"""
        return self.late if not self.alone or member.uid == self.request.uid else _NO_ROWS

    def is_late(self, engine: Engine, node: str, member: PodRequest) -> bool:
        """Whether this is a node of which the state is late, as far as this member goes."""
        return engine.state.row_of.get(node, -1) in self.late_for(member)

    def best(self, engine: Engine, member: PodRequest) -> str:
        """The best node for a member like the one asked about; empty if there is none."""
        return self._best(engine, member, self.known)

    def place(self, engine: Engine, member: PodRequest) -> str:
        """The same for any member: where it may go by its own rules if it is unlike."""
        like = (member.shape, member.selection) == (self.request.shape, self.request.selection)
        return self._best(engine, member, self.known if like else None)

    def _best(self, engine: Engine, member: PodRequest, rows: IntArray | None) -> str:
        row, late = engine.best(member, rows, selection=rows is None), self.late_for(member)
        if row < 0 and len(late):  # what is known to be there comes first
            row = engine.best(member, rows, selection=rows is None, late=late)
        node = engine.state.nodes[row] if row >= 0 else None
        return node.name if node is not None else ""


def places(engine: Engine, wanted: Wanted, offer: Offer) -> Iterator[tuple[PodRequest, str]]:
    """A node for each member: those needed first, the largest of them first.

    Ends with the first needed one that has none; extra ones without are left out. Whoever takes
    the places puts each member there before it asks for the next.

    Parameters
    ----------
    engine
        Says what is best.
    wanted
        Who needs a place.
    offer
        As an answer to whom. What was offered is where those may go that ask for the same by the
        same rules, whatever is known of the nodes here; for the others their own rules tell.
    """
    last = (
        offer.request.uid if offer.alone and len(offer.late) else ""
    )  # it has more to choose from
    for member in sorted(wanted.needed, key=lambda each: (each.uid == last, _largest_first(each))):
        node = offer.place(engine, member)
        if not node:
            return
        yield member, node
    hopeless: set[tuple[Shape, NodeSelection]] = set()
    for member in sorted(wanted.extra, key=_largest_first):
        kind = (member.shape, member.selection)
        node = "" if kind in hopeless else offer.place(engine, member)
        if node:
            yield member, node
        else:
            hopeless.add(kind)


def _largest_first(member: PodRequest) -> int:
    return -member.gpu.requested_milli


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
    offer
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
        offer: Offer,
        kept: Sequence[str],
    ) -> None:
        self.key, self.wanted, self.offer = key, wanted, offer
        self.kept = tuple(kept)
        self.places: list[tuple[PodRequest, str]] = []
        self.done = self.taken = self.broken = False
        self.touched = 0.0
        self._engine = engine
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
        for member, node in places(self._engine, self.wanted, self.offer):
            late = self.offer.is_late(self._engine, node, member)
            self._engine.reserve_until(member, node, math.inf, passed=late)
            self.places.append((member, node))
            yield
        self.done = True
