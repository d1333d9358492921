"""Objects that are not as they should be: the others are answered for, and these are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.kube_objects import node_json, pod_json

GPU = {"nvidia.com/gpu": "1"}


@pytest.fixture
def dump(tmp_path: Path, snugfit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def run(*items: Any, command: str = "plan", code: int = 0) -> dict:
        (tmp_path / "d.json").write_text(json.dumps({"kind": "List", "items": list(items)}))
        args = {
            "plan": ("plan", "d.json", "--budget", "500ms"),
            "simulate": ("simulate", "d.json"),
        }[command]
        done = snugfit(*args, "--json")
        assert done.code == code, done
        said = json.loads(done.out)
        for run in said.pop("runs", []):
            said |= run
        for one in said["not_understood"]:
            assert f"d.json: not understood: {one['object']}: " in done.err
        return said

    return run


def _effects(said: dict) -> dict[str, str]:
    return {one["object"]: one["effect"] for one in said["not_understood"]}


def _where(said: dict) -> dict[str, str]:
    return {one["name"]: one["node"] for one in said["placements"]}


def test_pods_of_nodes_that_are_not_listed_hold_nothing(dump) -> None:
    gone = [pod_json(f"r{i}", node=f"gone-{i}", requests=GPU) for i in range(8)]
    items = (node_json("n", gpus=1), *gone, pod_json("p", requests=GPU))
    said = dump(*items)
    assert said["status"] == "PROVED" and _where(said) == {"p": "n"}
    (one,) = said["not_understood"]
    assert one["object"] == "Pod ns/r0, ns/r1, ns/r2, ns/r3, ns/r4 and 3 more"
    assert one["field"] == "spec.nodeName" and "'gone-0'" in one["why"]
    assert dump(*items, command="simulate")["placed"] == 1


def test_a_running_pod_that_contradicts_itself_is_charged(dump) -> None:
    both = GPU | {"snugfit.io/gpu-milli": "5"}
    said = dump(
        node_json("n", gpus=1),
        node_json("m", gpus=1),
        pod_json("r", node="n", requests=both),
        pod_json("p", requests=GPU),
        pod_json("q", requests=GPU),
        code=1,
    )
    assert set(_where(said).values()) == {"m"}
    assert "Pod ns/r" in _effects(said) and "charged" in _effects(said)["Pod ns/r"]
    assert said["status"] == "PROVED"  # everything that was asked is answered


def test_a_pending_pod_that_contradicts_itself_waits_and_nothing_is_proved_about_it(dump) -> None:
    said = dump(
        node_json("n", gpus=2),
        pod_json("p", requests=GPU),
        pod_json("q", requests={"nvidia.com/gpu": "0.5"}),
    )
    assert _where(said) == {"p": "n"} and _effects(said) == {"Pod ns/q": "it gets no node"}
    assert said["status"] == "PROVED_IN_PART"
    (rule,) = said["not_considered"]
    assert rule["pods"] == ["ns/q"]


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": [{"resources": {"requests": {"cpu": "a lot"}}}]},
        {"containers": [{"resources": 7}]},
        {"containers": "one"},
        {"overhead": {"memory": "?"}},
    ],
)
def test_where_a_pod_runs_that_cannot_be_counted_goes_nothing_new(dump, spec: dict) -> None:
    everywhere = [{"operator": "Exists"}]
    bad = pod_json("r", node="n", spec=spec)
    free = pod_json("p", spec={"tolerations": everywhere})
    said = dump(node_json("n"), node_json("m"), bad, free)
    assert _where(said) == {"p": "m"}
    assert _effects(said) == {"Pod ns/r": "its node takes nothing new"}
    said = dump(node_json("n"), bad, free, code=1)
    assert not _where(said) and said["status"] != "INFEASIBLE_PROVED"
    assert "what runs there, cannot be understood" in said["unplaced"][0]["reason"]
    assert dump(node_json("n"), bad, free, command="simulate")["placed"] == 0


def test_a_pod_that_may_run_anywhere_is_named(dump) -> None:
    bad = pod_json("r", spec={"nodeName": 7})
    said = dump(node_json("n"), bad, pod_json("p"))
    assert _where(said) == {"p": "n"}
    assert _effects(said) == {"Pod ns/r": "left out: nobody can tell where it runs"}


def test_a_pod_without_a_name_is_left_out(dump) -> None:
    said = dump(node_json("n"), {"kind": "Pod", "spec": {}}, pod_json("p"))
    assert _where(said) == {"p": "n"} and _effects(said) == {"d.json: items[1]": "left out"}


def test_what_does_not_matter_does_not_stop_a_pod(dump) -> None:
    said = dump(node_json("n"), pod_json("p", status={"conditions": 7}))
    assert _where(said) == {"p": "n"} and said["status"] == "PROVED"
    assert _effects(said) == {"Pod ns/p": "the rest of it counts"}


def test_pods_without_uids_of_their_own_are_told_apart_by_name(dump) -> None:
    running = [pod_json(f"r{i}", uid="same", node="n", requests=GPU) for i in range(2)]
    said = dump(node_json("n", gpus=2), *running, pod_json("p", requests=GPU), code=1)
    assert not _where(said)
    assert _effects(said) == {"Pod ns/r1": "its name tells it apart"}


@pytest.mark.parametrize(
    ("bad", "effect"),
    [
        ({"labels": {"nvidia.com/gpu.product": 7}}, "takes nothing new"),
        ({"allocatable": {"nvidia.com/gpu": "-3"}}, "devices are handed out"),
        ({"allocatable": {"cpu": "many"}}, "takes nothing new"),
    ],
)
def test_a_node_that_cannot_be_read_is_there_with_nothing_to_give(
    dump, bad: dict, effect: str
) -> None:
    said = dump(
        node_json("bad", gpus=1, **bad),
        node_json("n", gpus=1),
        pod_json("r", node="bad", requests=GPU),
        pod_json("p", requests=GPU),
    )
    assert _where(said) == {"p": "n"}
    assert list(_effects(said)) == ["Node bad"] and effect in _effects(said)["Node bad"]


def test_a_budget_that_cannot_be_read_guards_its_namespace(dump) -> None:
    """Two GPUs are needed on one node; that takes moving a pod."""
    owner = [{"kind": "ReplicaSet", "name": "r", "controller": True}]
    nodes = [node_json(f"n{i}", gpus=2) for i in range(2)]
    running = [
        pod_json(f"r{i}", node=f"n{i}", requests=GPU, ownerReferences=owner) for i in range(2)
    ]
    waiting = pod_json("p", requests={"nvidia.com/gpu": "2"})
    assert len(dump(*nodes, *running, waiting)["moves"]) == 1
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"selector": 7}}
    for namespace, moved in (("other", 1), ("ns", 0)):
        bad = budget | {"metadata": {"name": "b", "namespace": namespace}}
        said = dump(*nodes, *running, waiting, bad, code=1 - moved)
        assert len(said["moves"]) == moved
        assert list(_effects(said).values()) == [f"no pod of {namespace} is moved"]


def test_several_files_are_one_cluster(tmp_path: Path, snugfit, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes.json").write_text(json.dumps({"items": [node_json("n", gpus=1)]}))
    (tmp_path / "pods.yaml").write_text(json.dumps(pod_json("p", requests=GPU)))
    files = ("nodes.json", "pods.yaml")
    done = snugfit("plan", *files, "--budget", "500ms", "--json")
    assert done.code == 0 and _where(json.loads(done.out)) == {"p": "n"}
    done = snugfit("simulate", "nodes.json", "pods.yaml", "--json")
    assert json.loads(done.out)["runs"][0]["placed"] == 1
    done = snugfit("plan", ".", "--budget", "500ms", "--json")
    assert _where(json.loads(done.out)) == {"p": "n"}
    (tmp_path / "w.json").write_text('{"format": "snugfit/v1", "nodes": [], "pods": []}')
    done = snugfit("plan", *files, "w.json", "--json")
    assert done.code == 2 and "snugfit/v1" in done.err


@pytest.mark.parametrize("where", ["gpu", "cpu"])
@pytest.mark.parametrize(
    ("wish", "system"),
    [
        ({"annotations": {"gpu-fraction": "0.3"}}, "KAI Scheduler"),
        ({"annotations": {"gpu-memory": "4000"}}, "KAI Scheduler"),
        ({"requests": GPU | {"nvidia.com/gpumem": "3000"}}, "HAMi"),
        ({"requests": GPU | {"nvidia.com/gpumem-percentage": "30"}}, "HAMi"),
    ],
)
def test_shares_that_another_scheduler_hands_out_are_left_to_it(
    dump, wish: dict, system: str, where: str
) -> None:
    cluster = node_json(where, gpus=2 if where == "gpu" else 0)
    theirs = pod_json("q", spec={"schedulerName": "theirs"}, **wish)
    said = dump(cluster, pod_json("p"), theirs, code=1)
    assert list(_where(said)) == ["p"] and said["status"] == "PROVED_IN_PART"
    (rule,) = said["not_considered"]
    assert rule["pods"] == ["ns/q"] and system in rule["rule"]
    assert "left alone" in said["unplaced"][0]["reason"]
    assert dump(cluster, pod_json("p"), theirs, command="simulate")["placed"] == 1


def test_what_is_written_for_a_scheduler_that_is_not_asked_means_nothing(dump) -> None:
    """kube-scheduler passes over KAI's annotations."""
    for scheduler in ({}, {"schedulerName": "default-scheduler"}):
        pending = pod_json("p", annotations={"gpu-fraction": "0.5"}, spec=scheduler)
        said = dump(node_json("n"), pending)
        assert said["status"] == "PROVED" and _where(said) == {"p": "n"}


def test_rules_that_name_very_many_nodes_are_read(dump) -> None:
    names = [f"{'long' * 10}-{i}" for i in range(900)]
    rule = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": names}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    cluster = [node_json(n, labels={"kubernetes.io/hostname": n}) for n in (names[0], "n")]
    said = dump(*cluster, pod_json("p", spec={"affinity": {"nodeAffinity": required}}))
    assert _where(said) == {"p": "n"} and said["status"] == "PROVED"


def test_objects_of_other_kinds_are_not_taken_for_nodes(dump) -> None:
    """Longhorn has Nodes of its own, for example; they are no nodes of Kubernetes."""
    theirs = {"apiVersion": "storage.example/v1", "kind": "Node", "metadata": {"name": "n"}}
    said = dump(node_json("n"), theirs, pod_json("p"))
    assert _where(said) == {"p": "n"} and not said["not_understood"]
