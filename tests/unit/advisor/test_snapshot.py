"""One maker of problems: the same cluster is the same problem, wherever it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.advisor.snapshot import Snapshot
from scheduler.core.errors import InvalidInput
from scheduler.core.state import ClusterState
from scheduler.files.load import load_dump, load_workload
from scheduler.planner.problem import Problem
from testbed.kube_objects import node_json, pod_json
from tests.builders import node, pod

ROOT = Path(__file__).parents[3]


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump.json"
    owner = {"kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}
    requests = {"nvidia.com/gpu": "1"}
    running = pod_json("runs", requests=requests, node="a", ownerReferences=[owner])
    waits = pod_json("waits", requests={"nvidia.com/gpu": "2"})
    path.write_text(json.dumps({"kind": "List", "items": [node_json("a", gpus=2), running, waits]}))
    return path


def test_a_dump_gives_running_pods_with_costs_and_pending_ones(dump: Path) -> None:
    snapshot = Snapshot.of_dump(load_dump(dump))
    assert [p.name for p in snapshot.pending] == ["waits"]
    assert [p.pod.name for p in snapshot.state.placements.values()] == ["runs"]
    problem = snapshot.problem("gpu", topology=["rack"], model_costs={"T4": 3})
    assert problem.movable.keys() == snapshot.state.placements.keys()
    assert (problem.objective, problem.topology, dict(problem.model_costs)) == (
        "gpu",
        ("rack",),
        {"T4": 3},
    )
    assert not snapshot.problem(moves=False).movable


def test_the_empty_cluster_has_every_pod_pending_at_one_priority(dump: Path) -> None:
    snapshot = Snapshot.of_empty_cluster(load_workload(dump))
    assert not snapshot.state.placements
    assert {(p.name, p.priority) for p in snapshot.pending} == {("runs", 0), ("waits", 0)}


def test_a_problem_that_cannot_be_is_refused() -> None:
    snapshot = Snapshot(ClusterState([node("a", gpus=1)]).snapshot(), (pod(count=1),))
    with pytest.raises(InvalidInput, match="objective"):
        snapshot.problem("cpu")


def test_only_the_snapshot_makes_problems_above_the_planner() -> None:
    above = (
        "advisor",
        "ask",
        "change",
        "cluster",
        "run",
        "simulator",
        "study",
        "webhook",
        "worker",
    )
    made = [
        path.name
        for path in sorted((ROOT / "scheduler").rglob("*.py"))
        if path.parent.name in above and f"{Problem.__name__}(" in path.read_text()
    ]
    assert made == ["snapshot.py"]
