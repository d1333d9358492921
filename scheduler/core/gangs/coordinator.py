"""Joint plans and how pods are answered from them: gangs whole or not at all, pins for others.

A gang's plan has one *slot* for each member that exists, and at least for as many as have to start
together: all of these places are held, or none. The first question about any member takes them for
all, since kube-scheduler gives a gang up at the first refusal. A gang of which too few members
exist holds nothing; it is asked about again once they do (see ``on_gathered``).
Members are told the node of their slot and nothing else; who asks twice, or in another order, gets
the same answer.

Nothing is held for ever. Members that nobody asks about lose their places after one time limit, and
are absent until somebody does; a gang that nobody asks for loses all of them. One that comes again
and again and is never bound, because something that only kube-scheduler knows is against it, gives
everything back after some limits and rests: it goes on being told the same places without holding
them. What follows from what is one table, :data:`scheduler.core.gangs.states.LIFE`.

A slot moves where the caller does not offer its node, as kube-scheduler does when it tries one
topology domain after another, or when a rule of its own excludes the node for this member. Whoever
offers the same nodes again is told the same node again.

A *pin* is a planned node for a single pod: the winner of its ranking as long as it fits there.

No clock and no lock of its own; the driver brings both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from scheduler.core.capacity import promising
from scheduler.core.engine import Engine, Reservation
from scheduler.core.errors import CapacityConflict, UnknownNode
from scheduler.core.gangs.backing import backed
from scheduler.core.gangs.drafts import Draft, GangAnswer, Offer
from scheduler.core.gangs.joint_plan import Planning, note
from scheduler.core.gangs.members import Members
from scheduler.core.gangs.pins import Pins
from scheduler.core.gangs.places import Keeper
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.gangs.states import HOLDING, PLANNED, Event, Gang, Life
from scheduler.core.gangs.transitions import Lives
from scheduler.core.model import GangKey, PodRequest, Reason

__all__ = ["GangAnswer", "GangCoordinator"]

IntArray = NDArray[np.int64]
_NO_ROWS: IntArray = np.zeros(0, dtype=np.int64)

_SURPLUS = f"{Reason.GANG_DOES_NOT_FIT.text}: its places are all taken by other members"
_FEW = 4  # members that are never too many to be planned at once


class GangCoordinator:
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
    unborn_share
        Share of the cluster that the gangs of one namespace may hold for members that do not exist
        yet; 0 for none.
    passed
        kube-scheduler has passed the rows that are offered: what it counts itself refuses them only
        where it is reserved for others, see :mod:`scheduler.core.passed`.
    binds
        Pods whose devices are chosen here are bound here, too, as far as :meth:`why_not_bind` lets
        them. A gang of such may be planned on what kube-scheduler has found for one of its members.
    on_gathered
        Called with a gang once as many of its members exist as have to start together.

    Attributes
    ----------
    members : Members
        Who there is, and how many there have to be.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        ttl_s: float,
        reserve_after_s: float = 0.0,
        at_once: int | None = None,
        unborn_share: float = 0.0,
        passed: bool = False,
        binds: bool = False,
        on_gathered: Callable[[GangKey], None] = lambda _key: None,
    ) -> None:
        self._on_gathered = on_gathered
        self._engine = engine
        self._at_once = at_once
        self._unborn_share, self._passed = unborn_share, passed
        self._binds, self._ttl_s = binds, ttl_s
        self.members = Members(engine.state.placements.values())
        self._keeper = Keeper(engine, at_once)
        self._lives = Lives(self.members, self._keeper, ttl_s)
        self._planning = Planning(
            engine,
            self.members,
            self._keeper,
            self._lives,
            reserve_after_s=reserve_after_s,
            at_once=at_once,
            unborn_share=unborn_share,
        )
        self._pins = Pins(engine, ttl_s)

    # -- facts -------------------------------------------------------------------------------

    def describe(self, spec: GangSpec) -> None:
        """What is known about a gang from now on."""
        if not self.members.describe(spec):
            return
        gang = self._lives.get(spec.key)
        if gang is not None:
            gang.refused = None
            self._lives.look(spec.key)
        self._grown(spec.key, before=False)

    def on_scheduler_seen(self, scheduler: str) -> None:
        """A scheduler asks us: its pods are members of their gangs."""
        for key in self.members.hears(scheduler):
            self._grown(key, before=False)

    def on_pod_pending(self, request: PodRequest, scheduler: str = "") -> None:
        """A pod exists and waits, for this scheduler: its gang is planned with it.

        Not to be called for pods with scheduling gates, nor for those that are being deleted.
        """
        key, known = request.gang, self.members.gang_of(request.uid)
        if known is not None and known != key:
            self._leave(request.uid)
        if key is not None:
            before = self.members.enough(key)
            self.members.expect(key, request, scheduler)
            self._grown(key, before=before)

    def on_pod_gated(self, request: PodRequest) -> None:
        """A pod exists and has scheduling gates: it is no member yet, as far as is known here."""
        known = self.members.gang_of(request.uid)
        if known is not None and known != request.gang:
            self._leave(request.uid)
        if request.gang is not None:
            self.members.gates(request.gang, request)
            self._lives.left(request.gang, request.uid)

    def on_pod_moved(self, request: PodRequest, *, waits: bool) -> None:
        """A pod is a member of another gang than was known, or of none; else it is as it was."""
        key, known = request.gang, self.members.gang_of(request.uid)
        if known is None and waits:
            self.on_pod_pending(request)
        if known is None or known == key:
            return
        before = key is not None and self.members.enough(key)
        self.members.moves(key, request)
        self._lives.left(known, request.uid)
        if key is not None:
            self._grown(key, before=before)

    def on_pod_bound(self, request: PodRequest) -> None:
        """A pod has been placed for good; its slot, if it had one, is used up."""
        self._pins.drop(request.uid)
        key, known = request.gang, self.members.gang_of(request.uid)
        if known is not None and known != key:
            self._leave(request.uid)
        if key is not None:
            self.members.runs(key, request.uid, request.role)
            self._lives.used(key, request.uid)

    def on_pod_leaving(self, request: PodRequest) -> None:
        """A pod is being deleted: it has its devices for a while, and is no member any more."""
        key = self.members.gang_of(request.uid) or request.gang
        self._pins.drop(request.uid)
        if key is not None:
            self.members.leaves(key, request.uid)
            self._lives.left(key, request.uid)

    def on_pod_gone(self, request: PodRequest) -> None:
        """A pod has ended or was deleted, or may not be asked about any more."""
        self._leave(request.uid)

    def on_pod_unbound(self, request: PodRequest) -> None:
        """A pod was placed for good, and that came to nothing: it waits again, if it exists."""
        key = self.members.gang_of(request.uid)
        if key is not None:
            self.members.runs_not(key, request.uid)
            self.members.expect(key, request)
            self._lives.look(key)

    def replan(self, request: PodRequest) -> None:
        """A member could not be placed where it was planned: its gang needs a new plan."""
        if request.gang is not None and self._lives.get(request.gang) is not None:
            self._lives.move(request.gang, Event.LOST)

    def restore_reservations(self, node: str, dropped: Sequence[Reservation]) -> None:
        """Reserve again, where there is room, what was dropped for a while, of gangs and others.

        Parameters
        ----------
        node
            Where they were; empty if it has gone.
        dropped
            The reservations.
        """
        homeless = []
        for held in dropped:
            try:
                self._engine.reserve_until(
                    held.placement.pod, node, held.until, passed=self._passed
                )
            except (CapacityConflict, UnknownNode):
                homeless.append(held.placement.pod)
        for pod in homeless:
            self.replan(pod)

    def expire(self, now: float) -> None:
        """End what is over by now."""
        self._lives.tend(now)

    def ends(self) -> float:
        """A time before which :meth:`expire` ends nothing; ``inf`` if nothing ends by itself."""
        return self._lives.ends()

    # -- what others want to know ------------------------------------------------------------

    def has_place(self, uid: str) -> bool:
        """Whether a place is held for this pod as a member, or is just being given back."""
        gang = self._lives.get(self.members.gang_of(uid))
        return self._keeper.ending(uid) or (
            gang is not None and gang.life in HOLDING and uid in gang.slots
        )

    def state_of(self, key: GangKey) -> Life:
        """The gang's state."""
        return self._lives.state(key)

    def is_incomplete_gang(self, request: PodRequest) -> bool:
        """Whether the pod is a member of a gang that is not whole yet."""
        key = request.gang
        return key is not None and self.members.gathered(request) and self.members.missing(key) > 0

    def has_enough_members(self, request: PodRequest) -> bool:
        """Whether enough members of the pod's gang exist to start."""
        key = request.gang
        assert key is not None  # is_incomplete_gang() says whom this is for
        return self._unborn_share > 0 or self.members.enough(key)

    def could_fit(self, request: PodRequest, rows: IntArray) -> bool:
        """Whether there is room for as many members of each shape as are needed.

        Cheaper than a plan, and less: members that are not alike may still be in each other's way.

        Parameters
        ----------
        request
            A member, see :meth:`is_incomplete_gang`.
        rows : (R,) int64
            Rows that the caller would accept.
        """
        key = request.gang
        assert key is not None  # is_incomplete_gang() says whom this is for
        gang = self._lives.get(key) or Gang()
        if gang.life in PLANNED and request.uid in gang.slots:
            return True
        kept = len(gang.slots)
        missing, present = self.members.missing(key), self.members.present(key)
        return promising(self._engine, request, rows, missing, kept, present)

    def counts(self) -> dict[str, int]:
        """Gangs planned, resting, reserved in part and waiting, and pins, for metrics."""
        lives = [gang.life for _, gang in self._lives]
        planned, resting, reserved = map(lives.count, (Life.HOLDING, Life.RESTING, Life.RESERVED))
        return {
            "planned": planned,
            "resting": resting,
            "reserved": reserved,
            "waiting": len(lives) - planned - resting - reserved,
            "pins": len(self._pins),
        }

    # -- answers -----------------------------------------------------------------------------

    def answer(self, request: PodRequest, rows: IntArray, now: float) -> GangAnswer:
        """The member's row among ``rows``, from a plan of the whole gang.

        Parameters
        ----------
        request
            A member, see :meth:`is_incomplete_gang`.
        rows : (R,) int64
            Rows that the caller would accept; -1 for unknown nodes.
        now
            The driver's time.
        """
        key = request.gang
        assert key is not None  # is_incomplete_gang() says whom this is for
        engine = self._engine
        placed = engine.state.placements.get(request.uid)
        if placed is not None and request.uid not in engine.reservations:
            return GangAnswer(engine.state.row(placed.node))  # it runs
        gang = self._asked(key, request, now)
        offer = self._offer(request, rows)
        rests = self._resume(key, gang, offer)
        answer = self._slot_answer(key, gang, offer)
        if rests and gang.life is Life.RESTING:
            self._keeper.give_back(gang.slots)
        return answer

    def _offer(self, request: PodRequest, rows: IntArray) -> Offer:
        late = self._engine.late(request, rows[rows >= 0]) if self._passed else _NO_ROWS
        return Offer(request, rows, late, alone=len(late) > 0 and not self._may_wait(request))

    def _may_wait(self, request: PodRequest) -> bool:
        """Whether nobody of the pod's gang is bound before we say so, and all is not in vain."""
        key = request.gang
        gang = self._lives.get(key)
        if key is None or not self._binds or (gang is not None and gang.doubtful):
            return False
        members = self.members.present(key)
        return request.gpu.chosen_by_us and all(each.gpu.chosen_by_us for each in members)

    def _resume(self, key: GangKey, gang: Gang, offer: Offer) -> bool:
        """Have the places of a plan held; whether that is for the time of one answer only."""
        if gang.life is Life.RESTING:
            waiting = {member.uid: member for member in self.members.present(key)}
            if not self._keeper.take(gang.slots, waiting, offer):
                self._lives.move(key, Event.LOST)
            elif gang.rests_until <= self._lives.now:
                self._lives.move(key, Event.PLANNED)
                self._lives.begin(key)
        elif gang.life in HOLDING and not self._keeper.kept(gang.slots):
            self._lives.move(key, Event.LOST)
        return gang.life is Life.RESTING

    def _slot_answer(self, key: GangKey, gang: Gang, offer: Offer) -> GangAnswer:
        request = offer.request
        if gang.life not in PLANNED:
            problem = self._planned(key, gang, offer)
            if problem:
                return GangAnswer(-1, problem)
        if not self._has_slot(gang, offer):
            if len(gang.slots) >= self.members.missing(key):
                return GangAnswer(-1, _SURPLUS)
            self._lives.move(key, Event.LOST)  # it is not what the plan was made for
            problem = self._planned(key, gang, offer)
            if problem or request.uid not in gang.slots:
                return GangAnswer(-1, problem or _SURPLUS)
        self._lives.asked_for(gang, request.uid)
        self._keeper.settle(gang, offer)
        return GangAnswer(self._engine.state.row(gang.slots[request.uid].node))

    def _planned(self, key: GangKey, gang: Gang, offer: Offer) -> str:
        """Plan; whatever comes of it, somebody has asked about the member."""
        problem = self._planning.plan(key, offer)
        if gang.life in HOLDING:
            self._lives.asked_for(gang, offer.request.uid)
        return problem

    def _has_slot(self, gang: Gang, offer: Offer) -> bool:
        """Whether the member has a place, perhaps since now: one kept for it, or a new one."""
        request = offer.request
        slot = gang.slots.get(request.uid)
        if slot is not None and slot.shape == request.shape:
            return True
        if slot is not None:
            del gang.slots[request.uid]
            self._keeper.give_back((request.uid,))
        inherited = self._inherited(gang, request, offer.rows)
        node = inherited or offer.best(self._engine, request)
        late = bool(inherited) or offer.is_late(self._engine, node, request)
        if not node or not self._keeper.hold(request, node, passed=late):
            return False
        note(gang, request, node)
        return True

    def _inherited(self, gang: Gang, request: PodRequest, rows: IntArray) -> str:
        """The node of a place that was kept for a member to come, free now; or nothing."""
        state = self._engine.state
        kept = [uid for uid, at in gang.slots.items() if not at.born and at.shape == request.shape]
        if not kept:
            return ""
        uid = min(kept, key=lambda uid: state.row(gang.slots[uid].node) not in rows)
        self._keeper.give_back((uid,))
        return gang.slots.pop(uid).node

    def why_not_bind(self, request: PodRequest, row: int, now: float) -> str:
        """Why a member may not be bound to this row: its gang would not be whole by that.

        Its time may have passed since it was told, and the others have lost their places. Or there
        is no room for the others as far as is known here: then the first member is not bound until
        there is. After one time limit the plan is given up, and the next one is made on what is
        known.

        Parameters
        ----------
        request
            A member, see :meth:`is_incomplete_gang`.
        row
            Of the node that it is to be bound to.
        now
            The driver's time.
        """
        self._lives.tend(now)
        gang = self._lives.get(request.gang)
        if (
            gang is not None
            and gang.life is Life.HOLDING
            and request.uid in gang.slots
            and self._keeper.kept(gang.slots)
        ):
            return self._why_wait(gang, request, row)
        open_rows = self._engine.filter(request, selection=True) == Reason.FITS.code
        open_rows[row] = True
        problem = self.answer(request, np.flatnonzero(open_rows), now).message
        problem = problem or self.answer(request, np.array([row]), now).message
        gang = self._lives.get(request.gang)
        return problem if problem or gang is None else self._why_wait(gang, request, row)

    def _why_wait(self, gang: Gang, request: PodRequest, row: int) -> str:
        """Why the first member cannot be bound yet: our state has no room for the others."""
        key = request.gang
        assert key is not None
        if not self._passed or self.members.running(key):
            return ""
        missing = self.members.missing(key)
        sure = backed(self._engine, gang.slots, request, row)
        waiting = sorted(
            self.members.present(key),
            key=lambda each: (each.uid != request.uid, each.uid not in sure),
        )
        needed, _ = self.members.parted(key, waiting)
        found = sum(each.uid in sure for each in needed)
        to_come = sum(not slot.born and uid in sure for uid, slot in gang.slots.items())
        if found == len(needed) and found + to_come >= missing:
            gang.doubted_since, gang.doubtful = None, False
            return ""
        now = self._lives.now
        if gang.doubted_since is None:
            gang.doubted_since = now
        text = f"{Reason.GANG_DOES_NOT_FIT.text}: {found + to_come} of {missing} members have room"
        if now - gang.doubted_since < self._ttl_s:
            return f"{text} as far as is known here; waits for news"
        gang.doubtful = True
        self._lives.move(key, Event.LOST)
        return f"{text} as far as is known here; to be planned anew"

    def pinned_row(self, request: PodRequest, now: float) -> int:
        """Row that a plan has for a single pod, or -1. Whether it still fits is not checked."""
        return self._pins.row(request.uid, now)

    # -- large gangs -------------------------------------------------------------------------

    def draft(self, request: PodRequest, rows: IntArray, now: float) -> Draft | None:
        """A plan to be made outside of the lock before :meth:`answer`; None if none is needed.

        There is one at a time. Whoever gets it has it for himself until
        :meth:`suspend_draft`; one that was put down before it was done is gone on with by the next
        member that asks.
        """
        key = request.gang
        if self._at_once is None or key is None or self.members.missing(key) <= _FEW:
            return None
        gang = self._asked(key, request, now)
        if gang.life in HOLDING and not self._keeper.kept(gang.slots):
            self._lives.move(key, Event.LOST)
        return (
            None if gang.life in PLANNED else self._planning.draft(key, self._offer(request, rows))
        )

    def suspend_draft(self, draft: Draft, now: float, *, for_good: bool = False) -> None:
        """Whoever was at the draft has no more time for it, or it came to nothing."""
        self._planning.put_down(draft, now, for_good=for_good)

    def adopt_draft(self, draft: Draft, now: float) -> Iterator[None]:
        """Hold the places of a finished draft, all or none, some per step.

        Between two steps others may use the engine, and this.
        """
        return self._planning.take_over(draft, now)

    # -- plans from outside ------------------------------------------------------------------

    def adopt_plan(
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
        self.expire(now)
        adopted = 0
        rejected: dict[str, int] = {}
        gangs: dict[GangKey, list[tuple[PodRequest, str]]] = {}
        for request, node in places:
            held = request.uid in self._engine.reservations
            if request.uid in self._engine.state.placements and not held:
                rejected["placed meanwhile"] = rejected.get("placed meanwhile", 0) + 1
            elif self.is_incomplete_gang(request) and request.gang:
                gangs.setdefault(request.gang, []).append((request, node))
            elif self._pins.put(request, node, now, generation):
                adopted += 1
            else:
                rejected["no longer fits"] = rejected.get("no longer fits", 0) + 1
        for key, members in gangs.items():
            if self._lives.record(key).life in PLANNED or self._hold_all(key, members):
                adopted += len(members)
            else:
                rejected["gang no longer fits"] = rejected.get("gang no longer fits", 0) + len(
                    members
                )
        return adopted, rejected

    def _hold_all(self, key: GangKey, places: Sequence[tuple[PodRequest, str]]) -> bool:
        """Hold exactly these places, if they suffice and all of them fit."""
        gang = self._lives.record(key)
        if len(places) < self.members.missing(key):
            return False
        self._lives.move(key, Event.LOST)
        for request, node in places:
            if not self._keeper.hold(request, node):
                self._keeper.give_back(gang.slots)
                gang.slots.clear()
                return False
            note(gang, request, node)
            self.members.expect(key, request)
        self._lives.move(key, Event.PLANNED)
        self._lives.begin(key)
        return True

    # -- inside ------------------------------------------------------------------------------

    def _asked(self, key: GangKey, request: PodRequest, now: float) -> Gang:
        """A member is asked about: it exists."""
        self._lives.tend(now)
        known, before = self.members.gang_of(request.uid), self.members.enough(key)
        if known is not None and known != key:
            self._leave(request.uid)
        elif scheduler := self.members.unheard(request.uid):
            self.on_scheduler_seen(scheduler)
        self.members.asks(key, request)
        self._grown(key, before=before)
        return self._lives.record(key)

    def _grown(self, key: GangKey, *, before: bool) -> None:
        if not before and self.members.minimum(key) > 1 and self.members.enough(key):
            self._on_gathered(key)

    def _leave(self, uid: str) -> None:
        """A pod is no member any more, and does not wait."""
        self._pins.drop(uid)
        key = self.members.gone(uid)
        if key is not None:
            self._lives.left(key, uid)
