"""Against the optimum of tiny random problems: never above it, proofs are true, bounds hold."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.model import (
    Device,
    Node,
    NodeSelection,
    Release,
    Requirement,
    SelectorTerm,
    Taint,
)
from scheduler.core.state import ClusterState
from scheduler.planner.bounds.patterns import PatternBound
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, DisruptionBudget, Problem, Status
from scheduler.planner.search.greedy import fill
from tests.builders import gang_key, gangs_of, node, pod
from tests.depth import examples, stated
from tests.unit.planner.oracle import optimum

_WISHES = (
    SelectorTerm(fields=(Requirement("metadata.name", "In", ("n0",)),)),
    SelectorTerm(fields=(Requirement("metadata.name", "NotIn", ("n0",)),)),
)
NIC = "example.com/nic"
_GANGS = (gang_key("g2", 2), gang_key("g3", 3), gang_key("running", 2))


@st.composite
def nodes(draw) -> list[Node]:
    listed = []
    for number in range(draw(st.integers(1, 3))):
        cpu = draw(st.integers(1, 6)) * 1000
        way = draw(st.sampled_from(["none", "plain", "plain", "mig"]))
        if way == "mig":
            devices = (Device("A30", mig="A30"),) * draw(st.integers(1, 2))
        else:
            product = draw(st.sampled_from(["T4", "A10"]))
            devices = (Device(product),) * (draw(st.integers(1, 3)) if way == "plain" else 0)
        taints = (Taint("closed"),) if draw(st.integers(0, 9)) == 0 else ()
        listed.append(
            node(
                f"n{number}",
                cpu=cpu,
                memory=draw(st.integers(2, 8)) * 1024,
                devices=devices,
                pods=draw(st.integers(2, 6)),
                counted=draw(st.sampled_from([{}, {}, *({NIC: n} for n in (1, 2, 4))])),
                taints=taints,
            )
        )
    return listed


@st.composite
def pods(draw, prefix: str, most: int) -> list:
    listed = []
    for number in range(draw(st.integers(0, most))):
        gpu = draw(
            st.sampled_from(
                [
                    {},
                    {"count": 1},
                    {"count": 2},
                    {"milli": 300},
                    {"milli": 500},
                    {"milli": 700},
                    {"mig": (("1g.6gb", 1),)},
                    {"mig": (("2g.12gb", 1),)},
                    {"count": 1, "products": ("T4",)},
                ]
            )
        )
        listed.append(
            pod(
                f"{prefix}{number}",
                cpu=draw(st.integers(0, 3)) * 1000,
                memory=draw(st.integers(0, 3)) * 1024,
                priority=draw(st.sampled_from([0, 0, 5])),
                counted=draw(st.sampled_from([(), (), ((NIC, 1),), ((NIC, 2),)])),
                gang=draw(st.sampled_from([None, None, None, *_GANGS[:2]])),
                **gpu,
            )
        )
    return listed


@st.composite
def problems(draw) -> Problem:
    cluster = draw(nodes())
    engine = Engine(ClusterState(cluster), "first-fit")
    for request in draw(pods("r", 3)):
        if request.gang:
            continue
        row = engine.best(request, selection=True)
        if row >= 0:
            engine.place_on(request, cluster[row].name)
    state = engine.state
    movable = {}
    for uid, placement in state.placements.items():
        if not placement.pod.gpu.mig and draw(st.booleans()):
            movable[uid] = Disruption(draw(st.integers(1, 3)), draw(st.sampled_from([None, 1, 2])))
    if len(movable) > 1 and draw(st.booleans()):  # they run as one gang
        for uid in movable:
            placed = state.placements[uid]
            member = replace(placed.pod, gang=_GANGS[2])
            state.apply([Release(uid), replace(placed, pod=member)])
    budgets = ()
    if movable and draw(st.booleans()):
        budgets = (DisruptionBudget("pdb", frozenset(movable), draw(st.integers(0, 1))),)
    pending = tuple(draw(pods("p", 4)))
    candidates = {}
    if pending and draw(st.integers(0, 4)) == 0:
        candidates[pending[0].uid] = frozenset(["n0"])
    preferences = {
        request.uid: ((NodeSelection(terms=(_WISHES[draw(st.integers(0, 1))],)), 10),)
        for request in pending
        if draw(st.integers(0, 3)) == 0
    }
    return Problem(
        state.snapshot(),
        pending,
        movable,
        budgets,
        candidates,
        preferences=preferences,
        gangs=gangs_of(*pending, *(placed.pod for placed in state.placements.values())),
        model_costs=draw(st.sampled_from([{}, {"A10": 3}, {"A10": 1, "T4": 2}])),
    )


@settings(
    max_examples=examples(30, 120),
    deadline=None,
    derandomize=not stated(),
    suppress_health_check=list(HealthCheck),
)
@given(problems())
def test_plans_against_every_possible_plan(problem: Problem) -> None:
    made = plan(problem, Budget(1.0, deterministic=True))
    best, merits = optimum(problem)
    values = (*(tier.value for tier in made.tiers), -made.disruption)
    assert values <= best
    if made.status in (Status.PROVED, Status.INFEASIBLE_PROVED):
        assert values == best
    for position, tier in enumerate(made.tiers):
        assert tier.value <= tier.bound
        if values[:position] == best[:position]:
            assert tier.bound >= best[position]
    if values[:-1] == best[:-1]:
        assert made.disruption_bound <= -best[-1]
    # Problems as small as these are always solved to the end.
    assert made.status in (Status.PROVED, Status.INFEASIBLE_PROVED)
    _check_patterns(problem, best)
    said = {objective.name.split(",")[0]: objective for objective in made.objectives}
    for name, least in zip(
        ("least weight of unmet node preferences", "cheapest device models"), merits, strict=False
    ):
        if name not in said:
            assert least == 0
            continue
        # Bounds are never wrong, and problems this small are solved to the end.
        assert said[name].bound == said[name].value == least
    nodes = said["fewest nodes in use"]
    assert nodes.bound <= merits[2] <= nodes.value == made.nodes_used


def _check_patterns(problem: Problem, best: tuple[int, ...]) -> None:
    """The bound of column generation, which problems this small would never get to."""
    layout = Layout(Instance(problem))
    fill(layout)
    value, patterns = layout.value(), PatternBound(layout.instance)
    for index, level in enumerate(layout.instance.levels):
        if value[:index] == best[:index]:
            trivial = sum(
                int(level.weights[kind]) * len(pods)
                for kind, pods in enumerate(layout.instance.pods)
            )
            budget = Budget(1.0, deterministic=True)
            assert best[index] <= patterns.bound(layout, index, trivial, budget, 1.0) <= trivial
