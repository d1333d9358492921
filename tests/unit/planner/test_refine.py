"""What a plan prefers among equals: preferences, cheap models, whole nodes, few nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.cli.main import cli
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import NodeSelection, Requirement, SelectorTerm
from scheduler.core.state import ClusterState
from scheduler.planner.effort import Budget
from scheduler.planner.plan import plan
from scheduler.planner.problem import Objective, Plan, Problem, Status
from tests.builders import node, pod

CHEAP = NodeSelection(
    terms=(SelectorTerm((Requirement("nvidia.com/gpu.product", "In", ("T4",)),)),)
)


def _plan(state: ClusterState, pending, policy: str = "kube-default", **problem) -> Plan:
    asked = Problem(state.snapshot(), tuple(pending), policy=policy, **problem)
    return plan(asked, Budget(2.0, deterministic=True))


def _objective(made: Plan, begins: str) -> Objective:
    return next(one for one in made.objectives if one.name.startswith(begins))


def _two_models() -> ClusterState:
    return ClusterState(
        [
            node("h", gpus=2, product="H100", labels={"nvidia.com/gpu.product": "H100"}),
            node("t", gpus=2, product="T4", labels={"nvidia.com/gpu.product": "T4"}),
        ]
    )


def test_a_job_that_any_card_could_run_burns_no_dear_one() -> None:
    pending = [pod(f"p{i}", count=1) for i in range(2)]
    made = _plan(_two_models(), pending, model_costs={"H100": 10, "T4": 1})
    assert {p.node for p in made.placements} == {"t"}
    assert _objective(made, "cheapest").value == _objective(made, "cheapest").bound == 2000
    more = _plan(_two_models(), [*pending, pod("p2", count=1)], model_costs={"H100": 10, "T4": 1})
    assert sorted(p.node for p in more.placements) == ["h", "t", "t"]  # placing comes first
    assert _objective(more, "cheapest").value == 12000


def test_a_soft_preference_is_met_where_that_costs_nobody_a_place() -> None:
    """Two want the T4 node; one that may not use the other node needs a device there."""
    wants = [pod(f"w{i}", uid=f"w{i}", count=1) for i in range(2)]
    must = pod("must", count=1, products=("T4",))
    wishes = {request.uid: ((CHEAP, 50),) for request in wants}
    alone = _plan(_two_models(), wants, preferences=wishes)
    assert {p.node for p in alone.placements} == {"t"}
    made = _plan(_two_models(), [*wants, must], preferences=wishes)
    where = {p.pod.name: p.node for p in made.placements}
    assert where.pop("must") == "t" and sorted(where.values()) == ["h", "t"]
    unmet = _objective(made, "least weight")
    assert (unmet.value, unmet.bound, made.status) == (50, 50, Status.PROVED)


def test_singles_leave_a_whole_node_for_the_next_big_job() -> None:
    state = ClusterState([node(f"n{i}", gpus=8) for i in range(3)])
    engine = Engine(state, "first-fit")
    engine.place_on(pod("big", count=8), "n0")
    engine.place_on(pod("small", count=1), "n1")
    made = _plan(state, [pod(f"p{i}", count=1) for i in range(7)])
    assert {p.node for p in made.placements} == {"n1"}
    assert _objective(made, "fewest nodes").value == made.nodes_used == 2


def test_no_more_nodes_are_opened_than_needed() -> None:
    state = ClusterState([node(f"n{i}", cpu=4000) for i in range(4)])
    made = _plan(state, [pod(f"p{i}", cpu=1000) for i in range(6)])
    nodes = _objective(made, "fewest nodes")
    assert (nodes.value, nodes.bound) == (2, 2)


def test_objectives_are_named_in_order_with_bounds() -> None:
    made = _plan(_two_models(), [pod("p", count=1, priority=5), pod("q", count=1)])
    said = made.to_json()["objectives"]
    assert [one["name"] for one in said] == [
        "most pods placed, priority 5",
        "most pods placed, priority 0",
        "least disruption of running pods",
        "least expected fragmentation, milli-GPU",
        "fewest nodes in use",
    ]
    assert all(one["bound"] is None or isinstance(one["bound"], int) for one in said)


def _item(kind: str, name: str, **rest) -> dict:
    return {"kind": kind, "metadata": {"name": name, "namespace": "d", "uid": name}, **rest}


def _dump(path: Path) -> Path:
    """Two nodes, and a pod that would rather have the T4, as kubectl prints them."""
    items = []
    for name, product in (("a-h100", "H100"), ("b-t4", "T4")):
        allocatable = {"cpu": "16", "memory": "64Gi", "pods": "20", "nvidia.com/gpu": "2"}
        made = _item("Node", name, status={"allocatable": allocatable})
        made["metadata"]["labels"] = {"nvidia.com/gpu.product": product}
        made["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
        items.append(made)
    rule = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["T4"]}
    term = {"weight": 80, "preference": {"matchExpressions": [rule]}}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}
    container = {"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    for name, extra in (("picky", {"affinity": affinity}), ("plain", {})):
        items.append(_item("Pod", name, spec={"containers": [container], **extra}))
    path.write_text(json.dumps({"kind": "List", "items": items}))
    return path


def test_the_command_reads_soft_affinity_and_a_table_of_costs(tmp_path: Path) -> None:
    dump, costs = _dump(tmp_path / "dump.json"), tmp_path / "costs.json"
    costs.write_text('{"H100": 10, "T4": 1}')
    call = ["plan", str(dump), "--budget", "1s", "--deterministic", "--json"]
    made = json.loads(CliRunner().invoke(cli, [*call, "--model-costs", str(costs)]).stdout)
    assert {p["name"]: p["node"] for p in made["placements"]} == {"picky": "b-t4", "plain": "b-t4"}
    values = {one["name"]: one["value"] for one in made["objectives"]}
    assert values["least weight of unmet node preferences"] == 0
    assert values["cheapest device models, cost x milli-GPU"] == 2000
    table = CliRunner().invoke(cli, [*call[:-1], "--model-costs", str(costs)])
    assert "then cheapest device models, cost x milli-GPU: 2000 (at least 2000)" in table.stdout


@pytest.mark.parametrize("text", ["[]", '{"T4": -1}', '{"T4": true}', "{"])
def test_a_broken_table_of_costs_is_refused(tmp_path: Path, text: str) -> None:
    dump, costs = _dump(tmp_path / "dump.json"), tmp_path / "costs.json"
    costs.write_text(text)
    result = CliRunner().invoke(cli, ["plan", str(dump), "--model-costs", str(costs)])
    assert isinstance(result.exception, InvalidInput)
    assert "--model-costs" in str(result.exception)


def test_negative_costs_are_refused() -> None:
    with pytest.raises(InvalidInput, match="model_costs"):
        Problem(_two_models().snapshot(), (), model_costs={"T4": -1})
