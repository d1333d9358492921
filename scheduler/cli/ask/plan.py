"""``snugfit plan``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scheduler.cli.terminal import say

if TYPE_CHECKING:
    from scheduler.planner.problem import Plan, Problem

__all__ = ["command", "parse_budget"]

_MOST_COST = 1_000_000
_MOST_SEED = 1 << 31
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}


def parse_budget(text: str) -> float:
    """Seconds of ``500ms``, ``10s``, ``2m`` or ``10``."""
    from scheduler.core.errors import InvalidInput

    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|)", text.strip())
    if not match or float(match[1]) <= 0:
        raise InvalidInput("--budget", f"{text!r} is no time", "write 500ms, 10s or 2m")
    return float(match[1]) * _SECONDS[match[2]]


@click.command("plan")
@click.option(
    "--snapshot",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="kubectl get nodes,pods,... -A -o json (see below): a file of JSON or YAML, or a folder; "
    "may be given several times. Or a snugfit/v1 file.",
)
@click.option("--budget", default="10s", show_default=True, help="500ms, 10s, 2m ...")
@click.option(
    "--objective",
    type=click.Choice(["pods", "gpu"]),
    default="pods",
    show_default=True,
    help="What each priority maximises: pods placed, or GPU placed.",
)
@click.option("--moves/--no-moves", default=True, help="Whether running pods may be disturbed.")
@click.option(
    "--topology",
    default="",
    help="Node label keys, narrowest first: a gang stays within one domain if it can.",
)
@click.option(
    "--model-costs",
    type=click.Path(path_type=Path),
    help="JSON object: what a device of each model costs. Pods are kept off dear models.",
)
@click.option("--seed", default=0, show_default=True, help="Decides where the search looks.")
@click.option("--deterministic", is_flag=True, help="Count work instead of time: repeatable.")
@click.option("--explain", is_flag=True, help="Say for each pod where it goes, or why nowhere.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    snapshot: tuple[Path, ...],
    budget: str,
    objective: str,
    moves: bool,
    topology: str,
    model_costs: Path | None,
    seed: int,
    deterministic: bool,
    explain: bool,
    as_json: bool,
) -> None:
    """Plan the whole backlog of a cluster at once, with a proven bound.

    Priorities are served highest first; gangs are placed whole or not at all; running pods are
    moved only where their owner, annotations and disruption budgets allow it and only to place
    more. Rules between pods, host ports and volumes are kept as far as the objects that say them
    are listed; what could not be taken into account is said. Nothing is carried out.

    Exit code 0: every pending pod that is understood has a place. 1: some have none.

    \b
    kubectl get nodes,pods,pdb,podgroups,namespaces,pvc,pv,sc,csinodes,deviceclasses \\
      -A -o json > dump.json
    snugfit plan --snapshot dump.json --budget 10s --explain
    """  # noqa: D301 - click looks for a real backspace
    from scheduler.advisor.snapshot import Snapshot
    from scheduler.cli.console import print_json
    from scheduler.cli.inputs import remark
    from scheduler.core.errors import InvalidInput
    from scheduler.files.load import load_dump
    from scheduler.planner.effort import Budget
    from scheduler.planner.plan import plan

    limit = parse_budget(budget)
    if not 0 <= seed < _MOST_SEED:
        raise InvalidInput("--seed", f"is {seed}", f"use 0..{_MOST_SEED - 1}")
    costs = _model_costs(model_costs) if model_costs else {}
    dump = load_dump(snapshot)
    remark(", ".join(map(str, snapshot)), dump.workload)
    problem = Snapshot.of_dump(dump).problem(
        objective,
        moves=moves,
        topology=[key.strip() for key in topology.split(",") if key.strip()],
        model_costs=costs,
    )
    made = plan(problem, Budget(limit, deterministic=deterministic, seed=seed))
    if as_json:
        misread = [one.to_json() for one in dump.workload.not_understood]
        print_json(made.to_json() | {"not_understood": misread})
    else:
        _print_plan(made, problem, explain=explain)
    if made.unplaced:
        raise click.exceptions.Exit(1)


def _model_costs(path: Path) -> dict[str, int]:
    """Costs by model name, as a JSON object of whole numbers."""
    from scheduler.core.errors import InvalidInput
    from scheduler.core.reading import json_of, read_text

    content = json_of(read_text(path), f"--model-costs {path}")
    if not isinstance(content, dict):
        raise InvalidInput(f"--model-costs {path}", "is no object", 'write {"H100": 10, "T4": 1}')
    for name, cost in content.items():
        if not isinstance(cost, int) or isinstance(cost, bool) or not 0 <= cost <= _MOST_COST:
            raise InvalidInput(
                f"--model-costs {path}: {name}",
                f"is {cost!r}",
                f"use a whole number of 0..{_MOST_COST}",
            )
    return content


def _print_plan(made: Plan, problem: Problem, *, explain: bool) -> None:
    from scheduler.cli.console import print_table

    unit = "pods" if problem.objective == "pods" else "milli-GPU"
    print_table(
        f"{made.status.value}: {len(problem.pending) - len(made.unplaced)} of "
        f"{len(problem.pending)} pending pods placed, {len(made.moves)} moves",
        ("priority", "in play", "placed", unit, "bound", "gap %"),
        [
            (tier.priority, tier.pods, tier.placed, tier.value, tier.bound, 100 * tier.gap)
            for tier in made.tiers
        ],
    )
    say(
        f"disruption {made.disruption} (at least {made.disruption_bound}), "
        f"{made.nodes_used} nodes used, {made.seconds:.2f} s"
    )
    for objective in made.objectives[len(made.tiers) + 1 :]:
        known = "" if objective.bound is None else f" (at least {objective.bound})"
        say(f"then {objective.name}: {objective.value}{known}")
    for text in made.relaxed:
        say(f"note: {text}")
    for omission in made.not_considered:
        say(f"not considered: {omission.text}")
    for move in made.moves:
        where = move.target or "nowhere (evicted)"
        say(f"move  {move.pod.key}: {move.source} -> {where}")
    for gang, pods in made.restarts:
        say(f"note: gang {gang.label} restarts as a whole, {pods} pods")
    if explain:
        moved = {move.pod.uid for move in made.moves}
        for placement in made.placements:
            if placement.pod.uid not in moved:
                devices = ",".join(str(share.index) for share in placement.devices)
                on = f" devices {devices}" if devices else ""
                say(f"place {placement.pod.key}: {placement.node}{on}")
    for one in made.unplaced if explain else made.unplaced[:10]:
        say(f"wait  {one.pod.key}: {one.reason}")
    if not explain and len(made.unplaced) > 10:
        say(f"... and {len(made.unplaced) - 10} more (--explain lists all)")
