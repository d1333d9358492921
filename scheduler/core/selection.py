"""Which pods a node lets in: taints, cordons, selectors, names of resources.

The one place that decides it: for dry runs, simulations, plans and the referee. kube-scheduler has
decided it before it calls the extender, so the webhook's hot path does not ask again. Semantics
are those of its filters: a node that is not ready keeps pods out by the taint that the node
lifecycle controller gives it, not by its condition.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

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

__all__ = ["IN_DOUBT", "NOT_READY", "Admission", "admits", "selects", "tolerates"]

NOT_READY = "node.kubernetes.io/not-ready"
"""Key of the taint on a node whose kubelet says that it is not ready."""

IN_DOUBT = Taint("snugfit.io/not-understood")
"""What an offline cluster's node has where something runs that nobody can count: no pod tolerates
it."""

_UNREACHABLE = "node.kubernetes.io/unreachable"
_CORDONED = Taint("node.kubernetes.io/unschedulable")
_REPELLING = ("NoSchedule", "NoExecute")
_NAME = "metadata.name"
_MOST_REMEMBERED = 256
_Kind = tuple[bool, tuple[Taint, ...], tuple[str, ...]]
"""Whether a node is cordoned, its taints, and the names of devices that it offers."""

_FITS = Reason.FITS.code
_NOT_SELECTED = Reason.NODE_NOT_SELECTED.code

# What strconv.ParseInt takes, and what a comparing toleration or its taint may say.
_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
_CANONICAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
_INT64 = range(-(1 << 63), 1 << 63)


def admits(node: Node, request: PodRequest) -> Reason:
    """Whether the node's own rules let the pod in, before any capacity is looked at.

    Returns
    -------
    Reason
        ``FITS``, ``DEVICE_KIND_MISSING``, ``NODE_IN_DOUBT``, ``NODE_NOT_READY``,
        ``NODE_UNSCHEDULABLE``, ``NODE_TAINTED``, ``NODE_NOT_SELECTED`` or ``VOLUME_ELSEWHERE``.
    """
    selection = request.selection
    if node.offers and _lacks(_offered(node), selection):
        return Reason.DEVICE_KIND_MISSING
    if node.taints or node.unschedulable:
        obstacle = _obstacle(node.taints, selection.tolerations, cordoned=node.unschedulable)
        if obstacle is not Reason.FITS:
            return obstacle
    if not selects(selection, node):
        return Reason.NODE_NOT_SELECTED
    return Reason.FITS if _reaches(selection, node) else Reason.VOLUME_ELSEWHERE


def selects(selection: NodeSelection, node: Node) -> bool:
    """Whether nodeSelector and required node affinity match the node."""
    if any(node.labels.get(key) != value for key, value in selection.node_selector):
        return False
    return not selection.terms or any(_term_matches(term, node) for term in selection.terms)


def _offered(node: Node) -> tuple[str, ...]:
    """Names by which devices may be asked for; none where any will do."""
    return (*node.offers, *node.by_dra) if node.offers else ()


def _lacks(offers: tuple[str, ...], selection: NodeSelection) -> bool:
    """Whether devices are asked for by a name that is not among those that the node offers.

    One that offers none has its devices from a file without names, or by a claim.
    """
    return bool(offers) and any(name not in offers for name in selection.resources)


def _reaches(selection: NodeSelection, node: Node) -> bool:
    """Whether every volume can be had on the node; one without alternatives can nowhere."""
    return all(any(_term_matches(term, node) for term in one) for one in selection.volumes)


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether one toleration tolerates one taint.

    ``Gt`` and ``Lt`` are alpha in Kubernetes 1.35: an API server admits them where they are on.
    """
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    match toleration.operator:
        case "Exists":
            return True
        case "" | "Equal":
            return bool(toleration.key) and toleration.value == taint.value
        case "Gt" | "Lt":
            stated, asked = (_canonical(text) for text in (taint.value, toleration.value))
            if stated is None or asked is None:
                return False
            return stated > asked if toleration.operator == "Gt" else stated < asked
        case _:
            return False  # the API server admits no other operator


class Admission:
    """Which of some nodes let which pods in, remembered per set of rules.

    Parameters
    ----------
    nodes
        A node per row; None for an empty row, which no rule closes.
    """

    def __init__(self, nodes: Sequence[Node | None]) -> None:
        self._nodes = nodes
        self._kinds: dict[_Kind, int] = {(False, (), ()): 0}
        self._kind = np.array(
            [
                self._kinds.setdefault(
                    (node.unschedulable, node.taints, _offered(node)), len(self._kinds)
                )
                if node
                else 0
                for node in nodes
            ],
            dtype=np.intp,
        )
        self._rows: dict[str, int] | None = None
        self._known: OrderedDict[NodeSelection, NDArray[np.int8]] = OrderedDict()

    def codes(self, selection: NodeSelection) -> NDArray[np.int8] | None:
        """Code of :class:`Reason` per row, as :func:`admits` says it; None if all let the pod in.

        The array is shared: nobody may write to it.
        """
        asks = selection.terms or selection.node_selector or selection.volumes
        if len(self._kinds) == 1 and not asks:
            return None
        found = self._known.get(selection)
        if found is None:
            found = self._known[selection] = self._codes(selection)
            if len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(selection)
        return found

    def __len__(self) -> int:
        return len(self._known)

    def _codes(self, selection: NodeSelection) -> NDArray[np.int8]:
        per_kind = [
            Reason.DEVICE_KIND_MISSING.code
            if _lacks(offers, selection)
            else _obstacle(taints, selection.tolerations, cordoned=cordoned).code
            for cordoned, taints, offers in self._kinds
        ]
        codes = np.array(per_kind, dtype=np.int8)[self._kind]
        if not selection.terms and not selection.node_selector:
            return self._reached(selection, codes)
        chosen = np.zeros(len(codes), dtype=bool)
        for row in self._selectable(selection, codes):
            node = self._nodes[row]
            chosen[row] = node is None or selects(selection, node)
        codes[(codes == _FITS) & ~chosen] = _NOT_SELECTED
        return self._reached(selection, codes)

    def _reached(self, selection: NodeSelection, codes: NDArray[np.int8]) -> NDArray[np.int8]:
        for row in np.flatnonzero(codes == _FITS).tolist() if selection.volumes else ():
            node = self._nodes[row]
            if node is not None and not _reaches(selection, node):
                codes[row] = Reason.VOLUME_ELSEWHERE.code
        return codes

    def _selectable(self, selection: NodeSelection, codes: NDArray[np.int8]) -> list[int]:
        """Rows worth a look: of a pod that names its nodes, as those of daemons do, only these."""
        names = _named(selection.terms)
        if names is None:
            return [int(row) for row in np.flatnonzero(codes == _FITS)]
        if self._rows is None:
            self._rows = {node.name: row for row, node in enumerate(self._nodes) if node}
        return [self._rows[name] for name in names if name in self._rows]


def _named(terms: tuple[SelectorTerm, ...]) -> set[str] | None:
    """Names of all nodes that could match; None unless every term names some."""
    names: set[str] = set()
    for term in terms:
        rule = next((r for r in term.fields if r.key == _NAME and r.operator == "In"), None)
        if rule is None:
            return None
        names.update(rule.values)
    return names if terms else None


def _obstacle(
    taints: tuple[Taint, ...], tolerations: tuple[Toleration, ...], *, cordoned: bool
) -> Reason:
    """What of a node keeps out a pod with these tolerations, or ``FITS``."""
    if IN_DOUBT in taints:
        return Reason.NODE_IN_DOUBT
    if cordoned and not any(tolerates(one, _CORDONED) for one in tolerations):
        return Reason.NODE_UNSCHEDULABLE
    found = Reason.FITS
    for taint in taints:
        if taint.effect in _REPELLING and not any(tolerates(one, taint) for one in tolerations):
            if taint.key in (NOT_READY, _UNREACHABLE):
                return Reason.NODE_NOT_READY
            found = Reason.NODE_TAINTED
    return found


def _term_matches(term: SelectorTerm, node: Node) -> bool:
    if not term.expressions and not term.fields:
        return False  # an empty term selects nothing (API reference)
    return all(_matches(rule, node.labels) for rule in term.expressions) and all(
        _field_matches(rule, node.name) for rule in term.fields
    )


def _field_matches(rule: Requirement, name: str) -> bool:
    """A rule on a field: the name is the only one there is, and it is compared to one value."""
    if rule.operator not in ("In", "NotIn") or len(rule.values) != 1:
        return False
    return _matches(rule, {_NAME: name})


def _matches(rule: Requirement, labels: Mapping[str, str]) -> bool:
    """A rule on a label; one that contradicts itself matches nothing."""
    value = labels.get(rule.key)
    match rule.operator:
        case "In":
            return value is not None and value in rule.values
        case "NotIn":
            return bool(rule.values) and (value is None or value not in rule.values)
        case "Exists":
            return value is not None and not rule.values
        case "DoesNotExist":
            return value is None and not rule.values
        case "Gt" | "Lt":
            return _compares(rule, value)
        case _:
            return False  # the API server admits no other operator


def _compares(rule: Requirement, value: str | None) -> bool:
    if value is None or len(rule.values) != 1:
        return False
    left, right = _integer(value), _integer(rule.values[0])
    if left is None or right is None:
        return False  # a label that is no integer matches neither Gt nor Lt
    return left > right if rule.operator == "Gt" else left < right


def _integer(text: str) -> int | None:
    """A 64-bit integer as Go reads it; None if it is none."""
    number = int(text) if _INTEGER.fullmatch(text) else None
    return number if number is not None and number in _INT64 else None


def _canonical(text: str) -> int | None:
    """A 64-bit integer in the one spelling that comparing tolerations take; None if it is none."""
    return _integer(text) if _CANONICAL.fullmatch(text) else None
