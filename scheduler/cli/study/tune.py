"""``snugfit tune``."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import click

from scheduler.cli.inputs import cluster_argument
from scheduler.cli.options import gone, json_option, kubeconfig_option, pool_options
from scheduler.cli.output import EXIT_INTERRUPTED, say
from scheduler.core.plural import plural

if TYPE_CHECKING:
    from scheduler.files.workload import Workload
    from scheduler.simulator.sweep.row_file import RowFile
    from scheduler.simulator.tuning import Tuning

__all__ = ["command"]

_MOST_SEEDS = 10_000


@click.command("tune")
@cluster_argument()
@click.option(
    "--train",
    type=click.IntRange(1, _MOST_SEEDS),
    default=3,
    show_default=True,
    help="Seeds to search on: 0..n-1.",
)
@click.option(
    "--holdout",
    type=click.IntRange(1, _MOST_SEEDS),
    default=3,
    show_default=True,
    help="Seeds to accept on: the next n.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, _MOST_SEEDS),
    default=2,
    show_default=True,
    help="Most passes over all weights.",
)
@click.option(
    "--learn",
    is_flag=True,
    help="Learn the workload profile from the pods seen so far, as the webhook does.  "
    "[default: that of the whole workload]",
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
@pool_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="policy.json",
    show_default=True,
    help="Policy file to write, for `serve --policy-file` and `simulate --policy-file`.",
)
@kubeconfig_option
@json_option
@gone(
    "--nodes",
    "--trace",
    "--pods",
    instead="name the files as CLUSTER: snugfit tune nodes.csv pods.csv",
)
@gone("--mix", instead="write --learn for what was `--mix learnt`; `given` is the default")
def command(
    cluster: tuple[str, ...],
    train: int,
    holdout: int,
    rounds: int,
    learn: bool,
    policy_file: Path | None,
    journal: Path | None,
    processes: int | None,
    ray: str | None,
    out: Path,
    kubeconfig: Path | None,
    as_json: bool,
) -> None:
    """Find the weights of policy `priced` for your own workload.

    Pods are drawn from the workload until they ask for all GPUs; the figure is how much of them
    gets allocated. Weights are changed one at a time as long as the training seeds gain. Nothing
    is accepted that does not gain on the hold-out seeds too: then the weights that the search
    began with are written. Exit code 1 if they stayed. After Ctrl-C the same command with the same
    --journal goes on where it was stopped.

    \b
    snugfit tune nodes.csv pods.csv --journal tune.jsonl --out policy.json
    snugfit serve --offline nodes.csv --policy-file policy.json
    """  # noqa: D301 - click looks for a real backspace
    from scheduler.cli.inputs import read_weights, some_pending, workload_files
    from scheduler.cli.interrupts import heard_by
    from scheduler.cli.output import message, print_json, print_table, progress, writable
    from scheduler.cli.pools import pool_of
    from scheduler.simulator.sweep.row_file import RowFile
    from scheduler.simulator.sweep.runner import Runner
    from scheduler.simulator.sweep.runs import Job
    from scheduler.simulator.tuning import tune

    writable(out, "--out")
    writable(journal, "--journal")
    start = read_weights(policy_file) if policy_file else None
    kept = RowFile(journal)
    known = len(kept)
    with (
        workload_files(cluster, kubeconfig) as (files, workload),
        pool_of(processes, ray) as pool,
        progress("tune") as bar,
        heard_by(bar) as told,
    ):
        some_pending(cluster, workload)
        _some_gpus(workload)
        job = Job(
            tuple(files), "priced", 0, arrival=1.0, workload_profile="learnt" if learn else "given"
        )
        try:
            found = tune(
                job,
                train=range(train),
                holdout=range(train, train + holdout),
                start=start,
                rounds=rounds,
                runner=Runner(pool, kept),
                progress=told,
            )
        except KeyboardInterrupt:
            message(_kept(kept, known, journal))
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    base, chosen = found.holdout[0], found.holdout[found.chosen]
    remarks = {
        "source": workload.source,
        "workload_profile": "learnt" if learn else "given",
        "holdout_seeds": holdout,
        "holdout_percent": round(fmean(chosen), 3),
        "holdout_percent_before": round(fmean(base), 3),
    }
    out.write_text(found.weights.to_policy_file(**remarks), encoding="utf-8")
    rows = _steps(found)
    if as_json:
        print_json({**remarks, "weights": found.weights.to_json(), "steps": rows})
    else:
        print_table(
            f"GPU allocated %, {train} training and {plural(holdout, 'hold-out seed')}, "
            f"{plural(found.runs, 'replay')}",
            ("step", "change", "train", "hold-out", "accepted"),
            [tuple(row.values()) for row in rows],
        )
        say(f"wrote {out}")
    if found.chosen == 0:
        if not as_json:
            say("nothing gained on the hold-out: the weights stay as they were")
        raise click.exceptions.Exit(1)


def _steps(found: Tuning) -> list[dict[str, object]]:
    return [
        {
            "step": index,
            "change": step.change,
            "train": round(step.train_percent, 3),
            "holdout": round(fmean(found.holdout[index]), 3) if index in found.holdout else None,
            "accepted": index == found.chosen,
        }
        for index, step in enumerate(found.steps)
    ]


def _some_gpus(workload: Workload) -> None:
    from scheduler.core.errors import InvalidInput

    if not workload.gpu_milli:
        raise InvalidInput("CLUSTER", "no node has a GPU", "there is nothing to tune for")


def _kept(journal: RowFile, known: int, path: Path | None) -> str:
    """What somebody who has stopped a search still has of it."""
    done = len(journal) - known
    stopped = f"stopped after {plural(done, 'replay')}"
    if path is None:
        return f"{stopped}; nothing is kept (--journal FILE would keep them)"
    return f"{stopped}; kept in {path}: {len(journal)}; the same command goes on there"
