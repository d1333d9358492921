"""``snugfit bound``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("bound")
@click.option(
    "--nodes",
    required=True,
    type=click.Path(path_type=Path),
    help="openb node list (.csv), snugfit/v1 file, or Kubernetes objects (JSON, YAML, a folder).",
)
@click.option(
    "--pods", type=click.Path(path_type=Path), help="openb pod list (.csv), or more objects."
)
@click.option("--budget", default="10s", show_default=True, help="For the integer plan.")
@click.option("--below", type=float, help="Exit with 1 if the plan's gap is above this percent.")
@click.option("--seed", default=0, show_default=True, help="Decides where the search looks.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    nodes: Path, pods: Path | None, budget: str, below: float | None, seed: int, as_json: bool
) -> None:
    """Best possible GPU allocation of a workload on a cluster.

    All pods are known at once and none has started: the most GPU that any scheduler could ever
    allocate (linear relaxation, proved), and an integer plan with its gap. Priorities are
    ignored, and so is where pods run already. Compare with what `snugfit simulate` allocates.
    """
    from scheduler.advisor.snapshot import Snapshot
    from scheduler.cli.ask.plan import parse_budget
    from scheduler.cli.console import print_json, print_table
    from scheduler.cli.inputs import read_workload, said_of
    from scheduler.planner.effort import Budget
    from scheduler.planner.plan import plan

    limit = parse_budget(budget)
    workload = read_workload(nodes, pods)
    problem = Snapshot.of_empty_cluster(workload).problem("gpu")
    made = plan(problem, Budget(limit, seed=seed))
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
        "pods_placed": sum(tier.placed for tier in made.tiers),
        "pods": len(problem.pending),
        "seconds": round(made.seconds, 3),
    }
    if as_json:
        print_json({**content, **said_of(workload)})
    else:
        print_table(f"Best GPU allocation of {workload.source}", ("", ""), list(content.items()))
    if below is not None and gap > below:
        raise click.exceptions.Exit(1)
