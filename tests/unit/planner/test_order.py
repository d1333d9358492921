"""Pods served in their order: against every possible plan, and by examples."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import HealthCheck, given, settings

from scheduler.core.model import DeviceShare, NodeSelection, Placement
from scheduler.core.state import ClusterState
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, Plan, Problem, Status
from tests.builders import gang_key, gangs_of, node, pod
from tests.depth import examples
from tests.unit.planner.oracle import _options, _possible
from tests.unit.planner.test_optimum import problems

_PROVED = (Status.PROVED, Status.PROVED_IN_PART, Status.INFEASIBLE_PROVED)


def _served(problem: Problem, uids: set[str]) -> tuple[tuple[bool, ...], ...]:
    """Per tier, who has a place: what runs first, then by kind of pod and position."""
    instance = Instance(problem)
    layout = Layout(instance)
    tiers = []
    for tier, priority in enumerate(instance.priorities):
        served = [False] * instance.queue.lengths[tier]
        for kind, described in enumerate(instance.kinds):
            if described.priority == priority:
                placed = sum(one.uid in uids for one in instance.pods[kind])
                for position in instance.queue.positions[kind][:placed]:
                    served[position] = True
        tiers.append(tuple(served))
    del layout
    return tuple(tiers)


def _best(problem: Problem) -> tuple[tuple[bool, ...], ...]:
    running = dict(problem.state.placements)
    fixed = [placed for uid, placed in running.items() if uid not in problem.movable]
    pods = [*problem.pending, *(running[uid].pod for uid in problem.movable)]
    nodes = [one for one in problem.state.nodes if one is not None]
    choices = itertools.product(*(_options(problem, one, nodes) for one in pods))
    return max(
        _served(problem, {one.uid for one, where in zip(pods, choice, strict=True) if where})
        for choice in choices
        if _possible(problem, pods, choice, nodes, fixed)
    )


@settings(max_examples=examples(40, 1500), deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_nobody_is_served_in_place_of_one_who_comes_first(problem: Problem) -> None:
    problem = replace(problem, objective="order", preferences={}, model_costs={})
    made = plan(problem, Budget(1.0, deterministic=True))
    before = problem.state.placements
    gone = {move.pod.uid for move in made.moves if move.target is None}
    uids = ({*before} | {placed.pod.uid for placed in made.placements}) - gone
    assert _served(problem, uids) <= _best(problem)
    if made.status in _PROVED:
        assert _served(problem, uids) == _best(problem)
    assert all(tier.value <= tier.bound for tier in made.tiers)


def _plan(state: ClusterState, *pending: object, **more: object) -> Plan:
    problem = Problem(state, pending, objective="order", **more)  # type: ignore[arg-type]
    return plan(problem, Budget(5.0, deterministic=True))


def _names(made: Plan) -> set[str]:
    return {placed.pod.name for placed in made.placements}


def test_a_large_job_is_not_passed_over_for_many_small_ones_behind_it() -> None:
    state = ClusterState([node("n", gpus=8, cpu=64_000, memory=1 << 20)])
    small = [pod(f"s{i}", count=1) for i in range(8)]
    made = _plan(state, pod("big", count=8), *small)
    assert _names(made) == {"big"} and made.status is Status.PROVED
    later = _plan(state, *small[:3], pod("big", count=8), *small[3:])
    assert _names(later) == {one.name for one in small} and later.status is Status.PROVED
    assert {(one.name, one.pods, one.placed) for one in later.served} == {
        ("1 GPU", 8, 8),
        ("8 GPUs", 1, 0),
    }


def test_earlier_pods_are_arranged_so_that_the_next_one_fits() -> None:
    """The first pod may go to either node; the second needs the one that it would be put on."""
    picky = pod("picky", count=2, selection=NodeSelection((("kubernetes.io/hostname", "a"),)))
    labelled = ClusterState(
        [node(n, gpus=2, labels={"kubernetes.io/hostname": n}) for n in ("a", "b")]
    )
    made = _plan(labelled, pod("first", count=2), picky, pod("last", count=1))
    assert _names(made) == {"first", "picky"} and made.status is Status.PROVED


def test_a_gang_stands_where_its_first_member_does() -> None:
    key = gang_key("g", 2)
    members = [pod(f"g{i}", count=1, gang=key) for i in range(2)]
    state = ClusterState([node("n", gpus=2)])
    single = pod("single", count=1)
    first = _plan(state, members[0], single, members[1], gangs=gangs_of(*members))
    assert _names(first) == {"g0", "g1"}
    second = _plan(state, single, *members, gangs=gangs_of(*members))
    assert _names(second) == {"single"}


def test_what_runs_is_not_evicted_for_one_that_waits_at_the_same_priority() -> None:
    state = ClusterState([node("n", gpus=2)])
    running = Placement(pod("running", count=1), "n", (DeviceShare(0, 1000),))
    state.apply([running])
    movable = {running.pod.uid: Disruption()}
    made = _plan(state, pod("big", count=2), movable=movable)
    assert not made.moves and not made.placements and made.status is Status.INFEASIBLE_PROVED
    higher = _plan(state, pod("big", count=2, priority=1), movable=movable)
    assert _names(higher) == {"big"} and [move.target for move in higher.moves] == [None]


def test_of_pods_that_are_alike_the_first_ones_are_served() -> None:
    state = ClusterState([node("n", gpus=3)])
    alike = [pod(f"p{i}", count=1) for i in range(6)]
    assert _names(_plan(state, *alike)) == {"p0", "p1", "p2"}
