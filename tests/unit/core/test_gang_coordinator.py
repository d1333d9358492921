"""Gangs whole or not at all, answers that repeat, places that end, pins."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangAnswer, GangCoordinator
from scheduler.core.gangs.spec import GangSpec, Role
from scheduler.core.gangs.states import Life
from scheduler.core.model import Device, GangKey, NodeSelection, PodRequest
from scheduler.core.state import ClusterState
from tests.builders import described, gang_key, node, pod

TTL = 60.0


def _member(gang: str, number: int, *, size: int, **gpu) -> PodRequest:
    return pod(f"{gang}-{number}", gang=gang_key(gang, size), **(gpu or {"count": 1}))


def _gang(name: str, size: int, **gpu) -> list[PodRequest]:
    return [_member(name, number, size=size, **gpu) for number in range(size)]


class Cluster:
    """An engine with gangs, driven by a hand-set clock."""

    def __init__(self, *nodes, **settings: float) -> None:
        self.engine = Engine(ClusterState(nodes), "best-fit")
        self.gathered: list[GangKey] = []
        self.gangs = GangCoordinator(
            self.engine, ttl_s=TTL, on_gathered=self.gathered.append, **settings
        )
        self.rows = np.arange(len(nodes))
        self.now = 0.0

    def expect(self, *members: PodRequest) -> list[PodRequest]:
        """These pods exist."""
        described(self.gangs, *members)
        for member in members:
            self.gangs.on_pod_pending(member)
        return list(members)

    def gang(self, name: str, size: int, **gpu) -> list[PodRequest]:
        """A gang all of whose members exist."""
        return self.expect(*_gang(name, size, **gpu))

    def ask(self, request: PodRequest, rows: np.ndarray | None = None):
        described(self.gangs, request)
        return self.gangs.answer(request, self.rows if rows is None else rows, self.now)

    def bind(self, request: PodRequest) -> str:
        row = self.ask(request).row
        name = self.engine.state.nodes[row].name
        self.engine.place_on(request, name)
        self.gangs.on_pod_bound(request)
        assert self.engine.state.check() == []
        return name

    @property
    def free(self) -> int:
        return int(self.engine.state.full_free.sum())


def test_a_gang_that_fits_gets_all_its_places_at_the_first_question() -> None:
    cluster = Cluster(node("a", gpus=2), node("b", gpus=2))
    first, *others = cluster.gang("g", 4)
    assert cluster.ask(first).row >= 0
    assert cluster.free == 0  # the members that have not asked yet are provided for
    assert cluster.gangs.state_of(first.gang) is Life.HOLDING
    assert all(cluster.ask(member).row >= 0 for member in others)
    assert sorted(cluster.bind(member) for member in [first, *others]) == ["a", "a", "b", "b"]
    gangs = cluster.gangs
    assert not gangs.is_incomplete_gang(first) and gangs.state_of(first.gang) is Life.WHOLE


def test_a_gang_holds_nothing_until_its_members_exist() -> None:
    """One pod states a large gang: nobody else loses a device by that."""
    cluster = Cluster(node("a", gpus=4))
    gathered = cluster.gathered
    members = _gang("g", 4)
    for number, member in enumerate(members[:3], 1):
        answer = cluster.ask(member)
        assert answer.row == -1 and cluster.free == 4
        assert f"{number} of 4 pods exist" in answer.message
    assert gathered == [] and not cluster.gangs.has_enough_members(members[0])
    cluster.expect(members[3])
    assert gathered == [members[0].gang] and cluster.gangs.has_enough_members(members[0])
    assert [cluster.ask(member).row for member in members] == [0, 0, 0, 0]


def test_a_pod_of_a_scheduler_that_never_asks_does_not_exist_for_us() -> None:
    cluster = Cluster(node("a", gpus=2))
    members = _gang("g", 2)
    described(cluster.gangs, *members)
    gathered = cluster.gathered
    cluster.gangs.on_pod_pending(members[0], "ours")
    cluster.gangs.on_pod_pending(members[1], "other")
    cluster.gangs.on_scheduler_seen("ours")
    assert "1 of 2 pods exist" in cluster.ask(members[0]).message
    assert gathered == []
    cluster.gangs.on_scheduler_seen("other")  # it does ask us
    assert gathered == [members[0].gang]
    assert cluster.ask(members[0]).row == cluster.ask(members[1]).row == 0


@pytest.mark.parametrize("system", ["kubernetes", "volcano"])
def test_gates_of_a_native_pod_group_are_old_news_once_kube_scheduler_asks(system: str) -> None:
    """It does not before enough of them have none; of other gangs it knows nothing."""
    cluster = Cluster(node("a", gpus=2))
    key = GangKey(system, "default", "g")
    first, second = (pod(f"m{number}", count=1, gang=key) for number in range(2))
    cluster.gangs.describe(GangSpec(key, 2))
    cluster.gangs.on_pod_gated(second)
    answer = cluster.gangs.answer(first, cluster.rows, 0.0)
    assert (answer.row == 0) == (system == "kubernetes") and cluster.free == 2 * (answer.row < 0)
    cluster.gangs.on_pod_gated(second)  # it has some after all
    assert cluster.free == 2
    cluster.gangs.on_pod_pending(second)
    assert cluster.gangs.answer(first, cluster.rows, 0.0).row == 0


def test_a_gated_pod_has_a_place_kept_once_and_then_has_to_be_asked_about() -> None:
    cluster = Cluster(node("a", gpus=2))
    first, second = _gang("g", 2)
    described(cluster.gangs, first)
    cluster.gangs.on_pod_gated(second)
    assert cluster.ask(first).row == 0
    for turn in range(1, 4):
        cluster.now = turn * TTL
        assert "1 of 2 pods exist" in cluster.ask(first).message and cluster.free == 2
        cluster.gangs.on_pod_gated(second)
    assert cluster.ask(second).row == 0


def test_pods_that_are_being_deleted_are_no_members() -> None:
    """A Job replaces them at once: half of the new ones would fit beside the old."""
    cluster = Cluster(node("a", gpus=6))
    old, new = cluster.gang("g", 4), [_member("g", number, size=4) for number in range(4, 8)]
    for member in old:
        cluster.bind(member)
    for member in old:
        cluster.gangs.on_pod_leaving(member)
        cluster.gangs.on_pod_bound(member)  # told of again, with its node
    cluster.expect(*new)
    answer = cluster.ask(new[0])
    assert answer.row == -1 and "2 of 4 missing members" in answer.message and cluster.free == 2
    for member in old:
        cluster.engine.release(member.uid)
        cluster.gangs.on_pod_gone(member)
    assert [cluster.bind(member) for member in new] == ["a"] * 4


def test_a_member_that_nobody_asks_about_loses_its_place_and_is_absent_until_then() -> None:
    cluster = Cluster(node("a", gpus=3))
    members = cluster.gang("g", 3)
    for second in range(0, int(TTL), 10):
        cluster.now = float(second)
        assert cluster.ask(members[0]).row == cluster.ask(members[1]).row == 0
    assert cluster.free == 0
    cluster.now = TTL
    answer = cluster.ask(members[0])
    assert answer.row == -1 and cluster.free == 3
    assert "2 of 3 pods exist; kube-scheduler has not asked about 1 of them" in answer.message
    assert cluster.ask(members[2]).row == 0 and cluster.free == 0  # now somebody has


def test_members_beyond_the_minimum_get_what_there_is() -> None:
    """Two have to start together, five exist, and there is room for three."""
    cluster = Cluster(node("a", gpus=3))
    members = cluster.expect(*(_member("g", number, size=2) for number in range(5)))
    assert cluster.ask(members[4]).row == 0 and cluster.free == 0
    told = [cluster.ask(member).row for member in members]
    assert told.count(0) == 3 and told[4] == 0
    for member, row in zip(members, told, strict=True):
        if row == 0:
            cluster.bind(member)
    assert not cluster.engine.reservations and not cluster.gangs.is_incomplete_gang(members[0])


def test_members_of_one_role_do_not_stand_in_for_another() -> None:
    """Workers without their server would run for nothing."""
    cluster, key = Cluster(node("a", gpus=3)), gang_key("g", 3)
    cluster.gangs.describe(GangSpec(key, 3, (Role("server", 0, 1), Role("worker", 0, 2))))
    workers = [pod(f"w{n}", count=1, gang=key, role="worker") for n in range(4)]
    for worker in workers:
        cluster.gangs.on_pod_pending(worker)
    gathered = cluster.gathered

    def place(request: PodRequest) -> GangAnswer:
        return cluster.gangs.answer(request, cluster.rows, cluster.now)

    assert "0 of 1 pods of role server exist" in place(workers[0]).message
    assert cluster.free == 3 and not gathered
    server = pod("server", count=1, gang=key, role="server")
    cluster.gangs.on_pod_pending(server)
    assert gathered == [key]
    answers = [place(request).row for request in (*workers, server)]
    assert answers == [0, 0, -1, -1, 0]
    for request in workers[:2]:
        cluster.engine.place_on(request, "a")
        cluster.gangs.on_pod_bound(request)
    assert cluster.gangs.members.missing(key) == 1
    cluster.gangs.on_pod_gone(server)
    assert "role server" in place(workers[2]).message and cluster.free == 1


def test_a_gang_that_becomes_smaller_is_whole_and_one_that_grows_is_planned_anew() -> None:
    cluster = Cluster(node("a", gpus=4))
    members = cluster.expect(*(_member("g", number, size=3) for number in range(4)))
    cluster.bind(members[0])
    cluster.bind(members[1])
    assert cluster.free == 0
    key = members[0].gang
    cluster.gangs.describe(GangSpec(key, 2))
    assert cluster.gangs.state_of(key) is Life.WHOLE and cluster.free == 2
    cluster.gangs.describe(GangSpec(key, 5))
    assert cluster.gangs.state_of(key) is Life.UNKNOWN
    assert "4 of 5 pods exist" in cluster.gangs.answer(members[2], np.array([0]), 0.0).message


def test_places_for_members_to_come_are_opt_in_and_bounded_by_a_share() -> None:
    cluster = Cluster(node("a", gpus=8), unborn_share=0.5)
    first, second, *_ = _gang("g", 5)
    assert cluster.ask(first).row == 0 and cluster.free == 3
    other = _gang("h", 2)
    assert "1 of 2 pods exist" in cluster.ask(other[0]).message  # of the same namespace
    assert cluster.ask(second).row == 0 and cluster.free == 3  # it takes one of the places
    cluster.now = TTL
    assert "2 of 5 pods exist" in cluster.ask(first).message and cluster.free == 8
    assert cluster.ask(second).row == -1 and cluster.free == 8  # and not again at once
    assert cluster.ask(_gang("i", 6)[0]).row == -1 and cluster.free == 8  # more than the share


def test_members_to_come_are_as_their_workload_object_says() -> None:
    """A leader without a device and three workers: four like the leader would say nothing."""
    cluster = Cluster(node("a", gpus=8), node("b", cpu=500), unborn_share=1.0)
    leader = _member("g", 0, size=4, count=0, cpu=500, role="leader")
    worker = Role("worker", 3, 3, like=pod("any", count=2))
    spec = GangSpec(leader.gang, 4, (Role("leader", 1, 1, like=leader), worker))
    cluster.gangs.describe(spec)
    assert cluster.gangs.answer(leader, cluster.rows, 0.0).row >= 0
    held = [hold.placement.pod.gpu.count for hold in cluster.engine.reservations.values()]
    assert sorted(held) == [0, 2, 2, 2]


def test_a_member_by_other_rules_is_not_bound_to_what_the_first_was_offered() -> None:
    """Two zones: what kube-scheduler offers for one member says nothing of the other."""
    cluster = Cluster(
        node("a", gpus=1, labels={"zone": "a"}), node("b", gpus=1, labels={"zone": "b"})
    )
    one, two = cluster.expect(
        *(
            _member("g", number, size=2, count=1, selection=NodeSelection((("zone", zone),)))
            for number, zone in enumerate("ab")
        )
    )
    assert cluster.ask(one, np.array([0])).row == 0
    assert cluster.ask(two, np.array([1])).row == 1


def test_what_is_thought_of_a_node_does_not_refuse_whom_kube_scheduler_has_let_in() -> None:
    """Our news of the node may be late; that reading serves the members by other rules."""
    cluster = Cluster(node("a", gpus=2, unschedulable=True))
    members = cluster.gang("g", 2)
    assert [cluster.ask(member).row for member in members] == [0, 0]
    cluster.gangs.on_pod_gone(members[1])
    other = _member("g", 2, size=2, count=1, selection=NodeSelection((("x", "y"),)))
    cluster.expect(other)
    assert cluster.ask(members[0]).row == -1 and cluster.free == 2


def test_a_gang_that_does_not_fit_holds_nothing_and_says_what_is_missing() -> None:
    cluster = Cluster(node("a", gpus=4), node("b", gpus=3))
    answer = cluster.ask(cluster.gang("g", 2, count=4, products=("T4",))[0])
    assert answer.row == -1 and cluster.free == 7
    assert "1 of 2 missing members" in answer.message
    assert "needs 4 more devices of model T4" in answer.message


def test_a_gang_is_planned_by_all_that_its_members_count_on() -> None:
    """Two nodes have the devices for four members, and the network cards for two."""
    nics = {"example.com/nic": 4}
    cluster = Cluster(node("a", gpus=8, counted=nics), node("b", gpus=8, counted=nics))
    wants = {"count": 4, "counted": tuple(nics.items())}
    answer = cluster.ask(cluster.gang("three", 3, **wants)[0])
    assert answer.row == -1 and cluster.free == 16
    assert "with 4 example.com/nic for each member; 2 of 3" in answer.message
    assert sorted(cluster.bind(member) for member in cluster.gang("two", 2, **wants)) == ["a", "b"]
    assert cluster.ask(cluster.gang("one", 2, **wants)[0]).row == -1
    assert cluster.ask(cluster.gang("without", 2, count=4)[0]).row >= 0


def test_what_lets_one_member_in_lets_those_of_the_same_rules_in() -> None:
    """A label was changed a moment ago: kube-scheduler has heard of it, and we have not."""
    cluster = Cluster(node("a", gpus=2), node("b", gpus=2))
    rules = NodeSelection(node_selector=(("zone", "new"),))
    alike = [replace(member, selection=rules) for member in _gang("g", 4)]
    for member in alike:
        cluster.gangs.on_pod_pending(member)
    assert sorted(cluster.bind(member) for member in alike) == ["a", "a", "b", "b"]


def test_a_member_of_other_rules_needs_a_node_that_is_known_to_let_it_in() -> None:
    cluster = Cluster(node("a", gpus=2), node("b", gpus=2))
    one, other = _gang("g", 2)
    for member in (one, replace(other, selection=NodeSelection((("zone", "new"),)))):
        cluster.gangs.on_pod_pending(member)
    assert cluster.ask(one).row == -1


def test_two_gangs_that_fit_alone_but_not_together() -> None:
    """One runs, the other waits whole, and comes when the first has gone."""
    cluster = Cluster(node("a", gpus=4))
    one, two = cluster.gang("one", 3), cluster.gang("two", 3)
    assert cluster.ask(one[0]).row == 0
    assert [cluster.ask(member).row for member in two] == [-1, -1, -1]
    for member in one:
        cluster.bind(member)
    assert cluster.ask(two[1]).row == -1 and cluster.free == 1
    for member in one:
        cluster.engine.release(member.uid)
        cluster.gangs.on_pod_gone(member)
    assert all(cluster.bind(member) for member in two)


@pytest.mark.parametrize("seed", range(20))
def test_repeated_and_reordered_questions_have_one_answer(seed: int) -> None:
    """As in kube-scheduler's group cycles: members asked for again and again, in any order."""
    cluster = Cluster(*(node(f"n{i}", gpus=4) for i in range(4)))
    members = cluster.gang("g", 6, count=2)
    rows: dict[str, int] = {}
    rng = random.Random(seed)
    for _ in range(60):
        member = rng.choice(members)
        order = cluster.rows.copy()
        rng.shuffle(order)
        row = cluster.ask(member, order).row
        assert rows.setdefault(member.uid, row) == row >= 0
    assert cluster.free == 4
    for member in rng.sample(members, len(members)):
        planned = rows.get(member.uid, cluster.ask(member).row)
        assert cluster.bind(member) == f"n{planned}"
    assert cluster.engine.state.check() == [] and not cluster.engine.reservations


def test_places_that_nobody_asks_for_are_given_back_together() -> None:
    cluster = Cluster(node("a", gpus=4))
    members = cluster.gang("g", 4)
    assert [cluster.ask(member).row for member in members] == [0, 0, 0, 0]
    cluster.now = TTL - 1
    assert cluster.ask(members[1]).row == 0  # asking keeps the whole gang
    cluster.gangs.expire(2 * TTL - 2)
    assert cluster.free == 0
    cluster.now = 2 * TTL
    cluster.gangs.expire(cluster.now)
    assert cluster.free == 4
    assert cluster.ask(members[2]).row == 0  # and it may come again


def test_a_node_that_dies_has_the_gang_planned_again() -> None:
    cluster = Cluster(node("a", gpus=2), node("b", gpus=2), node("c", gpus=2))
    members = cluster.gang("g", 4)
    bound = cluster.bind(members[0])
    planned = {cluster.engine.state.nodes[cluster.ask(m).row].name for m in members[1:]}
    victim = next(name for name in ("a", "b", "c") if name in planned and name != bound)
    cluster.engine.state.remove_node(victim)
    for member in members[1:]:
        assert cluster.bind(member) != victim
    assert cluster.engine.state.check() == []


def test_a_member_that_dies_is_replaced() -> None:
    cluster = Cluster(node("a", gpus=3))
    members = cluster.gang("g", 3)
    for member in members:
        cluster.bind(member)
    cluster.engine.release(members[0].uid)
    cluster.gangs.on_pod_gone(members[0])
    again = _member("g", 7, size=3)
    assert cluster.gangs.is_incomplete_gang(again) and cluster.bind(again) == "a"


def test_a_member_that_gives_up_frees_its_place_for_another() -> None:
    cluster = Cluster(node("a", gpus=2))
    members = cluster.gang("g", 2)
    for member in members:
        assert cluster.ask(member).row == 0
    cluster.gangs.on_pod_gone(members[0])
    assert cluster.free == 2  # one alone holds nothing
    assert cluster.ask(_member("g", 9, size=2)).row == 0
    cluster.gangs.on_pod_gone(members[1])
    cluster.gangs.on_pod_gone(_member("g", 9, size=2))
    assert cluster.free == 2  # nobody waits any more


def test_an_unlike_member_is_planned_for_when_it_shows_up() -> None:
    """A cpu-only leader and two workers; the first question cannot know about the leader."""
    cluster = Cluster(node("a", gpus=2, cpu=3000))
    key = gang_key("g", 3)
    workers = [pod(f"w{i}", count=1, cpu=1000, gang=key) for i in range(2)]
    leader = pod("leader", cpu=1000, gang=key)
    assert cluster.ask(workers[0]).row == -1
    assert cluster.ask(leader).row == -1
    assert cluster.ask(workers[1]).row == 0  # now all of them are known
    assert cluster.ask(leader).row == 0 and cluster.ask(workers[0]).row == 0


def test_unlike_members_that_are_known_are_planned_for_before_they_ask() -> None:
    # Three like the first one would not fit; its two small ones go where it cannot.
    cluster = Cluster(node("a", gpus=2), node("b", gpus=1, product="T4"))
    large = _member("g", 0, size=3, count=2)
    small = [_member("g", n, size=3, milli=500, count=0) for n in (1, 2)]
    cluster.expect(large, *small)
    assert cluster.ask(large, np.array([0])).row == 0  # it was offered nothing else
    assert [cluster.bind(member) for member in (*small, large)] == ["b", "b", "a"]
    assert cluster.free == 0


def test_an_expected_member_that_is_gone_is_not_planned_for() -> None:
    cluster = Cluster(node("a", gpus=3))
    first, second, third = (_member("g", 0, size=2), _member("g", 1, size=2, count=3),
                            _member("g", 2, size=2))  # fmt: skip
    cluster.expect(first, second)
    assert cluster.ask(first).row == -1
    cluster.gangs.on_pod_gone(second)
    cluster.expect(third)
    assert cluster.ask(first).row == 0 and cluster.free == 1


def test_surplus_members_wait_until_the_gang_is_whole() -> None:
    cluster = Cluster(node("a", gpus=2))
    members = cluster.expect(*(_member("g", number, size=2) for number in range(3)))
    assert [cluster.ask(member).row for member in members] == [0, 0, -1]
    for member in members[:2]:
        cluster.bind(member)
    assert not cluster.gangs.is_incomplete_gang(members[2])


def test_a_member_that_is_bound_elsewhere_gives_its_place_back() -> None:
    cluster = Cluster(node("a", gpus=2), node("b", gpus=2))
    members = cluster.gang("g", 2)
    row = cluster.ask(members[0]).row
    other = "b" if row == 0 else "a"
    cluster.engine.place_on(members[0], other)
    cluster.gangs.on_pod_bound(members[0])
    assert cluster.free == 2  # one bound, one slot


def test_a_reservation_after_a_wait_keeps_what_it_can_get() -> None:
    """Small pods would take every device that comes free; the gang keeps them one by one."""
    cluster = Cluster(node("a", gpus=4), reserve_after_s=100)
    small = [pod(f"s{i}", count=1) for i in range(4)]
    for request in small:
        cluster.engine.place_on(request, "a")
    gang = cluster.gang("g", 4)
    other = cluster.gang("h", 4)
    assert cluster.ask(gang[0]).row == cluster.ask(other[0]).row == -1
    cluster.now = 50
    cluster.engine.release(small[0].uid)
    assert cluster.ask(gang[0]).row == -1 and cluster.free == 1
    for step, request in enumerate(small[1:]):
        cluster.now = 101 + step
        answer = cluster.ask(gang[0])
        assert answer.row == -1 and cluster.free == 0, step
        assert "reserved" in answer.message
        assert cluster.ask(other[0]).row == -1  # one reservation at a time
        assert cluster.gangs.counts()["reserved"] == 1
        cluster.engine.release(request.uid)
    assert cluster.ask(gang[0]).row == 0
    assert all(cluster.bind(member) == "a" for member in gang)


def test_a_gang_that_could_never_fit_reserves_nothing() -> None:
    cluster = Cluster(node("a", gpus=2), reserve_after_s=1)
    gang = cluster.gang("g", 3)
    for now in (0.0, 10.0, 20.0):
        cluster.now = now
        assert cluster.ask(gang[0]).row == -1 and cluster.free == 2


def test_a_plan_from_outside_is_taken_over_gang_by_gang() -> None:
    cluster = Cluster(node("a", gpus=2), node("b", gpus=2))
    gang, lone = _gang("g", 2), pod("lone", count=1)
    described(cluster.gangs, *gang)
    places = [(gang[0], "a"), (gang[1], "b"), (lone, "b")]
    adopted, rejected = cluster.gangs.adopt_plan(places, cluster.now)
    assert (adopted, dict(rejected)) == (3, {})
    assert [cluster.ask(member).row for member in gang] == [0, 1]
    assert cluster.gangs.pinned_row(lone, cluster.now) == 1
    assert cluster.gangs.pinned_row(lone, cluster.now + TTL) == -1  # a pin expires
    assert cluster.gangs.pinned_row(pod("other"), cluster.now) == -1


def test_a_stale_plan_is_rejected_by_cause() -> None:
    cluster = Cluster(node("a", gpus=2))
    gang, half = _gang("g", 2), _gang("h", 3)
    late, big = pod("late", count=1), pod("big", count=3)
    described(cluster.gangs, *gang, *half)
    cluster.engine.place_on(late, "a")
    places = [(gang[0], "a"), (gang[1], "a"), (half[0], "a"), (late, "a"), (big, "a")]
    adopted, rejected = cluster.gangs.adopt_plan([*places, (pod("x"), "gone")], cluster.now)
    assert adopted == 0 and cluster.free == 1
    assert dict(rejected) == {
        "gang no longer fits": 3,
        "placed meanwhile": 1,
        "no longer fits": 2,
    }


def test_members_that_run_already_count() -> None:
    members = _gang("g", 3)
    engine = Engine(ClusterState([node("a", gpus=3)]), "best-fit")
    for member in members[:2]:
        engine.place_on(member, "a")
    gangs = described(GangCoordinator(engine, ttl_s=TTL), *members)
    assert gangs.answer(members[2], np.array([0]), 0.0).row == 0
    assert len(engine.reservations) == 1


def test_gangs_that_wait_for_ever_are_forgotten_one_day(monkeypatch) -> None:
    monkeypatch.setattr("scheduler.core.gangs.transitions._MOST_GANGS", 3)
    cluster = Cluster(node("a", gpus=2))
    assert cluster.ask(cluster.gang("fits", 2)[0]).row == 0
    for number in range(6):
        assert cluster.ask(cluster.gang(f"big{number}", 4)[0]).row == -1
    assert sum(cluster.gangs.counts().values()) == 3
    assert cluster.gangs.counts()["planned"] == 1


def test_rows_unchanged_since_the_plan_need_no_check_and_others_get_one() -> None:
    """The plan takes what is merely held as free; that is no change of the row."""
    cluster = Cluster(node("a", gpus=1), node("b", gpus=1))
    state = cluster.engine.state
    cluster.engine.reserve_until(pod("waiting", count=1), "a", TTL)
    generation = state.generation_now
    one, two = pod("one", count=1), pod("two", count=1)
    assert cluster.gangs.adopt_plan([(one, "a")], 0.0, generation=generation) == (1, {})
    assert cluster.gangs.adopt_plan([(one, "a")], 0.0, generation=generation - 1)[0] == 0
    cluster.engine.place_on(pod("quick", count=1), "b")
    adopted, rejected = cluster.gangs.adopt_plan([(two, "b")], 0.0, generation=generation)
    assert adopted == 0 and rejected == {"no longer fits": 1}
    assert cluster.gangs.pinned_row(two, 0.0) == -1


def test_a_gang_is_checked_even_where_nothing_has_changed() -> None:
    cluster = Cluster(node("a", gpus=1))
    generation = cluster.engine.state.generation_now
    members = _gang("g", 2)
    described(cluster.gangs, *members)
    places = [(member, "a") for member in members]
    adopted, rejected = cluster.gangs.adopt_plan(places, 0.0, generation=generation)
    assert adopted == 0 and rejected == {"gang no longer fits": 2} and cluster.free == 1


def test_a_slot_moves_to_a_node_that_is_offered() -> None:
    """A rule that only kube-scheduler knows, such as one member a node, takes nodes away."""
    cluster = Cluster(*(node(f"n{i}", gpus=2) for i in range(3)))
    members = cluster.gang("g", 3)
    taken: list[int] = []
    for member in members:
        offered = np.array([row for row in range(3) if row not in taken])
        row = cluster.ask(member, offered).row
        assert row in offered
        assert cluster.ask(member, offered[::-1]).row == row
        taken.append(row)
    assert sorted(taken) == [0, 1, 2] and cluster.free == 3
    assert [cluster.ask(member).row for member in members] == taken
    for member, row in zip(members, taken, strict=True):
        assert cluster.bind(member) == f"n{row}"


def test_a_last_member_with_one_node_left_gets_it_or_keeps_its_place() -> None:
    cluster = Cluster(node("a", gpus=2), node("b", gpus=2))
    members = cluster.gang("g", 2)
    assert [cluster.ask(member).row for member in members] == [0, 0]
    assert cluster.ask(members[1], np.array([1])).row == 1  # moved
    cluster.engine.place_on(pod("other", count=1), "a")
    assert cluster.free == 1
    cluster.engine.place_on(pod("another", count=1), "b")
    assert cluster.ask(members[1], np.array([0])).row == 1  # a is full: planned elsewhere
    assert cluster.ask(members[0]).row == 0 and cluster.free == 0


@pytest.mark.parametrize("seed", range(10))
def test_the_same_offer_gets_the_same_answer_across_topology_domains(seed: int) -> None:
    """Members x placements, shuffled: one answer per member and domain, and never more held."""
    cluster = Cluster(*(node(f"n{i}", gpus=4) for i in range(4)))
    members = cluster.gang("g", 4, count=2)
    domains = [np.array([0, 1]), np.array([2, 3]), np.arange(4)]
    answers: dict[tuple[str, int], int] = {}
    rng = random.Random(seed)
    for _ in range(80):
        member, which = rng.choice(members), rng.randrange(3)
        rows = domains[which].copy()
        rng.shuffle(rows)
        row = cluster.ask(member, rows).row
        assert row in rows and answers.setdefault((member.uid, which), row) == row
        assert cluster.free == 8 and cluster.engine.state.check() == []


def test_a_gang_that_asks_for_ever_and_is_never_bound_lets_go() -> None:
    """Something that only kube-scheduler knows is against it: all is rolled back silently."""
    cluster = Cluster(*(node(f"n{i}", gpus=1) for i in range(5)))
    members = cluster.gang("g", 5)
    said: list[list[int]] = []
    held_s = 0
    for second in range(0, 1200, 10):
        cluster.now = float(second)
        said.append([cluster.ask(member).row for member in members])
        held_s += 10 * (cluster.free == 0)
    assert all(rows == said[0] for rows in said)
    assert 0 < held_s < 1200
    assert cluster.gangs.state_of(members[0].gang) in (Life.HOLDING, Life.RESTING)
    cluster.now = 5 * TTL + 15.0
    while cluster.free == 0:  # until it rests
        cluster.ask(members[0])
        cluster.now += 10.0
    small = pod("small", count=1)
    cluster.engine.place_on(small, "n0")  # somebody else may have the place meanwhile
    assert cluster.ask(members[0]).row == -1 and cluster.free == 4
    cluster.engine.release(small.uid)
    assert all(cluster.bind(member) for member in members)
    assert not cluster.engine.reservations


def test_the_gang_that_does_not_fit_is_told_without_any_change() -> None:
    """So that a storm of its questions makes nobody else's answers slower."""
    cluster = Cluster(*(node(f"n{i}", gpus=4, product="T4") for i in range(3)))
    members = cluster.gang("g", 4, count=3, products=("T4",))
    generation = cluster.engine.state.generation_now
    for member in members:
        answer = cluster.ask(member, np.array([2, 0, 1]))
        assert answer.message == (
            "gang does not fit: needs 3 more devices of model T4; "
            "3 of 4 missing members have a place"
        )
    assert cluster.engine.state.generation_now == generation


@pytest.mark.parametrize("gpu", [{"milli": 400}, {"count": 1}, {"replicas": 1}])
def test_room_is_never_underestimated(gpu: dict) -> None:
    """Else a gang that fits would be turned away."""
    for size in range(2, 12):
        nodes = [
            node("a", gpus=2, cpu=4000),
            node("b", devices=(Device("T4", replicas=3),), cpu=64_000, pods=3),
        ]
        cluster = Cluster(*nodes)
        kinds = {"replicas": 3, "milli": 4, "count": 2}
        most = kinds[next(iter(gpu))]
        assert (cluster.ask(cluster.gang("g", size, **gpu)[0]).row >= 0) == (size <= most), size


def test_a_member_that_was_held_alone_exchanges_its_hold() -> None:
    """It was asked about before it was known to be a member."""
    cluster = Cluster(node("a", gpus=2))
    first, second = _gang("g", 2)
    cluster.engine.reserve_until(first, "a", 1e9)
    assert cluster.ask(first).row == -1 and not cluster.engine.reservations
    assert cluster.ask(second).row == 0 and cluster.ask(first).row == 0
    assert cluster.free == 0
    assert cluster.bind(first) == cluster.bind(second) == "a"


def test_a_member_that_is_placed_and_asks_again_is_told_where() -> None:
    cluster = Cluster(node("a", gpus=2), node("b", gpus=1))
    first, second, third = cluster.gang("g", 3)
    name = cluster.bind(first)
    row = cluster.engine.state.row(name)
    for _ in range(2):
        assert cluster.ask(first).row == row
    assert cluster.free == 0 and set(cluster.engine.reservations) == {second.uid, third.uid}


def test_a_member_of_another_gang_than_was_known_is_otherwise_as_it_was() -> None:
    """Its workload object says that it is of a stage of its own."""
    cluster = Cluster(node("a", gpus=6))
    first, second, third, fourth = cluster.gang("g", 4)
    for member in (first, second):
        cluster.bind(member)
    cluster.gangs.on_pod_leaving(second)
    cluster.gangs.on_pod_pending(_member("g", 9, size=4), "never asks")
    stage = gang_key("g stage 2", 2)
    for member in (first, second, third, _member("g", 9, size=4)):
        cluster.gangs.on_pod_moved(replace(member, gang=stage), waits=member is not first)
    described(cluster.gangs, replace(first, gang=stage))
    members = cluster.gangs.members
    assert members.running(stage) == {first.uid} and not members.running(first.gang)
    assert [member.uid for member in members.present(stage)] == [third.uid]
    reserved = cluster.engine.reservations
    assert cluster.free == 4 and not reserved, "its places were those of the other gang"
    assert cluster.ask(replace(third, gang=stage)).row == 0
    cluster.gangs.on_pod_moved(replace(third, gang=None), waits=True)
    assert members.existing(stage) == 1 and members.existing(fourth.gang) == 1
