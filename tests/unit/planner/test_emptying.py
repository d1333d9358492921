"""Room for jobs that need whole nodes: who leaves, where they go, and what is left alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from scheduler.core.model import DeviceShare, Placement
from scheduler.core.state import ClusterState
from scheduler.planner.check import check
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, DisruptionBudget, Problem, Status
from scheduler.planner.search.emptying import Emptying
from tests.builders import node, pod


def _cluster(nodes: int, waiting: int, seed: int) -> Problem:
    """Nodes of eight GPUs, a fifth of them free in holes; jobs of eight wait."""
    rng = random.Random(f"emptying/{seed}")
    state = ClusterState([node(f"n{i}", gpus=8, cpu=64_000, memory=1 << 20) for i in range(nodes)])
    free, left = [8] * nodes, int(8 * nodes * 0.8)
    while left > 0:
        size = rng.choice([1, 1, 1, 2, 2, 4])
        at = rng.randrange(nodes)
        if free[at] >= size:
            shares = tuple(DeviceShare(8 - free[at] + d, 1000) for d in range(size))
            running = pod(f"r{left}", count=size, cpu=4000 * size)
            state.apply([Placement(running, f"n{at}", shares)])
            free[at] -= size
            left -= size
    movable = {uid: Disruption() for uid in state.placements}
    pending = tuple(pod(f"big{i}", count=8, cpu=32_000) for i in range(waiting))
    return Problem(state.snapshot(), pending, movable)


def _emptied(problem: Problem, budget: Budget | None = None) -> tuple[Layout, int]:
    layout = Layout(Instance(problem))
    placed = Emptying(layout, budget or Budget(60.0, deterministic=True)).run([0])
    check(problem, layout.state.placements)
    return layout, placed


@pytest.mark.parametrize("nodes", [40, 160])
def test_all_jobs_that_the_free_devices_could_serve_are_served(nodes: int) -> None:
    """At 15 jobs per 100 nodes there are holes enough to fill; nobody loses a place."""
    problem = _cluster(nodes, nodes * 15 // 100, seed=1)
    layout, placed = _emptied(problem)
    assert placed == nodes * 15 // 100
    assert problem.state.placements.keys() <= layout.state.placements.keys()
    assert len(layout.displaced) <= 2.5 * placed


def test_a_plan_of_many_nodes_needs_no_more_moves_per_job_than_one_of_few() -> None:
    per_job = []
    for nodes in (40, 160):
        made = plan(_cluster(nodes, nodes * 15 // 100, seed=2), Budget(2.0, deterministic=True))
        assert not made.unplaced
        per_job.append(len(made.moves) / (nodes * 15 // 100))
    assert per_job[1] <= 1.5 * per_job[0]


def test_the_pods_that_leave_are_as_few_as_possible() -> None:
    """A node with one pod of four is emptied, not one with four pods of one."""
    state = ClusterState([node(f"n{i}", gpus=8) for i in range(3)])
    ones = [Placement(pod(f"one{i}", count=1), "n0", (DeviceShare(i, 1000),)) for i in range(4)]
    four = Placement(pod("four", count=4), "n1", tuple(DeviceShare(d, 1000) for d in range(4)))
    rest = Placement(pod("rest", count=4), "n2", tuple(DeviceShare(d, 1000) for d in range(4)))
    state.apply([*ones, four, rest])
    movable = {uid: Disruption() for uid in state.placements if uid != rest.pod.uid}
    problem = Problem(state.snapshot(), (pod("big", count=8),), movable)
    made = plan(problem, Budget(5.0, deterministic=True))
    assert made.status is Status.PROVED
    (move,) = made.moves
    assert move.pod.name == "four" and move.target in ("n0", "n2")


def test_disruption_budgets_hold_while_rows_are_emptied() -> None:
    problem = _cluster(40, 6, seed=3)
    covered = frozenset(problem.state.placements)
    for allowed in (0, 3):
        limited = replace(problem, budgets=(DisruptionBudget("b", covered, allowed),))
        layout, _ = _emptied(limited)
        assert layout.disturbed(0) <= allowed


def test_a_budget_that_is_over_moves_nobody() -> None:
    budget = Budget(60.0)
    budget.stop()
    layout, placed = _emptied(_cluster(40, 6, seed=4), budget)
    assert placed == 0 and not layout.displaced
