"""What ``plan`` makes of the rules that a dump states; the objects are as the API serves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler.advisor.snapshot import Snapshot
from scheduler.cli.ask.bound import command as bound
from scheduler.files.load import load_dump
from scheduler.planner.effort import Budget
from scheduler.planner.plan import plan
from scheduler.planner.problem import Plan, Status
from testbed.kube_objects import node_json, pod_json

_GPU = {"nvidia.com/gpu": "1"}
_OWNED = [{"kind": "ReplicaSet", "name": "rs", "controller": True}]
_LEAVING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


@pytest.fixture
def planned(tmp_path: Path) -> Any:
    def planned(*items: dict[str, Any]) -> Plan:
        path = tmp_path / "dump.json"
        path.write_text(json.dumps({"kind": "List", "items": list(items)}))
        return plan(Snapshot.of_dump(load_dump(path)).problem(), Budget(2.0, deterministic=True))

    return planned


def _places(made: Plan) -> dict[str, str]:
    return {placement.pod.name: placement.node for placement in made.placements}


def _budget(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
        "status": {"disruptionsAllowed": 1},
    }


def _web(**rest: Any) -> dict[str, Any]:
    return pod_json(
        "web", node="a", requests=_GPU, labels={"app": "web"}, ownerReferences=_OWNED, **rest
    )


_TWO_NODES = (node_json("a", gpus=2), node_json("b", gpus=2))
_LARGE = pod_json("large", requests={"nvidia.com/gpu": "2"})
_OTHER = pod_json("other", node="b", requests=_GPU)


def test_pods_deleted_unbound_want_nothing_and_those_that_run_hold_what_they_have(
    planned: Any,
) -> None:
    made = planned(
        node_json("a", gpus=2),
        pod_json("never-ran", requests=_GPU, **_LEAVING),
        pod_json("leaving", node="a", requests=_GPU, ownerReferences=_OWNED, **_LEAVING),
        *(pod_json(f"w{number}", requests=_GPU) for number in range(2)),
    )
    assert len(_places(made)) == 1 and not made.moves
    assert [one.pod.name for one in made.unplaced] == ["w1"]


def test_of_several_budgets_on_a_pod_none_lets_it_move(planned: Any) -> None:
    made = planned(*_TWO_NODES, _OTHER, _LARGE, _web(), _budget("one"))
    assert [move.pod.name for move in made.moves] == ["web"]
    made = planned(*_TWO_NODES, _OTHER, _LARGE, _web(), _budget("one"), _budget("two"))
    assert not made.moves and not made.placements


def test_nobody_is_evicted_for_a_pod_that_preempts_nobody(planned: Any) -> None:
    never = {"priority": 10, "preemptionPolicy": "Never"}
    eager = {"priority": 5, "preemptionPolicy": "PreemptLowerPriority"}
    full = (node_json("a", gpus=1), _web())
    made = planned(*full, pod_json("w", requests=_GPU, spec=never))
    assert not made.moves and not made.placements
    made = planned(*full, pod_json("w", requests=_GPU, spec=eager))
    assert [move.target for move in made.moves] == [None] and _places(made) == {"w": "a"}
    both = (pod_json("w", requests=_GPU, spec=never), pod_json("e", requests=_GPU, spec=eager))
    made = planned(*full, *both)
    assert _places(made) == {"e": "a"}
    assert made.status is Status.PROVED_IN_PART
    assert ["Never" in one.reason for one in made.unplaced] == [True]
    large = pod_json("large", requests={"nvidia.com/gpu": "2"}, spec=never)
    made = planned(*_TWO_NODES, _OTHER, _web(), large)
    assert [(move.pod.name, move.target) for move in made.moves] == [("web", "b")]


def _volume(name: str, **spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    claim = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"volumeName": f"pv-{name}"},
        "status": {"phase": "Bound"},
    }
    return claim, {"kind": "PersistentVolume", "metadata": {"name": f"pv-{name}"}, "spec": spec}


def _using(claim: str) -> dict[str, Any]:
    return {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}


def _only_on(name: str) -> dict[str, Any]:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]
    return {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}


def test_pods_follow_their_volumes_and_stay_beside_them(planned: Any) -> None:
    local = _volume("local", **_only_on("b"))
    made = planned(*_TWO_NODES, *local, pod_json("w", requests=_GPU, spec=_using("local")))
    assert _places(made) == {"w": "b"} and made.status is Status.PROVED
    home = _volume("home", **_only_on("a"))
    made = planned(*_TWO_NODES, *home, _OTHER, _LARGE, _web(spec=_using("home")))
    assert not made.moves and [one.pod.name for one in made.unplaced] == ["large"]
    made = planned(*_TWO_NODES, *home, pod_json("w", requests=_GPU, spec=_using("lost")))
    assert "ns/lost does not exist" in made.unplaced[0].reason


def test_what_drivers_may_be_short_of_is_said_of_pods_that_are_placed(planned: Any) -> None:
    disk = _volume("disk", csi={"driver": "d"})
    made = planned(*_TWO_NODES, *disk, pod_json("w", requests=_GPU, spec=_using("disk")))
    assert list(_places(made)) == ["w"] and made.status is Status.PROVED_IN_PART
    assert [one.pods for one in made.not_considered] == [("ns/w",)]
    running = _web(spec=_using("disk"))
    made = planned(*_TWO_NODES, *disk, running, pod_json("w", requests=_GPU))
    assert made.status is Status.PROVED and not made.not_considered


def test_claims_that_nobody_listed_are_named_and_their_pods_left_alone(planned: Any) -> None:
    waiting = pod_json("w", requests=_GPU, spec=_using("c"))
    made = planned(*_TWO_NODES, _OTHER, _LARGE, _web(spec=_using("c")), waiting)
    assert not made.moves and not made.placements
    (left_out,) = made.not_considered
    assert left_out.pods == ("ns/web", "ns/w") and "PersistentVolumeClaims" in left_out.rule
    assert made.status is Status.PROVED_IN_PART


def test_the_best_possible_is_proved_only_about_what_was_considered(tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    for spec, status in (({}, "PROVED"), (_using("c"), "PROVED_IN_PART")):
        items = [*_TWO_NODES, pod_json("w", requests=_GPU, spec=spec)]
        path.write_text(json.dumps({"kind": "List", "items": items}))
        done = CliRunner().invoke(bound, [str(path), "--json"], catch_exceptions=False)
        assert json.loads(done.stdout)["status"] == status


def test_system_critical_pods_stay(planned: Any) -> None:
    critical = {"priorityClassName": "system-cluster-critical"}
    for spec in (critical, critical | {"priority": 2_000_000_000}):
        made = planned(*_TWO_NODES, _OTHER, _LARGE, _web(spec=spec))
        assert not made.moves and not made.placements


def test_a_class_that_is_listed_says_what_its_pods_do_not(planned: Any) -> None:
    urgent = {"kind": "PriorityClass", "metadata": {"name": "urgent"}, "value": 100}
    waiting = pod_json("w", requests=_GPU, spec={"priorityClassName": "urgent"})
    made = planned(node_json("a", gpus=1), _web(), urgent, waiting)
    assert [move.target for move in made.moves] == [None] and _places(made) == {"w": "a"}
    made = planned(node_json("a", gpus=1), _web(), urgent | {"preemptionPolicy": "Never"}, waiting)
    assert not made.moves and not made.placements
