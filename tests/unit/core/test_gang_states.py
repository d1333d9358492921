"""The life of gangs: the table, and whatever may happen to them in any order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.errors import CapacityConflict
from scheduler.core.gangs import states
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.gangs.states import HOLDING, LIFE, PLANNED, Event, Life
from scheduler.core.model import GangKey, Node, Placement, PodRequest
from scheduler.core.state import ClusterState
from tests.builders import node, pod
from tests.depth import examples

TTL = 60.0
KEYS = [GangKey("kubernetes", "default", name) for name in "gh"]


def test_every_state_is_reached_and_can_be_left() -> None:
    reached, left = {Life.UNKNOWN}, set()
    for (before, _), after in LIFE.items():
        if before is not after:
            left.add(before)
            reached.add(after)
    assert reached == left == set(Life)


@pytest.mark.parametrize("life", [life for life in Life if life is not Life.WHOLE])
@pytest.mark.parametrize("event", [Event.LOST, Event.FULL, Event.EMPTY])
def test_what_may_happen_at_any_time_is_provided_for(life: Life, event: Event) -> None:
    after = LIFE[life, event]
    assert after not in HOLDING, "nothing is held by what is lost, whole or empty"
    assert event is not Event.LOST or after not in PLANNED


def test_the_states_and_events_of_the_table_stand_in_its_drawing() -> None:
    drawn = (states.__doc__ or "").split("Places are held")[0]
    assert all(life.value in drawn for life in Life)
    assert all(event.name.lower() in drawn for event in Event)


class Gangs(RuleBasedStateMachine):
    """Two gangs on three nodes, asked about, bound, deleted and starved in any order."""

    @initialize(
        reserve=st.booleans(),
        share=st.sampled_from([0.0, 0.5]),
        at_once=st.sampled_from([None, 2]),
        late=st.booleans(),
    )
    def begin(self, reserve: bool, share: float, at_once: int | None, late: bool) -> None:
        self.nodes: dict[str, Node] = {name: node(name, gpus=2) for name in "abc"}
        self.engine = Engine(ClusterState(self.nodes.values()), "best-fit")
        self.gangs = GangCoordinator(
            self.engine,
            ttl_s=TTL,
            reserve_after_s=TTL if reserve else 0.0,
            at_once=at_once,
            unborn_share=share,
            passed=late,
            binds=late,
        )
        self.late, self.unheard, self.reserves = late, list[str](), reserve
        self.now, self.serial = 0.0, 0
        self.waiting: dict[str, PodRequest] = {}
        self.told: dict[str, str] = {}
        self.running: dict[str, PodRequest] = {}
        self.others: list[str] = []
        for key in KEYS:
            self.gangs.describe(GangSpec(key, 3))
            for _ in range(3):
                self.comes(key, 1, "")

    # -- what may happen ---------------------------------------------------------------------

    @rule(
        key=st.sampled_from(KEYS),
        count=st.sampled_from([1, 1, 2]),
        scheduler=st.sampled_from(["", "ours", "other"]),
    )
    def comes(self, key: GangKey, count: int, scheduler: str) -> None:
        self.serial += 1
        request = pod(f"{key.name}{self.serial}", count=count, gang=key)
        self.waiting[request.uid] = request
        self.gangs.describe(GangSpec(key, self._minimum(key)))
        self.gangs.on_pod_pending(request, scheduler)

    @rule(scheduler=st.sampled_from(["ours", "other"]))
    def asks_us(self, scheduler: str) -> None:
        self.gangs.on_scheduler_seen(scheduler)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), offered=st.sets(st.sampled_from("abc"), min_size=1))
    def ask(self, data: st.DataObject, offered: set[str]) -> None:
        self._ask(self.waiting[data.draw(st.sampled_from(sorted(self.waiting)))], offered)

    @rule(key=st.sampled_from(KEYS), times=st.sampled_from([1, 4, 9]))
    def cycles(self, key: GangKey, times: int) -> None:
        """All members are asked about, perhaps again and again."""
        for _ in range(times):
            for request in list(self.waiting.values()):
                if request.gang == key:
                    self._ask(request, set("abc"))
            if times > 1:
                self.passes(0.75 * TTL)

    def _ask(self, request: PodRequest, offered: set[str]) -> None:
        key = request.gang
        assert key is not None
        self.told.pop(request.uid, None)
        if not self.gangs.is_incomplete_gang(request):
            return
        names = sorted(offered & self.nodes.keys())
        rows = np.array([self.engine.state.row(name) for name in names], dtype=np.int64)
        draft = self.gangs.draft(request, rows, self.now)
        if draft is not None:
            for _ in draft.steps():
                pass
            for _ in self.gangs.adopt_draft(draft, self.now):
                pass
        answer = self.gangs.answer(request, rows, self.now)
        assert (answer.row < 0) == bool(answer.message)
        if "missing members have a place" in answer.message and not self.reserves:
            self._lacks_devices(key, request, rows)
        if answer.row >= 0:
            place = self.engine.state.nodes[answer.row]
            assert place is not None
            self.told[request.uid] = place.name
            planned = len(self._gang(key).slots) + len(self.gangs.members.running(key))
            assert planned >= self._minimum(key), "nobody is let in by half"

    def _lacks_devices(self, key: GangKey, request: PodRequest, rows: NDArray[np.int64]) -> None:
        """There is cpu for everybody, but for pods that have ended."""
        if all(member.shape == request.shape for member in self.gangs.members.present(key)):
            places = self.engine.state.full_free[rows] // request.gpu.count
            assert places.sum() < self.gangs.members.missing(key)

    @rule(count=st.integers(1, 3))
    def another_takes_room(self, count: int) -> None:
        self.serial += 1
        request = pod(f"other{self.serial}", count=count)
        row = self.engine.best(request)
        place = self.engine.state.nodes[row] if row >= 0 else None
        if place is not None:
            self.engine.place_on(request, place.name)
            self.others.append(request.uid)

    @precondition(lambda self: self.others)
    @rule()
    def others_leave(self) -> None:
        for uid in self.others:
            if uid in self.engine.state.placements:
                self.engine.release(uid)
        self.others.clear()

    @precondition(lambda self: self.late)
    @rule(names=st.sampled_from(["a", "b", "c", "ab", "abc", "abc"]))
    def others_have_ended_and_nobody_says_so(self, names: str) -> None:
        """kube-scheduler has room there, and goes on offering the nodes."""
        for name in sorted(self.nodes.keys() & set(names)):
            self.serial += 1
            ended = pod(f"ended{self.serial}", cpu=self.nodes[name].cpu_milli)
            self.engine.state.apply([Placement(ended, name)], enforce=False)
            self.unheard.append(ended.uid)

    @precondition(lambda self: self.unheard)
    @rule()
    def news_come(self) -> None:
        for uid in self.unheard:
            if uid in self.engine.state.placements:
                self.engine.release(uid)
        self.unheard.clear()

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def bind(self, data: st.DataObject) -> None:
        self._bind_told(data.draw(st.sampled_from(sorted(self.told))))

    @rule(key=st.sampled_from(KEYS))
    def starts(self, key: GangKey) -> None:
        """All members are asked about, and those that were told a node are bound there."""
        self.cycles(key, 1)
        for uid in [uid for uid in self.told if self.waiting[uid].gang == key]:
            self._bind_told(uid)

    def _bind_told(self, uid: str) -> None:
        request, name = self.waiting[uid], self.told[uid]
        key = request.gang
        assert key is not None
        first = self.gangs.is_incomplete_gang(request) and not self.gangs.members.running(key)
        if name in self.nodes and self.gangs.is_incomplete_gang(request):
            problem = self.gangs.why_not_bind(request, self.engine.state.row(name), self.now)
            if problem:
                del self.told[uid]
                return
        missing = self.gangs.members.missing(key)
        # Places of members to come are given up once nobody waits any more.
        slots = {other: slot for other, slot in self._gang(key).slots.items() if other != uid}
        self._bind(request, name)
        if first and uid in self.running:
            self._has_room_for_others(key, slots, name, missing)

    def _has_room_for_others(
        self, key: GangKey, slots: dict[str, states.Slot], name: str, missing: int
    ) -> None:
        """By what is known of cpu, once more: whoever is bound first does not start by half."""
        ours = {*slots, *self.gangs.members.running(key)}
        sure = 0
        for at, there in self.nodes.items():
            pods = [p.pod for p in self.engine.state.placements.values() if p.node == at]
            used = sum(each.cpu_milli for each in pods if each.uid not in ours)
            places = sum(slot.node == at for slot in slots.values()) + (at == name)
            room = max(0, (there.cpu_milli - used) // pod().cpu_milli)
            sure += min(places, max(room, at == name))
        assert sure >= missing

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), name=st.sampled_from("abc"))
    def bound_by_others(self, data: st.DataObject, name: str) -> None:
        uid = data.draw(st.sampled_from(sorted(self.waiting)))
        self._bind(self.waiting[uid], name)

    def _bind(self, request: PodRequest, name: str) -> None:
        if name not in self.nodes:
            return
        try:
            self.engine.place_on(request, name, passed=self.late)
        except CapacityConflict:
            self.gangs.replan(request)
            return
        self.gangs.on_pod_bound(request)
        del self.waiting[request.uid]
        self.told.pop(request.uid, None)
        self.running[request.uid] = request

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def unbound(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(sorted(self.running)))
        request = self.running.pop(uid)
        if request.gang is not None and uid in self.gangs.members.running(request.gang):
            self.waiting[uid] = request
            self.engine.release(uid)
            self.gangs.on_pod_unbound(request)
        else:
            self.engine.release(uid)
            self.gangs.on_pod_gone(request)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        request = self.running[data.draw(st.sampled_from(sorted(self.running)))]
        self.gangs.on_pod_leaving(request)
        self.gangs.on_pod_bound(request)  # told of once more
        assert request.gang is not None
        assert request.uid not in self.gangs.members.running(request.gang)

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def is_gone(self, data: st.DataObject) -> None:
        everybody = self.running | self.waiting
        uid = data.draw(st.sampled_from(sorted(everybody)))
        if uid in self.engine.state.placements:
            self.engine.release(uid)
        self.gangs.on_pod_gone(everybody[uid])
        for known in (self.running, self.waiting, self.told):
            known.pop(uid, None)  # type: ignore[attr-defined]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def is_gated(self, data: st.DataObject) -> None:
        request = self.waiting[data.draw(st.sampled_from(sorted(self.waiting)))]
        self.told.pop(request.uid, None)
        self.gangs.on_pod_gated(request)

    @rule(seconds=st.sampled_from([1.0, 20.0, TTL, 5 * TTL]))
    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.gangs.expire(self.now)

    @rule(name=st.sampled_from("abc"))
    def node_fails(self, name: str) -> None:
        if self.nodes.pop(name, None) is None:
            return
        gone = [p.pod for p in self.engine.state.placements.values() if p.node == name]
        held = [one for one in gone if one.uid in self.engine.reservations]
        for one in gone:
            self.engine.release(one.uid)
        self.engine.state.remove_node(name)
        for one in gone:
            if one in held:
                self.gangs.replan(one)
            else:
                self.gangs.on_pod_gone(one)
                self.running.pop(one.uid, None)
        self.told = {uid: at for uid, at in self.told.items() if at != name}

    @rule(name=st.sampled_from("abc"))
    def node_comes(self, name: str) -> None:
        if name not in self.nodes:
            self.nodes[name] = node(name, gpus=2)
            self.engine.state.add_node(self.nodes[name])

    @rule(key=st.sampled_from(KEYS), minimum=st.integers(1, 4))
    def is_resized(self, key: GangKey, minimum: int) -> None:
        self.gangs.describe(GangSpec(key, minimum))

    # -- what holds always -------------------------------------------------------------------

    def _minimum(self, key: GangKey) -> int:
        return self.gangs.members.minimum(key)

    def _gang(self, key: GangKey) -> states.Gang:
        return self.gangs._lives.get(key) or states.Gang()

    @invariant()
    def no_device_is_given_twice(self) -> None:
        assert self.engine.state.check() == []
        for name in self.nodes:
            assert not self.engine.state.overdrawn(self.engine.state.row(name))

    @invariant()
    def what_is_held_is_a_gangs_place_and_the_other_way_round(self) -> None:
        kept = {
            uid: slot.node
            for key in KEYS
            if self._gang(key).life in HOLDING
            for uid, slot in self._gang(key).slots.items()
        }
        held = {
            uid: hold.placement.node
            for uid, hold in self.engine.reservations.items()
            if not self.gangs._keeper.ending(uid)
        }
        assert held == kept

    @invariant()
    def gangs_are_planned_whole_or_hold_nothing(self) -> None:
        for key in KEYS:
            gang = self._gang(key)
            planned = len(gang.slots) + len(self.gangs.members.running(key))
            if gang.life in PLANNED:
                assert planned >= self._minimum(key)
            elif gang.life is not Life.RESERVED:
                assert not gang.slots
            if self.gangs.state_of(key) is Life.WHOLE:
                assert not self.gangs.members.missing(key)

    def teardown(self) -> None:
        """Nothing is held for ever: without a question, everything ends."""
        for _ in range(3):
            self.now += 5 * TTL
            self.gangs.expire(self.now)
        assert not self.engine.reservations
        assert sum(self.gangs.counts().values()) == self.gangs.counts()["waiting"]


TestGangs = Gangs.TestCase
TestGangs.settings = settings(
    max_examples=examples(12, 600),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
