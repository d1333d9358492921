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

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from scheduler.core.capacity import TOO_LARGE, overmuch, promising, reservable, room, shortage
from scheduler.core.drafts import (
    BEING_PLANNED,
    Draft,
    Gang,
    GangAnswer,
    Slot,
    Wanted,
    give_up_holds,
    offer,
    places,
    stand_in,
    use_up,
)
from scheduler.core.engine import Engine
from scheduler.core.errors import CapacityConflict, UnknownNode
from scheduler.core.gangs import GangSpec
from scheduler.core.members import Members
from scheduler.core.model import GangKey, PodRequest, Reason

__all__ = ["Adoption", "GangAnswer"]

IntArray = NDArray[np.int64]
_Question = tuple[bytes, tuple[str, ...], bool]

_FITS = Reason.FITS.code
_MOST_GANGS = 10_000
_TERMS = 5  # a gang without progress keeps its places for so many time limits at most
_MOST_OFFERS = 64
_MOST_PLACES = 4096
_GLANCE = 16  # gangs beyond this are looked at as a whole before places are tried
_MOST_UNLIKE = 4  # shapes of one gang that are tried at once; each is scored afresh
_PIECE = 16  # places per step
_MANY = 4  # times as many places as are planned at once are too many to move for one answer
_DRAFT_LASTS_S = 10.0


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
    at_once
        Places that may be planned while answering; for more, see :meth:`draft`. None for any
        number, where nobody waits.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        ttl_s: float,
        reserve_after_s: float = 0.0,
        at_once: int | None = None,
    ) -> None:
        self._engine = engine
        self._at_once = at_once
        self._draft: Draft | None = None
        self._ttl_s = ttl_s
        self._reserve_after_s = reserve_after_s
        self._gangs: dict[GangKey, Gang] = {}
        self.members = Members(engine.state.placements.values())
        self._pins: dict[str, tuple[str, float]] = {}
        self._serial = 0

    # -- facts -------------------------------------------------------------------------------

    def expect(self, request: PodRequest) -> None:
        """A pod exists and waits: its gang is planned with it before it asks itself.

        Without that the first member of a gang of unlike ones would be answered as if all were
        like it, be refused, and kube-scheduler would never come to the others.
        """
        key = request.gang
        if key is not None:
            self.members.expect(key, request)

    def bound(self, request: PodRequest) -> None:
        """A pod has been placed for good; its slot, if it had one, is used up."""
        self._pins.pop(request.uid, None)
        key = request.gang
        if key is None:
            return
        self.members.runs(key, request.uid)
        gang = self._gangs.get(key)
        if gang is None:
            return
        gang.members.pop(request.uid, None)
        gang.holds_end, gang.rests_until = None, 0.0
        missing = self.members.missing(key)
        others = [slot for slot in gang.slots if slot.member != request.uid]
        if len(others) > missing:  # it was bound without a slot: the like of its own is to spare
            others.sort(key=lambda slot: (not slot.member, slot.shape == request.shape))
        if len(others[:missing]) < len(gang.slots):
            kept = {id(slot) for slot in others[:missing]}
            self._give_back([slot for slot in gang.slots if id(slot) not in kept])
            gang.slots = others[:missing]
        if not missing:
            del self._gangs[key]

    def gone(self, request: PodRequest) -> None:
        """A pod has ended or was deleted."""
        self._pins.pop(request.uid, None)
        key = request.gang
        if key is None:
            return
        self.members.gone(key, request.uid)
        gang = self._gangs.get(key)
        if gang and request.uid in gang.members:
            del gang.members[request.uid]
            for slot in gang.slots:
                if slot.member == request.uid:
                    slot.member = ""
            if not gang.members:  # nobody waits any more
                self._give_back(gang.slots)
                del self._gangs[key]

    def take_slot(self, request: PodRequest, node: str) -> None:
        """Free the member's slot on this node, so that the member itself can be placed there.

        One that asked before it was known to be a member has none, and takes a free one. Should
        placing it fail after all, :meth:`lost` has the gang planned again.
        """
        gang = self._gangs.get(request.gang) if request.gang else None
        if gang is None:
            return
        own = next((slot for slot in gang.slots if slot.member == request.uid), None)
        free = (s for s in gang.slots if not s.member and s.node == node)
        slot = own or next((s for s in free if s.shape == request.shape), None)
        if slot is not None and slot.node == node and slot.hold:
            gang.slots = [other for other in gang.slots if other is not slot]
            gang.told.clear()
            self._give_back([slot])

    def lost(self, request: PodRequest) -> None:
        """A member could not be placed where it was planned: its gang needs a new plan."""
        gang = self._gangs.get(request.gang) if request.gang else None
        if gang:
            self._forget_plan(gang)

    def describe(self, spec: GangSpec) -> None:
        """What is known about a gang from now on; with another size it is planned anew."""
        if self.members.describe(spec):
            gang = self._gangs.pop(spec.key, None)
            if gang is not None:
                self._give_back(gang.slots)

    # -- answers -----------------------------------------------------------------------------

    def concerns(self, request: PodRequest) -> bool:
        """Whether the pod is a member of a gang that is not whole yet."""
        key = request.gang
        return key is not None and self.members.gathered(request) and self.members.missing(key) > 0

    def hopeful(self, request: PodRequest, rows: IntArray) -> bool:
        """Whether there is room for as many members of each shape as the gang needs.

        Cheaper than a plan, and less: members that are not alike may still be in each other's way.

        Parameters
        ----------
        request
            A member, see :meth:`concerns`.
        rows : (R,) int64
            Rows that let this member in.
        """
        key = request.gang
        assert key is not None  # concerns() says whom this is for
        kept = len(self._gangs.get(key, Gang()).slots)
        missing, expected = self.members.missing(key), self.members.expected(key).values()
        return promising(self._engine, request, rows, missing, kept, expected)

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
        gang = self._gang_of(key, request)
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

    def _gang_of(self, key: GangKey, request: PodRequest) -> Gang:
        """The gang, with every member that is known."""
        if key not in self._gangs and len(self._gangs) >= _MOST_GANGS:
            self._forget_oldest()
        gang = self._gangs.setdefault(key, Gang())
        gang.members[request.uid] = request
        expected = self.members.expected(key)
        if len(gang.members) < len(expected):
            gang.members.update(
                (uid, member) for uid, member in expected.items() if uid not in gang.members
            )
        return gang

    def _slot_answer(
        self, key: GangKey, gang: Gang, request: PodRequest, rows: IntArray, now: float
    ) -> GangAnswer:
        if not gang.complete:
            problem = self._plan(key, gang, request, rows, now)
            if problem:
                if gang.waiting_since is None:
                    gang.waiting_since = now
                return GangAnswer(-1, problem)
        self._refresh(gang, now)
        slot = self._slot_of(gang, request, rows)
        if slot is None and len(gang.members) <= self.members.missing(key):
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
        self, gang: Gang, slot: Slot, request: PodRequest, rows: IntArray, now: float
    ) -> None:
        """Move the slot to a node that was offered, to the same one for the same offer."""
        state = self._engine.state
        offered = offer(rows)
        told = gang.told.setdefault(offered, {})
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

    def _return_to(self, gang: Gang, told: dict[str, str], rows: IntArray, now: float) -> None:
        """Have the slots where this offer's members were told they are, the others out of the way.

        Should that be impossible by now, all stay where they are and may be told something else.
        """
        if self._many(gang.slots):
            told.clear()
            return
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

    def _put(self, slot: Slot, member: PodRequest, node: str, now: float) -> bool:
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

    def _let_go(self, gang: Gang) -> None:
        """Keep the plan but not its places."""
        self._give_back(gang.slots)
        for slot in gang.slots:
            slot.hold = ""

    def _take_again(self, key: GangKey, gang: Gang, now: float) -> None:
        """Hold the places of a resting gang for the time of an answer, or forget its plan."""
        if self._many(gang.slots):
            self._forget_plan(gang)
            gang.rests_until = 0.0  # too many to take for one answer: planned anew
            return
        waiting = gang.slots
        gang.slots = []
        for slot in waiting:
            member = gang.members.get(slot.member) or next(
                (m for m in gang.members.values() if m.shape == slot.shape), None
            )
            try:
                if member is None:
                    break
                held = self._hold_new(key, member, slot.node, now)
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
            gang = self._gangs.setdefault(key, Gang())
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
        waiting, pins = len(self._gangs) - planned - reserved, len(self._pins)
        return {"planned": planned, "reserved": reserved, "waiting": waiting, "pins": pins}

    # -- inside ------------------------------------------------------------------------------

    def _unchanged(self, node: str, generation: int) -> bool:
        state = self._engine.state
        row = state.row_of.get(node, -1)
        return row >= 0 and int(state.generation[row]) <= generation

    def _fits(self, request: PodRequest, node: str) -> bool:
        row = self._engine.state.row_of.get(node, -1)
        return row >= 0 and int(self._engine.filter(request, np.array([row]))[0]) == _FITS

    def _plan(
        self, key: GangKey, gang: Gang, request: PodRequest, rows: IntArray, now: float
    ) -> str:
        """Hold a place for every missing member; returns why that is not possible, or nothing.

        Members that nobody has seen yet are taken to be like this one.
        """
        wanted = self._wanted(key, gang, request, rows, now)
        if isinstance(wanted, str):
            return wanted
        if self._too_many_at_once(wanted.members):
            return BEING_PLANNED
        for member, node in places(self._engine, wanted.members, request, rows[rows >= 0]):
            gang.slots.append(self._hold_new(key, member, node, now))
        return self._concluded(gang, wanted, request, now)

    def _wanted(
        self, key: GangKey, gang: Gang, request: PodRequest, rows: IntArray, now: float
    ) -> Wanted | str:
        """Who needs a place, or why there is none for so many: all that is known without trying."""
        state = self._engine.state
        reserve = self._may_reserve(key, gang, request, now)
        question = (offer(rows), tuple(gang.members), reserve)
        if gang.refused and gang.refused[:2] == (state.generation_now, question):
            return gang.refused[2]
        give_up_holds(self._engine, gang.members.values())
        missing, have = self.members.missing(key), list(gang.slots)
        members = list(islice(gang.members.values(), missing))
        known = rows[rows >= 0]
        if not reserve and all(member.shape == request.shape for member in members):
            # No need to try what cannot be: trying makes every other shape catch up.
            found = min(
                missing, len(have) + room(self._engine, request, known, missing - len(have))
            )
            if found < missing:
                return self._refuse(gang, question, shortage(request, found, missing))
        if missing > _MOST_PLACES:
            return self._refuse(gang, question, f"{TOO_LARGE}: {_MOST_PLACES} members at most")
        if missing > _GLANCE:
            over = overmuch(self._engine, [*members, request], missing, now_too=not reserve)
            if over:
                return self._refuse(gang, question, over)
        wanted = members + [request] * (missing - len(members))
        kept = Counter(slot.shape for slot in have)  # places that a reservation has kept already
        if kept:
            wanted = [member for member in wanted if not use_up(kept, member)]
        return Wanted(wanted, question, missing, reserve, self.members.minimum(key))

    def _concluded(self, gang: Gang, wanted: Wanted, request: PodRequest, now: float) -> str:
        """What follows from the places that were found; returns what is missing, or nothing."""
        found, missing = len(gang.slots), wanted.missing
        if found >= missing:
            self._completed(gang, now)
            return ""
        text = shortage(request, found, missing)
        if found and wanted.reserve:
            self._refresh(gang, now)
            text += f"; {found} places are reserved"
            # Releasing the holds has changed the state; what counts is that nothing else has.
            gang.refused = (self._engine.state.generation_now, wanted.question, text)
            return text
        return self._refuse(gang, wanted.question, text)

    def _too_many_at_once(self, members: Sequence[PodRequest]) -> bool:
        most = self._at_once
        if most is None:
            return False
        return len(members) > most or len({m.shape for m in members}) > _MOST_UNLIKE

    # -- large gangs -------------------------------------------------------------------------

    def draft(self, request: PodRequest, rows: IntArray, now: float) -> Draft | None:
        """A plan to be made outside of the lock before :meth:`answer`; None if none is needed.

        There is one at a time. Whoever gets it has it for himself until :meth:`put_down`; one that
        was put down before it was done is gone on with by the next member that asks.
        """
        key = request.gang
        if self._at_once is None or key is None or self.members.missing(key) <= _MOST_UNLIKE:
            return None
        gang = self._gang_of(key, request)
        if gang.rests_until <= now:  # the places of one that rests are not held, and still planned
            self._drop_expired(gang)
        if gang.complete:
            return None
        open_draft = self._draft
        if open_draft is not None and not open_draft.done:
            if open_draft.taken or (
                open_draft.key != key and open_draft.touched + _DRAFT_LASTS_S > now
            ):
                return None
            if open_draft.key == key and key in self._gangs:
                open_draft.taken = True
                return open_draft
        wanted = self._wanted(key, gang, request, rows, now)
        if isinstance(wanted, str) or not self._too_many_at_once(wanted.members):
            return None
        self._draft = Draft(
            self._engine.twin(),
            key,
            wanted,
            request,
            rows[rows >= 0],
            serial=self._serial + 1,
            kept=len(gang.slots),
        )
        self._serial += len(wanted.members)
        self._draft.taken = True
        return self._draft

    def put_down(self, draft: Draft, now: float, *, for_good: bool = False) -> None:
        """Whoever was at the draft has no more time for it, or it came to nothing."""
        draft.taken, draft.touched = False, now
        if for_good and self._draft is draft:
            self._draft = None

    def take_over(self, draft: Draft, now: float) -> Iterator[None]:
        """Hold the places of a finished draft, all or none, some per step.

        Between two steps others may use the engine, and this.
        """
        gang = self._gangs.get(draft.key)
        slots: list[Slot] = []
        fits = True
        for member, substitute, node in draft.places:
            try:
                slots.append(self._hold(substitute, member, node, now))
            except (CapacityConflict, UnknownNode):
                fits = False
                break
            if len(slots) % _PIECE == 0:
                yield
        self.put_down(draft, now, for_good=True)
        if (
            gang is None
            or self._gangs.get(draft.key) is not gang
            or gang.complete
            or draft.wanted.minimum != self.members.minimum(draft.key)
        ):
            self._give_back(slots)
        elif not fits or len(gang.slots) != draft.kept:
            self._give_back(slots)
            self._forget_plan(gang)  # planned anew by whoever asks next
        else:
            gang.slots += slots
            self._concluded(gang, draft.wanted, draft.request, now)
            if gang.rests_until > now:
                self._let_go(gang)

    def _refuse(self, gang: Gang, question: _Question, text: str) -> str:
        """Hold nothing, and remember why as long as nothing changes."""
        self._give_back(gang.slots)
        gang.slots = []
        gang.refused = (self._engine.state.generation_now, question, text)
        return text

    def _hold_all(
        self, key: GangKey, gang: Gang, places: Sequence[tuple[PodRequest, str]], now: float
    ) -> bool:
        """Hold exactly these places, if they suffice and all of them fit."""
        if len(places) < self.members.missing(key):
            return False
        self._give_back(gang.slots)
        gang.slots = []
        for request, node in places:
            try:
                slot = self._hold_new(key, request, node, now)
            except (CapacityConflict, UnknownNode):
                self._give_back(gang.slots)
                gang.slots = []
                return False
            slot.member = request.uid
            gang.members[request.uid] = request
            gang.slots.append(slot)
        self._completed(gang, now)
        return True

    def _completed(self, gang: Gang, now: float) -> None:
        gang.complete, gang.waiting_since, gang.refused = True, None, None
        if gang.holds_end is None and gang.rests_until <= now:
            gang.holds_end = now + _TERMS * self._ttl_s

    def _hold(self, substitute: PodRequest, member: PodRequest, node: str, now: float) -> Slot:
        self._engine.hold(substitute, node, now + self._ttl_s)
        return Slot(substitute.uid, member.shape, member.selection, node)

    def _hold_new(self, key: GangKey, member: PodRequest, node: str, now: float) -> Slot:
        self._serial += 1
        return self._hold(stand_in(key, member, self._serial), member, node, now)

    def _refresh(self, gang: Gang, now: float) -> None:
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

    def _forget_plan(self, gang: Gang) -> None:
        self._give_back(gang.slots)
        gang.slots, gang.complete, gang.refused = [], False, None
        gang.told.clear()

    def _drop_expired(self, gang: Gang) -> None:
        """Slots expire together; if one is gone, the others mean nothing any more."""
        nodes = self._engine.state.row_of
        if any(s.hold not in self._engine.holds or s.node not in nodes for s in gang.slots):
            self._forget_plan(gang)
        elif not gang.slots:
            gang.complete = False

    def _give_back(self, slots: Sequence[Slot]) -> None:
        """Of very many places some at once; the others have expired, and go one after another."""
        held = [slot.hold for slot in slots if slot.hold in self._engine.holds]
        at_once = _MANY * self._at_once if self._at_once is not None else len(held)
        for hold in held[:at_once]:
            self._engine.drop_hold(hold)
        for hold in held[at_once:]:
            self._engine.end_hold(hold)

    def _many(self, slots: Sequence[Slot]) -> bool:
        """Whether there are too many places to move all of them for one answer."""
        return self._at_once is not None and len(slots) > _MANY * self._at_once

    def _slot_of(self, gang: Gang, request: PodRequest, rows: IntArray) -> Slot | None:
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

    def _may_reserve(self, key: GangKey, gang: Gang, request: PodRequest, now: float) -> bool:
        """Whether this gang has waited long enough, is the only one, and could ever fit."""
        since, after_s = gang.waiting_since, self._reserve_after_s
        if not after_s or since is None or now - since < after_s:
            return False
        others = (g for k, g in self._gangs.items() if k != key)
        if any(other.slots and not other.complete for other in others):
            return False
        return reservable(self._engine.state, request.shape) >= self.members.missing(key)
