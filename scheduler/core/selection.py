"""Which pods a node lets in: taints, cordons, selectors, names of resources.

The one place that decides it: for dry runs, simulations, plans and the validator. kube-scheduler
has decided it before it calls the extender, so the webhook's hot path does not ask again. Semantics
are those of its filters: a node that is not ready keeps pods out by the taint that the node
lifecycle controller gives it, not by its condition.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

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
_NAMES = "\0name"  # no label is called that
_MOST_REMEMBERED = 256
_MOST_CHANGES = 1 << 12
_MOST_LABELS = 64
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
        self._begin(nodes)

    def _begin(self, nodes: Sequence[Node | None]) -> None:
        self._nodes = list(nodes)
        self._kinds: dict[_Kind, int] = {(False, (), ()): 0}
        self._kind = np.array([self._kind_of(node) for node in nodes], dtype=np.intp)
        self._empty = np.array([node is None for node in nodes], dtype=bool)
        self._labels: OrderedDict[str, _LabelColumn] = OrderedDict()
        self._known: OrderedDict[NodeSelection, tuple[NDArray[np.int8], int]] = OrderedDict()
        self._changes: list[int] = []  # rows that have changed since codes were remembered

    def __len__(self) -> int:
        return len(self._known)

    def update(self, rows: Iterable[int], nodes: Sequence[Node | None]) -> None:
        """Look again at these rows, some of which may have another node than before.

        Parameters
        ----------
        rows
            All that have changed.
        nodes
            A node per row, as at first; there may be more rows.
        """
        if len(self._kinds) > len(nodes) + _MOST_REMEMBERED:
            self._begin(nodes)  # taints that come and go would be remembered for ever
            return
        more = len(nodes) - len(self._nodes)
        if more:
            self._nodes += [None] * more
            self._kind = np.pad(self._kind, (0, more))
            self._empty = np.pad(self._empty, (0, more), constant_values=True)
            for column in self._labels.values():
                column.grow(more)
        for row in rows:
            node = nodes[row]
            if self._nodes[row] is node:
                continue
            self._nodes[row], self._empty[row] = node, node is None
            self._kind[row] = self._kind_of(node)
            for column in self._labels.values():
                column.put(row, node)
            self._changes.append(row)
        for key in [key for key, column in self._labels.items() if column.crowded]:
            del self._labels[key]
        if more or len(self._changes) > _MOST_CHANGES:
            self._known.clear()
            self._changes.clear()

    def codes(self, selection: NodeSelection) -> NDArray[np.int8] | None:
        """Code of :class:`Reason` per row, as :func:`admits` says it; None if all let the pod in.

        The array is shared: nobody may write to it.
        """
        asks = selection.terms or selection.node_selector or selection.volumes
        if len(self._kinds) == 1 and not asks:
            return None
        found, position = self._known.get(selection, (None, 0))
        changed = sorted(set(self._changes[position:]))
        if found is None:
            found = self._codes(selection)
        elif changed:
            found = found.copy()
            for row in changed:
                found[row] = self._code(selection, row)
        self._known[selection] = found, len(self._changes)
        self._known.move_to_end(selection)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return found

    def _kind_of(self, node: Node | None) -> int:
        if node is None:
            return 0
        kind = (node.unschedulable, node.taints, _offered(node))
        return self._kinds.setdefault(kind, len(self._kinds))

    def _code(self, selection: NodeSelection, row: int) -> int:
        """The code of one row."""
        node = self._nodes[row]
        if node is not None:
            cordoned, taints, offers = node.unschedulable, node.taints, _offered(node)
        else:
            cordoned, taints, offers = False, (), ()
        if _lacks(offers, selection):
            return Reason.DEVICE_KIND_MISSING.code
        code = _obstacle(taints, selection.tolerations, cordoned=cordoned).code
        if code != _FITS or node is None:
            return code
        if not selects(selection, node):
            return _NOT_SELECTED
        return _FITS if _reaches(selection, node) else Reason.VOLUME_ELSEWHERE.code

    def _codes(self, selection: NodeSelection) -> NDArray[np.int8]:
        per_kind = [
            Reason.DEVICE_KIND_MISSING.code
            if _lacks(offers, selection)
            else _obstacle(taints, selection.tolerations, cordoned=cordoned).code
            for cordoned, taints, offers in self._kinds
        ]
        codes = np.array(per_kind, dtype=np.int8)[self._kind]
        if selection.terms or selection.node_selector:
            chosen = self._empty | self._chosen(selection)
            codes[(codes == _FITS) & ~chosen] = _NOT_SELECTED
        for volume in selection.volumes:
            reached = self._empty | self._any_term(volume)
            codes[(codes == _FITS) & ~reached] = Reason.VOLUME_ELSEWHERE.code
        return codes

    def _chosen(self, selection: NodeSelection) -> NDArray[np.bool_]:
        """Rows that :func:`selects` says yes to, (N,)."""
        chosen = np.ones(len(self._nodes), dtype=bool)
        for key, value in selection.node_selector:
            chosen &= self._label(key).is_one_of((value,))
        return chosen & self._any_term(selection.terms) if selection.terms else chosen

    def _any_term(self, terms: tuple[SelectorTerm, ...]) -> NDArray[np.bool_]:
        found = np.zeros(len(self._nodes), dtype=bool)
        for term in terms:
            if not term.expressions and not term.fields:
                continue  # an empty term selects nothing (API reference)
            matches = np.ones(len(self._nodes), dtype=bool)
            for rule in term.fields:
                column = self._label(_NAMES)
                if rule.operator == "In" and len(rule.values) == 1:
                    matches &= column.is_one_of(rule.values)
                else:
                    matches &= column.holds(partial(_name_matches, rule))
            for rule in term.expressions:
                column = self._label(rule.key)
                if rule.operator == "In":
                    matches &= column.is_one_of(rule.values)
                else:
                    matches &= column.holds(partial(_value_matches, rule))
            found |= matches
        return found

    def _label(self, key: str) -> _LabelColumn:
        found = self._labels.get(key)
        if found is None:
            found = self._labels[key] = _LabelColumn(key, self._nodes)
            if len(self._labels) > _MOST_LABELS:
                self._labels.popitem(last=False)
        else:
            self._labels.move_to_end(key)
        return found


class _LabelColumn:
    """Values of one label by row; ``_NAMES`` is as a label that has the node's name."""

    def __init__(self, key: str, nodes: Sequence[Node | None]) -> None:
        self._key = key
        self._code_of: dict[str | None, int] = {None: 0}
        self._codes = np.zeros(len(nodes), dtype=np.int32)
        for row, node in enumerate(nodes):
            self.put(row, node)

    @property
    def crowded(self) -> bool:
        """Whether many values are known that no row has any more."""
        return len(self._code_of) > 2 * len(self._codes) + _MOST_REMEMBERED

    def grow(self, rows: int) -> None:
        """So many more rows, which are empty."""
        self._codes = np.pad(self._codes, (0, rows))

    def put(self, row: int, node: Node | None) -> None:
        """The row has this node."""
        value = None
        if node is not None:
            value = node.name if self._key == _NAMES else node.labels.get(self._key)
        self._codes[row] = self._code_of.setdefault(value, len(self._code_of))

    def is_one_of(self, values: Iterable[str]) -> NDArray[np.bool_]:
        """Rows with one of these values, (N,)."""
        found = np.zeros(len(self._codes), dtype=bool)
        for value in values:
            code = self._code_of.get(value)
            if code is not None:
                found |= self._codes == code
        return found

    def holds(self, rule: Callable[[str | None], bool]) -> NDArray[np.bool_]:
        """Rows for whose value a rule says yes, (N,); None is no value."""
        return np.array([rule(value) for value in self._code_of], dtype=bool)[self._codes]


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


def _name_matches(rule: Requirement, name: str | None) -> bool:
    return name is not None and _field_matches(rule, name)


def _value_matches(rule: Requirement, value: str | None) -> bool:
    return _matches(rule, {} if value is None else {rule.key: value})


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
        return False  # a label that is not an integer matches neither Gt nor Lt
    return left > right if rule.operator == "Gt" else left < right


def _integer(text: str) -> int | None:
    """A 64-bit integer as Go reads it; None if it is none."""
    number = int(text) if _INTEGER.fullmatch(text) else None
    return number if number is not None and number in _INT64 else None


def _canonical(text: str) -> int | None:
    """A 64-bit integer in the one spelling that comparing tolerations take; None if it is none."""
    return _integer(text) if _CANONICAL.fullmatch(text) else None
