"""``snugfit bench backlog``: what a planner places that the default scheduler left pending."""

from __future__ import annotations

import csv
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.options import clock_option

if TYPE_CHECKING:
    from scheduler.simulator.backlog import BacklogCase

__all__ = ["command"]

_LONGEST_SEED = 18
_MOST = 10_000


@click.command("backlog")
@click.option(
    "--seeds",
    required=True,
    type=click.Path(path_type=Path),
    help="CSV with a column seed, or one number a line.",
)
@click.option("--first", default=0, help="Only so many of the seeds.  [default: all]")
@click.option("--nodes", default="4,8,16,32,64", show_default=True)
@click.option("--pods-per-node", default="4,8", show_default=True)
@click.option("--priorities", default="1,2,4", show_default=True)
@click.option("--utilisation", default="0.9,0.95,1.0,1.05", show_default=True)
@click.option("--budget", default="1s", show_default=True, help="Per case: 500ms, 1s, 10s ...")
@clock_option
@click.option("--json", "as_json", is_flag=True, help="A row per case as JSON.")
def command(
    seeds: Path,
    first: int,
    nodes: str,
    pods_per_node: str,
    priorities: str,
    utilisation: str,
    budget: str,
    clock: str,
    as_json: bool,
) -> None:
    """Backlogs of ReplicaSets with priorities (the "Priority Matters" grid, arXiv 2511.08373).

    The default scheduler (LeastAllocated and BalancedAllocation, by priority, no preemption) places
    what it can; then the planner plans all pods, moving (cost 2) or evicting (cost 1) running ones.
    A row is proved if no plan places more in any priority, nor the same with less disruption.
    """
    from scheduler.cli.ask.plan import parse_budget
    from scheduler.cli.console import print_json, print_table, progress
    from scheduler.cli.provenance import provenance
    from scheduler.simulator.backlog import BacklogCase

    limit = parse_budget(budget)
    listed = _seeds(seeds)[: first or None]
    grid = [
        BacklogCase(seed, *cell)
        for *cell, seed in itertools.product(
            _numbers("--nodes", nodes, int),
            _numbers("--pods-per-node", pods_per_node, int),
            _numbers("--priorities", priorities, int),
            _numbers("--utilisation", utilisation, float),
            listed,
        )
    ]
    rows = []
    with progress("backlogs") as bar:
        for case in grid:
            rows.append(run_case(case, limit, clock))
            bar(len(rows), len(grid))
    if as_json:
        print_json(
            {"provenance": provenance(), "budget_seconds": limit, "clock": clock, "rows": rows}
        )
        return
    print_table(
        f"Backlogs, {limit:g} s each, {len(listed)} seeds; outcomes in % of cases",
        ("nodes x pods", "priorities", "utilisation", "default", "placed", "bound", "moves",
         "evicted", "better %", "proved %", "seconds"),
        _cells(rows),
    )  # fmt: skip
    print_table("All cells, % of cases", ("outcome", "%"), list(_shares(rows).items()))


def _seeds(path: Path) -> list[int]:
    from scheduler.core.errors import InvalidInput
    from scheduler.core.reading import read_text

    try:
        lines = list(csv.reader(read_text(path).splitlines(), strict=True))
    except csv.Error as error:
        raise InvalidInput(str(path), f"is no CSV: {error}") from error
    seeds = []
    for number, line in enumerate(lines, start=1):
        if number == 1 and line and not line[0].strip().isdecimal():
            continue  # a header
        if not line:
            continue
        seed = line[0].strip()
        if not (seed.isascii() and seed.isdecimal() and len(seed) <= _LONGEST_SEED):
            raise InvalidInput(f"{path}:{number}", f"{seed[:40]!r} is no seed", "use whole numbers")
        seeds.append(int(seed))
    if not seeds:
        raise InvalidInput(str(path), "lists no seed")
    return seeds


def _numbers(option: str, text: str, kind: type[Any]) -> list[Any]:
    from scheduler.core.errors import InvalidInput

    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidInput(option, f"{text!r} is no list of numbers", "write 4,8,16") from error
    if not all(0 < number <= _MOST for number in numbers):
        raise InvalidInput(option, f"{text!r} has one out of range", f"use above 0, up to {_MOST}")
    return numbers


def run_case(case: BacklogCase, limit: float, clock: str = "wall") -> dict[str, Any]:
    """One case: the default scheduler's result, the plan, and what is proved about it."""
    from scheduler.planner.effort import CLOCKS, Budget
    from scheduler.planner.plan import plan
    from scheduler.planner.problem import Disruption, Problem
    from scheduler.simulator.backlog import default_schedule, replica_sets

    nodes, pods = replica_sets(case)
    state, pending = default_schedule(nodes, pods)
    problem = Problem(
        state.snapshot(),
        pending,
        movable={uid: Disruption(2, 1) for uid in state.placements},
        policy="best-fit",
    )
    made = plan(problem, Budget(limit, seed=case.seed % 1000, clock=CLOCKS[clock]))
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


def _cells(rows: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        key = tuple(row[k] for k in ("nodes", "pods_per_node", "priorities", "utilisation"))
        cells[key].append(row)

    def mean(listed: Sequence[dict[str, Any]], key: str) -> float:
        total: float = sum(row[key] for row in listed)
        return total / len(listed)

    return [
        (
            f"{key[0]} x {key[0] * key[1]}",
            *key[2:],
            mean(listed, "default_placed"),
            mean(listed, "placed"),
            sum(sum(row["bound_by_tier"]) for row in listed) / len(listed),
            mean(listed, "moves"),
            mean(listed, "evictions"),
            100 * mean(listed, "better"),
            100 * mean(listed, "proved"),
            mean(listed, "seconds"),
        )
        for key, listed in cells.items()
    ]


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
    return {name: 100 * sum(map(test, rows)) / len(rows) for name, test in tests.items()}
