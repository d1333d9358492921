"""Which gang a pod belongs to, and how many members it needs: one table for every ecosystem.

A row says how one system names the gang on its pods and where the number of members stands: on the
pod, on a group object, or nowhere, and then the members that are seen have to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from scheduler.core.model import GangKey
from scheduler.kube.objects import PodObject

__all__ = [
    "GANG_SOURCES",
    "GangRef",
    "GangSource",
    "gang_key",
    "gang_ref",
    "group_size",
    "shared_key",
    "stated_size",
]

SIZE_ANNOTATION = "snugfit.io/gang-size"
OPT_IN_ANNOTATION = "snugfit.io/gang"
_MOST_DIGITS = 20
_REPLICATED = "kubernetes-1.35"


@dataclass(frozen=True, slots=True)
class GangRef:
    """A gang as a pod names it; ``size`` is 0 where the pod does not state it."""

    key: GangKey
    size: int = 0


@dataclass(frozen=True, slots=True)
class GangSource:
    """One row of the table.

    Parameters
    ----------
    system
        Whose convention it is.
    name
        Reads the gang's name from a pod; empty if the pod follows another convention.
    size
        Reads the number of members from a pod; 0 if it is not there.
    groups
        Kinds of the objects that state the number of members, as ``Kind.api-group``.
    """

    system: str
    name: Callable[[PodObject], str]
    size: Callable[[PodObject], int] = lambda _pod: 0
    groups: tuple[str, ...] = ()


# Every label and annotation that may name a gang: most pods have none of them, and looking them up
# system by system would take longer than everything else that is read of a pod.
_KEYS: set[str] = set()


def _label(*keys: str) -> Callable[[PodObject], str]:
    _KEYS.update(keys)

    def read(pod: PodObject) -> str:
        labels = pod.metadata.labels or {}
        return next((labels[key] for key in keys if labels.get(key)), "")

    return read


def _annotation(*keys: str) -> Callable[[PodObject], str]:
    _KEYS.update(keys)

    def read(pod: PodObject) -> str:
        annotations = pod.metadata.annotations or {}
        return next((annotations[key] for key in keys if annotations.get(key)), "")

    return read


_MOST_MEMBERS = 10**9
"""A larger size says the same: more than any cluster holds."""


def _number(read: Callable[[PodObject], str]) -> Callable[[PodObject], int]:
    def parse(pod: PodObject) -> int:
        text = read(pod)
        if not (text.isascii() and text.isdecimal()):
            return 0
        return _MOST_MEMBERS if len(text) > _MOST_DIGITS else min(int(text), _MOST_MEMBERS)

    return parse


def _native(pod: PodObject) -> str:
    group = pod.spec.scheduling_group
    return (group.pod_group_name if group else None) or ""


def _workload(pod: PodObject) -> str:
    """Kubernetes 1.35 names a Workload, one of its pod groups, and a replica of that."""
    ref = pod.spec.workload_ref
    if ref is None or not ref.name:
        return ""
    return "/".join(part for part in (ref.name, ref.pod_group, ref.pod_group_replica_key) if part)


_KEYS |= {"leaderworkerset.sigs.k8s.io/name", OPT_IN_ANNOTATION}


def _leader_worker_set(pod: PodObject) -> str:
    labels = pod.metadata.labels or {}
    name = labels.get("leaderworkerset.sigs.k8s.io/name")
    index = labels.get("leaderworkerset.sigs.k8s.io/group-index")
    return f"{name}/{index}" if name and index else ""


def _indexed_job(pod: PodObject) -> str:
    """A Job with indexes is a gang only if its pods ask for that."""
    annotations, labels = pod.metadata.annotations or {}, pod.metadata.labels or {}
    if annotations.get(OPT_IN_ANNOTATION) != "true":
        return ""
    if "batch.kubernetes.io/job-completion-index" not in annotations:
        return ""
    return labels.get("batch.kubernetes.io/job-name", "") or labels.get("job-name", "")


GANG_SOURCES = (
    GangSource("kubernetes", _native, groups=("PodGroup.scheduling.k8s.io",)),
    GangSource(_REPLICATED, _workload, groups=("Workload.scheduling.k8s.io",)),
    GangSource(
        "scheduler-plugins",
        _label("scheduling.x-k8s.io/pod-group", "pod-group.scheduling.sigs.k8s.io",
               "pod-group.scheduling.sigs.k8s.io/name"),
        groups=("PodGroup.scheduling.x-k8s.io", "PodGroup.scheduling.sigs.k8s.io"),
    ),
    GangSource(
        "volcano",
        _annotation("scheduling.k8s.io/group-name", "scheduling.volcano.sh/group-name"),
        _number(_annotation("scheduling.volcano.sh/group-min-member")),
        ("PodGroup.scheduling.volcano.sh",),
    ),
    GangSource(
        "kueue",
        _label("kueue.x-k8s.io/pod-group-name"),
        _number(_annotation("kueue.x-k8s.io/pod-group-total-count")),
    ),
    GangSource("kai", _annotation("pod-group-name"), groups=("PodGroup.scheduling.run.ai",)),
    GangSource(
        "koordinator",
        _annotation("gang.scheduling.koordinator.sh/name"),
        _number(_annotation("gang.scheduling.koordinator.sh/min-available")),
    ),
    GangSource(
        "leaderworkerset",
        _leader_worker_set,
        _number(_annotation("leaderworkerset.sigs.k8s.io/size")),
    ),
    # Kubeflow Trainer v2 runs its TrainJobs as JobSets.
    GangSource(
        "jobset",
        _label("jobset.sigs.k8s.io/jobset-name"),
        groups=("JobSet.jobset.x-k8s.io",),
    ),
    GangSource(
        "kubeflow",
        _label("training.kubeflow.org/job-name"),
        groups=tuple(f"{kind}.kubeflow.org" for kind in
                     ("PyTorchJob", "TFJob", "MPIJob", "XGBoostJob", "PaddleJob", "JAXJob")),
    ),
    GangSource("indexed-job", _indexed_job, groups=("Job.batch",)),
)  # fmt: skip
"""Conventions in the order in which they are tried: the most explicit one wins."""


_stated = _number(_annotation(SIZE_ANNOTATION))


def gang_ref(pod: PodObject) -> GangRef | None:
    """The gang that a pod names, or None. ``snugfit.io/gang-size`` overrides the size."""
    metadata, spec = pod.metadata, pod.spec
    if (
        spec.scheduling_group is None
        and spec.workload_ref is None
        and (not metadata.labels or _KEYS.isdisjoint(metadata.labels))
        and (not metadata.annotations or _KEYS.isdisjoint(metadata.annotations))
    ):
        return None
    stated = _stated(pod)
    for source in GANG_SOURCES:
        name = source.name(pod)
        if name:
            namespace = pod.metadata.namespace or "default"
            key = GangKey(source.system, namespace, name)
            return GangRef(key, stated or source.size(pod))
    return None


def group_size(content: Mapping[str, Any]) -> dict[GangKey, int]:
    """Sizes that a group object states, by gang.

    Parameters
    ----------
    content
        Any object as JSON; kinds that are no groups give nothing.
    """
    kind = f"{content.get('kind', '')}.{str(content.get('apiVersion', '')).split('/')[0]}"
    source = next((s for s in GANG_SOURCES if kind in s.groups), None)
    if source is None:
        return {}
    metadata = content.get("metadata") or {}
    spec = content.get("spec") or {}
    namespace, name = metadata.get("namespace") or "default", metadata.get("name") or ""
    key = GangKey(source.system, namespace, name)
    match content["kind"]:
        case "Workload":
            return {
                replace(key, name=f"{name}/{group.get('name', '')}"): _gang_policy(
                    group.get("policy")
                )
                for group in spec.get("podGroups") or ()
            }
        case "PodGroup":
            size = _gang_policy(spec.get("schedulingPolicy")) or _positive(spec.get("minMember"))
        case "JobSet":
            size = sum(
                _positive(job.get("replicas", 1))
                * _positive(_at(job, "template", "spec").get("parallelism", 1))
                for job in spec.get("replicatedJobs") or ()
            )
        case "Job":
            size = _positive(spec.get("parallelism", 1))
        case _:  # Kubeflow: one map of replica specs, whose key begins with the framework's name
            size = sum(
                _positive(replica.get("replicas", 1))
                for name, replicas in spec.items()
                if name.endswith("ReplicaSpecs") and isinstance(replicas, dict)
                for replica in replicas.values()
            )
    return {key: size} if size else {}


def _at(content: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for step in path:
        content = content.get(step) or {}
    return content


def _gang_policy(policy: Mapping[str, Any] | None) -> int:
    return _positive(_at(policy or {}, "gang").get("minCount"))


def _positive(value: object) -> int:
    return min(value, _MOST_MEMBERS) if isinstance(value, int) and value > 0 else 0


def gang_key(pod: PodObject) -> GangKey | None:
    """The gang that the pod names."""
    ref = gang_ref(pod)
    return ref.key if ref is not None else None


def stated_size(pod: PodObject) -> int:
    """Members that its gang needs, as far as the pod says; else 0."""
    ref = gang_ref(pod)
    return ref.size if ref is not None else 0


def shared_key(key: GangKey) -> GangKey:
    """Under which a group object states the size of this gang.

    A 1.35 Workload states it once for all replicas of a pod group.
    """
    if key.system != _REPLICATED or key.name.count("/") < 2:
        return key
    return replace(key, name="/".join(key.name.split("/")[:2]))
