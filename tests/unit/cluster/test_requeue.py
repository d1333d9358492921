"""Refused pods that fit by now: who is woken, how often, and how many at once."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.cluster.preemption import kept_by_reservations, preemptible
from scheduler.cluster.requeue import RefusedPods
from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.model import NodeSelection
from scheduler.core.state import ClusterState
from tests.builders import described, gang_key, node, pod


@pytest.fixture
def engine():
    made = Engine(ClusterState([node("n", gpus=1)]))
    made.place_on(pod("running", count=1), "n")
    return made


NO_ROWS = np.zeros(0, dtype=np.int64)


def woken(refusals, engine, before, *members):
    gangs = described(GangCoordinator(engine, ttl_s=60.0), *members)
    for member in members:
        gangs.on_pod_pending(member)
    looks = refusals.due(engine, gangs, before)
    return [one for found in looks for one in found]


def refused(engine, *pods, at=0.0, gangs=None):
    made = RefusedPods(100)
    for one in pods:
        gang = one.gang if gangs and gangs.members.gathered(one) else None
        made.add(one, at, engine.state.generation_now, NO_ROWS, anywhere=True, gang=gang)
    return made


def test_nobody_is_woken_while_nothing_fits(engine):
    refusals = refused(engine, pod("p", count=1))
    assert woken(refusals, engine, before=10) == [] and len(refusals) == 1


def test_one_of_a_kind_is_woken_when_it_fits_and_only_once(engine):
    first, second = pod("first", count=1), pod("second", count=1)
    refusals = refused(engine, first, second)
    engine.release("running")
    assert woken(refusals, engine, before=10) == [first]
    assert woken(refusals, engine, before=10) == [second]
    assert woken(refusals, engine, before=10) == [] and len(refusals) == 0


def test_who_was_asked_about_lately_has_to_wait(engine):
    refusals = refused(engine, pod("p", count=1), at=5)
    engine.release("running")
    assert woken(refusals, engine, before=5) == []
    assert [p.name for p in woken(refusals, engine, before=6)] == ["p"]


def test_another_refusal_counts_from_its_own_time(engine):
    one = pod("p", count=1)
    refusals = refused(engine, one)
    refusals.add(one, 8, engine.state.generation_now, NO_ROWS, anywhere=True)
    engine.release("running")
    assert len(refusals) == 1 and woken(refusals, engine, before=7) == []


def test_who_fits_is_bound_or_gone_is_forgotten(engine):
    refusals = refused(engine, pod("p", count=1))
    refusals.drop("uid-of-nobody")
    refusals.drop(pod("p").uid)
    engine.release("running")
    assert woken(refusals, engine, before=10) == []


def test_nobody_is_woken_for_a_node_that_its_own_rules_exclude(engine):
    elsewhere = NodeSelection(node_selector=(("zone", "b"),))
    refusals = refused(engine, pod("p", count=1, selection=elsewhere), pod("q", count=1))
    engine.release("running")
    assert [p.name for p in woken(refusals, engine, before=10)] == ["q"]


@pytest.mark.parametrize("asked", [True, False])
def test_a_node_that_was_asked_about_has_let_the_pod_in_whatever_is_known_of_it(engine, asked):
    """kube-scheduler has heard of a label or a taint that we have not."""
    elsewhere = NodeSelection(node_selector=(("zone", "b"),))
    refusals, rows = RefusedPods(100), np.array([0, -1] if asked else [-1])
    refusals.add(pod("p", count=1, selection=elsewhere), 0.0, -1, rows, anywhere=True)
    assert woken(refusals, engine, before=10) == []
    engine.release("running")
    assert [p.name for p in woken(refusals, engine, before=10)] == ["p"] * asked


def test_who_was_refused_for_missing_members_asks_again_once_they_exist_room_or_not(engine):
    """Else kube-scheduler would say for five minutes that pods are missing which exist."""
    gang = gang_key("g", 2)
    early, late = (pod(f"m{i}", count=1, gang=gang) for i in range(2))
    refusals = RefusedPods(100)
    refusals.add(early, 0.0, -1, NO_ROWS, anywhere=True, gang=gang, lacking=True)
    assert woken(refusals, engine, 10, early) == [], "the other one does not exist"
    refusals.add(late, 1.0, engine.state.generation_now, NO_ROWS, anywhere=True, gang=gang)
    refusals.stir(gang)
    assert woken(refusals, engine, 10, early, late) == [early]
    assert woken(refusals, engine, 10, early, late) == [] and len(refusals) == 1


def test_a_member_was_let_in_as_well(engine):
    elsewhere, gang = NodeSelection(node_selector=(("zone", "b"),)), gang_key("g", 2)
    engine.state.add_node(node("m", gpus=1))
    member, other = (pod(f"m{i}", count=1, selection=elsewhere, gang=gang) for i in range(2))
    refusals = RefusedPods(100)
    refusals.add(member, 0.0, -1, np.array([0, 1]))
    assert woken(refusals, engine, 10, member, other) == []
    engine.release("running")
    assert woken(refusals, engine, 10, member) == [], "the other one does not exist"
    engine.state.update_node(node("m", gpus=2))
    assert woken(refusals, engine, 10, member, other) == [member]


def test_many_kinds_are_looked_at_in_turn(engine):
    refusals = RefusedPods(200)
    for i in range(150):
        refusals.add(
            pod(f"p{i}", count=1, cpu=i), 0.0, engine.state.generation_now, NO_ROWS, anywhere=True
        )
    engine.release("running")
    turns = [woken(refusals, engine, before=10) for _ in range(5)]
    assert [len(turn) for turn in turns] == [32, 32, 32, 32, 22]
    assert sorted(p.cpu_milli for turn in turns for p in turn) == list(range(150))


def test_as_many_of_a_kind_are_woken_as_there_is_room_for():
    engine = Engine(ClusterState([node("n", gpus=4), node("m", gpus=4)]))
    for name in "nm":
        engine.place_on(pod(f"on-{name}", count=4), name)
    refusals = refused(engine, *(pod(f"p{i}", count=1) for i in range(30)))
    engine.release("on-n")
    assert [p.name for p in woken(refusals, engine, before=10)] == ["p0", "p1", "p2", "p3"]
    for i in range(4):
        engine.place_on(pod(f"p{i}", count=1), "n")
    assert woken(refusals, engine, before=10) == []
    engine.release("on-m")
    assert len(woken(refusals, engine, before=10)) == 4


def test_however_much_room_there_is_no_more_than_a_few_are_woken_at_once():
    engine = Engine(ClusterState([node("n", gpus=8)]))
    refusals = RefusedPods(100)
    for i in range(40):
        refusals.add(pod(f"p{i}", milli=100), 0.0, -1, NO_ROWS, anywhere=True)
    assert [len(woken(refusals, engine, before=10)) for _ in range(4)] == [16, 16, 8, 0]


def test_who_was_refused_a_moment_ago_is_not_woken_along_with_the_others(engine):
    engine.state.add_node(node("m", gpus=4))
    refusals = RefusedPods(100)
    for at, name in enumerate(("old", "older than that", "new")):
        refusals.add(pod(name, count=1), float(at), -1, NO_ROWS, anywhere=True)
    assert [p.name for p in woken(refusals, engine, before=1.5)] == ["old", "older than that"]


@pytest.mark.parametrize("lower", [False, True])
def test_who_was_kept_from_evicting_by_a_hold_is_woken_when_it_has_gone(lower):
    """A hold that lapses is no event for kube-scheduler, and the node does not become free."""
    engine = Engine(ClusterState([node("n", gpus=2)]))
    engine.place_on(pod("running", count=1, priority=0 if lower else 10), "n")
    engine.reserve_until(pod("held", count=1), "n", until=100.0)
    urgent, rows = pod("urgent", count=2, priority=10), np.array([0])
    codes = engine.filter(urgent, rows)
    kept = kept_by_reservations(engine, urgent, rows, codes)
    assert kept.tolist() == [0] and not preemptible(engine, urgent, rows, codes).any()
    refusals = RefusedPods(100)
    refusals.add(urgent, 0.0, engine.state.generation_now, rows, kept)
    assert woken(refusals, engine, before=10) == []
    engine.reservations.drop(pod("held").uid)
    assert [p.name for p in woken(refusals, engine, before=10)] == ["urgent"] * lower
    assert woken(refusals, engine, before=10) == []


def test_the_oldest_refusal_is_forgotten_first(engine):
    refusals = RefusedPods(2)
    for at, name in enumerate("abc"):
        refusals.add(pod(name, count=1), at, engine.state.generation_now, NO_ROWS, anywhere=True)
    engine.release("running")
    names = [p.name for _ in range(3) for p in woken(refusals, engine, before=10)]
    assert names == ["b", "c"]


def test_nobody_is_woken_for_a_node_that_it_was_not_asked_about():
    """kube-scheduler has excluded it for reasons of its own."""
    engine = Engine(ClusterState([node("n", gpus=1), node("m", gpus=1)]))
    engine.place_on(pod("running", count=1), "n")
    refusals = RefusedPods(100)
    asked = np.array([0])
    refusals.add(pod("p", count=1), 0.0, engine.state.generation_now, asked)
    engine.place_on(pod("other", count=1), "m")
    engine.release("other")
    assert woken(refusals, engine, before=10) == []
    engine.release("running")
    assert [p.name for p in woken(refusals, engine, before=10)] == ["p"]


def test_alike_pods_that_were_asked_about_different_nodes_do_not_mix():
    """Zones of volumes and the like are kube-scheduler's; the order of a question is nobody's."""
    engine = Engine(ClusterState([node(f"n{i}", gpus=1) for i in range(3)]))
    for i in range(3):
        engine.place_on(pod(f"on-{i}", count=1), f"n{i}")
    refusals = RefusedPods(100)
    for name, rows in (("left", [0, 1]), ("left too", [1, 0]), ("right", [2])):
        asked = np.array(rows)
        refusals.add(pod(name, count=1), 0.0, engine.state.generation_now, asked)
    engine.release("on-1")
    assert [p.name for p in woken(refusals, engine, before=10)] == ["left"]
    engine.release("on-2")
    # They ask for the same, so that one is woken at a time.
    names = [p.name for _ in range(2) for p in woken(refusals, engine, before=10)]
    assert sorted(names) == ["left too", "right"] and len(refusals) == 0


def test_pods_may_come_and_go_between_two_looks(engine):
    refusals = refused(engine, *(pod(f"p{i}", count=1, cpu=i) for i in range(4)))
    engine.release("running")
    looks = refusals.due(engine, GangCoordinator(engine, ttl_s=60.0), before=10)
    (first,) = next(looks)
    refusals.drop("p2")
    refusals.add(pod("late", count=1, cpu=9), 0.0, -1, NO_ROWS, anywhere=True)
    assert [first.name, *(p.name for (p,) in looks)] == ["p0", "p1", "p3"]
    assert [p.name for p in woken(refusals, engine, before=10)] == ["late"]


def test_a_thousand_are_not_woken_for_room_for_one():
    """Each was asked about other nodes, and belongs to a gang of one."""
    engine = Engine(ClusterState([node(f"n{i}", gpus=1) for i in range(8)]))
    refusals = RefusedPods(100)
    for i in range(8):
        member = pod(f"p{i}", count=1, gang=gang_key(f"job-{i}", 1))
        refusals.add(member, 0.0, -1, np.arange(8 - i))
    for i in range(7):
        engine.place_on(pod(f"on-{i}", count=1), f"n{i + 1}")
    assert [len(woken(refusals, engine, before=10)) for _ in range(9)] == [1] * 8 + [0]


def test_without_gangs_members_are_woken_one_by_one(engine):
    refusals = refused(engine, *(pod(f"m{i}", count=1, gang=gang_key("g", 3)) for i in range(3)))
    engine.release("running")
    assert [[p.name for p in found] for found in refusals.due(engine, None, 10)] == [["m0"]]


def test_members_of_a_gang_go_together_whoever_was_refused_before_them(engine):
    members = [pod(f"m{i}", count=1, gang=gang_key("g", 3)) for i in range(3)]
    gangs = described(GangCoordinator(engine, ttl_s=60.0), *members)
    for member in members:
        gangs.on_pod_pending(member)
    refusals = refused(engine, pod("alone", count=2), *members, gangs=gangs)
    engine.release("running")
    assert not any(refusals.due(engine, gangs, before=10))  # room for one of three


def test_nobody_is_woken_for_a_gang_whose_other_members_do_not_fit():
    """A launcher fits at any time; its workers do not."""
    engine = Engine(ClusterState([node("n", gpus=2)]))
    gangs, key = GangCoordinator(engine, ttl_s=60.0), gang_key("g", 3)
    launcher = pod("launcher", gang=key)
    described(gangs, launcher)
    for member in (launcher, *(pod(f"w{i}", count=2, gang=key) for i in range(2))):
        gangs.on_pod_pending(member)
    refusals = refused(engine, launcher, gangs=gangs)
    engine.place_on(pod("anything"), "n")
    assert not any(refusals.due(engine, gangs, before=10))
    engine.state.add_node(node("m", gpus=2))
    assert [p for found in refusals.due(engine, gangs, before=10) for p in found] == [launcher]


@pytest.mark.parametrize("unlike", [0, 2])
def test_members_of_a_gang_are_woken_together_and_not_before_it_may_fit(unlike):
    engine = Engine(ClusterState([node(f"n{i}", gpus=2) for i in range(2)]))
    gangs = GangCoordinator(engine, ttl_s=60.0)
    for i in range(3):
        engine.place_on(pod(f"on-{i}", count=1), f"n{i % 2}")
    size = 3 + unlike
    members = [pod(f"m{i}", count=1, gang=gang_key("g", size)) for i in range(3)]
    small = [pod(f"s{i}", count=0, cpu=500, gang=gang_key("g", size)) for i in range(unlike)]
    described(gangs, *members)
    for member in [*members, *small]:
        gangs.on_pod_pending(member)
    refusals = refused(engine, *members, gangs=gangs)
    for i in range(2):
        engine.release(f"on-{i}")
        looked = [found for found in refusals.due(engine, gangs, before=10) if found]
        assert looked == ([] if i == 0 else [members])
    assert len(refusals) == 0


def test_who_waited_before_a_restart_counts_as_refused_when_looks_begin(engine):
    known = pod("known", count=1, cpu=1)
    pending = {one.uid: one for one in (pod("waits", count=1), pod("web"), known)}
    refusals = refused(engine, known, at=90.0)
    assert list(refusals.take_over(pending, 100.0)) == [] and len(refusals) == 2
    engine.release("running")
    assert [p.name for p in woken(refusals, engine, before=95.0)] == ["known"]
    assert woken(refusals, engine, before=100.0) == []
    assert [p.name for p in woken(refusals, engine, before=100.1)] == ["waits"]


def test_looks_that_go_on_take_nobody_over(engine):
    refusals = RefusedPods(100)
    late = pod("late", count=1)
    assert list(refusals.take_over({}, 0.0)) == []
    for now in range(1, 20):
        assert list(refusals.take_over({late.uid: late}, float(now))) == []
    assert len(refusals) == 0
    assert list(refusals.take_over({late.uid: late}, 60.0)) == [] and len(refusals) == 1


def test_many_are_taken_over_in_steps():
    many = {one.uid: one for one in (pod(f"p{i}", count=1) for i in range(1000))}
    refusals = RefusedPods(5000)
    steps = refusals.take_over(many, 0.0)
    next(steps)
    assert 0 < len(refusals) < 1000
    assert not any(steps) and len(refusals) == 1000
