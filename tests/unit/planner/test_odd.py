"""Plans on nodes whose devices are not all alike, against the optimum of tiny problems."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.model import Device, GpuRequest, Node, PodRequest
from scheduler.core.state import ClusterState
from scheduler.core.validator import verify
from scheduler.planner.effort import Budget
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, Plan, Problem, Status
from tests.builders import node, pod
from tests.depth import examples

NVIDIA, INTEL = "nvidia.com/gpu", "gpu.intel.com/xe"
HALVES = (("3g.20gb", 0), ("3g.20gb", 4))
KINDS: dict[str, tuple[tuple[Device, ...], dict[str, int]]] = {
    "none": ((), {}),
    "plain": ((Device("A2"),) * 2, {NVIDIA: 2}),
    "two vendors": ((Device("A2"), Device(resource=INTEL), Device(resource=INTEL)),
                    {NVIDIA: 1, INTEL: 2}),
    "replicas": ((Device("T4", replicas=3, units=True),), {NVIDIA: 3}),
    "instances": ((Device("A100", mig="A100-40", mig_layout=HALVES, units=True),) * 2,
                  {NVIDIA: 4}),
    "partly": ((Device("A100"), Device("A100", mig="A100-40", mig_layout=HALVES)),
               {NVIDIA: 1, "mig": 2}),
    "pooled instances": ((Device("A100"),
                          Device("A100", mig="3g.20gb", replicas=3, units=True, resource="m")),
                         {NVIDIA: 1, "mig": 3}),
}  # fmt: skip
"""Devices, and how many units of each resource they are."""

ASKED: dict[str, tuple[GpuRequest, dict[str, int]]] = {
    "one": (GpuRequest(1, resource=NVIDIA), {NVIDIA: 1}),
    "two": (GpuRequest(2, resource=NVIDIA), {NVIDIA: 2}),
    "xe": (GpuRequest(1, resource=INTEL), {INTEL: 1}),
    "instance": (GpuRequest(mig=(("3g.20gb", 1),)), {"mig": 1}),
    "both": (
        GpuRequest(1, resource=NVIDIA, also=(GpuRequest(1, resource=INTEL),)),
        {NVIDIA: 1, INTEL: 1},
    ),
    "gpu and instance": (
        GpuRequest(1, resource=NVIDIA, also=(GpuRequest(mig=(("3g.20gb", 1),)),)),
        {NVIDIA: 1, "mig": 1},
    ),
    "nothing": (GpuRequest(), {}),
}


def _pod(name: str, what: str, cpu: int = 1000) -> PodRequest:
    return replace(pod(name, cpu=cpu), gpu=ASKED[what][0])


def _optimum(kinds: list[str], nodes: list[Node], pods: list[tuple[str, PodRequest]]) -> int:
    """Most pods that can be placed, by trying everything."""
    best = 0
    for choice in product(range(len(nodes) + 1), repeat=len(pods)):
        used: Counter[tuple[int, str]] = Counter()
        for where, (what, asked) in zip(choice, pods, strict=True):
            used.update({(where, r): n for r, n in ASKED[what][1].items()})
            used[where, "cpu"] += asked.cpu_milli
        room = {(at, r): n for at, kind in enumerate(kinds) for r, n in KINDS[kind][1].items()}
        room.update({(at, "cpu"): one.cpu_milli for at, one in enumerate(nodes)})
        if all(n <= room.get(key, 0) for key, n in used.items() if key[0] < len(nodes)):
            best = max(best, sum(where < len(nodes) for where in choice))
    return best


def _plan(problem: Problem) -> Plan:
    return plan(problem, Budget(2.0, deterministic=True))


@given(
    st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=2),
    st.lists(st.sampled_from(sorted(ASKED)), min_size=1, max_size=6),
    st.lists(st.integers(1, 3), min_size=6, max_size=6),
    st.integers(1, 6),
)
@settings(max_examples=examples(40, 400), deadline=None)
def test_plans_reach_the_optimum_and_prove_nothing_that_is_not_so(
    kinds: list[str], asked: list[str], cpu: list[int], cores: int
) -> None:
    nodes = [
        node(f"n{at}", cpu=1000 * cores, devices=KINDS[kind][0]) for at, kind in enumerate(kinds)
    ]
    pods = [(what, _pod(f"p{at}", what, 1000 * cpu[at])) for at, what in enumerate(asked)]
    made = _plan(Problem(ClusterState(nodes).snapshot(), tuple(p for _, p in pods)))
    assert verify(nodes, made.placements) == []
    best = _optimum(kinds, nodes, pods)
    assert len(made.placements) == best
    assert made.status in (Status.PROVED, Status.INFEASIBLE_PROVED) or best < len(pods)


@pytest.mark.parametrize("kind", ["two vendors", "replicas", "instances", "partly"])
def test_what_has_devices_of_an_odd_node_stays_and_others_make_room(kind: str) -> None:
    """A pod without devices moves off the odd node, which is the only one that has the units."""
    odd = node("odd", cpu=4000, devices=KINDS[kind][0])
    engine = Engine(ClusterState([odd, node("other", cpu=4000)]), "first-fit")
    runs, bare = _pod("runs", "one", 1000), _pod("bare", "nothing", 3000)
    if KINDS[kind][1][NVIDIA] > 1:
        engine.place_on(runs, "odd")
    engine.place_on(bare, "odd")
    movable = dict.fromkeys(engine.state.placements, Disruption())
    asked = _pod("asked", "one", 2000)
    made = _plan(Problem(engine.state.snapshot(), (asked,), movable=movable))
    assert {m.pod.name: m.target for m in made.moves} == {"bare": "other"}
    assert {p.pod.name: p.node for p in made.placements} == {"asked": "odd", "bare": "other"}


def test_many_units_are_planned_at_once() -> None:
    devices = (Device("MI300X", replicas=8, units=True),) * 8
    nodes = [node(f"n{at}", devices=devices, resource="amd.com/gpu") for at in range(2)]
    pods = tuple(
        replace(pod(f"p{at}", cpu=10), gpu=GpuRequest(7, resource="amd.com/gpu"))
        for at in range(20)
    )
    made = _plan(Problem(ClusterState(nodes).snapshot(), pods))
    assert len(made.placements) == 18 and made.status is Status.PROVED
    assert verify(nodes, made.placements) == []
