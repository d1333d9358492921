"""``snugfit plan``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scheduler.cli.inputs import cluster_argument
from scheduler.cli.options import gone, json_option, kubeconfig_option, seed_option
from scheduler.cli.output import EXIT_INTERRUPTED, say
from scheduler.cli.units import DURATION
from scheduler.core.plural import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.core.model import Node
    from scheduler.planner.problem import Plan, Problem

__all__ = ["command"]

_MOST_COST = 1_000_000
_SHOWN = 10


@click.command("plan")
@cluster_argument()
@click.option(
    "--budget",
    type=DURATION,
    default="10s",
    show_default=True,
    help="500ms, 10s, 2m ..., reading the cluster included.",
)
@click.option(
    "--objective",
    type=click.Choice(["order", "pods", "gpu"]),
    default="order",
    show_default=True,
    help="What each priority optimizes. order: pods are served in the order of their creation, as "
    "kube-scheduler does. pods: as many pods as possible. gpu: as much GPU as possible.",
)
@click.option("--moves/--no-moves", default=True, help="Whether running pods may be disturbed.")
@click.option(
    "--topology",
    default="",
    metavar="LABEL,...",
    help="Node label keys, narrowest first: a gang stays within one domain if it can.",
)
@click.option(
    "--model-costs",
    type=click.Path(path_type=Path),
    help="JSON object: what a device of each model costs. Pods are kept off expensive models. "
    "H100 stands for all models with that word in their name.",
)
@seed_option
@click.option(
    "--deterministic",
    is_flag=True,
    help="Count work instead of time: repeatable. --budget 10s then stands for about as much work "
    "as one slow core does in 10 s, and reading the cluster is not part of it.",
)
@click.option("--explain", is_flag=True, help="Say for each pod where it goes, or why nowhere.")
@kubeconfig_option
@json_option
@gone("--snapshot", instead="name the files as CLUSTER: snugfit plan dump.json")
def command(
    cluster: tuple[str, ...],
    budget: float,
    objective: str,
    moves: bool,
    topology: str,
    model_costs: Path | None,
    seed: int,
    deterministic: bool,
    explain: bool,
    kubeconfig: Path | None,
    as_json: bool,
) -> None:
    """Plan the whole backlog of a cluster at once, with a proven bound.

    Priorities are served highest first; gangs are placed whole or not at all; running pods are
    moved only where their owner, annotations and disruption budgets allow it and only to place
    more. Rules between pods, host ports and volumes are kept as far as the objects that state them
    are listed; what could not be taken into account is said. Nothing is carried out. Ctrl-C ends
    the search and prints the plan that it has come to.

    Exit code 0: every pending pod that is understood has a place. 1: some have none.

    \b
    snugfit plan live
    snugfit plan dump.json --budget 10s --explain

    \b
    for kind in pdb podgroups jobs namespaces pvc pv sc csinodes \\
        priorityclasses deviceclasses nodes pods; do
      kubectl get $kind -A -o json
    done > dump.json
    """  # noqa: D301 - click looks for a real backspace
    begun = time.monotonic()
    from scheduler.advisor.snapshot import Snapshot
    from scheduler.cli.inputs import read_dump
    from scheduler.cli.interrupts import until_stopped
    from scheduler.cli.output import message, print_json
    from scheduler.planner.effort import Budget
    from scheduler.planner.plan import plan

    costs = _model_costs(model_costs) if model_costs else {}
    dump = read_dump(cluster, kubeconfig)
    problem = Snapshot.of_dump(dump).problem(
        objective,
        moves=moves,
        topology=_topology(topology, dump.workload.nodes),
        model_costs=_by_product(costs, dump.workload.nodes, model_costs),
    )
    used = time.monotonic() - begun  # reading the cluster is part of the wait
    limit = Budget(budget, deterministic=deterministic, seed=seed, used=used)
    made, stopped = until_stopped(lambda: plan(problem, limit), limit.stop)
    if as_json:
        misread = [one.to_json() for one in dump.workload.not_understood]
        print_json(made.to_json() | {"not_understood": misread, "stopped": stopped})
    else:
        _print_plan(made, problem, explain=explain)
    if stopped:
        message(f"stopped by Ctrl-C after {made.seconds:.1f} s of {budget:g} s")
        raise click.exceptions.Exit(EXIT_INTERRUPTED)
    if made.unplaced:
        raise click.exceptions.Exit(1)


def _topology(text: str, nodes: Sequence[Node]) -> tuple[str, ...]:
    """Label keys; those that no node has are a mistake."""
    from scheduler.core.errors import InvalidInput, nearest

    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    known = {label for node in nodes for label in node.labels}
    for key in keys:
        if key not in known and nodes:
            remedy = f"did you mean {nearest(key, known)!r}?" if known else "nodes have no labels"
            raise InvalidInput(f"--topology {key}", "is a label of no node", remedy)
    return keys


def _by_product(costs: dict[str, int], nodes: Sequence[Node], path: Path | None) -> dict[str, int]:
    from scheduler.cli.ask.models import costs_by_product

    products = {device.product for node in nodes for device in node.devices if device.product}
    return costs_by_product(costs, products, f"--model-costs {path}")


def _model_costs(path: Path) -> dict[str, int]:
    """Costs by model name, as a JSON object of whole numbers."""
    from scheduler.core.errors import InvalidInput
    from scheduler.core.reading import json_of, read_text

    content = json_of(read_text(path), f"--model-costs {path}")
    if not isinstance(content, dict):
        problem = "is not a JSON object"
        raise InvalidInput(f"--model-costs {path}", problem, 'write {"H100": 10, "T4": 1}')
    for name, cost in content.items():
        if not isinstance(cost, int) or isinstance(cost, bool) or not 0 <= cost <= _MOST_COST:
            raise InvalidInput(
                f"--model-costs {path}: {name}",
                f"is {cost!r}",
                f"use a whole number of 0..{_MOST_COST}",
            )
    return content


def _print_plan(made: Plan, problem: Problem, *, explain: bool) -> None:
    from scheduler.cli.output import print_table

    unit = "milli-GPU" if problem.objective == "gpu" else "pods"
    print_table(
        f"{made.status.value}: {len(problem.pending) - len(made.unplaced)} of "
        f"{plural(len(problem.pending), 'pending pod')} placed, {plural(len(made.moves), 'move')}",
        ("priority", "in play", "placed", unit, "bound", "gap %"),
        [
            (tier.priority, tier.pods, tier.placed, tier.value, tier.bound, 100 * tier.gap)
            for tier in made.tiers
        ],
    )
    print_table(
        "What pending pods get",
        ("request", "pods", "placed"),
        [(one.name, one.pods, one.placed) for one in made.served],
    )
    say(
        f"disruption {made.disruption} (at least {made.disruption_bound}), "
        f"{plural(made.nodes_used, 'node')} used, {made.seconds:.2f} s"
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
        say(f"note: gang {gang.label} restarts as a whole, {plural(pods, 'pod')}")
    if explain:
        moved = {move.pod.uid for move in made.moves}
        for placement in made.placements:
            if placement.pod.uid not in moved:
                devices = ",".join(str(share.index) for share in placement.devices)
                on = f" devices {devices}" if devices else ""
                say(f"place {placement.pod.key}: {placement.node}{on}")
    for one in made.unplaced if explain else made.unplaced[:_SHOWN]:
        say(f"pending {one.pod.key}: {one.reason}")
    if not explain and len(made.unplaced) > _SHOWN:
        say(f"... and {len(made.unplaced) - _SHOWN} more (--explain lists all)")
