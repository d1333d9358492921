"""``snugfit tune``."""

from __future__ import annotations

from pathlib import Path

import click

from scheduler.cli.terminal import say

__all__ = ["command"]

_MOST_SEEDS = 10_000


@click.command("tune")
@click.option(
    "--nodes",
    "--trace",
    type=click.Path(path_type=Path),
    required=True,
    help="openb node list (.csv), snugfit/v1 file, or Kubernetes objects (JSON, YAML, a folder).",
)
@click.option("--pods", type=click.Path(path_type=Path), help="openb pod list (.csv).")
@click.option("--train", default=3, show_default=True, help="Seeds to search on: 0..n-1.")
@click.option("--holdout", default=3, show_default=True, help="Seeds to accept on: the next n.")
@click.option("--rounds", default=2, show_default=True, help="Most passes over all weights.")
@click.option(
    "--mix",
    type=click.Choice(["given", "learnt"]),
    default="given",
    show_default=True,
    help="As in `snugfit simulate`.",
)
@click.option(
    "--policy-file",
    type=click.Path(path_type=Path),
    help="Begin with these weights; `power` stays as it is.  [default: the built-in ones]",
)
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    help="Notes every replay here; the same command goes on where it was stopped.",
)
@click.option("--processes", type=int, help="Worker processes.  [default: all cores]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="policy.json",
    show_default=True,
    help="Policy file to write, for `serve --policy-file` and `simulate --policy-file`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    nodes: Path,
    pods: Path | None,
    train: int,
    holdout: int,
    rounds: int,
    mix: str,
    policy_file: Path | None,
    journal: Path | None,
    processes: int | None,
    out: Path,
    as_json: bool,
) -> None:
    """Find the weights of policy `priced` for your own workload.

    Pods are drawn from the workload until they ask for all GPUs; the figure is how much of them
    gets allocated. Weights are changed one at a time as long as the training seeds gain. Nothing
    is accepted that does not gain on the hold-out seeds too: then the weights that the search
    began with are written. Exit code 1 if they stayed.

    \b
    snugfit tune --nodes N.csv --pods P.csv --journal tune.jsonl --out policy.json
    snugfit serve --offline --nodes N.csv --planner --policy-file policy.json
    """  # noqa: D301 - click looks for a real backspace
    from statistics import fmean

    from scheduler.cli.console import print_json, print_table, progress
    from scheduler.cli.inputs import read_weights
    from scheduler.core.errors import InvalidInput
    from scheduler.simulator.sweep import Job
    from scheduler.simulator.tuning import Journal, tune

    for name, value in (("--train", train), ("--holdout", holdout), ("--rounds", rounds)):
        if not 1 <= value <= _MOST_SEEDS:
            raise InvalidInput(name, f"is {value}", f"use 1..{_MOST_SEEDS}")
    job = Job(nodes, pods, "priced", 0, arrival=1.0, mix=mix)
    with progress("tune") as bar:
        found = tune(
            job,
            train=range(train),
            holdout=range(train, train + holdout),
            start=read_weights(policy_file) if policy_file else None,
            rounds=rounds,
            journal=Journal(journal),
            processes=processes,
            progress=bar,
        )
    base, chosen = found.holdout[0], found.holdout[found.chosen]
    remarks = {
        "source": (pods or nodes).name,
        "mix": mix,
        "holdout_seeds": holdout,
        "holdout_percent": round(fmean(chosen), 3),
        "holdout_percent_before": round(fmean(base), 3),
    }
    out.write_text(found.weights.to_policy_file(**remarks), encoding="utf-8")
    rows = [
        {
            "step": index,
            "change": step.change,
            "train": round(step.train_percent, 3),
            "holdout": round(fmean(found.holdout[index]), 3) if index in found.holdout else None,
            "accepted": index == found.chosen,
        }
        for index, step in enumerate(found.steps)
    ]
    if as_json:
        print_json({**remarks, "weights": found.weights.to_json(), "steps": rows})
    else:
        print_table(
            f"GPU allocated %, {train} training and {holdout} hold-out seeds, {found.runs} replays",
            ("step", "change", "train", "hold-out", "accepted"),
            [tuple(row.values()) for row in rows],
        )
        say(f"wrote {out}")
    if found.chosen == 0:
        if not as_json:
            say("nothing gained on the hold-out: the weights stay as they were")
        raise click.exceptions.Exit(1)
