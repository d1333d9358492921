"""Gangs beside a cluster that kube-scheduler knows better: late news refuses no member either."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangAnswer, GangCoordinator
from scheduler.core.gangs.states import Life
from scheduler.core.model import Node, Placement, PodRequest
from scheduler.core.state import ClusterState
from tests.builders import described, gang_key, node, pod
from tests.depth import examples

TTL = 60.0
NIC = "example.com/nic"


class Late:
    """A coordinator beside a live cluster; pods of ``runs`` have ended, and it does not know."""

    def __init__(
        self, *nodes, runs=(), passed: bool = True, binds: bool = True, **settings
    ) -> None:
        state = ClusterState(nodes)
        state.counted.elsewhere_counts = True
        state.apply([Placement(request, at) for request, at in runs], enforce=False)
        self.engine = Engine(state, "best-fit")
        self.gangs = GangCoordinator(self.engine, ttl_s=TTL, passed=passed, binds=binds, **settings)
        self.rows = np.arange(len(nodes))
        self.now = 0.0

    def gang(self, *members: PodRequest) -> list[PodRequest]:
        described(self.gangs, *members)
        for member in members:
            self.gangs.on_pod_pending(member)
        return list(members)

    def ask(self, request: PodRequest, *names: str) -> GangAnswer:
        rows = np.array([self.engine.state.row(name) for name in names]) if names else self.rows
        draft = self.gangs.draft(request, rows, self.now)
        if draft is not None:
            for _ in draft.steps():
                pass
            for _ in self.gangs.adopt_draft(draft, self.now):
                pass
        answer = self.gangs.answer(request, rows, self.now)
        assert self.engine.state.check() == []
        return answer

    def why_not_bind(self, request: PodRequest, name: str) -> str:
        row = self.engine.state.row(name)
        return self.gangs.why_not_bind(request, row, self.now)

    def hears(self, there: Node, *ended: str) -> None:
        """The watch catches up: pods have ended, a node is as it is by now."""
        held = [
            each for each in self.engine.reservations.values() if each.placement.node == there.name
        ]
        for each in held:
            self.engine.reservations.drop(each.placement.pod.uid)
        for uid in ended:
            self.engine.release(uid)
        self.engine.state.add_node(there)
        self.gangs.restore_reservations(there.name, held)
        assert self.engine.state.check() == []

    def bind(self, request: PodRequest, name: str) -> None:
        assert self.why_not_bind(request, name) == ""
        self.engine.place_on(request, name, passed=True)
        self.gangs.on_pod_bound(request)


def _members(size: int, **asks) -> list[PodRequest]:
    return [pod(f"g-{n}", gang=gang_key("g", size), **({"count": 1} | asks)) for n in range(size)]


SHORT = [
    pytest.param(node("a", gpus=2, cpu=4000), {"cpu": 3000}, id="cpu"),
    pytest.param(node("a", gpus=2, memory=4096), {"memory": 3072}, id="memory"),
    pytest.param(node("a", gpus=2, pods=1), {}, id="pods"),
    pytest.param(node("a", gpus=2, counted={NIC: 4}), {"counted": ((NIC, 3),)}, id="counted"),
]
GROWN = [
    pytest.param(node("a", gpus=2, cpu=2000), {"cpu": 3000}, id="grown cpu"),
    pytest.param(node("a", gpus=2, memory=2048), {"memory": 3072}, id="grown memory"),
    pytest.param(node("a", gpus=2, pods=0), {}, id="grown pods"),
    pytest.param(node("a", gpus=2, counted={NIC: 2}), {"counted": ((NIC, 3),)}, id="grown counted"),
]


@pytest.mark.parametrize("at_once", [None, 4])
@pytest.mark.parametrize("size", [2, 5, 20])
@pytest.mark.parametrize(("there", "asks"), SHORT + GROWN)
def test_a_gang_is_planned_where_kube_scheduler_has_room(there, asks, size, at_once) -> None:
    """At once or beside the lock, few or more than are looked at as a whole."""
    there = replace(there, devices=there.devices[:1] * size)
    other = node("b", gpus=1, cpu=4000, memory=4096, counted={NIC: 4})
    ended = replace(pod("ended", **asks), gpu=pod().gpu)
    cluster = Late(there, other, runs=[(ended, "a")], at_once=at_once)
    members = cluster.gang(*_members(size, **asks))
    assert [cluster.ask(member, "a").row for member in members] == [0] * size
    assert cluster.gangs.state_of(members[0].gang) is Life.HOLDING
    assert all("waits for news" in cluster.why_not_bind(member, "a") for member in members)
    more = {"cpu_milli": 64_000, "memory_bytes": 64 << 30, "pods": 64, "counted": {NIC: 64}}
    cluster.hears(replace(there, **more), ended.uid)
    for member in members:
        cluster.bind(member, "a")
    assert cluster.gangs.state_of(members[0].gang) is Life.WHOLE
    assert cluster.engine.state.check() == []


@pytest.mark.parametrize("brings", [2, 4])
def test_a_gang_is_bound_whole_or_not_at_all_once_the_news_come(brings) -> None:
    """kube-scheduler has room for one member at least; for how many, it does not say."""
    cluster = Late(node("a", gpus=4, cpu=1000))
    members = cluster.gang(*_members(4, cpu=4000))
    assert [cluster.ask(member).row for member in members] == [0] * 4
    assert all(cluster.why_not_bind(member, "a") for member in members)
    cluster.hears(node("a", gpus=4, cpu=4000 * brings))
    told = [cluster.ask(member) for member in members]
    if brings == 2:
        assert all("2 of 4" in answer.message for answer in told)
        assert all(cluster.why_not_bind(member, "a") for member in members)
        assert not cluster.engine.reservations
    else:
        for member in members:
            cluster.bind(member, "a")
        assert cluster.gangs.state_of(members[0].gang) is Life.WHOLE


def test_nobody_waits_for_news_for_ever() -> None:
    """After one time limit the next plan goes by what is known, until that lets somebody start."""
    cluster = Late(node("a", gpus=2, cpu=1000), node("b", gpus=1, cpu=1000))
    first, second = cluster.gang(*_members(2, cpu=4000))
    assert cluster.ask(first, "a").row == cluster.ask(second, "a").row == 0
    assert "1 of 2" in cluster.why_not_bind(first, "a")
    cluster.now += TTL - 1
    assert "waits for news" in cluster.why_not_bind(second, "a")
    cluster.now += 1
    assert "planned anew" in cluster.why_not_bind(first, "a")
    assert not cluster.engine.reservations
    assert "1 of 2" in cluster.ask(first).message and "1 of 2" in cluster.ask(second).message
    cluster.hears(node("b", gpus=1, cpu=8000))
    assert cluster.ask(first).row >= 0
    told = {member.uid: "ab"[cluster.ask(member).row] for member in (first, second)}
    assert sorted(told.values()) == ["a", "b"]
    early = first if told[first.uid] == "a" else second
    cluster.bind(early, "a")


def test_who_is_beyond_the_number_that_starts_together_is_not_waited_for() -> None:
    cluster = Late(node("a", gpus=2, cpu=8000), node("b", gpus=2, cpu=1000))
    key = gang_key("g", 2)
    members = [pod(f"g-{n}", gang=key, count=1, cpu=4000) for n in range(4)]
    cluster.gang(*members)
    told = {member.uid: "ab"[cluster.ask(member).row] for member in members}
    assert sorted(told.values()) == ["a", "a", "b", "b"]
    for member in members:
        if told[member.uid] == "a":
            cluster.bind(member, "a")


def test_a_member_that_takes_the_room_of_another_waits_for_it() -> None:
    """By our state there is room for either."""
    cluster = Late(node("a", gpus=2, cpu=1000))
    first, second = cluster.gang(*_members(2, cpu=4000))
    cluster.ask(first)
    cluster.hears(node("a", gpus=2, cpu=4000))
    answer = cluster.ask(first)
    assert answer.row == 0 or "1 of 2" in answer.message
    assert cluster.why_not_bind(first, "a") and cluster.why_not_bind(second, "a")


@pytest.mark.parametrize(
    ("binds", "asks"),
    [(False, {}), (True, {"resource": "nvidia.com/gpu"}), (False, {"milli": 500})],
)
def test_where_others_bind_late_news_are_about_one_member(binds, asks) -> None:
    asks = {"cpu": 4000, **asks} | ({"count": 0} if "milli" in asks else {})
    cluster = Late(node("a", gpus=3, cpu=1000), node("b", gpus=3, cpu=4000), binds=binds)
    refused = cluster.gang(*_members(3, **asks))
    assert "2 of 3" in cluster.ask(refused[0]).message
    pair = [replace(member, uid=f"h-{n}", gang=gang_key("h", 2)) for n, member in
            enumerate(refused[:2])]  # fmt: skip
    cluster.gang(*pair)
    told = [cluster.ask(member).row for member in pair]
    assert sorted(told) == [0, 1]
    assert [cluster.ask(member).row for member in pair] == told


def test_the_member_that_is_asked_about_leaves_what_is_known_to_the_others() -> None:
    """It is the largest, and would take the only known place before them."""
    cluster = Late(node("a", gpus=2, cpu=1000), node("b", gpus=2, cpu=4000), binds=False)
    first, second = _members(2, cpu=4000)
    cluster.gang(replace(first, gpu=replace(first.gpu, count=2)), second)
    members = cluster.gangs.members.present(first.gang)
    assert [cluster.ask(member).row for member in members] == [0, 1]


def test_once_one_runs_the_others_are_not_held_up() -> None:
    cluster = Late(node("a", gpus=2, cpu=8000))
    first, second = cluster.gang(*_members(2, cpu=4000))
    cluster.ask(first)
    cluster.bind(first, "a")
    late = pod("late", cpu=4000)
    cluster.engine.state.apply([Placement(late, "a")], enforce=False)
    assert cluster.ask(second).row == 0
    cluster.bind(second, "a")


@pytest.mark.parametrize(("there", "asks"), SHORT + GROWN)
def test_where_nobody_else_counts_the_state_decides(there, asks) -> None:
    ended = replace(pod("ended", **asks), gpu=pod().gpu)
    cluster = Late(there, node("b", counted={NIC: 4}), runs=[(ended, "a")], passed=False)
    first, _ = cluster.gang(*_members(2, **asks))
    assert cluster.ask(first, "a").row == -1


@pytest.mark.parametrize(("there", "asks"), SHORT)
def test_what_is_reserved_for_others_refuses_a_gang(there, asks) -> None:
    cluster = Late(there)
    held = replace(pod("held", **asks), gpu=pod().gpu)
    cluster.engine.reserve_until(held, "a", 100.0)
    first, _ = cluster.gang(*_members(2, **asks))
    assert "0 of 2" in cluster.ask(first).message
    assert set(cluster.engine.reservations) == {"held"}


@pytest.mark.parametrize("size", [3, 20])
def test_devices_refuse_a_gang_whatever_else_is_late(size) -> None:
    """Of cpu there may be any amount by now; of devices there is what we know."""
    cluster = Late(node("a", gpus=size - 1, cpu=1000), at_once=8)
    first, *_ = cluster.gang(*_members(size, cpu=2000))
    answer = cluster.ask(first)
    assert answer.row == -1 and f"{size - 1} of {size}" in answer.message
    assert not cluster.engine.reservations


def test_room_that_is_known_comes_first() -> None:
    """Where kube-scheduler has room for one member, it may have none for two."""
    ended = pod("ended", cpu=8000)
    nodes = (node("a", gpus=8, cpu=8000), node("b", gpus=8, cpu=8000))
    cluster = Late(*nodes, runs=[(ended, "a")])
    members = cluster.gang(*_members(3, cpu=4000))
    assert sorted(cluster.ask(member).row for member in members) == [0, 1, 1]


def test_the_first_that_asks_takes_the_late_node_and_the_others_what_is_known() -> None:
    cluster = Late(node("a", gpus=2, cpu=2000), node("b", gpus=2, cpu=8000))
    members = cluster.gang(*_members(3, cpu=4000))
    told = [cluster.ask(member).row for member in members]
    assert sorted(told) == [0, 1, 1]
    assert [cluster.ask(member).row for member in members] == told


def test_members_unlike_the_one_that_asks_go_there_too() -> None:
    """Of a node that is late for one member all that we know of its cpu is too little."""
    cluster = Late(node("a", gpus=3, cpu=1000), node("b", cpu=64_000))
    members = _members(3, cpu=4000)
    members[0] = replace(members[0], cpu_milli=2000)
    for member in cluster.gang(*members):
        assert cluster.ask(member, "a").row == 0


def test_a_node_that_was_not_offered_goes_by_the_state() -> None:
    cluster = Late(node("a", gpus=1, cpu=1000), node("b", gpus=1, cpu=1000))
    first, _ = cluster.gang(*_members(2, cpu=2000))
    assert cluster.ask(first, "a").row == -1
    assert cluster.ask(first, "a", "b").row >= 0


def test_places_are_returned_to_and_exchanged_as_they_were() -> None:
    """kube-scheduler tries one part of the cluster after another, and comes back."""
    cluster = Late(node("a", gpus=2, cpu=1000), node("b", gpus=2, cpu=1000))
    members = cluster.gang(*_members(2, cpu=2000))
    here = [cluster.ask(member, "a").row for member in members]
    there = [cluster.ask(member, "b").row for member in members]
    assert (here, there) == ([0, 0], [1, 1])
    assert [cluster.ask(member, "a").row for member in members] == here
    assert [cluster.ask(member, "b").row for member in reversed(members)] == there
    assert len(cluster.engine.reservations) == 2


def test_a_gang_that_rests_is_told_its_places_again() -> None:
    cluster = Late(node("a", gpus=2, cpu=1000))
    members = cluster.gang(*_members(2, cpu=2000))
    lives = set()
    for _ in range(12):
        assert [cluster.ask(member).row for member in members] == [0, 0]
        lives.add(cluster.gangs.state_of(members[0].gang))
        cluster.now += 0.75 * TTL
        cluster.gangs.expire(cluster.now)
    assert {Life.HOLDING, Life.RESTING} <= lives


def test_reservations_made_on_late_news_outlast_another_look_at_the_node() -> None:
    """Whatever else is heard of the node, its devices stay kept for them."""
    there = node("a", gpus=2, cpu=1000)
    cluster = Late(there)
    members = cluster.gang(*_members(2, cpu=2000))
    cluster.ask(members[0])
    held = list(cluster.engine.reservations.values())
    for each in held:
        cluster.engine.reservations.drop(each.placement.pod.uid)
    cluster.gangs.restore_reservations("a", held)
    assert sorted(cluster.engine.reservations) == ["g-0", "g-1"]
    assert cluster.gangs.state_of(members[0].gang) is Life.HOLDING


@pytest.mark.parametrize(("fits", "kept"), [(2, ["g-0", "g-1"]), (1, ["g-0"])])
def test_a_reservation_is_not_restored_into_what_another_one_keeps(fits, kept) -> None:
    cluster = Late(node("a", gpus=2, cpu=8000))
    members = cluster.gang(*_members(2, cpu=4000))
    cluster.ask(members[0])
    held = list(cluster.engine.reservations.values())
    for each in held:
        cluster.engine.reservations.drop(each.placement.pod.uid)
    cluster.engine.state.add_node(node("a", gpus=2, cpu=4000 * fits))
    cluster.gangs.restore_reservations("a", held)
    life = cluster.gangs.state_of(members[0].gang)
    assert life is (Life.HOLDING if fits == 2 else Life.UNKNOWN)
    assert sorted(cluster.engine.reservations) == (kept if fits == 2 else [])


NODES = st.lists(
    st.tuples(
        st.integers(0, 3),  # devices
        st.integers(0, 6),  # cpu in all
        st.integers(0, 6),  # cpu of pods that have ended, or run
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=2),  # reservations
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=examples(60, 2000), deadline=None)
@given(NODES, st.integers(2, 5), st.integers(0, 4), st.sampled_from([None, 4]))
def test_a_gang_is_refused_for_devices_and_reservations_alone(nodes, size, asks, at_once) -> None:
    """The rule once more, node by node, for members that are all alike."""
    cluster = Late(
        *(node(f"n{at}", gpus=gpus, cpu=cpu * 1000) for at, (gpus, cpu, _, _) in enumerate(nodes)),
        runs=[(pod(cpu=used * 1000), f"n{at}") for at, (_, _, used, _) in enumerate(nodes)],
        at_once=at_once,
    )
    room = 0
    for at, (gpus, cpu, used, holds) in enumerate(nodes):
        kept = taken = 0
        for held, device in holds:
            if held + kept + used <= cpu and taken + device <= gpus:
                one = pod(cpu=held * 1000, **({"count": 1} if device else {}))
                cluster.engine.reserve_until(one, f"n{at}", 100.0)
                taken, kept = taken + device, kept + held
        counts = asks > 0 and cpu - used >= asks
        room += min(gpus - taken, (cpu - used - kept) // asks) if counts else gpus - taken
    first, *_ = cluster.gang(*_members(size, cpu=asks * 1000))
    answer = cluster.ask(first)
    assert (answer.row >= 0) == (room >= size)
