"""Checks of an installation, from what a cluster says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from scheduler.kube.installation import (
    RIGHTS,
    State,
    called,
    calls,
    guarded,
    lacking,
    node_reports,
    recorded,
    versions,
)
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.record_policy import RECORD_POLICY
from testbed.kube_objects import pod_object


def _node(labels: dict[str, str] | None = None, **allocatable: str) -> NodeObject:
    return msgspec.convert(
        {
            "metadata": {"name": "n", "labels": labels or {}},
            "status": {"allocatable": {"cpu": "8", "memory": "32Gi"} | allocatable},
        },
        NodeObject,
    )


A100 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB", "nvidia.com/gpu.memory": "40960"}


@pytest.mark.parametrize(
    ("labels", "resources", "words"),
    [
        ({}, {}, ""),
        (A100, {"nvidia.com/gpu": "8"}, "8 x NVIDIA-A100-SXM4-40GB 40 GiB"),
        (A100, {"snugfit.io/gpu-milli": "2k"}, "2 x NVIDIA-A100-SXM4-40GB 40 GiB"),
        (
            A100 | {"nvidia.com/gpu.replicas": "4"},
            {"nvidia.com/gpu.shared": "8"},
            "2 x NVIDIA-A100-SXM4-40GB 40 GiB 4 replicas",
        ),
    ],
)
def test_a_clear_node_is_told_in_words(labels, resources, words: str) -> None:
    (report,) = node_reports([_node(labels, **resources)])
    assert (report.state, report.devices) == (State.OK, words)


@pytest.mark.parametrize("serves", ["whole", "fractions"])
def test_a_node_that_serves_one_way_for_good_is_clear(serves: str) -> None:
    both = {"nvidia.com/gpu": "2", "snugfit.io/gpu-milli": "2k"}
    (report,) = node_reports([_node(A100 | {"snugfit.io/serves": serves}, **both)])
    assert report.state is State.OK


SINCE = 1_700_000_000.0
BEFORE, AFTER = "2023-11-14T20:00:00Z", "2023-11-15T00:00:00Z"


def _recorded(record: str | None, created: str = AFTER, uid: str = "", **asked: str) -> PodObject:
    annotations = {} if record is None else {"snugfit.io/devices": record}
    if uid:
        annotations["snugfit.io/devices-uid"] = uid
    return pod_object("p", node="a", requests=asked or {"snugfit.io/gpu-milli": "500"},
                      annotations=annotations, creationTimestamp=created)  # fmt: skip


@pytest.mark.parametrize(
    ("since", "answer"),
    [(None, "3 unprotected of 4; 1 of other pods"), (SINCE, "1 unprotected of 4; 2 of other pods")],
)
def test_records_that_owners_could_have_written_are_counted(since, answer: str) -> None:
    pods = [
        _recorded("0:500", BEFORE),
        _recorded("0:500", AFTER, "uid-p"),
        _recorded("0:500", AFTER),
        _recorded("0:500", AFTER, "uid-of-another"),
        _recorded(None),
        _recorded("0:500", **{"nvidia.com/gpu": "1"}),
        _recorded("0:500", cpu="1"),
    ]
    check = recorded(pods, since, ResourceNames())
    assert check.state is State.WARNING and check.answer.startswith(answer)
    assert recorded(pods[1:2], SINCE, ResourceNames()).state is State.OK


def test_partitions_are_spelt_out() -> None:
    (report,) = node_reports([_node(A100, **{"nvidia.com/mig-3g.20gb": "2"})])
    assert report.state is State.OK and report.devices.endswith("MIG 3g.20gb+3g.20gb")
    assert report.protocols == ("nvidia.com/mig-*",)


@pytest.mark.parametrize(
    ("labels", "resources", "state", "remark"),
    [
        (
            A100,
            {"nvidia.com/gpu": "2", "snugfit.io/gpu-milli": "2000"},
            State.WARNING,
            "one at a time",
        ),
        (A100, {"nvidia.com/gpu": "10", "nvidia.com/gpumem": "900"}, State.WARNING, "several ways"),
        ({}, {"nvidia.com/gpu": "1"}, State.WARNING, "no label states the model"),
        ({}, {"volcano.sh/vgpu-number": "10"}, State.WARNING, "not understood"),
        (A100, {"snugfit.io/gpu-milli": "1500"}, State.FAILED, "multiple of 1000"),
        (A100, {"nvidia.com/mig-9g.99gb": "1"}, State.OK, ""),
        (A100, {"nvidia.com/gpu": "2", "gpu.intel.com/xe": "3"}, State.OK, ""),
        (
            A100 | {"nvidia.com/gpu.count": "1"},
            {"nvidia.com/gpu": "1", "nvidia.com/mig-3g.20gb": "2"},
            State.WARNING,
            "stale",
        ),
        (
            A100 | {"nvidia.com/gpu.replicas": "8"},
            {"nvidia.com/gpu": "16", "snugfit.io/gpu-milli": "16000"},
            State.WARNING,
            "no device that can be cut",
        ),
    ],
)
def test_a_doubtful_node_is_told_with_the_reason(labels, resources, state, remark: str) -> None:
    (report,) = node_reports([_node(labels, **resources)])
    assert report.state is state and remark in report.remark


def test_missing_rights_are_named() -> None:
    assert lacking([], "me").state is State.OK
    groups = [right for right in RIGHTS if right.resource == "podgroups"]
    check = lacking([*RIGHTS[:1], *groups], "me")
    assert check.state is State.FAILED
    assert "list nodes" in check.answer and "watch podgroups.scheduling.k8s.io" in check.answer


def test_a_right_that_not_everybody_needs_is_missed_with_its_purpose() -> None:
    (waking,) = (right for right in RIGHTS if right.resource == "pods/status")
    check = lacking([waking], "me")
    assert check.state is State.WARNING
    assert "patch pods/status" in check.answer and waking.purpose in check.answer
    assert lacking([waking, RIGHTS[0]], "me").state is State.FAILED


@pytest.mark.parametrize(
    ("server", "image", "states"),
    [
        ("v1.37.2", "registry/kube-scheduler:v1.37.2", [State.OK, State.OK]),
        ("v1.35.0-eks-1", "registry/kube-scheduler:v1.34.9", [State.OK, State.OK]),
        ("v1.36.0", "registry/kube-scheduler:v1.34.0", [State.OK, State.FAILED]),
        ("v1.36.0", "registry/kube-scheduler:v1.37.0", [State.OK, State.FAILED]),
        ("v1.36.0", "registry/kube-scheduler@sha256:abc", [State.OK, State.WARNING]),
        ("v1.33.4", "", [State.FAILED]),
        ("unknown", "registry/kube-scheduler:v1.36.0", [State.WARNING]),
    ],
)
def test_versions_that_do_not_go_together_are_named(server: str, image: str, states) -> None:
    pods = {"snugfit/a": image} if image else {}
    assert [check.state for check in versions(server, pods)] == states


METRICS = """
# TYPE snugfit_request_seconds histogram
snugfit_request_seconds_count{verb="filter"} 12.0
snugfit_request_seconds_count{verb="prioritize"} 10.0
snugfit_request_errors_total{code="503",verb="filter"} 3.0
snugfit_request_errors_total{code="404",verb="other"} 1.0
snugfit_nodes 4.0
"""


def _pod(node: str = "", scheduler: str = "snugfit", **limits: Any) -> PodObject:
    return msgspec.convert(
        {
            "metadata": {"name": "p"},
            "spec": {
                "schedulerName": scheduler,
                "nodeName": node,
                "containers": [{"name": "c", "resources": {"limits": limits}}],
            },
        },
        PodObject,
    )


def test_calls_are_read_from_the_metrics_page() -> None:
    assert calls(METRICS) == {"filter": 12, "prioritize": 10, "filter 503": 3, "other 404": 1}


def test_a_scheduler_that_never_asks_is_found() -> None:
    gpu = {"nvidia.com/gpu": "1"}
    managed = {"nvidia.com/gpu"}
    asked, refused = called(calls(METRICS), [_pod("n", **gpu)], "snugfit", managed)
    assert asked.state is State.OK and "12 times" in asked.answer
    assert refused.state is State.WARNING and refused.answer == "refused filter 503: 3"
    for pods, state, word in (
        ([_pod("n", **gpu)], State.FAILED, "placed"),
        ([_pod(**gpu)], State.FAILED, "pending"),
        ([_pod("n")], State.WARNING, "nobody knows"),
        ([_pod("n", scheduler="other", **gpu)], State.WARNING, "nobody knows"),
    ):
        (check,) = called({}, pods, "snugfit", managed)
        assert check.state is state and word in check.answer


# -- the policy on records -------------------------------------------------------------------------


def _shipped() -> tuple[dict[str, Any], dict[str, Any]]:
    """Policy and binding, as the chart renders them."""
    text = (Path(__file__).parents[3] / "deploy/manifests/sidecar.yaml").read_text()
    found = [
        document
        for document in yaml.safe_load_all(text)
        if document and document["metadata"]["name"] == RECORD_POLICY
    ]
    policy, binding = sorted(found, key=lambda document: len(document["kind"]))
    return policy, binding


def test_the_shipped_policy_guards_records() -> None:
    assert guarded(*_shipped()).state is State.OK


def _without(operation: str, resource: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(policy: dict[str, Any], _: dict[str, Any]) -> None:
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]:
            if operation in rule["operations"]:
                rule["resources"].remove(resource)

    return change


def _set(which: int, **fields: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda *objects: objects[which]["spec"].update(fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("UPDATE", "pods"), "UPDATE of pods"),
        (_without("UPDATE", "pods/*"), "UPDATE of pods/status"),
        (_without("CREATE", "bindings"), "CREATE of bindings"),
        (_without("CREATE", "pods/binding"), "CREATE of pods/binding"),
        (_set(0, failurePolicy="Ignore"), "skipped"),
        (_set(0, paramKind={"apiVersion": "v1", "kind": "ConfigMap"}), "parameters"),
        (_set(0, matchConstraints=None), "does not cover"),
        (_set(1, validationActions=["Warn", "Audit"]), "does not deny"),
        (_set(1, policyName="another"), "no binding"),
        (_set(1, matchResources={"namespaceSelector": {"matchLabels": {"a": "b"}}}), "leaves out"),
        (_set(1, matchResources={"objectSelector": {"matchLabels": {"a": "b"}}}), "leaves out"),
        (_set(1, matchResources={"resourceRules": [{"resources": ["pods"]}]}), "leaves out"),
    ],
)
def test_a_policy_that_leaves_a_gap_is_named(
    change: Callable[[dict[str, Any], dict[str, Any]], None], said: str
) -> None:
    policy, binding = _shipped()
    change(policy, binding)
    check = guarded(policy, binding)
    assert check.state is State.WARNING and said in check.answer and check.remedy


def test_a_policy_that_is_not_in_force_guards_nothing() -> None:
    policy, binding = _shipped()
    assert "no policy" in guarded(None, None).answer
    assert "no policy" in guarded(None, binding).answer
    assert "no binding" in guarded(policy, None).answer
    assert guarded(policy, binding, "another").state is State.WARNING
    binding["spec"]["policyName"] = "another"
    assert guarded(policy, binding, "another").state is State.OK
