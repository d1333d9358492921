"""What does a decision cost by policy, without HTTP, and what does computing prices cost?

Filter, rank all nodes, reserve, in one process; the policies take turns pod by pod, each on its own
copy of a synthetic cluster that is filled to 60 %. Prices are computed anew as in the simulator,
and the shapes that were requested lately are scored at new prices before these come into force, as
beside the webhook. The time of the solver is a column of its own, since the webhook has the solver
in another process.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import click
import numpy as np

from bench.figures import percentiles
from bench.options import ListOf, policies_option
from bench.report import Report, benchmark
from scheduler.core.engine import Engine
from scheduler.core.model import PodRequest
from scheduler.core.price_tables import reprice_after
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.files.workload import Workload
from scheduler.planner.pricing.compute import prices
from scheduler.simulator.generate import GeneratorConfig, generate

__all__ = ["command"]


@dataclass
class _Lane:
    """One policy on its own copy of the cluster."""

    engine: Engine
    times: list[float] = field(default_factory=list)


@benchmark("decisions")
@click.option("--nodes", type=ListOf(int, 1), default="1213,5000,15000", show_default=True)
@click.option(
    "--pods",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Decisions per policy and size.",
)
@policies_option("fgd,priced")
def command(report: Report, nodes: tuple[int, ...], pods: int, policies: tuple[str, ...]) -> None:
    """A row per size and policy; ratios are to the first policy."""
    report.title = "One decision; ratio to the first policy; one computation of prices"
    for number, count in enumerate(nodes, start=1):
        lanes, solved = _measured(count, pods, list(policies))
        base = statistics.median(lanes[policies[0]].times)
        for name in policies:
            times = lanes[name].times
            p50, p99 = percentiles([1e3 * seconds for seconds in times], 50, 99)
            report.add(
                nodes=count,
                policy=name,
                p50_ms=p50,
                mean_ms=round(1e3 * statistics.fmean(times), 3),
                p99_ms=p99,
                p50_ratio=round(statistics.median(times) / base, 3),
                pricing_ms=round(1e3 * statistics.median(solved), 1)
                if name == "priced" and solved
                else None,
            )
        report.progress(number, len(nodes))


def _measured(count: int, pods: int, names: list[str]) -> tuple[dict[str, _Lane], list[float]]:
    workload = generate(GeneratorConfig(nodes=count, load=0.9, seed=1))
    profile = WorkloadProfile.from_requests(workload.requests)
    state, rest = _filled(workload, profile)
    lanes = {name: _Lane(Engine(state.fork(), name, profile=profile)) for name in names}
    solved: list[float] = []
    for number, request in enumerate(rest[:pods]):
        for name in names if number % 2 else reversed(names):
            engine = lanes[name].engine
            if name == "priced" and number % reprice_after(count) == 0:
                solved.append(_reprice(engine))
            lanes[name].times.append(_decide(engine, request))
    return lanes, solved


def _filled(workload: Workload, profile: WorkloadProfile) -> tuple[ClusterState, list[PodRequest]]:
    """The cluster with 60 % of its GPUs allocated, and the pods that are left."""
    state = ClusterState(workload.nodes)
    engine = Engine(state, "best-fit", profile=profile)
    allocated = 0
    requests = list(workload.requests)
    for number, request in enumerate(requests):
        if allocated >= 0.6 * workload.gpu_milli:
            return state, requests[number:]
        row = engine.best(request)
        node = state.nodes[row] if row >= 0 else None
        if node is not None:
            allocated += engine.place_on(request, node.name).gpu_milli
    return state, requests


def _reprice(engine: Engine) -> float:
    started = time.perf_counter()
    made = prices(engine.state, engine.profile)
    spent = time.perf_counter() - started
    warmed = engine.warmup(made) if made else None
    for _ in warmed.steps() if warmed else ():
        pass
    engine.put_prices_in_force(made, warmed)
    return spent


def _decide(engine: Engine, request: PodRequest) -> float:
    started = time.perf_counter()
    rows = np.flatnonzero(engine.filter(request) == 0)
    if len(rows):
        engine.ranks(request, rows)
        row = engine.best(request, rows)
        node = engine.state.node(row)
        engine.place_on(request, node.name)
    return time.perf_counter() - started
