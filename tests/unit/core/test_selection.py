"""Node selection rules as the Kubernetes API reference states them."""

from __future__ import annotations

import pytest

from scheduler.core.model import (
    NodeSelection,
    Reason,
    Requirement,
    SelectorTerm,
    Taint,
    Toleration,
)
from scheduler.core.selection import admits, selects, tolerates
from tests.builders import node, pod

ZONED = node("n1", labels={"zone": "a", "rank": "7", "word": "x"})


def _term(key: str, operator: str, *values: str) -> NodeSelection:
    return NodeSelection(terms=(SelectorTerm((Requirement(key, operator, values),)),))


@pytest.mark.parametrize(
    ("key", "operator", "values", "matches"),
    [
        ("zone", "In", ("a", "b"), True),
        ("zone", "In", ("b",), False),
        ("missing", "In", ("a",), False),
        ("zone", "NotIn", ("a",), False),
        ("missing", "NotIn", ("a",), True),
        ("zone", "Exists", (), True),
        ("missing", "Exists", (), False),
        ("missing", "DoesNotExist", (), True),
        ("zone", "DoesNotExist", (), False),
        ("rank", "Gt", ("6",), True),
        ("rank", "Gt", ("7",), False),
        ("rank", "Lt", ("8",), True),
        ("word", "Lt", ("8",), False),
        ("rank", "Gt", ("6", "5"), False),
        ("missing", "Gt", ("6",), False),
        ("zone", "Like", ("a",), False),
    ],
)
def test_expressions(key: str, operator: str, values: tuple[str, ...], matches: bool) -> None:
    assert selects(_term(key, operator, *values), ZONED) is matches


def test_terms_are_alternatives_and_expressions_are_not() -> None:
    zone_a = Requirement("zone", "In", ("a",))
    rank_8 = Requirement("rank", "In", ("8",))
    both = SelectorTerm((zone_a, rank_8))
    assert not selects(NodeSelection(terms=(both,)), ZONED)
    assert selects(NodeSelection(terms=(both, SelectorTerm((zone_a,)))), ZONED)
    assert not selects(NodeSelection(terms=(SelectorTerm(),)), ZONED)


def test_fields_match_the_name() -> None:
    by_name = SelectorTerm(fields=(Requirement("metadata.name", "In", ("n1",)),))
    assert selects(NodeSelection(terms=(by_name,)), ZONED)
    assert not selects(NodeSelection(terms=(by_name,)), node("n2"))


def test_node_selector_needs_every_label() -> None:
    assert selects(NodeSelection(node_selector=(("zone", "a"), ("rank", "7"))), ZONED)
    assert not selects(NodeSelection(node_selector=(("zone", "a"), ("rank", "8"))), ZONED)


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        (Toleration("gpu", "Exists"), True),
        (Toleration("gpu", "Equal", "yes"), True),
        (Toleration("gpu", "Equal", "no"), False),
        (Toleration("other", "Exists"), False),
        (Toleration("", "Exists"), True),
        (Toleration("", "Equal"), False),
        (Toleration("gpu", "Exists", effect="NoExecute"), False),
        (Toleration("gpu", "Exists", effect="NoSchedule"), True),
    ],
)
def test_tolerations(toleration: Toleration, tolerated: bool) -> None:
    assert tolerates(toleration, Taint("gpu", "yes", "NoSchedule")) is tolerated


def test_admission_reports_the_first_obstacle() -> None:
    tolerant = pod(selection=NodeSelection(tolerations=(Toleration("", "Exists"),)))
    assert admits(node(ready=False), tolerant) is Reason.NODE_NOT_READY
    assert admits(node(unschedulable=True), pod()) is Reason.NODE_UNSCHEDULABLE
    assert admits(node(unschedulable=True), tolerant) is Reason.FITS
    tainted = node(taints=(Taint("gpu"),))
    assert admits(tainted, pod()) is Reason.NODE_TAINTED
    assert admits(tainted, tolerant) is Reason.FITS
    assert admits(node(taints=(Taint("x", "", "PreferNoSchedule"),)), pod()) is Reason.FITS
    picky = pod(selection=NodeSelection(node_selector=(("zone", "b"),)))
    assert admits(ZONED, picky) is Reason.NODE_NOT_SELECTED
