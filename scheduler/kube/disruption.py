"""Which running pods may be disturbed, at what cost, and within which budgets.

A pod may be moved if something will start it again: it has a controller that is not bound to the
node. A pod that is to be left alone says so by the annotations that the autoscalers read. What is
critical to the cluster itself is never moved.

Whom budgets guard is what the Eviction API makes of it: it asks no budget about a pod that has not
started or is going anyway, lets a pod that is not ready go where its budget says so or is met, and
evicts no pod that is covered by more than one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from scheduler.core.model import Node as _Labelled
from scheduler.core.model import NodeSelection, SelectorTerm
from scheduler.core.selection import selects
from scheduler.kube.objects import Expression, Metadata, PodObject
from scheduler.kube.pod_requests import pod_uid
from scheduler.kube.selectors import requirements

__all__ = [
    "CRITICAL",
    "Budget",
    "BudgetObject",
    "budget_decoder",
    "budgets_of",
    "covers",
    "held_by_several",
    "move_cost",
]

BASE_COST = 2
_WORK_LOST = 8
"""What restarting a pod of a Job costs more: it begins again, and its Job counts a failure."""
CRITICAL = 2_000_000_000
"""Priority of ``system-cluster-critical``; no PriorityClass of a user may have as much."""
_MOST_EXTRA = 1000
_BOUND_TO_NODE = frozenset({"DaemonSet", "Node"})


class LabelSelector(msgspec.Struct, rename="camel"):
    """A label selector."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Expression] | None = None


class BudgetSpec(msgspec.Struct, rename="camel"):
    """The part of a PodDisruptionBudget's spec that says whom it guards."""

    selector: LabelSelector | None = None
    unhealthy_pod_eviction_policy: str | None = None


class BudgetStatus(msgspec.Struct, rename="camel"):
    """What the disruption controller has worked out."""

    disruptions_allowed: int = 0
    observed_generation: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0


class BudgetMetadata(Metadata):
    """Metadata with the number of changes of the spec."""

    generation: int = 0


class BudgetObject(msgspec.Struct, rename="camel"):
    """A PodDisruptionBudget."""

    metadata: BudgetMetadata
    spec: BudgetSpec | None = None
    status: BudgetStatus | None = None

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.metadata.namespace or 'default'}/{self.metadata.name}"


budget_decoder = msgspec.json.Decoder(BudgetObject)


@dataclass(frozen=True, slots=True)
class Budget:
    """At most ``allowed`` of these pods may be disturbed."""

    name: str
    uids: frozenset[str]
    allowed: int


def move_cost(pod: PodObject) -> int | None:
    """Cost of restarting a running pod elsewhere, or None if it has to stay.

    2, of a Job's pod 10, plus a hundredth of ``controller.kubernetes.io/pod-deletion-cost`` where
    that is positive.
    """
    metadata = pod.metadata
    annotations = metadata.annotations or {}
    owners = [owner for owner in metadata.owner_references or () if owner.controller]
    stays = (
        not owners
        or any(owner.kind in _BOUND_TO_NODE for owner in owners)
        or "kubernetes.io/config.mirror" in annotations
        or annotations.get("karpenter.sh/do-not-disrupt") == "true"
        or annotations.get("cluster-autoscaler.kubernetes.io/safe-to-evict") == "false"
        or metadata.deletion_timestamp is not None
        or (pod.spec.priority or 0) >= CRITICAL
    )
    if stays:
        return None
    text = annotations.get("controller.kubernetes.io/pod-deletion-cost", "0")
    try:
        extra = int(text)
    except ValueError:
        extra = 0  # the API says so: an unreadable cost counts as 0
    work = _WORK_LOST if any(owner.kind == "Job" for owner in owners) else 0
    return BASE_COST + work + max(0, min(extra, _MOST_EXTRA)) // 100


def held_by_several(
    budgets: Iterable[BudgetObject], pods: Iterable[PodObject]
) -> dict[str, tuple[str, ...]]:
    """Keys of the budgets by uid, for pods that nobody can evict as several cover them."""
    guarded = [pod for pod in pods if pod.spec.node_name and not _unguarded(pod)]
    found: dict[str, tuple[str, ...]] = {}
    for budget in budgets:
        for pod in guarded:
            if covers(budget, pod.metadata.namespace or "default", pod.metadata.labels or {}):
                uid = pod_uid(pod)
                found[uid] = (*found.get(uid, ()), budget.key)
    return {uid: keys for uid, keys in found.items() if len(keys) > 1}


def budgets_of(budgets: Iterable[BudgetObject], pods: Iterable[PodObject]) -> list[Budget]:
    """Budgets with the uids of the running pods whose eviction they count."""
    guarded = [pod for pod in pods if pod.spec.node_name and not _unguarded(pod)]
    made = []
    for budget in budgets:
        uids = frozenset(
            pod_uid(pod)
            for pod in guarded
            if covers(budget, pod.metadata.namespace or "default", pod.metadata.labels or {})
            and not _let_go(budget, pod)
        )
        status = budget.status or BudgetStatus()
        current = status.observed_generation >= budget.metadata.generation
        # Until its controller has seen a change, nobody is evicted by what it said before.
        made.append(Budget(budget.key, uids, status.disruptions_allowed if current else 0))
    return made


def _unguarded(pod: PodObject) -> bool:
    """Whether the Eviction API asks no budget about a pod at all."""
    starting = pod.status is not None and pod.status.phase == "Pending"
    return starting or pod.metadata.deletion_timestamp is not None


def _let_go(budget: BudgetObject, pod: PodObject) -> bool:
    """Whether a budget lets a pod go for not being ready, without counting it."""
    conditions = (pod.status.conditions if pod.status else None) or ()
    if any(c.type == "Ready" and c.status == "True" for c in conditions):
        return False
    if budget.spec and budget.spec.unhealthy_pod_eviction_policy == "AlwaysAllow":
        return True
    status = budget.status or BudgetStatus()
    return status.current_healthy >= status.desired_healthy > 0


def covers(budget: BudgetObject, namespace: str, labels: Mapping[str, str]) -> bool:
    """Whether the budget is about pods with these labels.

    A budget without a selector selects no pod, one with an empty selector all of its namespace.
    """
    selector = budget.spec.selector if budget.spec else None
    if selector is None or (budget.metadata.namespace or "default") != namespace:
        return False
    rules = requirements(selector.match_expressions)
    selection = NodeSelection(
        tuple((selector.match_labels or {}).items()), (SelectorTerm(rules),) if rules else ()
    )
    return selects(selection, _Labelled("pod", 0, 0, labels=labels))
