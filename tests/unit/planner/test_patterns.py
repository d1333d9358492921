"""The stronger bound: best contents of one row against enumeration, and a case that it decides."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.vectorpack.best_pattern import best_pattern
from scheduler.core.engine import Engine
from scheduler.core.state import ClusterState
from scheduler.planner.bounds.bin_patterns import Bin
from scheduler.planner.bounds.patterns import PatternBound
from scheduler.planner.bounds.relaxation import Relaxation
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.problem import Disruption, Problem
from scheduler.planner.search.greedy import fill
from scheduler.planner.search.repair import Repair
from scheduler.simulator.backlog import BacklogCase, default_schedule, replica_sets
from tests.builders import node, pod
from tests.depth import examples

_ITEM = st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 3), st.integers(-3, 40))


def _never() -> bool:
    return False


@settings(
    max_examples=examples(40, 200),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(_ITEM, min_size=1, max_size=5), st.integers(0, 120))
def test_the_best_contents_of_a_bin_against_all_of_them(items, threshold: int) -> None:
    capacity = np.array([12, 10], dtype=np.int64)
    sizes = np.array([item[:2] for item in items], dtype=np.int64)
    demand = np.array([item[2] for item in items], dtype=np.int64)
    prices = np.array([item[3] for item in items], dtype=np.int64)
    best = max(
        int(np.array(counts) @ prices)
        for counts in itertools.product(*(range(count + 1) for count in demand.tolist()))
        if (np.array(counts) @ sizes <= capacity).all()
    )
    content = Bin(capacity, sizes, demand)
    patterns, bound, complete = content.exact(prices, threshold, (), _never)
    assert complete and best <= max(bound, threshold)
    assert bool(patterns) == (best > threshold)
    for pattern in [*patterns, *content.good(prices, threshold, ())]:
        counts = np.array(pattern)
        assert threshold < int(counts @ prices) <= best
        assert (counts <= demand).all() and (counts @ sizes <= capacity).all()
    _, most = best_pattern(content, prices, Budget(5.0, deterministic=True), 5.0)
    assert most == best


def test_a_bin_that_is_given_up_on_still_has_a_bound() -> None:
    sizes = np.array([[3], [4]], dtype=np.int64)
    content = Bin(np.array([10]), sizes, np.array([2, 2]))
    patterns, bound, complete = content.exact(np.array([5, 6]), 0, (), lambda: True)
    assert not patterns and not complete and bound >= 16


def _case(*cell, seed: int = 484806185843093489) -> Layout:
    nodes, pods = replica_sets(BacklogCase(seed, *cell))
    state, pending = default_schedule(nodes, pods)
    movable = {uid: Disruption() for uid in state.placements}
    layout = Layout(Instance(Problem(state.snapshot(), pending, movable, policy="best-fit")))
    fill(layout)
    return layout


def _insert_all(layout: Layout, limit: float) -> Repair:
    repair = Repair(layout, Budget(limit, deterministic=True))
    while not repair.budget.over:
        kinds = [kind for kind, pods in enumerate(layout.unplaced) if pods]
        if not kinds:
            break
        for kind in kinds:
            repair.insert(kind)
    return repair


def test_patterns_bound_a_full_cluster_tighter_than_pooled_capacity() -> None:
    """8 nodes, 32 pods, utilisation 1.00: pooled, all 32 fit; node by node 31 at most."""
    layout = _case(8, 4, 1, 1.0)
    _insert_all(layout, 1.0)
    level = layout.instance.levels[0]
    pooled = Relaxation(layout.instance).bound(level, [])
    bound = PatternBound(layout.instance)
    assert bound.worthwhile(layout)
    assert 30 <= layout.value()[0] <= 31 and pooled == 32
    assert bound.bound(layout, 0, pooled, Budget(10.0, deterministic=True), 10.0) == 31


def test_repair_places_what_no_chain_can_and_undisturbing_moves_fewer() -> None:
    """16 nodes, 64 pods, utilisation 1.00: the default scheduler runs 55."""
    layout = _case(16, 4, 2, 1.0, seed=4219457405427907235)
    repair = _insert_all(layout, 2.0)
    placed = layout.value()
    assert sum(placed[:-1]) >= 61 and layout.state.check() == []
    repair.budget = repair._tabu.budget = Budget(0.5, deterministic=True)
    while not repair.budget.over:
        repair.undisturb()
    undisturbed = layout.value()
    assert (
        undisturbed[:-1] == placed[:-1]
        and undisturbed[-1] > placed[-1]
        and layout.state.check() == []
    )


def test_pods_under_a_disruption_budget_and_gangs_are_left_alone_by_repair() -> None:
    state = ClusterState([node("a", gpus=1)])
    problem = Problem(state.snapshot(), (pod("f", milli=300), pod("w", count=1)))
    repair = Repair(Layout(Instance(problem)), Budget(1.0, deterministic=True))
    assert [repair.usable(kind) for kind in range(2)] == [False, True]
    assert not repair.insert(0) and repair.insert(1) and not repair.undisturb()


def test_rows_of_many_kinds_are_no_business_of_patterns() -> None:
    nodes = [node(f"n{i}", cpu=1000 + i) for i in range(60)]
    problem = Problem(ClusterState(nodes).snapshot(), tuple(pod(f"p{i}") for i in range(3)))
    layout = Layout(Instance(problem))
    assert not PatternBound(layout.instance).worthwhile(layout)


def test_replicas_of_a_running_set_count_with_those_that_wait() -> None:
    """Two nodes of 4 cpu, one replica waits, three run: a node may hold two of them."""
    nodes = [node(f"n{i}", cpu=4000) for i in range(2)]
    engine = Engine(ClusterState(nodes), "first-fit")
    for number in range(3):
        engine.place_on(pod(f"r{number}", cpu=2000), f"n{number // 2}")
    movable = {uid: Disruption() for uid in engine.state.placements}
    problem = Problem(engine.state.snapshot(), (pod("p", cpu=2000),), movable)
    layout = Layout(Instance(problem))
    budget = Budget(1.0, deterministic=True)
    assert PatternBound(layout.instance).bound(layout, 0, 9, budget, 1.0) == 4
