"""What is it worth to know the pods of a backlog in advance?

The stream of an openb trace (shuffled by the seed, pods drawn with replacement) is placed with
`fgd` until the requested GPUs pass `--filled` of the capacity. The next `--backlog` pods wait
together: they are placed one by one with `fgd`, planned, and planned with all running pods free to
move. The bound says little where pods may move: it pools devices, and knows of fractions only into
how many pieces of a size they can be split.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.options import budget_option, data_option, openb_files, seeds_option
from bench.report import Report, benchmark
from scheduler.core.engine import Engine
from scheduler.core.model import PodRequest
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.effort import Budget
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, Problem
from scheduler.simulator.inflation import inflate
from scheduler.simulator.sweep.runs import loaded

__all__ = ["command"]

_ONE_BY_ONE, _PLANNED, _MOVES = _WAYS = ("one by one", "planned", "planned, moves")


@benchmark("offline", grid=True, one_at_a_time=True)
@data_option
@click.option("--trace", default="default", show_default=True)
@click.option(
    "--filled",
    type=click.FloatRange(0.0, 1.0),
    default=0.85,
    show_default=True,
    help="Requested share of the GPUs before the backlog.",
)
@click.option(
    "--backlog",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    help="Pods that then wait together.",
)
@seeds_option(3)
@budget_option("10s", "Per plan")
def command(
    report: Report,
    data: Path,
    trace: str,
    filled: float,
    backlog: int,
    seeds: int,
    budget: float,
) -> None:
    """Three rows per seed."""
    report.title = f"{trace}: {backlog} pods waiting at {100 * filled:g} % requested"
    nodes, (pods,) = openb_files(data, [trace], "--trace")
    jobs = [
        _Job(nodes, pods, seed, filled, backlog, budget, way)
        for seed in range(seeds)
        for way in _WAYS
    ]
    for row in report.sweep(_run, jobs):
        report.add(**row.figures, seconds=row.seconds)


@dataclass(frozen=True, slots=True)
class _Job:
    """One way to place the backlog of one seed."""

    nodes: Path
    pods: Path
    seed: int
    filled: float
    backlog: int
    limit: float
    way: str


def _run(job: _Job) -> dict[str, Any]:
    engine, waiting = _waiting(job)
    if job.way == _ONE_BY_ONE:
        return _online(engine, waiting, job.seed)
    snapshot = engine.state.snapshot()
    movable = {uid: Disruption() for uid in snapshot.placements} if job.way == _MOVES else {}
    problem = Problem(snapshot, waiting, movable, objective="gpu")
    return _planned(problem, job.way, job.seed, job.limit)


def _waiting(job: _Job) -> tuple[Engine, tuple[PodRequest, ...]]:
    """The filled cluster, and the pods that wait."""
    workload, _ = loaded(job.nodes, job.pods)
    stream = inflate(workload, seed=job.seed, arrival=1.3)
    engine = Engine(
        ClusterState(stream.nodes), "fgd", profile=WorkloadProfile.from_requests(workload.requests)
    )
    requested = position = 0
    while requested < job.filled * workload.gpu_milli:
        request = stream.requests[position]
        requested += request.gpu.requested_milli
        _place(engine, request)
        position += 1
    return engine, stream.requests[position : position + job.backlog]


def _place(engine: Engine, request: PodRequest) -> bool:
    row = engine.best(request)
    node = engine.state.nodes[row] if row >= 0 else None
    if node is None:
        return False
    engine.place_on(request, node.name)
    return True


def _online(engine: Engine, waiting: tuple[PodRequest, ...], seed: int) -> dict[str, Any]:
    started = time.perf_counter()
    placed = [request for request in waiting if _place(engine, request)]
    milli = sum(request.gpu.requested_milli for request in placed)
    seconds = time.perf_counter() - started
    return _row(seed, _ONE_BY_ONE, len(placed), milli, None, 0, "-", seconds)


def _planned(problem: Problem, name: str, seed: int, limit: float) -> dict[str, Any]:
    made = plan(problem, Budget(limit, seed=seed))
    running = sum(problem.state.placements[u].pod.gpu.requested_milli for u in problem.movable)
    value = sum(tier.value for tier in made.tiers) - running
    bound = sum(tier.bound for tier in made.tiers) - running
    placed = len(problem.pending) - len(made.unplaced)
    return _row(seed, name, placed, value, bound, len(made.moves), made.status.value, made.seconds)


def _row(
    seed: int,
    how: str,
    placed: int,
    milli: int,
    bound: int | None,
    moves: int,
    status: str,
    seconds: float,
) -> dict[str, Any]:
    return {
        "seed": seed,
        "how": how,
        "placed": placed,
        "gpus": milli / 1000,
        "bound": None if bound is None else bound / 1000,
        "gap_percent": None if not bound else round(100 * (bound - milli) / bound, 2),
        "moves": moves,
        "status": status,
        "seconds": round(seconds, 2),
    }
