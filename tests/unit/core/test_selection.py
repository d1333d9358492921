"""Node selection rules as the Kubernetes API reference states them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.model import (
    Node,
    NodeSelection,
    Reason,
    Requirement,
    SelectorTerm,
    Taint,
    Toleration,
)
from scheduler.core.selection import Admission, admits, selects, tolerates
from tests.builders import node, pod

ZONED = node(
    "n1",
    labels={
        "zone": "a",
        "rank": "7",
        "word": "x",
        "plus": "+5",
        "spaced": " 5",
        "grouped": "1_000",
    },
)


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
        ("zone", "NotIn", (), False),
        ("zone", "Exists", ("a",), False),
        ("missing", "DoesNotExist", ("a",), False),
        ("plus", "Gt", ("4",), True),
        ("spaced", "Gt", ("1",), False),
        ("grouped", "Gt", ("1",), False),
        ("rank", "Lt", (str(1 << 63),), False),
        ("rank", "Lt", (str((1 << 63) - 1),), True),
        ("rank", "Gt", ("-" + "9" * 5000,), False),
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
    for operator, values, matches in (
        ("NotIn", ("n2",), True),
        ("In", ("n1", "n2"), False),  # a field is compared to one value
        ("Exists", (), False),
        ("Gt", ("1",), False),
    ):
        term = SelectorTerm(fields=(Requirement("metadata.name", operator, values),))
        assert selects(NodeSelection(terms=(term,)), ZONED) is matches
    other = SelectorTerm(fields=(Requirement("spec.unschedulable", "In", ("true",)),))
    assert not selects(NodeSelection(terms=(other,)), ZONED)


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


@pytest.mark.parametrize(
    ("operator", "asked", "stated", "tolerated"),
    [
        ("Gt", "950", "990", True),
        ("Gt", "950", "950", False),
        ("Lt", "950", "949", True),
        ("Lt", "950", "990", False),
        ("Gt", "-5", "0", True),
        ("Gt", "0950", "990", False),
        ("Gt", "950", "+990", False),
        ("Lt", "950", "soon", False),
        ("Gt", "", "990", False),
        ("Gt", "1", "9" * 30, False),
        ("Unlike", "950", "990", False),
    ],
)
def test_tolerations_that_compare(operator: str, asked: str, stated: str, tolerated: bool) -> None:
    toleration = Toleration("sla", operator, asked)
    assert tolerates(toleration, Taint("sla", stated)) is tolerated
    assert not tolerates(toleration, Taint("other", stated))


def test_a_node_that_is_not_ready_keeps_pods_out_by_its_taint() -> None:
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        lost = node(taints=(Taint("gpu"), Taint(key)))
        assert admits(lost, pod()) is Reason.NODE_NOT_READY
        stays = Toleration(key, "Exists", effect="NoExecute")
        assert admits(lost, pod(selection=NodeSelection(tolerations=(stays,)))) is (
            Reason.NODE_NOT_READY
        )
        enters = (Toleration(key, "Exists"), Toleration("gpu", "Exists"))
        assert admits(lost, pod(selection=NodeSelection(tolerations=enters))) is Reason.FITS


def test_admission_reports_the_first_obstacle() -> None:
    tolerant = pod(selection=NodeSelection(tolerations=(Toleration("", "Exists"),)))
    assert admits(node(unschedulable=True), pod()) is Reason.NODE_UNSCHEDULABLE
    assert admits(node(unschedulable=True), tolerant) is Reason.FITS
    tainted = node(taints=(Taint("gpu"),))
    assert admits(tainted, pod()) is Reason.NODE_TAINTED
    assert admits(tainted, tolerant) is Reason.FITS
    assert admits(node(taints=(Taint("x", "", "PreferNoSchedule"),)), pod()) is Reason.FITS
    picky = pod(selection=NodeSelection(node_selector=(("zone", "b"),)))
    assert admits(ZONED, picky) is Reason.NODE_NOT_SELECTED


_KEYS = st.sampled_from(["a", "b", "node.kubernetes.io/not-ready"])
_VALUES = st.sampled_from(["", "1", "2", "x"])
_OPERATORS = st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"])
_EFFECTS = st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"])
_NODES = st.lists(
    st.builds(
        lambda labels, taints, cordoned: (labels, tuple(taints), cordoned),
        st.dictionaries(_KEYS, _VALUES, max_size=2),
        st.lists(st.builds(Taint, _KEYS, _VALUES, _EFFECTS), max_size=2),
        st.booleans(),
    ),
    max_size=5,
)
_RULES = st.builds(Requirement, _KEYS, _OPERATORS, st.lists(_VALUES, max_size=2).map(tuple))
_FIELDS = st.builds(
    Requirement,
    st.just("metadata.name"),
    st.sampled_from(["In", "NotIn"]),
    st.lists(st.sampled_from(["n0", "n1", "gone"]), max_size=2).map(tuple),
)
_TERMS = st.builds(
    SelectorTerm,
    st.lists(_RULES, max_size=2).map(tuple),
    st.lists(_FIELDS, max_size=1).map(tuple),
)
_SELECTIONS = st.builds(
    NodeSelection,
    st.dictionaries(_KEYS, _VALUES, max_size=1).map(lambda d: tuple(d.items())),
    st.lists(_TERMS, max_size=2).map(tuple),
    st.lists(
        st.builds(
            Toleration,
            _KEYS,
            st.sampled_from(["Equal", "Exists", "Gt", "Lt"]),
            _VALUES,
            st.sampled_from(["", "NoSchedule"]),
        ),
        max_size=2,
    ).map(tuple),
)


@given(stated=_NODES, selections=st.lists(_SELECTIONS, min_size=1, max_size=3))
def test_what_is_remembered_of_a_cluster_is_what_each_node_says(
    stated: list[tuple[dict[str, str], tuple[Taint, ...], bool]], selections: list[NodeSelection]
) -> None:
    nodes: list[Node | None] = [
        node(f"n{index}", labels=labels, taints=taints, unschedulable=cordoned)
        for index, (labels, taints, cordoned) in enumerate(stated)
    ]
    admission = Admission([*nodes, None])
    for selection in [*selections, *selections]:
        codes = admission.codes(selection)
        for row, one in enumerate(nodes):
            assert one is not None
            found = Reason.FITS if codes is None else Reason.of(int(codes[row]))
            assert found is admits(one, pod(selection=selection))


@pytest.mark.parametrize(
    ("offers", "asked", "verdict"),
    [
        (("nvidia.com/gpu",), ("nvidia.com/gpu",), Reason.FITS),
        (("nvidia.com/gpu",), ("snugfit.io/gpu-milli",), Reason.DEVICE_KIND_MISSING),
        (("snugfit.io/gpu-milli",), ("nvidia.com/gpu",), Reason.DEVICE_KIND_MISSING),
        (("a", "b"), ("b",), Reason.FITS),
        (("a", "b"), ("b", "c"), Reason.DEVICE_KIND_MISSING),
        ((), ("nvidia.com/gpu",), Reason.FITS),  # a file without names, or devices by claim
        (("nvidia.com/gpu",), (), Reason.FITS),
    ],
)
def test_devices_are_asked_for_by_a_name_that_the_node_offers(
    offers: tuple[str, ...], asked: tuple[str, ...], verdict: Reason
) -> None:
    one = replace(node("n", gpus=1), offers=offers)
    request = pod("p", selection=NodeSelection(resources=asked))
    assert admits(one, request) is verdict
    codes = Admission([one, None]).codes(request.selection)
    assert verdict is Reason.FITS if codes is None else codes.tolist()[0] == verdict.code


@given(
    stated=st.lists(st.tuples(_NODES, _NODES), min_size=1, max_size=3),
    selections=st.lists(_SELECTIONS, min_size=1, max_size=3),
)
def test_what_is_remembered_follows_nodes_that_come_change_and_go(
    stated: list, selections: list[NodeSelection]
) -> None:
    admission, most = Admission([]), 0
    for before, now in stated:
        for listed in (before, now):
            nodes: list[Node | None] = [
                node(f"n{index}", labels=labels, taints=taints, unschedulable=cordoned)
                if index % 4 != 3
                else None
                for index, (labels, taints, cordoned) in enumerate(listed)
            ]
            nodes += [None] * (most - len(nodes))
            most = len(nodes)
            admission.update(range(len(nodes)), nodes)
            fresh = Admission(nodes)
            for selection in selections:
                codes, expected = admission.codes(selection), fresh.codes(selection)
                found = [0] * len(nodes) if codes is None else codes.tolist()
                assert found == ([0] * len(nodes) if expected is None else expected.tolist())
