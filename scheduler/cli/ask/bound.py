"""``snugfit bound``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scheduler.cli.inputs import cluster_argument
from scheduler.cli.options import gone, json_option, kubeconfig_option, seed_option
from scheduler.cli.output import EXIT_INTERRUPTED
from scheduler.cli.units import DURATION

if TYPE_CHECKING:
    from scheduler.core.model import Placement
    from scheduler.files.workload import Workload

__all__ = ["command"]

_STARTS = ("priced", "best-fit")
"""Policies of which the better one is where the integer plan may begin."""

_PODS_PER_SECOND = 400
"""Policies are tried for as many pods per second of the budget; they take a fifth of it then."""


@click.command("bound")
@cluster_argument()
@click.option(
    "--budget",
    type=DURATION,
    default="10s",
    show_default=True,
    help="For all of it, reading the workload included.",
)
@click.option("--below", type=float, help="Exit with 1 if the plan's gap is above this percent.")
@seed_option
@kubeconfig_option
@json_option
@gone("--nodes", "--pods", instead="name the files as CLUSTER: snugfit bound nodes.csv pods.csv")
def command(
    cluster: tuple[str, ...],
    budget: float,
    below: float | None,
    seed: int,
    kubeconfig: Path | None,
    as_json: bool,
) -> None:
    """Most GPU that any scheduler could allocate for a workload on a cluster.

    All pods are known at once and none has started: the bound (linear relaxation, proved), and an
    integer plan with its gap. The plan begins with a draft of all pods at once, or with what the
    better one of the policies priced and best-fit places if there are few enough pods to try both,
    and improves that for --budget. Priorities are ignored, and so is where pods
    run already. Ctrl-C ends the search and prints what is known. Compare with what `snugfit
    simulate` allocates.

    \b
    snugfit bound cluster.json
    snugfit bound nodes.csv pods.csv --budget 30s
    """  # noqa: D301 - click looks for a real backspace
    begun = time.monotonic()
    from dataclasses import replace

    from scheduler.advisor.snapshot import Snapshot
    from scheduler.cli.inputs import read_workload, said_of
    from scheduler.cli.interrupts import until_stopped
    from scheduler.cli.output import message, print_json, print_table
    from scheduler.files.workload import Arrival
    from scheduler.planner.effort import Budget
    from scheduler.planner.plan import plan

    workload = read_workload(cluster, kubeconfig)
    problem = Snapshot.of_empty_cluster(workload).problem("gpu")
    arrivals = tuple(map(Arrival, problem.pending))
    start: tuple[Placement, ...] = ()
    policy = "draft"
    if len(arrivals) <= _PODS_PER_SECOND * budget:
        start, policy = _start(replace(workload, arrivals=arrivals, bound=()), seed)
    limit = Budget(budget, seed=seed, used=time.monotonic() - begun)
    made, stopped = until_stopped(lambda: plan(problem, limit, start), limit.stop)
    capacity = max(1, workload.gpu_milli)
    value = sum(tier.value for tier in made.tiers)
    most = sum(tier.bound for tier in made.tiers)
    gap = 100 * (most - value) / most if most else 0.0
    content = {
        "status": made.status.value,
        "capacity_gpu_milli": workload.gpu_milli,
        "requested_gpu_milli": sum(request.gpu.requested_milli for request in problem.pending),
        "planned_gpu_milli": value,
        "bound_gpu_milli": most,
        "planned_percent": round(100 * value / capacity, 4),
        "bound_percent": round(100 * most / capacity, 4),
        "gap_percent": round(gap, 4),
        "begun_with": policy,
        "pods_placed": sum(tier.placed for tier in made.tiers),
        "pods": len(problem.pending),
        "seconds": round(made.seconds, 3),
    }
    if as_json:
        print_json({**content, **said_of(workload), "stopped": stopped})
    else:
        print_table(f"Best GPU allocation of {workload.source}", ("", ""), list(content.items()))
    if stopped:
        message(f"stopped by Ctrl-C after {made.seconds:.1f} s of {budget:g} s")
        raise click.exceptions.Exit(EXIT_INTERRUPTED)
    if below is not None and gap > below:
        raise click.exceptions.Exit(1)


def _start(workload: Workload, seed: int) -> tuple[tuple[Placement, ...], str]:
    """Places that the better policy finds for these pods one by one, and its name."""
    from scheduler.cli.output import progress
    from scheduler.core.engine import Engine
    from scheduler.simulator.inflation import Experiment, run

    best, name = -1, ""
    found: tuple[Placement, ...] = ()
    for policy in _STARTS:
        last: list[Engine] = []

        def observe(_number: int, _share: float, engine: Engine, last: list[Engine] = last) -> None:
            last[:] = [engine]

        experiment = Experiment(policy, seed, "as-listed")
        with progress(f"{policy} on {workload.source}") as bar:
            run(workload, experiment, progress=bar, observe=observe)
        placed = tuple(last[0].state.placements.values()) if last else ()
        value = sum(placement.gpu_milli for placement in placed)
        if value > best:
            best, found, name = value, placed, policy
    return found, name
