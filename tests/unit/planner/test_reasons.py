"""What is said of pods that stay pending is true, proved or not."""

from __future__ import annotations

from dataclasses import replace

from scheduler.core.model import DeviceShare, Placement, Reason, Serves
from scheduler.core.state import ClusterState
from scheduler.planner.effort import Budget
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, Plan, Problem, Status
from tests.builders import node, pod


def _fragmented(nodes: int, waiting: int, limit: float, gpus: int = 4) -> Plan:
    """Nodes of four GPUs with one to three taken by pods that may be moved; pods want all four."""
    state = ClusterState([node(f"n{i}", gpus=4) for i in range(nodes)])
    movable = {}
    for i in range(nodes):
        for j in range(1 + i % 3):
            running = pod(f"r{i}-{j}", count=1)
            state.apply([Placement(running, f"n{i}", (DeviceShare(j, 1000),))])
            movable[running.uid] = Disruption()
    pending = tuple(pod(f"p{i}", count=gpus) for i in range(waiting))
    return plan(Problem(state, pending, movable), Budget(limit, deterministic=True))


def test_pods_that_the_budget_left_no_time_for_are_not_tried() -> None:
    made = _fragmented(600, 300, 0.002)
    assert made.unplaced and made.status not in (Status.PROVED, Status.PROVED_IN_PART)
    for one in made.unplaced:
        assert one.untried and one.reason.startswith("not tried: ")
        assert one.reason.endswith("600 of 600 nodes: insufficient whole GPUs")
        assert "no room" not in one.reason
    (omission,) = made.not_considered
    assert len(omission.pods) == len(made.unplaced) and "--budget" in omission.effect
    assert all(said["untried"] for said in made.to_json()["unplaced"])


def test_what_is_proved_is_said_plainly() -> None:
    """Of 12 nodes' 48 GPUs 24 are taken: six of the pods fit at most, and six do."""
    made = _fragmented(12, 9, 20.0)
    assert made.status in (Status.PROVED, Status.IMPROVED)
    assert len(made.unplaced) == 3
    if made.tiers[0].value == made.tiers[0].bound:
        assert all(one.reason.startswith("no room: ") for one in made.unplaced)
        assert not any(one.untried for one in made.unplaced) and not made.not_considered


def test_what_could_never_be_there_is_never_called_not_tried() -> None:
    made = _fragmented(600, 300, 0.002, gpus=8)
    assert len(made.unplaced) == 300 and not any(one.untried for one in made.unplaced)
    assert {one.reason for one in made.unplaced} == {
        "no node may host it: 600 of 600 nodes: pod is larger than the whole node"
    }


def test_a_node_that_serves_the_others_in_this_plan_is_not_said_to_fit() -> None:
    both = replace(node("n", gpus=2), serves=Serves.ONE_AT_A_TIME)
    pods = (pod("half", milli=500), pod("whole", count=1, resource="nvidia.com/gpu"))
    made = plan(Problem(ClusterState([both]), pods, {}), Budget(5.0, deterministic=True))
    (left,) = made.unplaced
    assert left.reason == f"no room: 1 of 1 nodes: {Reason.GPUS_SERVED_OTHERWISE.text}"
    assert made.status is not Status.PROVED and made.relaxed
