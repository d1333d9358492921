"""Which running pods may be disturbed, at what cost, and within which budgets.

A pod may be moved if something will start it again: it has a controller that is not bound to the
node. Whoever wants a pod left alone says so by the annotations that the autoscalers read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from scheduler.core.model import Node as _Labelled
from scheduler.core.model import NodeSelection, Requirement, SelectorTerm
from scheduler.core.selection import selects
from scheduler.kube.objects import Expression, Metadata, PodObject
from scheduler.kube.pods import pod_uid

__all__ = ["Budget", "BudgetObject", "budget_decoder", "budgets_of", "covers", "move_cost"]

BASE_COST = 2
_MOST_EXTRA = 1000
_BOUND_TO_NODE = frozenset({"DaemonSet", "Node"})


class LabelSelector(msgspec.Struct, rename="camel"):
    """A label selector."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Expression] | None = None


class BudgetSpec(msgspec.Struct, rename="camel"):
    """The part of a PodDisruptionBudget's spec that selects pods."""

    selector: LabelSelector | None = None


class BudgetStatus(msgspec.Struct, rename="camel"):
    """What the disruption controller has worked out."""

    disruptions_allowed: int = 0


class BudgetObject(msgspec.Struct, rename="camel"):
    """A PodDisruptionBudget."""

    metadata: Metadata
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

    2, plus a hundredth of ``controller.kubernetes.io/pod-deletion-cost`` where that is positive.
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
    )
    if stays:
        return None
    text = annotations.get("controller.kubernetes.io/pod-deletion-cost", "0")
    try:
        extra = int(text)
    except ValueError:
        extra = 0  # the API says so: an unreadable cost counts as 0
    return BASE_COST + max(0, min(extra, _MOST_EXTRA)) // 100


def budgets_of(budgets: Iterable[BudgetObject], pods: Iterable[PodObject]) -> list[Budget]:
    """Budgets with the uids of the running pods that they select."""
    running = [pod for pod in pods if pod.spec.node_name]
    made = []
    for budget in budgets:
        uids = frozenset(
            pod_uid(pod)
            for pod in running
            if covers(budget, pod.metadata.namespace or "default", pod.metadata.labels or {})
        )
        allowed = budget.status.disruptions_allowed if budget.status else 0
        made.append(Budget(budget.key, uids, allowed))
    return made


def covers(budget: BudgetObject, namespace: str, labels: Mapping[str, str]) -> bool:
    """Whether the budget is about pods with these labels.

    A budget without a selector selects no pod, one with an empty selector all of its namespace.
    """
    selector = budget.spec.selector if budget.spec else None
    if selector is None or (budget.metadata.namespace or "default") != namespace:
        return False
    rules = tuple(
        Requirement(rule.key, rule.operator, tuple(rule.values or ()))
        for rule in selector.match_expressions or ()
    )
    selection = NodeSelection(
        tuple((selector.match_labels or {}).items()), (SelectorTerm(rules),) if rules else ()
    )
    return selects(selection, _Labelled("pod", 0, 0, labels=labels))
