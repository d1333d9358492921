"""Simulations respect what nodes say about who may come, whatever the protocol."""

from __future__ import annotations

import pytest

from scheduler.core.engine import Engine
from scheduler.core.errors import SolverFault
from scheduler.core.model import (
    Node,
    NodeSelection,
    Placement,
    PodRequest,
    Requirement,
    SelectorTerm,
    Taint,
    Toleration,
)
from scheduler.core.selection import NOT_READY
from scheduler.core.state import ClusterState
from scheduler.core.validator import Validator, Violation
from scheduler.files.workload import Arrival, BoundPod, Workload
from scheduler.planner.check import check
from scheduler.planner.effort import Budget
from scheduler.planner.plan import plan
from scheduler.planner.problem import Problem
from scheduler.simulator.emulator import EmulatedScheduler, SchedulerProfile
from scheduler.simulator.inflation import Experiment, ValidatorMismatch, run
from scheduler.simulator.replay import replay
from tests.builders import node, pod

GPU = Taint("example.com/gpu", "present")


def _rules(
    *tolerations: Toleration, terms: tuple[SelectorTerm, ...] = (), **labels: str
) -> NodeSelection:
    return NodeSelection(tuple(labels.items()), terms, tolerations)


def _term(key: str, operator: str, *values: str) -> tuple[SelectorTerm, ...]:
    return (SelectorTerm((Requirement(key, operator, values),)),)


def _by_name(*names: str) -> tuple[SelectorTerm, ...]:
    return tuple(SelectorTerm((), (Requirement("metadata.name", "In", (n,)),)) for n in names)


CLOSED = [
    pytest.param(node(gpus=8, taints=(GPU,)), _rules(), id="taint"),
    pytest.param(
        node(gpus=8, taints=(GPU,)), _rules(Toleration(GPU.key, "Equal", "absent")), id="value"
    ),
    pytest.param(node(gpus=8, taints=(Taint("x", "", "NoExecute"),)), _rules(), id="NoExecute"),
    pytest.param(
        node(gpus=8, taints=(Taint("sla", "90"),)), _rules(Toleration("sla", "Gt", "95")), id="Gt"
    ),
    pytest.param(node(gpus=8, unschedulable=True), _rules(), id="cordon"),
    pytest.param(node(gpus=8, taints=(Taint(NOT_READY),)), _rules(), id="not-ready"),
    pytest.param(node(gpus=8), _rules(zone="b"), id="selector"),
    pytest.param(
        node(gpus=8, labels={"rank": "3"}), _rules(terms=_term("rank", "Gt", "3")), id="affinity"
    ),
    pytest.param(node(gpus=8), _rules(terms=_by_name("n1", "n2")), id="name"),
]
OPEN = [
    pytest.param(node(gpus=8, taints=(Taint("x", "", "PreferNoSchedule"),)), _rules(), id="prefer"),
    pytest.param(
        node(gpus=8, taints=(GPU,), unschedulable=True), _rules(Toleration("", "Exists")), id="all"
    ),
    pytest.param(
        node(gpus=8, taints=(Taint("sla", "99"),)), _rules(Toleration("sla", "Gt", "95")), id="Gt"
    ),
    pytest.param(node(gpus=8), _rules(terms=_by_name("n1", "n0")), id="name"),
    pytest.param(node(gpus=8), _rules(terms=_term("zone", "NotIn", "b")), id="NotIn"),
]


def _placed(one: Node, request: PodRequest) -> set[str]:
    """Ways of simulating and planning that place the pod on the node."""
    workload = Workload((one,), (Arrival(request),), (BoundPod(pod("runs"), one.name),))
    empty = Workload((one,), (Arrival(request),))
    found: set[str] = set()
    for name, work in (("running", workload), ("empty", empty)):
        for policy in ("fgd", "kube-default", "random"):
            for protocol in ("as-listed", "inflation"):
                if run(work, Experiment(policy, 0, protocol, arrival=0.2)).placed:
                    found.add(f"{protocol} {policy} {name}")
            if replay(work, Experiment(policy, 0)).placed:
                found.add(f"replay {policy} {name}")
        if replay(work, Experiment("fgd", 0), plan_every_s=1.0).placed:
            found.add(f"planned {name}")

    def emulated(engine: Engine) -> EmulatedScheduler:
        return EmulatedScheduler(engine, SchedulerProfile())

    if run(empty, Experiment("fgd", 0, "as-listed"), selector=emulated).placed:
        found.add("emulated")
    if replay(empty, Experiment("fgd", 0), selector=emulated).placed:
        found.add("emulated replay")
    made = plan(Problem(ClusterState((one,)), (request,)), Budget(1.0, deterministic=True))
    if made.placements:
        found.add("plan")
    return found


@pytest.mark.parametrize(("one", "selection"), CLOSED)
def test_nothing_goes_where_it_may_not(one: Node, selection: NodeSelection) -> None:
    assert _placed(one, pod("p", count=1, selection=selection)) == set()


@pytest.mark.parametrize(("one", "selection"), OPEN)
def test_everything_goes_where_it_may(one: Node, selection: NodeSelection) -> None:
    assert len(_placed(one, pod("p", count=1, selection=selection))) == 2 * (3 * 3 + 1) + 3


def test_pods_without_devices_stay_off_nodes_that_are_kept_for_devices() -> None:
    cluster = (node("gpu", gpus=8, taints=(GPU,)), node("small", cpu=4000))
    web = tuple(Arrival(pod(f"web-{i}", cpu=2000)) for i in range(6))
    for policy in ("fgd", "kube-default"):
        outcome = run(Workload(cluster, web), Experiment(policy, 0, "as-listed"))
        assert (outcome.placed, len(outcome.pending)) == (2, 4)
        assert replay(Workload(cluster, web), Experiment(policy, 0)).placed == 2


def test_a_daemon_goes_to_its_own_node_and_no_other() -> None:
    cluster = tuple(node(f"n{i}", cpu=1000) for i in range(4))
    daemons = tuple(
        pod(f"daemon-{i}", cpu=100, selection=_rules(terms=_by_name(f"n{i}"))) for i in range(5)
    )
    made = plan(Problem(ClusterState(cluster), daemons), Budget(1.0, deterministic=True))
    assert {p.pod.name: p.node for p in made.placements} == {
        f"daemon-{i}": f"n{i}" for i in range(4)
    }
    assert [one.pod.name for one in made.unplaced] == ["daemon-4"]
    assert "4 of 4 nodes: node does not match" in made.unplaced[0].reason


def test_the_validator_lets_nobody_in_but_those_who_run_there() -> None:
    closed = node(gpus=1, unschedulable=True)
    placement = Placement(pod("p"), "n0")
    with pytest.raises(Violation, match="unschedulable"):
        Validator([closed]).place(placement)
    Validator([closed]).place(placement, running=True)


def test_a_plan_that_goes_where_it_may_not_is_a_fault() -> None:
    tainted, other = node(gpus=1, taints=(GPU,)), node("n1", gpus=1)
    request = pod("p")
    problem = Problem(ClusterState([tainted, other]), (request,))
    check(problem, {"p": Placement(request, "n1")})
    with pytest.raises(SolverFault, match="taint"):
        check(problem, {"p": Placement(request, "n0")})


def test_a_simulation_that_goes_where_it_may_not_is_a_fault() -> None:
    class Reckless:
        def best(self, request: PodRequest) -> int:
            return 0

    one = node(unschedulable=True)
    for bound in ((), (BoundPod(pod("runs"), "n0"),)):
        work = Workload((one,), (Arrival(pod("p")),), bound)
        expected = ValidatorMismatch if bound else Violation
        with pytest.raises(expected, match="unschedulable"):
            run(work, Experiment("fgd", 0, "as-listed"), selector=lambda _: Reckless())
        with pytest.raises(expected, match="unschedulable"):
            replay(work, Experiment("fgd", 0), selector=lambda _: Reckless())
