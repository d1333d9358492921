"""A gang and its plan; and plans of large gangs, made beside the cluster that others ask about.

A place costs a fraction of a millisecond, a thousand of them more than anybody may wait for. So a
large gang is planned on a copy, step by step, by whoever has the time; only what comes of it is
checked against the state of then and held. The steps are those by which a small gang is planned at
once, and on an unchanged cluster end in the same places.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.model import GangKey, NodeSelection, PodRequest, Reason, Shape

__all__ = [
    "BEING_PLANNED",
    "Draft",
    "Gang",
    "GangAnswer",
    "Slot",
    "Wanted",
    "give_up_holds",
    "offer",
    "places",
    "stand_in",
    "use_up",
]

BEING_PLANNED = f"{Reason.GANG_DOES_NOT_FIT.text}: its places are still being planned"

IntArray = NDArray[np.int64]
Question = tuple[bytes, tuple[str, ...], bool]
"""What was offered, who is missing, and whether what can be had may be kept."""


def places(
    engine: Engine, wanted: Sequence[PodRequest], request: PodRequest, known: IntArray
) -> Iterator[tuple[PodRequest, str]]:
    """A node for each member, the largest first; ends with the first that has none.

    Whoever takes them places each member before it asks for the next.

    Parameters
    ----------
    engine
        Says what is best.
    wanted
        Who needs a place.
    request
        Who asks. What was offered is where its like may go, whatever is known here of labels and
        taints; unlike ones are told of by the state alone.
    known : (R,) int64
        Rows that were offered.
    """
    for member in sorted(wanted, key=lambda member: -member.gpu.requested_milli):
        where = known if member.shape == request.shape else None
        asked = member
        if member.uid in engine.state.placements:  # its own room is not its stand-in's
            asked = replace(member, uid=f"place of {member.uid}")
        alike = where is not None and member.selection == request.selection
        row = engine.best(asked, where, selection=not alike)
        node = engine.state.nodes[row] if row >= 0 else None
        if node is None:
            return
        yield member, node.name


def give_up_holds(engine: Engine, members: Iterable[PodRequest]) -> None:
    """Who was held alone before it was known to be a member gets a place of its gang's instead."""
    for member in members:
        if member.uid in engine.holds:
            engine.drop_hold(member.uid)


def stand_in(key: GangKey, member: PodRequest, serial: int) -> PodRequest:
    """What holds the place of a member until that is bound."""
    uid = f"slot {serial} of gang {key.label}"
    return replace(member, uid=uid, name=f"{key.name}-slot", gang=None)


def offer(rows: IntArray) -> bytes:
    """The same for the same rows in any order, and for no others."""
    return hashlib.blake2b(np.sort(rows).tobytes(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class GangAnswer:
    """What a member is told: its row, or -1 and why there is none."""

    row: int
    message: str = ""


@dataclass(slots=True)
class Slot:
    """A place for one member. ``member`` is the uid that asked for it, empty while nobody has.

    ``hold`` is the uid of the hold that keeps the place, empty while the gang rests.
    """

    hold: str
    shape: Shape
    selection: NodeSelection
    node: str
    member: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who needs a place, as an answer to what; and whether what can be had may be kept."""

    members: list[PodRequest]
    question: Question
    missing: int
    reserve: bool
    minimum: int


@dataclass(slots=True)
class Gang:
    """Everything known about one gang that is not whole yet."""

    members: dict[str, PodRequest] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    complete: bool = False
    waiting_since: float | None = None
    refused: tuple[int, Question, str] | None = None
    told: dict[bytes, dict[str, str]] = field(default_factory=dict)  # node by offered rows and uid
    holds_end: float | None = None
    rests_until: float = 0.0


def use_up(kept: Counter[Shape], member: PodRequest) -> bool:
    """Whether one of these places will do for the member; it is used up then."""
    if not kept[member.shape]:
        return False
    kept[member.shape] -= 1
    return True


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
    serial
        Stand-ins are numbered from here.
    kept
        Places that the gang has already.

    Attributes
    ----------
    places : list of (PodRequest, PodRequest, str)
        Members that have a place so far, what stands for each, and its node.
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
        *,
        serial: int,
        kept: int,
    ) -> None:
        self.key, self.wanted, self.request = key, wanted, request
        self.serial, self.kept = serial, kept
        self.places: list[tuple[PodRequest, PodRequest, str]] = []
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
        found = places(self._engine, self.wanted.members, self.request, self._known)
        for serial, (member, node) in enumerate(found, self.serial):
            substitute = stand_in(self.key, member, serial)
            self._engine.hold(substitute, node, math.inf)
            self.places.append((member, substitute, node))
            yield
        self.done = True
