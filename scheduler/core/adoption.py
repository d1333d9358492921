"""Joint plans and how pods are answered from them: gangs whole or not at all, pins for others.

A gang's plan is a list of *slots*: one place for each member that is still missing, all of them
held together or none. Members are told the node of their slot and nothing else; who asks twice, or
in another order, gets the same answer. Slots are holds with a common time limit, so that a gang
that never comes gives everything back. One that comes again and again and is never bound, because
something that only kube-scheduler knows is against it, gives everything back as well after some
time, and goes on being told the same places without holding them.

A slot moves where the caller does not offer its node, as kube-scheduler does when it tries one
topology domain after another, or when a rule of its own excludes the node for this member. Whoever
offers the same nodes again is told the same node again.

A *pin* is a planned node for a single pod: the winner of its ranking as long as it fits there.

No clock and no lock of its own; the driver brings both.
"""

from __future__ import annotations

import hashlib
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
_Question = tuple[bytes, tuple[str, ...], bool]  # what was offered, who is missing, may it reserve

_FITS = Reason.FITS.code
_MOST_GANGS = 10_000
_TERMS = 5  # a gang without progress keeps its places for so many time limits at most
_MOST_OFFERS = 64


@dataclass(frozen=True, slots=True)
class GangAnswer:
    """What a member is told: its row, or -1 and why there is none."""

    row: int
    message: str = ""


@dataclass(slots=True)
class _Slot:
    """A place for one member. ``member`` is the uid that asked for it, empty while nobody has.

    ``hold`` is the uid of the hold that keeps the place, empty while the gang rests.
    """

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
    refused: tuple[int, _Question, str] | None = None
    told: dict[bytes, dict[str, str]] = field(default_factory=dict)  # node by offered rows and uid
    holds_end: float | None = None
    rests_until: float = 0.0


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
        self._expected: dict[GangKey, dict[str, PodRequest]] = {}
        self._pins: dict[str, tuple[str, float]] = {}
        self._serial = 0
        for uid, placement in engine.state.placements.items():
            if placement.pod.gang:
                self._running.setdefault(placement.pod.gang, set()).add(uid)

    # -- facts -------------------------------------------------------------------------------

    def expect(self, request: PodRequest) -> None:
        """A pod exists and waits: its gang is planned with it before it asks itself.

        Without that the first member of a gang of unlike ones would be answered as if all were
        like it, be refused, and kube-scheduler would never come to the others.
        """
        key = request.gang
        if key is not None and key.min_count > 1:
            self._expected.setdefault(key, {})[request.uid] = request

    def bound(self, request: PodRequest) -> None:
        """A pod has been placed for good; its slot, if it had one, is used up."""
        self._pins.pop(request.uid, None)
        key = request.gang
        if key is None:
            return
        self._running.setdefault(key, set()).add(request.uid)
        self._expect_no_more(key, request.uid)
        gang = self._gangs.get(key)
        if gang is None:
            return
        gang.members.pop(request.uid, None)
        gang.holds_end, gang.rests_until = None, 0.0
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
        self._expect_no_more(key, request.uid)
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
            gang.told.clear()
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

    def hopeful(self, request: PodRequest, rows: IntArray) -> bool:
        """Whether there is room for as many members of each shape as the gang needs.

        Cheaper than a plan, and less: members that are not alike may still be in each other's way.

        Parameters
        ----------
        request
            A member, see :meth:`concerns`.
        rows : (R,) int64
            Rows that the caller would accept.
        """
        key = request.gang
        assert key is not None  # concerns() says whom this is for
        gang, expected = self._gangs.get(key, _Gang()), self._expected.get(key, {})
        unlike: dict[Shape, list[PodRequest]] = {}
        for member in expected.values():
            if member.shape != request.shape:
                unlike.setdefault(member.shape, []).append(member)
        missing = self._missing(key)
        wanted = max(1, missing - sum(map(len, unlike.values())) - len(gang.slots))
        if self._room(request, rows, wanted, selection=True) < wanted:
            return False
        if len(expected) > missing or gang.slots:
            return True  # which of the others are needed is not known
        every = np.arange(len(self._engine.state))
        return all(
            self._room(members[0], every, len(members), selection=True) == len(members)
            for members in unlike.values()
        )

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
        expected = self._expected.get(key, {})
        if len(gang.members) < len(expected):
            gang.members.update(
                (uid, member) for uid, member in expected.items() if uid not in gang.members
            )
        if gang.holds_end is not None and gang.holds_end <= now:
            self._let_go(gang)
            gang.holds_end, gang.rests_until = None, now + self._ttl_s
        resting = gang.rests_until > now
        if resting:
            self._take_again(key, gang, now)
        self._drop_expired(gang)
        answer = self._slot_answer(key, gang, request, rows, now)
        if resting:
            self._let_go(gang)
        return answer

    def _slot_answer(
        self, key: GangKey, gang: _Gang, request: PodRequest, rows: IntArray, now: float
    ) -> GangAnswer:
        if not gang.complete:
            problem = self._plan(key, gang, request, rows, now)
            if problem:
                if gang.waiting_since is None:
                    gang.waiting_since = now
                return GangAnswer(-1, problem)
        self._refresh(gang, now)
        slot = self._slot_of(gang, request, rows)
        if slot is None and len(gang.members) <= self._missing(key):
            # Not like the members that the plan was made for: plan again, knowing more.
            self._forget_plan(gang)
            problem = self._plan(key, gang, request, rows, now)
            if problem:
                return GangAnswer(-1, problem)
            slot = self._slot_of(gang, request, rows)
        if slot is None:
            return GangAnswer(-1, "the gang's places are all taken by other members")
        self._settle(gang, slot, request, rows, now)
        return GangAnswer(self._engine.state.row(slot.node))

    def _settle(
        self, gang: _Gang, slot: _Slot, request: PodRequest, rows: IntArray, now: float
    ) -> None:
        """Move the slot to a node that was offered, to the same one for the same offer."""
        state = self._engine.state
        offer = _offer(rows)
        told = gang.told.setdefault(offer, {})
        if any(told.get(s.member, s.node) != s.node for s in gang.slots):
            self._return_to(gang, told, rows, now)
        if state.row(slot.node) not in rows:
            row = self._engine.best(request, rows[rows >= 0])
            node = state.nodes[row] if row >= 0 else None
            if node is None or not self._put(slot, request, node.name, now):
                return  # it stays where it is; nothing that was offered has room
        told[request.uid] = slot.node
        if len(gang.told) > _MOST_OFFERS:
            del gang.told[next(iter(gang.told))]

    def _return_to(self, gang: _Gang, told: dict[str, str], rows: IntArray, now: float) -> None:
        """Have the slots where this offer's members were told they are, the others out of the way.

        Should that be impossible by now, all stay where they are and may be told something else.
        """
        before = [slot.node for slot in gang.slots]
        members = [self._engine.holds[slot.hold].placement.pod for slot in gang.slots]
        self._give_back(gang.slots)
        order = sorted(range(len(before)), key=lambda i: gang.slots[i].member not in told)
        for i in order:
            slot, member = gang.slots[i], members[i]
            if self._put(slot, member, told.get(slot.member, slot.node), now):
                continue
            row = -1 if slot.member in told else self._engine.best(member, rows[rows >= 0])
            node = self._engine.state.nodes[row] if row >= 0 else None
            if node is None or not self._put(slot, member, node.name, now):
                break
        else:
            return
        told.clear()
        self._give_back(gang.slots)
        for slot, member, node_name in zip(gang.slots, members, before, strict=True):
            self._put(slot, member, node_name, now)  # nothing else has changed, so it fits

    def _put(self, slot: _Slot, member: PodRequest, node: str, now: float) -> bool:
        """Hold the slot's place on a node; where that fails, it keeps the hold that it has."""
        held = self._engine.holds.get(slot.hold)
        name = held.placement.pod.name if held else member.name
        stand_in = replace(member, uid=slot.hold, name=name, gang=None)
        try:
            self._engine.hold(stand_in, node, held.until if held else now + self._ttl_s)
        except (CapacityConflict, UnknownNode):
            return False
        slot.node = node
        return True

    def _let_go(self, gang: _Gang) -> None:
        """Keep the plan but not its places."""
        self._give_back(gang.slots)
        for slot in gang.slots:
            slot.hold = ""

    def _take_again(self, key: GangKey, gang: _Gang, now: float) -> None:
        """Hold the places of a resting gang for the time of an answer, or forget its plan."""
        waiting = gang.slots
        gang.slots = []
        for slot in waiting:
            member = gang.members.get(slot.member) or next(
                (m for m in gang.members.values() if m.shape == slot.shape), None
            )
            try:
                if member is None:
                    break
                held = self._hold(key, member, slot.node, now)
            except (CapacityConflict, UnknownNode):
                break
            held.member = slot.member
            gang.slots.append(held)
        else:
            return
        self._forget_plan(gang)

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
        self, places: Sequence[tuple[PodRequest, str]], now: float, *, generation: int = -1
    ) -> tuple[int, Mapping[str, int]]:
        """Take over a plan for pending pods.

        Places on rows that have changed since the plan's generation are checked against the state
        of now; on the others the planner has checked them. A gang is adopted whole or not at all,
        by holding its places. A pin is checked once more whenever it is used.

        Parameters
        ----------
        places
            Pods and the nodes planned for them.
        now
            The driver's time.
        generation
            ``generation_now`` of the state that the plan was made for.

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
            elif self._unchanged(node, generation) or self._fits(request, node):
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

    def _expect_no_more(self, key: GangKey, uid: str) -> None:
        expected = self._expected.get(key)
        if expected is not None:
            expected.pop(uid, None)
            if not expected:
                del self._expected[key]

    def _missing(self, key: GangKey) -> int:
        return max(0, key.min_count - len(self._running.get(key, ())))

    def _unchanged(self, node: str, generation: int) -> bool:
        state = self._engine.state
        row = state.row_of.get(node, -1)
        return row >= 0 and int(state.generation[row]) <= generation

    def _fits(self, request: PodRequest, node: str) -> bool:
        row = self._engine.state.row_of.get(node, -1)
        return row >= 0 and int(self._engine.filter(request, np.array([row]))[0]) == _FITS

    def _plan(
        self, key: GangKey, gang: _Gang, request: PodRequest, rows: IntArray, now: float
    ) -> str:
        """Hold a place for every missing member; returns why that is not possible, or nothing.

        Members that nobody has seen yet are taken to be like this one.
        """
        state = self._engine.state
        reserve = self._may_reserve(key, gang, request, now)
        question = (_offer(rows), tuple(gang.members), reserve)
        if gang.refused and gang.refused[:2] == (state.generation_now, question):
            return gang.refused[2]
        missing, have = self._missing(key), list(gang.slots)
        members = list(gang.members.values())[:missing]
        known = rows[rows >= 0]
        if not reserve and all(member.shape == request.shape for member in members):
            # No need to try what cannot be: trying makes every other shape catch up.
            found = min(missing, len(have) + self._room(request, known, missing - len(have)))
            if found < missing:
                return self._refuse(gang, question, _shortage(request, found, missing))
        wanted = members + [request] * (missing - len(members))
        for slot in have:  # places that a reservation has kept already
            match = next((w for w in wanted if w.shape == slot.shape), None)
            if match is not None:
                wanted.remove(match)
        for member in sorted(wanted, key=lambda w: -w.gpu.requested_milli):
            # What was offered is where this one may go; unlike ones are told of by the state alone.
            where = known if member.shape == request.shape else None
            row = self._engine.best(member, where, selection=member.uid != request.uid)
            node = state.nodes[row] if row >= 0 else None
            if node is None:
                break
            gang.slots.append(self._hold(key, member, node.name, now))
        else:
            self._completed(gang, now)
            return ""
        found = len(gang.slots)
        text = _shortage(request, found, missing)
        if found and reserve:
            self._refresh(gang, now)
            text += f"; {found} places are reserved"
            # Releasing the holds has changed the state; what counts is that nothing else has.
            gang.refused = (state.generation_now, question, text)
            return text
        return self._refuse(gang, question, text)

    def _refuse(self, gang: _Gang, question: _Question, text: str) -> str:
        """Hold nothing, and remember why as long as nothing changes."""
        self._give_back(gang.slots)
        gang.slots = []
        gang.refused = (self._engine.state.generation_now, question, text)
        return text

    def _room(
        self, request: PodRequest, rows: IntArray, enough: int, *, selection: bool = False
    ) -> int:
        """How many more pods like this one these rows take at most; exact for whole devices."""
        state, gpu = self._engine.state, request.gpu
        rows = rows[self._engine.filter(request, rows, selection=selection) == _FITS]
        each = np.minimum(state.pods_free[rows], enough).astype(np.int64)
        for free, needed in (
            (state.cpu_free, request.cpu_milli),
            (state.mem_free, request.memory_mib),
            (state.full_free, gpu.count),
        ):
            if needed:
                each = np.minimum(each, free[rows] // needed)
        if gpu.milli:
            each = np.minimum(each, (np.maximum(state.gpu_free[rows], 0) // gpu.milli).sum(axis=1))
        return min(enough, int(each.sum()))

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
        self._completed(gang, now)
        return True

    def _completed(self, gang: _Gang, now: float) -> None:
        gang.complete, gang.waiting_since, gang.refused = True, None, None
        if gang.holds_end is None and gang.rests_until <= now:
            gang.holds_end = now + _TERMS * self._ttl_s

    def _hold(self, key: GangKey, member: PodRequest, node: str, now: float) -> _Slot:
        self._serial += 1
        uid = f"slot {self._serial} of gang {key.namespace}/{key.name}"
        stand_in = replace(member, uid=uid, name=f"{key.name}-slot", gang=None)
        self._engine.hold(stand_in, node, now + self._ttl_s)
        return _Slot(uid, member.shape, member.selection, node)

    def _refresh(self, gang: _Gang, now: float) -> None:
        until = now + self._ttl_s
        if gang.holds_end is not None:
            until = min(until, gang.holds_end)
        holds = self._engine.holds
        if gang.slots and min(holds[s.hold].until for s in gang.slots) > until - self._ttl_s / 20:
            return  # large gangs ask often
        for slot in gang.slots:
            held = self._engine.holds[slot.hold].placement
            self._engine.hold(held.pod, slot.node, until)

    def _forget_oldest(self) -> None:
        """Make room: a gang without places is as new when it asks again."""
        oldest = next((key for key, gang in self._gangs.items() if not gang.slots), None)
        if oldest is not None:
            del self._gangs[oldest]

    def _forget_plan(self, gang: _Gang) -> None:
        self._give_back(gang.slots)
        gang.slots, gang.complete, gang.refused = [], False, None
        gang.told.clear()

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

    def _slot_of(self, gang: _Gang, request: PodRequest, rows: IntArray) -> _Slot | None:
        """The member's slot, or one that nobody has asked for, if possible on an offered node."""
        free, offered = None, False
        for slot in gang.slots:
            if slot.member == request.uid:
                return slot
            if not slot.member and not offered and slot.shape == request.shape:
                here = self._engine.state.row(slot.node) in rows
                if free is None or here:
                    free, offered = slot, here
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


def _offer(rows: IntArray) -> bytes:
    """The same for the same rows in any order, and for no others."""
    return hashlib.blake2b(np.sort(rows).tobytes(), digest_size=16).digest()


def _shortage(request: PodRequest, found: int, missing: int) -> str:
    return (
        f"{Reason.GANG_DOES_NOT_FIT.text}: needs {_devices(request, missing - found)}; "
        f"{found} of {missing} missing members have a place"
    )


def _devices(request: PodRequest, members: int) -> str:
    """What so many more members need, in words."""
    gpu = request.gpu
    model = f"model {' or '.join(gpu.products)}" if gpu.products else "any model"
    if gpu.count:
        return f"{members * gpu.count} more devices of {model}"
    if gpu.milli:
        return f"{members} more fractions of {gpu.milli} milli-GPU on devices of {model}"
    return f"room for {members} more members"
