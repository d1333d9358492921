"""Plans of hand-made problems: what moves, what stays, what is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput, SolverFault
from scheduler.core.model import Device, NodeSelection, Placement
from scheduler.core.omissions import NotConsidered
from scheduler.core.state import ClusterState
from scheduler.planner.check import check
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, DisruptionBudget, Plan, Problem, Status
from scheduler.planner.search.chains import Chains
from scheduler.simulator.backlog import BacklogCase, default_schedule, replica_sets
from scheduler.simulator.generate import GeneratorConfig, generate
from tests.builders import gang_key, gangs_of, node, pod


def _running(nodes, placed) -> ClusterState:
    engine = Engine(ClusterState(nodes), "first-fit")
    for request, name in placed:
        engine.place_on(request, name)
    return engine.state.snapshot()


def _plan(state: ClusterState, pending, **problem) -> Plan:
    asked = Problem(state, tuple(pending), gangs=gangs_of(*pending), **problem)
    return plan(asked, Budget(2.0, deterministic=True))


def test_seven_and_one_become_eight() -> None:
    """An 8-GPU job waits for 7 + 1; moving one pod makes room."""
    lone = pod("lone", count=1)
    state = _running(
        [node("a", gpus=8), node("b", gpus=8)],
        [(lone, "a"), *((pod(f"r{i}", count=1), "b") for i in range(7))],
    )
    big = pod("big", count=8)
    assert _plan(state, [big]).status is Status.INFEASIBLE_PROVED
    made = _plan(state, [big], movable={"lone": Disruption()})
    assert made.status is Status.PROVED and made.disruption == 2
    assert [(m.pod.name, m.source, m.target) for m in made.moves] == [("lone", "a", "b")]
    assert {p.pod.name: p.node for p in made.placements} == {"big": "a", "lone": "b"}


def test_a_fraction_is_moved_off_a_device_that_is_needed_whole() -> None:
    state = ClusterState([node("a", gpus=2)])
    engine = Engine(state, "first-fit")
    engine.place_on(pod("f1", milli=400), "a")
    other = engine.choose(pod("f2", milli=400), "a")
    state.apply([replace(other, devices=(replace(other.devices[0], index=1),))])
    made = _plan(
        state.snapshot(),
        [pod("w", count=1)],
        movable={"f1": Disruption(2, None), "f2": Disruption(5, None)},
    )
    assert made.status is Status.PROVED and made.disruption == 2
    assert [(m.pod.name, m.target) for m in made.moves] == [("f1", "a")]  # same node, restarted


def test_a_higher_priority_evicts_only_what_it_must() -> None:
    small = [pod(f"s{i}", count=1) for i in range(4)]
    state = _running([node("a", gpus=4)], [(request, "a") for request in small])
    movable = {request.uid: Disruption(2, 1) for request in small}
    made = _plan(state, [pod("vip", count=2, priority=10)], movable=movable)
    assert made.status is Status.PROVED
    assert [tier.placed for tier in made.tiers] == [1, 2] and made.disruption == 2
    same = _plan(state, [pod("peer", count=2)], movable=movable)
    assert not same.moves  # one pod more is not worth two of the same priority


def test_a_disruption_budget_is_kept() -> None:
    small = [pod(f"s{i}", count=1) for i in range(2)]
    state = _running([node("a", gpus=2), node("b", gpus=2)], [(s, "a") for s in small])
    other = _running([node("a", gpus=2), node("b", gpus=2)], [(small[0], "a"), (small[1], "b")])
    movable = {request.uid: Disruption() for request in small}
    uids = frozenset(movable)
    assert _plan(state, [pod("big", count=2)], movable=movable).disruption == 0
    for allowed, placed in ((0, 0), (1, 1)):
        budgets = (DisruptionBudget("pdb", uids, allowed),)
        made = _plan(other, [pod("big", count=2)], movable=movable, budgets=budgets)
        assert len(made.placements) - len(made.moves) == placed
        assert made.status in (Status.PROVED, Status.INFEASIBLE_PROVED)


def test_gangs_are_whole_or_absent_and_say_what_they_miss() -> None:
    state = _running([node("a", gpus=4), node("b", gpus=3)], [])
    key = gang_key("g", 2)
    gang = [pod(f"g{i}", count=4, gang=key) for i in range(2)]
    made = _plan(state, [*gang, pod("lone", count=4)])
    assert [p.pod.name for p in made.placements] == ["lone"]
    assert {u.reason for u in made.unplaced} == {
        "gang does not fit: needs 8 more devices of any model"
    }


def test_a_gang_stays_within_a_topology_domain() -> None:
    nodes = [
        node(f"n{i}", gpus=2, labels={"rack": rack}) for i, rack in enumerate(("x", "y", "x", "y"))
    ]
    key = gang_key("g", 2)
    gang = [pod(f"g{i}", count=2, gang=key) for i in range(2)]
    made = _plan(_running(nodes, []), gang, topology=("rack",))
    racks = {nodes[int(p.node[1:])].labels["rack"] for p in made.placements}
    assert len(made.placements) == 2 and len(racks) == 1
    big = [pod(f"h{i}", count=2, gang=gang_key("h", 3)) for i in range(3)]
    assert len(_plan(_running(nodes, []), big, topology=("rack",)).placements) == 3  # no rack can


def test_candidates_and_selection_are_obeyed() -> None:
    nodes = [node("a", gpus=1), node("b", gpus=1, labels={"pool": "x"})]
    made = _plan(
        _running(nodes, []), [pod("p", count=1, uid="p")], candidates={"p": frozenset("b")}
    )
    assert [p.node for p in made.placements] == ["b"]


def test_partitioned_devices_are_filled_exactly() -> None:
    """Two A30: 4g on one, 2g + 2 x 1g on the other."""
    nodes = [node("a", devices=(Device("A30", mig="A30"),) * 2)]
    wanted = [("4g.24gb", 1), ("2g.12gb", 1), ("1g.6gb", 1), ("1g.6gb", 1)]
    made = _plan(_running(nodes, []), [pod(mig=(want,)) for want in wanted])
    assert made.status is Status.PROVED and len(made.placements) == 4


def test_the_objective_may_be_gpus_instead_of_pods() -> None:
    state = _running([node("a", gpus=4, cpu=4000)], [])
    pending = [pod("big", count=4, cpu=4000), *(pod(f"s{i}", count=1, cpu=2000) for i in range(2))]
    pods = _plan(state, pending)
    gpus = _plan(state, pending, objective="gpu")
    assert sorted(p.pod.name for p in pods.placements) == ["s0", "s1"]
    assert [p.pod.name for p in gpus.placements] == ["big"]
    assert gpus.tiers[0].value == gpus.tiers[0].bound == 4000


def test_a_deterministic_budget_gives_the_same_plan_twice() -> None:
    workload = generate(GeneratorConfig(nodes=12, load=1.1, seed=7))
    problem = Problem(ClusterState(workload.nodes).snapshot(), workload.requests)
    plans = [plan(problem, Budget(0.5, deterministic=True, seed=3)) for _ in range(2)]
    said = [{**made.to_json(), "seconds": 0, "statistics": 0} for made in plans]
    assert said[0] == said[1]


def test_no_budget_is_too_small_for_the_greedy_plan() -> None:
    workload = generate(GeneratorConfig(nodes=30, load=1.3, seed=7))
    problem = Problem(ClusterState(workload.nodes).snapshot(), workload.requests)
    made = plan(problem, Budget(1e-9))
    assert made.status in (Status.TIMED_OUT, Status.PROVED) and len(made.placements) > 50
    assert made.tiers[0].bound >= made.tiers[0].value > 0


def test_over_full_nodes_and_vanished_devices_are_facts() -> None:
    state = ClusterState([node("a", gpus=1, cpu=1000), node("b", gpus=2)])
    crowd = [pod(f"c{i}", cpu=800, count=1) for i in range(3)]
    shares = Engine(state, "first-fit").choose(pod(count=1, cpu=1), "a").devices
    for request in crowd:
        state.apply([Placement(request, "a", shares)], enforce=False)
    movable = {request.uid: Disruption() for request in crowd}
    made = _plan(state.snapshot(), [pod("p", count=1), pod("q", count=1)], movable=movable)
    assert {p.node for p in made.placements} == {"b"} and not made.moves
    assert made.status is Status.PROVED and not made.not_considered


def test_pods_that_only_the_model_keeps_in_place_are_named_where_a_pod_waits_for_their_place() -> (
    None
):
    state = ClusterState([node("a", gpus=1, cpu=1000), node("b", gpus=1)])
    shares = Engine(state, "first-fit").choose(pod(count=1, cpu=1), "a").devices
    crowd = [pod(f"c{i}", cpu=800, count=1) for i in range(2)]
    for request in crowd:
        state.apply([Placement(request, "a", shares)], enforce=False)
    movable = {request.uid: Disruption() for request in crowd}
    made = _plan(state.snapshot(), [pod("p", count=1), pod("q", count=1)], movable=movable)
    assert made.status is Status.PROVED_IN_PART and len(made.placements) == 1
    (left_out,) = made.not_considered
    assert set(left_out.pods) == {"default/c0", "default/c1"}


def test_pods_of_a_rule_that_is_not_considered_are_left_alone() -> None:
    state = ClusterState([node("a", gpus=1), node("b", gpus=2)])
    engine = Engine(state, "best-fit")
    engine.place_on(pod("r", count=1), "b")
    left_out = NotConsidered(
        "claims of devices", ("default/p", "default/r"), "left alone", frozenset({"p", "r"})
    )
    problem = Problem(
        state.snapshot(),
        (pod("p", count=1), pod("large", count=2)),
        {"r": Disruption()},
        not_considered=(left_out,),
    )
    made = plan(problem, Budget(0.5, deterministic=True))
    assert not made.placements and not made.moves
    assert made.status is Status.PROVED_IN_PART
    assert {one.pod.name: "claims of devices" in one.reason for one in made.unplaced} == {
        "p": True,
        "large": False,
    }
    assert made.to_json()["not_considered"] == [
        {
            "rule": "claims of devices",
            "pods": ["default/p", "default/r"],
            "effect": "left alone",
        }
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "speed"}, "objective"),
        ({"movable": {"ghost": Disruption()}}, "ghost"),
        ({"pending": (pod("x", uid="x"), pod("x", uid="x"))}, "twice"),
    ],
)
def test_impossible_problems_are_refused(change, says: str) -> None:
    arguments = {"state": _running([node("a")], []), "pending": ()} | change
    with pytest.raises(InvalidInput, match=says):
        Problem(**arguments)
    with pytest.raises(InvalidInput, match="budget"):
        Budget(0)
    with pytest.raises(InvalidInput, match="disruption"):
        Disruption(0, None)


def _broken(kind: str):
    """A plan that breaks one rule."""
    stay, moved = pod("stay", uid="stay", count=1), pod("new", uid="new", count=1)
    state = _running([node("a", gpus=1), node("b", gpus=1)], [(stay, "a")])
    home = state.placements["stay"]
    share = home.devices
    gang = replace(moved, gang=gang_key("g", 2))
    final = {"stay": home}
    problem = {}
    match kind:
        case "moved":
            final = {"stay": Placement(stay, "b", share)}
        case "evicted":
            final, problem = {}, {"movable": {"stay": Disruption(2, None)}}
        case "full":
            final["new"] = Placement(moved, "a", share)
        case "candidate":
            final["new"] = Placement(moved, "b", share)
            problem = {"candidates": {"new": frozenset(["a"])}}
        case "gang":
            final["new"] = Placement(gang, "b", share)
        case "budget":
            final = {"stay": Placement(stay, "b", share)}
            problem = {
                "movable": {"stay": Disruption()},
                "budgets": (DisruptionBudget("pdb", frozenset(["stay"]), 0),),
            }
    return Problem(state, (moved,), gangs=gangs_of(gang), **problem), final


@pytest.mark.parametrize("kind", ["moved", "evicted", "full", "candidate", "gang", "budget"])
def test_the_check_rejects_broken_plans(kind: str) -> None:
    problem, final = _broken(kind)
    check(problem, dict(problem.state.placements))
    with pytest.raises(SolverFault):
        check(problem, final)


def test_chains_of_moves_place_what_the_default_scheduler_left() -> None:
    """512 pods at 95 %: every pending pod costs about one move, and the columns stay true."""
    nodes, pods = replica_sets(BacklogCase(484806185843093489, 64, 8, 4, 0.95))
    state, pending = default_schedule(nodes, pods)
    movable = {uid: Disruption() for uid in state.placements}
    problem = Problem(state.snapshot(), pending, movable, policy="best-fit")
    layout = Layout(Instance(problem))
    kinds = [kind for kind, waiting in enumerate(layout.unplaced) if waiting]
    chains = Chains(layout, Budget(10.0, deterministic=True))
    assert chains.run(kinds) == len(pending) == 10
    assert layout.state.check() == [] and layout.disruption() <= 2 * 2 * len(pending)
    columns = (chains._free.copy(), chains._row.copy(), chains._disturbs.copy())
    chains._read()
    assert (columns[0] == chains._free).all() and len(columns[1]) == len(pods)
    assert sorted(columns[1].tolist()) == sorted(chains._row.tolist())
    assert int(columns[2].sum()) == int(chains._disturbs.sum())


def test_a_gang_falls_from_the_rack_to_the_zone_to_the_cluster_and_the_plan_says_so() -> None:
    """Racks of two nodes in zones of two racks; a node takes one member."""
    nodes = [
        node(f"n{i}", gpus=2, labels={"rack": f"r{i // 2}", "zone": f"z{i // 4}"}) for i in range(8)
    ]

    def spread(size: int) -> tuple[set[str], set[str], tuple[str, ...]]:
        key = gang_key("g", size)
        gang = [pod(f"g{i}", count=2, gang=key) for i in range(size)]
        made = _plan(_running(nodes, []), gang, topology=("rack", "zone"))
        hosts = [nodes[int(p.node[1:])].labels for p in made.placements]
        assert len(hosts) == size
        return {h["rack"] for h in hosts}, {h["zone"] for h in hosts}, made.relaxed

    racks, zones, said = spread(2)
    assert len(racks) == 1 and not said
    racks, zones, said = spread(3)
    assert len(racks) == 2 and len(zones) == 1
    assert said == ("gang default/g found no single rack and is spread over one zone",)
    racks, zones, said = spread(5)
    assert len(zones) == 2
    assert said == ("gang default/g found no single rack and is spread over the whole cluster",)


def test_a_gang_that_is_near_together_is_not_torn_apart_to_place_one_more() -> None:
    """A pod of the wrong size for the other rack; only moving a member would make room."""
    nodes = [node(f"n{i}", gpus=2, labels={"rack": f"r{i // 2}"}) for i in range(4)]
    key = gang_key("g", 2)
    gang = [pod(f"g{i}", count=2, gang=key) for i in range(2)]
    picky = pod("picky", count=1, selection=NodeSelection((("rack", "r0"),)))
    state = _running(nodes, [(pod("busy", count=1), "n2")])
    made = _plan(state, [*gang, picky], topology=("rack",))
    racks = {nodes[int(p.node[1:])].labels["rack"] for p in made.placements if p.pod.gang}
    assert racks == {"r0"} and made.status is not Status.PROVED
