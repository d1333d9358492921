"""``snugfit bench offline``: what knowing the pods in advance is worth, on an openb trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.options import data_option

if TYPE_CHECKING:
    from scheduler.core.engine import Engine
    from scheduler.core.model import PodRequest
    from scheduler.files.workload import Workload
    from scheduler.planner.problem import Problem

__all__ = ["command"]


@click.command("offline")
@data_option
@click.option("--trace", default="default", show_default=True)
@click.option("--filled", default=0.85, show_default=True, help="GPUs requested before, share.")
@click.option("--backlog", default=500, show_default=True, help="Pods that then wait together.")
@click.option("--seeds", default=3, show_default=True, help="Seeds 0..n-1.")
@click.option("--budget", default="10s", show_default=True, help="Per plan.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    data: Path, trace: str, filled: float, backlog: int, seeds: int, budget: str, as_json: bool
) -> None:
    """A backlog on a filled cluster: one by one with fgd, planned, planned with moves.

    The trace's stream (shuffled by the seed, pods drawn with replacement) is placed with fgd until
    the requested GPUs pass --filled of the capacity; the next --backlog pods wait together.
    """
    from scheduler.cli.ask.plan import parse_budget
    from scheduler.cli.console import print_json, print_table, progress
    from scheduler.cli.provenance import provenance
    from scheduler.files.load import load_workload

    limit = parse_budget(budget)
    folder = data / "openb"
    workload = load_workload(
        folder / "openb_node_list_gpu_node.csv", folder / f"openb_pod_list_{trace}.csv"
    )
    rows: list[dict[str, Any]] = []
    with progress("backlogs") as bar:
        for seed in range(seeds):
            rows += _seed(workload, seed, filled, backlog, limit)
            bar(seed + 1, seeds)
    if as_json:
        print_json({"provenance": provenance(), "trace": trace, "rows": rows})
        return
    title = f"{trace}: {backlog} pods waiting at {100 * filled:g} % requested"
    print_table(title, tuple(rows[0]), [tuple(row.values()) for row in rows])


def _seed(
    workload: Workload, seed: int, filled: float, backlog: int, limit: float
) -> list[dict[str, Any]]:
    from scheduler.core.engine import Engine
    from scheduler.core.mix import TypicalMix
    from scheduler.core.state import ClusterState
    from scheduler.planner.problem import Disruption, Problem
    from scheduler.simulator.inflation import inflate

    stream = inflate(workload, seed=seed, arrival=1.3)
    engine = Engine(
        ClusterState(stream.nodes), "fgd", mix=TypicalMix.from_requests(workload.requests)
    )
    requested = position = 0
    while requested < filled * workload.gpu_milli:
        request = stream.requests[position]
        requested += request.gpu.requested_milli
        _place(engine, request)
        position += 1
    waiting = stream.requests[position : position + backlog]
    snapshot = engine.state.snapshot()
    movable = {uid: Disruption() for uid in snapshot.placements}
    rows = [_online(engine, waiting, seed)]
    for name, moves in (("planned", {}), ("planned, moves", movable)):
        problem = Problem(snapshot, waiting, moves, objective="gpu")
        rows.append(_planned(problem, name, seed, limit))
    return rows


def _place(engine: Engine, request: PodRequest) -> bool:
    row = engine.best(request)
    node = engine.state.nodes[row] if row >= 0 else None
    if node is None:
        return False
    engine.reserve(request, node.name)
    return True


def _online(engine: Engine, waiting: tuple[PodRequest, ...], seed: int) -> dict[str, Any]:
    import time

    started = time.perf_counter()
    placed = [request for request in waiting if _place(engine, request)]
    milli = sum(request.gpu.requested_milli for request in placed)
    seconds = time.perf_counter() - started
    return _row(seed, "one by one", len(placed), milli, None, 0, "-", seconds)


def _planned(problem: Problem, name: str, seed: int, limit: float) -> dict[str, Any]:
    from scheduler.planner.effort import Budget
    from scheduler.planner.plan import plan

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
        "GPUs": milli / 1000,
        "bound": None if bound is None else bound / 1000,
        "gap %": None if not bound else 100 * (bound - milli) / bound,
        "moves": moves,
        "status": status,
        "seconds": round(seconds, 2),
    }
