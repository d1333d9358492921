"""``plan`` and ``bound`` as scripts use them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from scheduler.cli.units import seconds_of
from scheduler.files import dump_writer, native
from scheduler.files.workload import Arrival, BoundPod, Workload
from scheduler.simulator.generate import GeneratorConfig, generate
from tests.builders import node, pod

DATA = Path(os.environ.get("SNUGFIT_DATA", "../shared/data"))


def _dump(tmp_path: Path, *, owned: bool = True, extra: tuple[dict, ...] = ()) -> Path:
    """Two nodes of 4 GPUs, one pod of 1 GPU on each; one of 4 GPUs waits, and one of 8."""
    running = [pod(f"r{i}", count=1, resource="nvidia.com/gpu") for i in range(2)]
    bound = tuple(BoundPod(r, name) for r, name in zip(running, ("a", "b"), strict=True))
    waiting = [pod(name, count=n, resource="nvidia.com/gpu") for name, n in (("w", 4), ("x", 8))]
    workload = Workload((node("a", gpus=4), node("b", gpus=4)), tuple(map(Arrival, waiting)), bound)
    path = tmp_path / "dump.json"
    dump_writer.write(workload, path)
    content = json.loads(path.read_text())
    for item in content["items"]:
        if owned and item["kind"] == "Pod":
            owner = {"kind": "ReplicaSet", "name": "rs", "controller": True}
            item["metadata"]["ownerReferences"] = [owner]
            item["metadata"]["labels"] = {"app": "x"}
    content["items"] += extra
    path.write_text(json.dumps(content))
    return path


def test_plan_prints_one_object_and_says_no(tmp_path: Path, snugfit) -> None:
    done = snugfit("plan", str(_dump(tmp_path)), "--budget", "60s", "--json")
    assert done.code == 1, done.err  # the pod of 8 fits nowhere
    made = json.loads(done.out)
    assert made["status"] == "PROVED"
    (tier,) = made["tiers"]
    assert (tier["priority"], tier["pods"], tier["placed"], tier["gap"]) == (0, 4, 3, 0)
    (move,) = made["moves"]
    assert {move["from"], move["to"]} == {"a", "b"} and move["namespace"] == "default"
    placed = {p["name"]: p for p in made["placements"]}
    assert len(placed["w"]["devices"]) == 4 and placed["w"]["node"] == move["from"]
    assert made["unplaced"] == [
        {
            "namespace": "default",
            "name": "x",
            "reason": "no node may host it: 2 of 2 nodes: pod is larger than the whole node",
            "untried": False,
        }
    ]
    assert made["nodes_used"] == 2 and made["seconds"] > 0


@pytest.mark.parametrize("how", ["bare", "flag", "budget", "annotation"])
def test_nobody_is_moved_who_has_to_stay(tmp_path: Path, how: str, snugfit) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "pdb", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}},
        "status": {"disruptionsAllowed": 0},
    }
    path = _dump(tmp_path, owned=how != "bare", extra=(budget,) if how == "budget" else ())
    if how == "annotation":
        content = json.loads(path.read_text())
        for item in content["items"]:
            item["metadata"].setdefault("annotations", {})["karpenter.sh/do-not-disrupt"] = "true"
        path.write_text(json.dumps(content))
    flags = ["--no-moves"] if how == "flag" else []
    made = json.loads(snugfit("plan", str(path), "--json", *flags).out)
    assert made["moves"] == [] and made["status"] == "INFEASIBLE_PROVED"


def test_gangs_and_gates_of_a_dump(tmp_path: Path, snugfit) -> None:
    """A pod group of 2 that cannot fit whole waits whole; a gated pod is not planned."""
    group = {
        "kind": "PodGroup",
        "apiVersion": "scheduling.x-k8s.io/v1alpha1",
        "metadata": {"name": "g", "namespace": "default"},
        "spec": {"minMember": 2},
    }
    path = _dump(tmp_path, extra=(group,))
    content = json.loads(path.read_text())
    for item in content["items"]:
        if item["metadata"]["name"] in ("w", "x"):
            item["metadata"]["labels"] = {"scheduling.x-k8s.io/pod-group": "g"}
        if item["metadata"]["name"] == "r1":
            del item["spec"]["nodeName"]
            item["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    path.write_text(json.dumps(content))
    made = json.loads(snugfit("plan", str(path), "--json").out)
    assert made["placements"] == [] and {u["name"] for u in made["unplaced"]} == {"w", "x"}
    assert all("gang does not fit" in u["reason"] for u in made["unplaced"])


def test_plan_explains_itself(tmp_path: Path, snugfit) -> None:
    done = snugfit("plan", str(_dump(tmp_path)), "--explain", "--deterministic")
    assert "move  default/r" in done.out and "place default/w: " in done.out
    assert "devices 0,1,2,3" in done.out and "pending default/x: no node" in done.out


def test_a_plan_of_our_own_format_where_all_fits(tmp_path: Path, snugfit) -> None:
    path = tmp_path / "w.json"
    native.write(generate(GeneratorConfig(nodes=10, load=0.3, seed=1)), path)
    done = snugfit("plan", str(path))
    assert done.code == 0 and done.out.startswith("PROVED")


def test_bound_compares_with_the_best_possible(tmp_path: Path, snugfit) -> None:
    path = tmp_path / "w.json"
    native.write(generate(GeneratorConfig(nodes=10, load=1.2, seed=1)), path)
    done = snugfit("bound", str(path), "--budget", "1s", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert 0 < said["planned_gpu_milli"] <= said["bound_gpu_milli"] <= said["capacity_gpu_milli"]
    assert snugfit("bound", str(path), "--budget", "1s", "--below", "-1").code == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10),
        ("2m", 120),
        ("3", 3),
        ("1m30s", 90),
        ("0.5", 0.5),
        (" 1h ", 3600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0s", "-1s", "1d", "9" * 400, "\u0663s", "1e3"])
def test_no_durations(tmp_path: Path, text: str, snugfit) -> None:
    assert seconds_of(text) is None
    done = snugfit("plan", str(tmp_path), f"--budget={text}")
    assert done.code == 2 and "write 500ms, 10s or 2m" in done.err
