"""Plans under rules between pods, against everything that could be done on tiny clusters."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import (
    GangKey,
    Node,
    NodeSelection,
    PodRequest,
    Reason,
    Requirement,
    Taint,
)
from scheduler.core.neighbours import Neighbours
from scheduler.core.peers import HostPort, Peer, PeerTerm, PodSelector, Spread
from scheduler.core.state import ClusterState
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, Plan, Problem, Status
from tests.builders import node, pod
from tests.depth import examples
from tests.unit.planner.validator import executable, joins

_ZONE, _HOST = "zone", "host"


def _app(*names: str, namespaces: tuple[str, ...] | None = ("default",)) -> PodSelector:
    return PodSelector(namespaces, (Requirement("app", "In", names),))


def _labels(app: str) -> tuple[tuple[str, str], ...]:
    return (("app", app),)


selectors = st.sampled_from(
    [
        _app("web"),
        _app("db"),
        _app("web", "db"),
        _app("web", namespaces=None),
        PodSelector(None, ()),
        PodSelector((), ()),
        PodSelector(("default",), (Requirement("app", "NotIn", ("web",)),)),
        PodSelector(("default",), (Requirement("app", "Exists"),)),
        PodSelector(("other",), (Requirement("app", "DoesNotExist"),)),
    ]
)
terms = st.builds(PeerTerm, selectors, st.sampled_from([_ZONE, _HOST]))
spreads = st.builds(
    Spread,
    selectors,
    st.sampled_from([_ZONE, _HOST]),
    st.integers(1, 2),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
ports = st.builds(HostPort, st.just(80), st.just("TCP"), st.sampled_from(["0.0.0.0", "10.0.0.1"]))


@st.composite
def peers(draw) -> Peer | None:
    labels = draw(st.sampled_from([(), _labels("web"), _labels("db")]))
    rules: dict[str, tuple] = {}
    for name, values in (
        ("affinity", terms),
        ("anti_affinity", terms),
        ("spread", spreads),
        ("ports", ports),
        ("claims", st.sampled_from(["default/c"])),
    ):
        if draw(st.integers(0, 3)) == 0:
            rules[name] = tuple(draw(st.lists(values, min_size=1, max_size=2, unique=True)))
    return Peer(labels, leaving=draw(st.integers(0, 9)) == 0, **rules)


@st.composite
def clusters(draw) -> list[Node]:
    listed = []
    for number in range(draw(st.integers(1, 4))):
        labels = {_HOST: f"n{number}"}
        if draw(st.integers(0, 4)):
            labels[_ZONE] = draw(st.sampled_from(["z0", "z1"]))
        taints = (Taint("closed"),) if draw(st.integers(0, 6)) == 0 else ()
        listed.append(
            node(f"n{number}", cpu=draw(st.integers(1, 3)) * 1000, labels=labels, taints=taints)
        )
    return listed


@st.composite
def pods(draw, prefix: str, most: int) -> list[PodRequest]:
    listed: list[PodRequest] = []
    size = draw(st.integers(0, most))
    while len(listed) < size:
        peer = draw(peers())
        selection = NodeSelection(draw(st.sampled_from([(), (), (), ((_ZONE, "z0"),)])))
        namespace = draw(st.sampled_from(["default", "default", "other"]))
        for _ in range(draw(st.integers(1, 3))):
            name = f"{prefix}{len(listed)}"
            listed.append(
                PodRequest(
                    name, namespace, name, 1000, 1024, selection=selection, peer=peer,
                    priority=draw(st.sampled_from([0, 0, 0, 1])),
                )
            )  # fmt: skip
    return listed[:size]


@st.composite
def problems(draw, pending: int = 4, running: int = 2) -> Problem:
    nodes = draw(clusters())
    state = ClusterState(nodes)
    engine = Engine(state, "first-fit")
    movable = {}
    for one in draw(pods("r", running)):
        row = engine.best(one, selection=True)
        if row >= 0:
            engine.place_on(one, nodes[row].name)
            if draw(st.booleans()) and not (one.peer and one.peer.leaving):
                movable[one.uid] = Disruption(2, draw(st.sampled_from([1, None])))
    problem = Problem(state.snapshot(), tuple(draw(pods("p", pending))), movable)
    for one in Instance(problem).stay:  # they are not let in where they are, and stay
        del movable[one.uid]
    return replace(problem, movable=movable)


@settings(max_examples=examples(40, 1500), deadline=None)
@given(clusters(), pods("r", 5), pods("p", 3), st.data())
def test_who_is_let_in_is_what_the_rules_say_one_by_one(
    nodes: list[Node], running: list[PodRequest], asking: list[PodRequest], data: st.DataObject
) -> None:
    homes = [data.draw(st.sampled_from(range(len(nodes)))) for _ in running]
    placed = list(zip(running, homes, strict=True))
    there = Neighbours.among(nodes, [*running, *asking], placed)
    beside = [(one, nodes[row]) for one, row in placed]
    for leaving in range(len(placed) + 1):
        for one in asking:
            for row, home in enumerate(nodes):
                expected = joins(one, home, beside, nodes)
                assert expected == (there is None or there.admits(one, row) is Reason.FITS)
        if there is not None and leaving < len(placed):
            there.remove(*placed[leaving])
        beside = beside[1:]


def _lets_in(problem: Problem, request: PodRequest, home: Node) -> bool:
    return not home.taints and all(
        home.labels.get(key) == value for key, value in request.selection.node_selector
    )


def _carried_out(problem: Problem, made: Plan) -> None:
    """Everybody is let in, step by step, in the order in which the plan lists them."""
    nodes = [one for one in problem.state.nodes if one is not None]
    named = {one.name: one for one in nodes}
    gone = {move.pod.uid for move in made.moves}
    there = [
        (placed.pod, named[placed.node])
        for uid, placed in problem.state.placements.items()
        if uid not in gone
    ]
    for placed in made.placements:
        assert joins(placed.pod, named[placed.node], there, nodes), (placed.pod.uid, placed.node)
        there.append((placed.pod, named[placed.node]))


def _best(problem: Problem) -> tuple[int, ...]:
    """The best value of all that can be carried out: pods by priority, then the disruption."""
    nodes = [one for one in problem.state.nodes if one is not None]
    named = {one.name: one for one in nodes}
    running = problem.state.placements
    movable = [running[uid] for uid in problem.movable]
    fixed = [(p.pod, named[p.node]) for uid, p in running.items() if uid not in problem.movable]
    everybody = [*problem.pending, *(placed.pod for placed in movable)]
    tiers = sorted({one.priority for one in everybody}, reverse=True)
    best: tuple[int, ...] = (-1,)
    options = []
    for one in everybody:
        where: list[str] = [n.name for n in nodes if _lets_in(problem, one, n)]
        if one.uid in problem.movable:
            where.insert(0, "stay")
            where += [""] * (problem.movable[one.uid].evict is not None)
        else:
            where.append("")
        options.append(where)
    for choice in itertools.product(*options):
        value = [
            sum(bool(w) for w, one in zip(choice, everybody, strict=True) if one.priority == tier)
            for tier in tiers
        ]
        cost = 0
        there, coming = list(fixed), []
        for where, one in zip(choice, everybody, strict=True):
            if where == "stay":
                there.append((one, named[running[one.uid].node]))
                continue
            if one.uid in problem.movable:
                costs = problem.movable[one.uid]
                cost += costs.move if where else costs.evict or 0
            if where:
                coming.append((one, named[where]))
        reached = (*value, -cost)
        used: dict[str, int] = {}
        for one, home in (*there, *coming):
            used[home.name] = used.get(home.name, 0) + one.cpu_milli
        if (
            reached > best
            and all(used.get(n.name, 0) <= n.cpu_milli for n in nodes)
            and executable(there, coming, nodes)
        ):
            best = reached
    return best


@settings(max_examples=examples(25, 600), deadline=None)
@given(problems())
def test_plans_can_be_carried_out_and_what_is_proved_is_the_best_there_is(
    problem: Problem,
) -> None:
    made = plan(problem, Budget(0.4, deterministic=True))
    _carried_out(problem, made)
    value = (*(tier.value for tier in made.tiers), -made.disruption)
    bounds = [tier.bound for tier in made.tiers]
    best = _best(problem)
    assert value <= best
    if made.tiers:
        assert best[0] <= bounds[0]
    if made.status in (Status.PROVED, Status.INFEASIBLE_PROVED):
        assert value == best


def test_pods_that_have_to_be_together_begin_where_most_of_them_have_room() -> None:
    nodes = [
        node("a", cpu=1000, labels={_ZONE: "z0"}),
        *(node(f"b{i}", cpu=2000, labels={_ZONE: "z1"}) for i in range(2)),
        node("c", cpu=3000, labels={_ZONE: "z2"}),
    ]
    together = Peer(_labels("web"), affinity=(PeerTerm(_app("web"), _ZONE),))
    gang = GangKey("podgroup", "default", "g")
    for group in (None, gang):
        waiting = tuple(pod(f"p{i}", cpu=1000, peer=together, gang=group) for i in range(4))
        specs = {gang: GangSpec(gang, 4)}
        problem = Problem(ClusterState(nodes).snapshot(), waiting, gangs=specs)
        made = plan(problem, Budget(1e-3, deterministic=True))
        assert {placed.node for placed in made.placements} == {"b0", "b1"}
        assert made.status is Status.PROVED and not made.unplaced


@pytest.mark.parametrize(("key", "most"), [(_HOST, 40), (_ZONE, 4)])
def test_of_pods_that_exclude_each_other_it_is_proved_that_no_more_have_a_place(
    key: str, most: int
) -> None:
    nodes = [node(f"n{i}", labels={_HOST: f"n{i}", _ZONE: f"z{i % 4}"}) for i in range(40)]
    alone = Peer(_labels("web"), anti_affinity=(PeerTerm(_app("web"), key),))
    waiting = tuple(pod(f"p{i}", cpu=1000 + i % 3, peer=alone) for i in range(60))
    problem = Problem(ClusterState(nodes).snapshot(), waiting)
    made = plan(problem, Budget(1e-3, deterministic=True))
    assert len(made.placements) == most and made.status is Status.PROVED
