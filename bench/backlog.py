"""The default scheduler has left pods pending: how many more does a plan place, and is it proved?

The grid of "Priority Matters" (arXiv 2511.08373): ReplicaSets with priorities on identical nodes
whose capacity follows from the utilisation. The default scheduler (LeastAllocated and
BalancedAllocation, by priority, no preemption) places what it can; then the planner plans all pods,
moving (cost 2) or evicting (cost 1) running ones. A case is better if the plan places more pods of
the highest priority that differs; it is proved if no plan places more of any priority, nor the same
with less disruption. Both published check rows are reproduced by a unit test.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from bench.options import ListOf, budget_option, clock_option
from bench.report import Report, benchmark
from scheduler.core.errors import InvalidInput
from scheduler.core.reading import read_text
from scheduler.planner.effort import CLOCKS, Budget
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, Problem
from scheduler.simulator.backlog import BacklogCase, default_schedule, replica_sets

__all__ = ["command"]

_LONGEST_SEED = 18
_SIZES = ListOf(int, 1)


@benchmark("backlog", grid=True, one_at_a_time=True)
@click.option(
    "--seeds",
    required=True,
    type=click.Path(path_type=Path),
    help="CSV with a column seed, or one number a line.",
)
@click.option(
    "--first", type=click.IntRange(0), default=0, help="Only so many of the seeds.  [default: all]"
)
@click.option("--nodes", type=_SIZES, default="4,8,16,32,64", show_default=True)
@click.option("--pods-per-node", type=_SIZES, default="4,8", show_default=True)
@click.option("--priorities", type=_SIZES, default="1,2,4", show_default=True)
@click.option(
    "--utilisation", type=ListOf(float, 0.01), default="0.9,0.95,1.0,1.05", show_default=True
)
@budget_option("1s", "Per case")
@clock_option
@click.option("--cases", is_flag=True, help="A row per case instead of one per cell of the grid.")
def command(
    report: Report,
    seeds: Path,
    first: int,
    nodes: tuple[int, ...],
    pods_per_node: tuple[int, ...],
    priorities: tuple[int, ...],
    utilisation: tuple[float, ...],
    budget: float,
    clock: str,
    *,
    cases: bool,
) -> None:
    """A row per cell, means over its seeds; outcomes over all cases."""
    listed = _seeds(seeds)[: first or None]
    report.title = f"Backlogs, {budget:g} s each ({clock} clock), {len(listed)} seeds"
    grid = list(itertools.product(nodes, pods_per_node, priorities, utilisation))
    jobs = [_Job(BacklogCase(seed, *cell), budget, clock) for cell in grid for seed in listed]
    made: list[dict[str, Any]] = []
    for row in report.sweep(run_case, jobs):
        made.append({**row.figures, "seconds": row.seconds})
        if cases:
            report.add(**made[-1])
        elif len(made) % len(listed) == 0:
            report.add(**_cell(made[-len(listed) :]))
        report.facts = {"percent_of_cases": _shares(made)}


def _seeds(path: Path) -> list[int]:
    try:
        lines = list(csv.reader(read_text(path).splitlines(), strict=True))
    except csv.Error as error:
        raise InvalidInput(str(path), f"is not CSV: {error}") from error
    seeds = []
    for number, line in enumerate(lines, start=1):
        if number == 1 and line and not line[0].strip().isdecimal():
            continue  # a header
        if not line:
            continue
        seed = line[0].strip()
        if not (seed.isascii() and seed.isdecimal() and len(seed) <= _LONGEST_SEED):
            raise InvalidInput(
                f"{path}:{number}", f"{seed[:40]!r} is not a seed", "use whole numbers"
            )
        seeds.append(int(seed))
    if not seeds:
        raise InvalidInput(str(path), "lists no seed")
    return seeds


@dataclass(frozen=True, slots=True)
class _Job:
    """One case, seconds for its plan, and the clock that counts them."""

    case: BacklogCase
    limit: float
    clock: str


def run_case(job: _Job) -> dict[str, Any]:
    """The default scheduler's result, the plan, and what is proved about it."""
    case = job.case
    nodes, pods = replica_sets(case)
    state, pending = default_schedule(nodes, pods)
    problem = Problem(
        state.snapshot(),
        pending,
        movable={uid: Disruption(2, 1) for uid in state.placements},
        policy="best-fit",
    )
    made = plan(problem, Budget(job.limit, seed=case.seed % 1000, clock=CLOCKS[job.clock]))
    evictions = sum(move.target is None for move in made.moves)
    default = {tier.priority: 0 for tier in made.tiers}
    for placement in state.placements.values():
        default[placement.pod.priority] += 1
    by_tier = [tier.placed for tier in made.tiers]
    before = [default[tier.priority] for tier in made.tiers]
    return {
        "seed": case.seed,
        "nodes": case.nodes,
        "pods_per_node": case.pods_per_node,
        "priorities": case.priorities,
        "utilisation": case.utilisation,
        "pods": len(pods),
        "default_placed": len(state.placements),
        "default_by_tier": before,
        "placed": sum(by_tier),
        "placed_by_tier": by_tier,
        "bound_by_tier": [tier.bound for tier in made.tiers],
        "status": made.status.value,
        "better": by_tier > before,
        "proved": made.proved_tiers and made.disruption == made.disruption_bound,
        "proved_tiers": made.proved_tiers,
        "disruption": made.disruption,
        "disruption_bound": made.disruption_bound,
        "moves": len(made.moves) - evictions,
        "evictions": evictions,
        "first_plan_seconds": made.statistics["first_plan_seconds"],
        "seconds": round(made.seconds, 4),
    }


def _cell(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the cases of one cell; outcomes in percent of them."""

    def mean(key: str, times: float = 1.0) -> float:
        return round(times * fmean(row[key] for row in rows), 2)

    first = rows[0]
    return {
        "nodes": first["nodes"],
        "pods": first["nodes"] * first["pods_per_node"],
        "priorities": first["priorities"],
        "utilisation": first["utilisation"],
        "default": mean("default_placed"),
        "placed": mean("placed"),
        "bound": round(fmean(sum(row["bound_by_tier"]) for row in rows), 2),
        "moves": mean("moves"),
        "evicted": mean("evictions"),
        "better_percent": mean("better", 100),
        "proved_percent": mean("proved", 100),
        "seconds": mean("seconds"),
    }


def _shares(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Outcomes over all cases, in percent; a case counts under each heading that holds for it."""
    tests = {
        "nothing was pending": lambda r: r["default_placed"] == r["pods"],
        "better than default": lambda r: r["better"],
        "better and proved": lambda r: r["better"] and r["proved"],
        "better or proved": lambda r: r["better"] or r["proved"],
        "pods per tier proved": lambda r: r["proved_tiers"],
        "proved, disruption too": lambda r: r["proved"],
    }
    return {name: round(100 * fmean(map(test, rows)), 1) for name, test in tests.items()}
