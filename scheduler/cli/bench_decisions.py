"""``snugfit bench decisions``: what a decision costs by policy, and what prices cost."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from scheduler.cli.provenance import provenance

if TYPE_CHECKING:
    from scheduler.core.engine import Engine
    from scheduler.core.mix import TypicalMix
    from scheduler.core.model import PodRequest
    from scheduler.core.state import ClusterState
    from scheduler.files.workload import Workload

__all__ = ["command"]


@dataclass
class _Lane:
    """One policy on its own copy of the cluster."""

    engine: Engine
    times: list[float] = field(default_factory=list)


@click.command("decisions")
@click.option("--nodes", default="1213,5000,15000", show_default=True, help="Cluster sizes.")
@click.option("--pods", default=1000, show_default=True, help="Decisions per policy and size.")
@click.option("--policies", default="fgd,priced", show_default=True, help="Taken in turn.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(nodes: str, pods: int, policies: str, as_json: bool) -> None:
    """Filter, rank all nodes and reserve, in process, policies taking turns pod by pod.

    Clusters are synthetic and filled to 60 %. Prices are computed anew as in the simulator, and the
    shapes asked about lately scored at them, as beside the webhook. The time of the solver is
    listed apart, for there it runs in a process of its own.
    """
    from scheduler.cli.console import print_json, print_table
    from scheduler.core.policies.table import policy_named

    names = policies.split(",")
    for name in names:
        policy_named(name)
    rows = []
    for count in map(int, nodes.split(",")):
        lanes, solved = _measured(count, pods, names)
        base = statistics.median(lanes[names[0]].times)
        for name in names:
            times = sorted(lanes[name].times)
            median = statistics.median(times)
            rows.append(
                {
                    "nodes": count,
                    "policy": name,
                    "p50_ms": round(1e3 * median, 3),
                    "mean_ms": round(1e3 * statistics.fmean(times), 3),
                    "p99_ms": round(1e3 * times[int(0.99 * len(times))], 3),
                    "p50_ratio": round(median / base, 3),
                    "pricing_ms": round(1e3 * statistics.median(solved), 1)
                    if name == "priced" and solved
                    else None,
                }
            )
    if as_json:
        print_json({"provenance": provenance(), "rows": rows})
        return
    print_table(
        "One decision in ms; ratio to the first policy; one pricing",
        ("nodes", "policy", "p50", "mean", "p99", "p50 ratio", "pricing, ms"),
        [tuple(row.values()) for row in rows],
    )


def _measured(count: int, pods: int, names: list[str]) -> tuple[dict[str, _Lane], list[float]]:
    from scheduler.core.engine import Engine
    from scheduler.core.mix import TypicalMix
    from scheduler.core.prices import reprice_after
    from scheduler.simulator.generate import GeneratorConfig, generate

    workload = generate(GeneratorConfig(nodes=count, load=0.9, seed=1))
    mix = TypicalMix.from_requests(workload.requests)
    state, rest = _filled(workload, mix)
    lanes = {name: _Lane(Engine(state.fork(), name, mix=mix)) for name in names}
    solved: list[float] = []
    for number, request in enumerate(rest[:pods]):
        for name in names if number % 2 else reversed(names):
            engine = lanes[name].engine
            if name == "priced" and number % reprice_after(count) == 0:
                solved.append(_reprice(engine))
            lanes[name].times.append(_decide(engine, request))
    return lanes, solved


def _filled(workload: Workload, mix: TypicalMix) -> tuple[ClusterState, list[PodRequest]]:
    """The cluster with 60 % of its GPUs allocated, and the pods that are left."""
    from scheduler.core.engine import Engine
    from scheduler.core.state import ClusterState

    state = ClusterState(workload.nodes)
    engine = Engine(state, "best-fit", mix=mix)
    allocated = 0
    requests = list(workload.requests)
    for number, request in enumerate(requests):
        if allocated >= 0.6 * workload.gpu_milli:
            return state, requests[number:]
        row = engine.best(request)
        node = state.nodes[row] if row >= 0 else None
        if node is not None:
            allocated += engine.reserve(request, node.name).gpu_milli
    return state, requests


def _reprice(engine: Engine) -> float:
    from scheduler.planner.pricing.compute import prices

    started = time.perf_counter()
    made = prices(engine.state, engine.mix)
    spent = time.perf_counter() - started
    rehearsed = engine.rehearsal(made) if made else None
    for _ in rehearsed.steps() if rehearsed else ():
        pass
    engine.set_prices(made, rehearsed)
    return spent


def _decide(engine: Engine, request: PodRequest) -> float:
    import numpy as np

    started = time.perf_counter()
    rows = np.flatnonzero(engine.filter(request) == 0)
    if len(rows):
        engine.ranks(request, rows)
        row = engine.best(request, rows)
        node = engine.state.nodes[row]
        assert node is not None
        engine.reserve(request, node.name)
    return time.perf_counter() - started
