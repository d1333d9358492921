"""Joint plans and how pods are answered from them: gangs whole or not at all, pins for others.

A gang's plan is a list of *slots*: one place for each member that is still missing, all of them
held together or none. Members are told the node of their slot and nothing else; who asks twice, or
in another order, gets the same answer. Slots are holds with a common time limit, so that a gang
that never comes gives everything back.

A *pin* is a planned node for a single pod: the winner of its ranking as long as it fits there.

No clock and no lock of its own; the driver brings both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.errors import CapacityConflict, UnknownNode
from scheduler.core.feasibility import static_reasons
from scheduler.core.model import GangKey, NodeSelection, PodRequest, Reason, Shape

__all__ = ["Adoption", "GangAnswer"]

IntArray = NDArray[np.int64]

_FITS = Reason.FITS.code
_MOST_GANGS = 10_000


@dataclass(frozen=True, slots=True)
class GangAnswer:
    """What a member is told: its row, or -1 and why there is none."""

    row: int
    message: str = ""


@dataclass(slots=True)
class _Slot:
    """A place for one member. ``member`` is the uid that asked for it, empty while nobody has."""

    hold: str
    shape: Shape
    selection: NodeSelection
    node: str
    member: str = ""


@dataclass(slots=True)
class _Gang:
    """Everything known about one gang that is not whole yet."""

    members: dict[str, PodRequest] = field(default_factory=dict)
    slots: list[_Slot] = field(default_factory=list)
    complete: bool = False
    waiting_since: float | None = None
    refused: tuple[int, int, str] | None = None


class Adoption:
    """Slots and pins over an engine.

    Parameters
    ----------
    engine
        Holds are placed through it.
    ttl_s
        How long slots and pins live without being asked for.
    reserve_after_s
        How long a gang waits before it may keep the places that it can get, one gang at a time;
        0 never.
    """

    def __init__(self, engine: Engine, *, ttl_s: float, reserve_after_s: float = 0.0) -> None:
        self._engine = engine
        self._ttl_s = ttl_s
        self._reserve_after_s = reserve_after_s
        self._gangs: dict[GangKey, _Gang] = {}
        self._running: dict[GangKey, set[str]] = {}
        self._pins: dict[str, tuple[str, float]] = {}
        self._serial = 0
        for uid, placement in engine.state.placements.items():
            if placement.pod.gang:
                self._running.setdefault(placement.pod.gang, set()).add(uid)

    # -- facts -------------------------------------------------------------------------------

    def bound(self, request: PodRequest) -> None:
        """A pod has been placed for good; its slot, if it had one, is used up."""
        self._pins.pop(request.uid, None)
        key = request.gang
        if key is None:
            return
        self._running.setdefault(key, set()).add(request.uid)
        gang = self._gangs.get(key)
        if gang is None:
            return
        gang.members.pop(request.uid, None)
        for slot in gang.slots:
            if slot.member == request.uid:  # it was bound elsewhere than planned
                self._give_back([slot])
                gang.slots.remove(slot)
                break
        if not self._missing(key) and not gang.slots:
            del self._gangs[key]

    def gone(self, request: PodRequest) -> None:
        """A pod has ended or was deleted."""
        self._pins.pop(request.uid, None)
        key = request.gang
        if key is None:
            return
        running = self._running.get(key, set())
        running.discard(request.uid)
        if not running:
            self._running.pop(key, None)
        gang = self._gangs.get(key)
        if gang and request.uid in gang.members:
            del gang.members[request.uid]
            for slot in gang.slots:
                if slot.member == request.uid:
                    slot.member = ""
            if not gang.members:  # nobody waits any more
                self._give_back(gang.slots)
                del self._gangs[key]

    def slot_for(self, request: PodRequest, node: str) -> str:
        """The hold that stands for this member on this node, or an empty string."""
        gang = self._gangs.get(request.gang) if request.gang else None
        for slot in gang.slots if gang else ():
            if slot.member == request.uid and slot.node == node:
                return slot.hold
        return ""

    def take_slot(self, request: PodRequest, node: str) -> None:
        """Free the member's slot on this node, so that the member itself can be placed there.

        Should that fail after all, :meth:`lost` has the gang planned again.
        """
        hold = self.slot_for(request, node)
        if hold and request.gang:
            gang = self._gangs[request.gang]
            gang.slots = [slot for slot in gang.slots if slot.hold != hold]
            if hold in self._engine.holds:
                self._engine.drop_hold(hold)

    def lost(self, request: PodRequest) -> None:
        """A member could not be placed where it was planned: its gang needs a new plan."""
        gang = self._gangs.get(request.gang) if request.gang else None
        if gang:
            self._forget_plan(gang)

    def running(self, key: GangKey) -> frozenset[str]:
        """Uids of the gang's members that are placed for good."""
        return frozenset(self._running.get(key, ()))

    # -- answers -----------------------------------------------------------------------------

    def concerns(self, request: PodRequest) -> bool:
        """Whether the pod is a member of a gang that is not whole yet."""
        key = request.gang
        return key is not None and key.min_count > 1 and self._missing(key) > 0

    def answer(self, request: PodRequest, rows: IntArray, now: float) -> GangAnswer:
        """The member's row among ``rows``, from a plan of the whole gang.

        Parameters
        ----------
        request
            A member, see :meth:`concerns`.
        rows : (R,) int64
            Rows that the caller would accept; -1 for unknown nodes.
        now
            The driver's time.
        """
        key = request.gang
        assert key is not None  # concerns() says whom this is for
        if key not in self._gangs and len(self._gangs) >= _MOST_GANGS:
            self._forget_oldest()
        gang = self._gangs.setdefault(key, _Gang())
        gang.members[request.uid] = request
        self._drop_expired(gang)
        if not gang.complete:
            problem = self._plan(key, gang, request, rows, now)
            if problem:
                if gang.waiting_since is None:
                    gang.waiting_since = now
                return GangAnswer(-1, problem)
        self._refresh(gang, now)
        slot = self._slot_of(gang, request)
        if slot is None and len(gang.members) <= self._missing(key):
            # Not like the members that the plan was made for: plan again, knowing more.
            self._forget_plan(gang)
            problem = self._plan(key, gang, request, rows, now)
            if problem:
                return GangAnswer(-1, problem)
            slot = self._slot_of(gang, request)
        if slot is None:
            return GangAnswer(-1, "the gang's places are all taken by other members")
        return GangAnswer(self._engine.state.row(slot.node))

    def pinned(self, request: PodRequest, now: float) -> int:
        """Row that a plan has for a single pod, or -1. Whether it still fits is not checked."""
        pin = self._pins.get(request.uid)
        if pin is None:
            return -1
        node, until = pin
        if until <= now:
            del self._pins[request.uid]
            return -1
        return self._engine.state.row_of.get(node, -1)

    # -- plans from outside ------------------------------------------------------------------

    def adopt(
        self, places: Sequence[tuple[PodRequest, str]], now: float
    ) -> tuple[int, Mapping[str, int]]:
        """Take over a plan for pending pods.

        Each place is checked against the state of now. A gang is adopted whole or not at all.

        Parameters
        ----------
        places
            Pods and the nodes planned for them.
        now
            The driver's time.

        Returns
        -------
        adopted : int
            Pods that will be answered from the plan.
        rejected : mapping of str to int
            Pods that will not, by cause.
        """
        adopted = 0
        rejected: dict[str, int] = {}
        gangs: dict[GangKey, list[tuple[PodRequest, str]]] = {}
        for request, node in places:
            held = request.uid in self._engine.holds
            if request.uid in self._engine.state.placements and not held:
                rejected["placed meanwhile"] = rejected.get("placed meanwhile", 0) + 1
            elif self.concerns(request) and request.gang:
                gangs.setdefault(request.gang, []).append((request, node))
            elif self._fits(request, node):
                self._pins[request.uid] = (node, now + self._ttl_s)
                adopted += 1
            else:
                rejected["no longer fits"] = rejected.get("no longer fits", 0) + 1
        for key, members in gangs.items():
            gang = self._gangs.setdefault(key, _Gang())
            self._drop_expired(gang)
            if gang.complete or self._hold_all(key, gang, members, now):
                adopted += len(members)
            else:
                rejected["gang no longer fits"] = rejected.get("gang no longer fits", 0) + len(
                    members
                )
        return adopted, rejected

    def counts(self) -> dict[str, int]:
        """Gangs planned, reserved in part and waiting, and pins, for metrics."""
        planned = sum(gang.complete for gang in self._gangs.values())
        reserved = sum(bool(gang.slots) and not gang.complete for gang in self._gangs.values())
        return {
            "planned": planned,
            "reserved": reserved,
            "waiting": len(self._gangs) - planned - reserved,
            "pins": len(self._pins),
        }

    # -- inside ------------------------------------------------------------------------------

    def _missing(self, key: GangKey) -> int:
        return max(0, key.min_count - len(self._running.get(key, ())))

    def _fits(self, request: PodRequest, node: str) -> bool:
        row = self._engine.state.row_of.get(node, -1)
        return row >= 0 and int(self._engine.filter(request, np.array([row]))[0]) == _FITS

    def _plan(
        self, key: GangKey, gang: _Gang, request: PodRequest, rows: IntArray, now: float
    ) -> str:
        """Hold a place for every missing member; returns why that is not possible, or nothing.

        Members that have not shown up yet are taken to be like this one.
        """
        state = self._engine.state
        reserve = self._may_reserve(key, gang, request, now)
        question = hash((rows.tobytes(), tuple(gang.members), reserve))
        if gang.refused and gang.refused[:2] == (state.generation_now, question):
            return gang.refused[2]
        missing = self._missing(key)
        wanted = list(gang.members.values())[:missing]
        wanted += [request] * (missing - len(wanted))
        have = list(gang.slots)
        for slot in have:  # places that a reservation has kept already
            match = next((w for w in wanted if w.shape == slot.shape), None)
            if match is not None:
                wanted.remove(match)
        known = rows[rows >= 0]
        for member in sorted(wanted, key=lambda w: -w.gpu.requested_milli):
            row = self._engine.best(member, known, selection=member.uid != request.uid)
            node = state.nodes[row] if row >= 0 else None
            if node is None:
                break
            gang.slots.append(self._hold(key, member, node.name, now))
        else:
            gang.complete, gang.waiting_since, gang.refused = True, None, None
            return ""
        found = len(gang.slots)
        text = (
            f"{Reason.GANG_DOES_NOT_FIT.text}: {found} of {missing} missing members have a place, "
            f"needs {_devices(request, missing - found)}"
        )
        if found and reserve:
            self._refresh(gang, now)
            text += f"; {found} places are reserved"
        else:
            self._give_back(gang.slots)
            gang.slots = []
        # Releasing the holds has changed the state; what counts is that nothing else has.
        gang.refused = (state.generation_now, question, text)
        return text

    def _hold_all(
        self, key: GangKey, gang: _Gang, places: Sequence[tuple[PodRequest, str]], now: float
    ) -> bool:
        """Hold exactly these places, if they suffice and all of them fit."""
        if len(places) < self._missing(key):
            return False
        self._give_back(gang.slots)
        gang.slots = []
        for request, node in places:
            try:
                slot = self._hold(key, request, node, now)
            except (CapacityConflict, UnknownNode):
                self._give_back(gang.slots)
                gang.slots = []
                return False
            slot.member = request.uid
            gang.members[request.uid] = request
            gang.slots.append(slot)
        gang.complete, gang.waiting_since, gang.refused = True, None, None
        return True

    def _hold(self, key: GangKey, member: PodRequest, node: str, now: float) -> _Slot:
        self._serial += 1
        uid = f"slot {self._serial} of gang {key.namespace}/{key.name}"
        stand_in = replace(member, uid=uid, name=f"{key.name}-slot", gang=None)
        self._engine.hold(stand_in, node, now + self._ttl_s)
        return _Slot(uid, member.shape, member.selection, node)

    def _refresh(self, gang: _Gang, now: float) -> None:
        for slot in gang.slots:
            held = self._engine.holds[slot.hold].placement
            self._engine.hold(held.pod, slot.node, now + self._ttl_s)

    def _forget_oldest(self) -> None:
        """Make room: a gang without places is as new when it asks again."""
        oldest = next((key for key, gang in self._gangs.items() if not gang.slots), None)
        if oldest is not None:
            del self._gangs[oldest]

    def _forget_plan(self, gang: _Gang) -> None:
        self._give_back(gang.slots)
        gang.slots, gang.complete, gang.refused = [], False, None

    def _drop_expired(self, gang: _Gang) -> None:
        """Slots expire together; if one is gone, the others mean nothing any more."""
        nodes = self._engine.state.row_of
        if any(s.hold not in self._engine.holds or s.node not in nodes for s in gang.slots):
            self._forget_plan(gang)
        elif not gang.slots:
            gang.complete = False

    def _give_back(self, slots: Sequence[_Slot]) -> None:
        for slot in slots:
            if slot.hold in self._engine.holds:
                self._engine.drop_hold(slot.hold)

    def _slot_of(self, gang: _Gang, request: PodRequest) -> _Slot | None:
        free = None
        for slot in gang.slots:
            if slot.member == request.uid:
                return slot
            if not slot.member and free is None and slot.shape == request.shape:
                free = slot
        if free is not None:
            free.member = request.uid
        return free

    def _may_reserve(self, key: GangKey, gang: _Gang, request: PodRequest, now: float) -> bool:
        """Whether this gang has waited long enough, is the only one, and could ever fit."""
        if not self._reserve_after_s or gang.waiting_since is None:
            return False
        if now - gang.waiting_since < self._reserve_after_s:
            return False
        others = (g for k, g in self._gangs.items() if k != key)
        if any(other.slots and not other.complete for other in others):
            return False
        state = self._engine.state
        rows = np.flatnonzero(static_reasons(state, request.shape) == _FITS)
        per_row = state.device_count[rows] // max(1, request.gpu.count)
        return int(np.maximum(per_row, 1).sum()) >= self._missing(key)


def _devices(request: PodRequest, members: int) -> str:
    """What so many more members need, in words."""
    gpu = request.gpu
    model = f" of model {' or '.join(gpu.products)}" if gpu.products else ""
    if gpu.count:
        return f"{members * gpu.count} more devices{model}"
    return f"room for {members} more members{model}"
