"""Node selection rules: nodeSelector, required node affinity, taints, cordons, readiness.

kube-scheduler has applied these before it calls the extender, so the webhook's hot path skips
them. The simulator, dry runs and planning apply them here. Semantics follow the Kubernetes API
reference for ``NodeSelectorRequirement`` and ``Toleration``.
"""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.core.model import (
    Node,
    NodeSelection,
    PodRequest,
    Reason,
    Requirement,
    SelectorTerm,
    Taint,
    Toleration,
)

__all__ = ["admits", "selects", "tolerates"]


def admits(node: Node, request: PodRequest) -> Reason:
    """Whether the node's own rules let the pod in, before any capacity is looked at.

    Returns
    -------
    Reason
        ``FITS``, ``NODE_NOT_READY``, ``NODE_UNSCHEDULABLE``, ``NODE_TAINTED`` or
        ``NODE_NOT_SELECTED``.
    """
    if not node.ready:
        return Reason.NODE_NOT_READY
    tolerations = request.selection.tolerations
    if node.unschedulable and not any(
        tolerates(toleration, Taint("node.kubernetes.io/unschedulable"))
        for toleration in tolerations
    ):
        return Reason.NODE_UNSCHEDULABLE
    for taint in node.taints:
        if taint.effect != "PreferNoSchedule" and not any(
            tolerates(toleration, taint) for toleration in tolerations
        ):
            return Reason.NODE_TAINTED
    return Reason.FITS if selects(request.selection, node) else Reason.NODE_NOT_SELECTED


def selects(selection: NodeSelection, node: Node) -> bool:
    """Whether nodeSelector and required node affinity match the node."""
    if any(node.labels.get(key) != value for key, value in selection.node_selector):
        return False
    return not selection.terms or any(_term_matches(term, node) for term in selection.terms)


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether one toleration tolerates one taint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def _term_matches(term: SelectorTerm, node: Node) -> bool:
    if not term.expressions and not term.fields:
        return False  # an empty term selects nothing (API reference)
    fields = {"metadata.name": node.name}
    return all(_matches(rule, node.labels) for rule in term.expressions) and all(
        _matches(rule, fields) for rule in term.fields
    )


def _matches(rule: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(rule.key)
    match rule.operator:
        case "In":
            return value is not None and value in rule.values
        case "NotIn":
            return value is None or value not in rule.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            return _compares(rule, value)
        case _:
            return False  # the API server admits no other operator


def _compares(rule: Requirement, value: str | None) -> bool:
    if value is None or len(rule.values) != 1:
        return False
    try:
        left, right = int(value), int(rule.values[0])
    except ValueError:
        return False  # a label that is no integer matches neither Gt nor Lt
    return left > right if rule.operator == "Gt" else left < right
