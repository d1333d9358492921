"""Which gang a pod belongs to, and how many members it needs: one table for every ecosystem.

A row says how one system names the gang on its pods and where the number of members stands: on the
pod, on a group object, or nowhere, and then the members that are seen have to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from scheduler.core.model import GangKey
from scheduler.kube.objects import PodObject

__all__ = [
    "GANG_SOURCES",
    "MOST_MEMBERS",
    "GangRef",
    "GangSource",
    "gang_key",
    "gang_ref",
    "gang_refs",
    "shared_key",
    "stated_size",
]

SIZE_ANNOTATION = "snugfit.io/gang-size"
OPT_IN_ANNOTATION = "snugfit.io/gang"
_MOST_DIGITS = 20
_REPLICATED = "kubernetes-1.35"


@dataclass(frozen=True, slots=True)
class GangRef:
    """A gang as a pod names it; ``size`` is 0, ``role`` empty where the pod does not say."""

    key: GangKey
    size: int = 0
    role: str = ""


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
    role
        Reads from a pod which of the object's roles it plays; empty if it does not say.
    """

    system: str
    name: Callable[[PodObject], str]
    size: Callable[[PodObject], int] = lambda _pod: 0
    groups: tuple[str, ...] = ()
    role: Callable[[PodObject], str] = lambda _pod: ""


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


MOST_MEMBERS = 10**9
"""A larger size says the same: more than any cluster holds."""


def _number(read: Callable[[PodObject], str]) -> Callable[[PodObject], int]:
    def parse(pod: PodObject) -> int:
        text = read(pod)
        if not (text.isascii() and text.isdecimal()):
            return 0
        return MOST_MEMBERS if len(text) > _MOST_DIGITS else min(int(text), MOST_MEMBERS)

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


_KEYS |= {
    "leaderworkerset.sigs.k8s.io/name",
    "kueue.x-k8s.io/pod-group-name",
    OPT_IN_ANNOTATION,
}


def _leader_worker_set(pod: PodObject) -> str:
    labels = pod.metadata.labels or {}
    name = labels.get("leaderworkerset.sigs.k8s.io/name")
    index = labels.get("leaderworkerset.sigs.k8s.io/group-index")
    return f"{name}/{index}" if name and index else ""


def _leader_or_worker(pod: PodObject) -> str:
    index = (pod.metadata.labels or {}).get("leaderworkerset.sigs.k8s.io/worker-index", "")
    return "leader" if index == "0" else "worker" if index else ""


def _kueue(pod: PodObject) -> str:
    """Pods of a group that is admitted fast come one by one, and are no gang for that."""
    annotations = pod.metadata.annotations or {}
    if annotations.get("kueue.x-k8s.io/pod-group-fast-admission") == "true":
        return ""
    return (pod.metadata.labels or {}).get("kueue.x-k8s.io/pod-group-name", "")


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
        _annotation("volcano.sh/task-spec"),
    ),
    GangSource(
        "kueue",
        _kueue,
        _number(_annotation("kueue.x-k8s.io/pod-group-total-count")),
    ),
    GangSource("kai", _annotation("pod-group-name"), groups=("PodGroup.scheduling.run.ai",),
               role=_label("kai.scheduler/subgroup-name")),
    GangSource(
        "koordinator",
        _annotation("gang.scheduling.koordinator.sh/name"),
        _number(_annotation("gang.scheduling.koordinator.sh/min-available")),
    ),
    GangSource(
        "leaderworkerset",
        _leader_worker_set,
        _number(_annotation("leaderworkerset.sigs.k8s.io/size")),
        ("LeaderWorkerSet.leaderworkerset.x-k8s.io",),
        _leader_or_worker,
    ),
    # Kubeflow Trainer v2 runs its TrainJobs as JobSets.
    GangSource(
        "jobset",
        _label("jobset.sigs.k8s.io/jobset-name"),
        groups=("JobSet.jobset.x-k8s.io", "TrainJob.trainer.kubeflow.org"),
        role=_label("jobset.sigs.k8s.io/replicatedjob-name"),
    ),
    GangSource(
        "kubeflow",
        _label("training.kubeflow.org/job-name"),
        groups=tuple(f"{kind}.kubeflow.org" for kind in
                     ("PyTorchJob", "TFJob", "MPIJob", "XGBoostJob", "PaddleJob", "JAXJob")),
        role=_label("training.kubeflow.org/replica-type", "training.kubeflow.org/job-role"),
    ),
    GangSource(
        "volcano-job",
        _label("volcano.sh/job-name"),
        groups=("Job.batch.volcano.sh",),
        role=_annotation("volcano.sh/task-spec"),
    ),
    GangSource("indexed-job", _indexed_job, groups=("Job.batch",)),
)  # fmt: skip
"""Conventions in the order in which they are tried: the most explicit one wins."""


_stated = _number(_annotation(SIZE_ANNOTATION))


def gang_refs(pod: PodObject) -> list[GangRef]:
    """Every gang that a pod names; the first one is its own, the others may tell of its role.

    ``snugfit.io/gang-size`` overrides the size that the pod states otherwise.
    """
    metadata, spec = pod.metadata, pod.spec
    if (
        spec.scheduling_group is None
        and spec.workload_ref is None
        and (not metadata.labels or _KEYS.isdisjoint(metadata.labels))
        and (not metadata.annotations or _KEYS.isdisjoint(metadata.annotations))
    ):
        return []
    stated, namespace = _stated(pod), pod.metadata.namespace or "default"
    return [
        GangRef(
            GangKey(source.system, namespace, name),
            stated or source.size(pod),
            source.role(pod).lower(),
        )
        for source in GANG_SOURCES
        if (name := source.name(pod))
    ]


def gang_ref(pod: PodObject) -> GangRef | None:
    """The gang that a pod is in, or None."""
    return next(iter(gang_refs(pod)), None)


def gang_key(pod: PodObject) -> GangKey | None:
    """The gang that the pod names."""
    ref = gang_ref(pod)
    return ref.key if ref is not None else None


def stated_size(pod: PodObject) -> int:
    """Members that its gang needs, as far as the pod says; else 0."""
    ref = gang_ref(pod)
    return ref.size if ref is not None else 0


def shared_key(key: GangKey) -> GangKey:
    """Under which an object states what holds for this gang and for others like it.

    A 1.35 Workload speaks for all replicas of a pod group, a LeaderWorkerSet for all its groups.
    """
    parts = key.name.split("/")
    kept = len(parts) - (key.system == "leaderworkerset") if key.system != _REPLICATED else 2
    return replace(key, name="/".join(parts[:kept]), stage="")
