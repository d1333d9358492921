"""The first plan in columns: what it writes fits, and no policy that goes pod by pod beats it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from scheduler.advisor.snapshot import Snapshot
from scheduler.core.state import ClusterState
from scheduler.planner.check import check
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.plan import plan
from scheduler.planner.problem import Problem
from scheduler.planner.search.draft import drafted
from scheduler.planner.search.greedy import fill, gang_missing
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, run
from tests.builders import gang_key, gangs_of, node, pod
from tests.depth import examples
from tests.unit.planner.test_optimum import problems


@settings(max_examples=examples(60, 2000), deadline=None, suppress_health_check=list(HealthCheck))
@given(problems())
def test_what_is_drafted_fits(problem: Problem) -> None:
    layout = Layout(Instance(problem))
    for priority in layout.instance.priorities:
        assert drafted(layout, priority), "the columns and the state disagree about what fits"
    assert not layout.displaced
    check(problem, layout.state.placements)


@pytest.mark.parametrize("objective", ["pods", "gpu"])
@pytest.mark.parametrize("seed", [3, 4])
def test_no_policy_places_more_than_a_plan_that_has_no_time_to_search(
    objective: str, seed: int
) -> None:
    workload = generate(GeneratorConfig(nodes=60, load=1.2, seed=seed, gang_share=0.2))
    snapshot = Snapshot(ClusterState(workload.nodes).snapshot(), workload.requests, workload.gangs)
    made = plan(snapshot.problem(objective), Budget(0.01, deterministic=True))
    for policy in ("priced", "fgd", "best-fit", "first-fit"):
        alone = run(workload, Experiment(policy, 0, "as-listed"))
        served = alone.placed if objective == "pods" else alone.allocated_gpu_milli
        assert made.tiers[0].value >= served, policy
    assert made.tiers[0].value >= 0.97 * made.tiers[0].bound


def test_a_gang_that_does_not_fit_leaves_its_room_to_others() -> None:
    """Two of three members would fit; the devices go to four single pods."""
    gang = [pod(f"g{i}", count=4, gang=gang_key("g", 3)) for i in range(3)]
    singles = [pod(f"s{i}", count=1, cpu=2000) for i in range(8)]
    state = ClusterState([node(f"n{i}", gpus=4) for i in range(2)])
    pending = (*gang, *singles)
    layout = Layout(Instance(Problem(state, pending, gangs=gangs_of(*pending))))
    assert drafted(layout, 0)
    assert gang_missing(layout, gang_key("g", 3)) == 3
    assert {placed.pod.name for placed in layout.state.placements.values()} == {
        one.name for one in singles
    }


def test_running_out_of_time_leaves_pods_and_says_so() -> None:
    """Beyond the first few nobody is looked at once the budget is over."""
    nodes = [node(f"n{i}", gpus=4) for i in range(400)]
    pending = tuple(pod(f"p{i}", milli=10 + i) for i in range(300))
    layout = Layout(Instance(Problem(ClusterState(nodes), pending)))
    budget = Budget(60.0)
    budget.stop()
    assert not fill(layout, budget=budget)
    assert 0 < len(layout.state.placements) < 300
