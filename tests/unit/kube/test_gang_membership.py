"""One manifest per ecosystem: which gang a pod is in, and how many members it needs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import GangKey
from scheduler.kube.gang_groups import Groups
from scheduler.kube.gang_membership import GANG_SOURCES, gang_key, gang_ref, stated_size
from scheduler.kube.objects import PodObject
from scheduler.kube.workloads import Stated, statements


def _pod(
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> PodObject:
    content = {
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "team",
            "uid": "u",
            "labels": labels,
            "annotations": annotations,
        },
        "spec": spec,
    }
    return msgspec.convert(content, PodObject)


def _group(kind: str, version: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team"}
    return {"kind": kind, "apiVersion": version, "metadata": metadata, "spec": spec}


_PYTORCH_REPLICAS = {"Master": {"replicas": 1}, "Worker": {"replicas": 3}}
_JOBSET_JOBS = [
    {"name": "driver", "template": {"spec": {"parallelism": 1}}},
    {"name": "worker", "replicas": 2, "template": {"spec": {"parallelism": 4}}},
]

CASES = {
    "kubernetes": (
        _pod(schedulingGroup={"podGroupName": "g"}),
        _group(
            "PodGroup",
            "scheduling.k8s.io/v1beta1",
            "g",
            schedulingPolicy={"gang": {"minCount": 4}},
        ),
        ("g", 4),
    ),
    "kubernetes-1.35": (
        _pod(workloadRef={"name": "w", "podGroup": "workers", "podGroupReplicaKey": "1"}),
        _group(
            "Workload",
            "scheduling.k8s.io/v1alpha1",
            "w",
            podGroups=[{"name": "workers", "policy": {"gang": {"minCount": 3}}}],
        ),
        ("w/workers/1", 3),
    ),
    "scheduler-plugins": (
        _pod(labels={"scheduling.x-k8s.io/pod-group": "g"}),
        _group("PodGroup", "scheduling.x-k8s.io/v1alpha1", "g", minMember=5),
        ("g", 5),
    ),
    "volcano": (
        _pod(annotations={"scheduling.k8s.io/group-name": "g"}),
        _group("PodGroup", "scheduling.volcano.sh/v1beta1", "g", minMember=6),
        ("g", 6),
    ),
    "kueue": (
        _pod(
            labels={"kueue.x-k8s.io/pod-group-name": "g"},
            annotations={"kueue.x-k8s.io/pod-group-total-count": "7"},
        ),
        None,
        ("g", 7),
    ),
    "kai": (
        _pod(annotations={"pod-group-name": "g"}),
        _group("PodGroup", "scheduling.run.ai/v2alpha2", "g", minMember=2),
        ("g", 2),
    ),
    "koordinator": (
        _pod(
            annotations={
                "gang.scheduling.koordinator.sh/name": "g",
                "gang.scheduling.koordinator.sh/min-available": "3",
            }
        ),
        None,
        ("g", 3),
    ),
    "leaderworkerset": (
        _pod(
            labels={
                "leaderworkerset.sigs.k8s.io/name": "lws",
                "leaderworkerset.sigs.k8s.io/group-index": "2",
            },
            annotations={"leaderworkerset.sigs.k8s.io/size": "4"},
        ),
        None,
        ("lws/2", 4),
    ),
    "jobset": (
        _pod(labels={"jobset.sigs.k8s.io/jobset-name": "js"}),
        _group("JobSet", "jobset.x-k8s.io/v1alpha2", "js", replicatedJobs=_JOBSET_JOBS),
        ("js", 9),
    ),
    "kubeflow": (
        _pod(labels={"training.kubeflow.org/job-name": "train"}),
        _group("PyTorchJob", "kubeflow.org/v1", "train", pytorchReplicaSpecs=_PYTORCH_REPLICAS),
        ("train", 4),
    ),
    "volcano-job": (
        _pod(labels={"volcano.sh/job-name": "v"}),
        _group("Job", "batch.volcano.sh/v1alpha1", "v", tasks=[{"name": "t", "replicas": 5}]),
        ("v", 5),
    ),
    "indexed-job": (
        _pod(
            labels={"batch.kubernetes.io/job-name": "j"},
            annotations={
                "batch.kubernetes.io/job-completion-index": "0",
                "snugfit.io/gang": "true",
            },
        ),
        _group("Job", "batch/v1", "j", parallelism=8),
        ("j", 8),
    ),
}


def test_every_convention_has_a_manifest() -> None:
    assert [source.system for source in GANG_SOURCES] == list(CASES)


@pytest.mark.parametrize("system", CASES)
def test_membership_and_size(system: str) -> None:
    pod, group, (name, size) = CASES[system]
    ref = gang_ref(pod)
    assert ref is not None and ref.key == GangKey(system, "team", name)
    groups = Groups()
    groups.state(statements(group) if group else {})
    assert groups.join(pod, "uid") == ref.key
    assert groups.spec(ref.key).minimum == size


@pytest.mark.parametrize("system", [s for s, (_, group, _) in CASES.items() if group])
def test_without_the_group_object_the_members_seen_have_to_do(system: str) -> None:
    pod, _, (name, _) = CASES[system]
    for count_members, size in ((True, 2), (False, 1)):  # live members come one by one
        groups = Groups(count_members=count_members)
        groups.join(pod, "one")
        groups.join(pod, "two")
        key = GangKey(system, "team", name)
        assert groups.specs() == {key: GangSpec(key, size)}


def _stating(size: str) -> PodObject:
    return _pod(
        labels={"kueue.x-k8s.io/pod-group-name": "g"},
        annotations={"kueue.x-k8s.io/pod-group-total-count": "7", "snugfit.io/gang-size": size},
    )


def test_our_annotation_overrides_the_size_that_the_pod_states() -> None:
    assert stated_size(_stating("3")) == 3


def test_members_that_disagree_are_one_gang_of_the_largest_size(caplog) -> None:
    groups = Groups()
    keys = {groups.join(_stating(size), f"of {size}") for size in ("3", "4")}
    (key,) = keys
    assert groups.spec(key).minimum == 4 and "different sizes: 3, 4; 4 counts" in caplog.text
    assert groups.spec(key, stated=5).minimum == 5  # one that asks before it is watched
    groups.leave("of 4")
    assert groups.spec(key).minimum == 3
    groups.leave("of 3")
    assert groups.specs() == {}
    assert caplog.text.count("different") == 1


def test_what_a_group_object_states_counts_before_its_members() -> None:
    groups = Groups()
    label = {"scheduling.x-k8s.io/pod-group": "g"}
    key = groups.join(_pod(labels=label, annotations={"snugfit.io/gang-size": "9"}), "p")
    assert key is not None and groups.state({key: Stated(2)}) == [key]
    assert groups.spec(key).minimum == 2 and groups.state({key: Stated(2)}) == []
    assert groups.unstate([key]) == [key] and groups.spec(key).minimum == 9


def test_a_pod_of_no_gang() -> None:
    assert gang_key(_pod(labels={"app": "x"})) is None
    job = {"batch.kubernetes.io/job-completion-index": "0"}
    alone = _pod(labels={"batch.kubernetes.io/job-name": "j"}, annotations=job)
    assert gang_key(alone) is None  # indexed jobs have to ask for it


@pytest.mark.parametrize(
    "group",
    [
        {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "g"}},
        _group("PodGroup", "scheduling.x-k8s.io/v1alpha1", "g"),
        _group("PodGroup", "scheduling.x-k8s.io/v1alpha1", "g", minMember="many"),
        _group("PodGroup", "unheard.of/v1", "g", minMember=3),
    ],
)
def test_what_states_no_size_gives_none(group: dict[str, Any]) -> None:
    assert statements(group) == {}
