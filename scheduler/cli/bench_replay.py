"""``snugfit bench replay``: pods that come and go, on a cluster small enough to be full."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.options import data_option, openb_files
from scheduler.cli.provenance import provenance

if TYPE_CHECKING:
    from scheduler.core.prices import PriceWeights
    from scheduler.files.workload import Workload
    from scheduler.simulator.replay import ReplayOutcome

__all__ = ["ReplayJob", "command", "run"]

_QUIET = 0.002  # share of the arrivals before the trace gets going
_SYNTHETIC = "synthetic"
_SYNTHETIC_NODES = 2400
_RENEWALS = 8  # times that the pods of the synthetic cluster are replaced
_MEAN_DURATION_S = 3600.0


@click.command("replay")
@data_option
@click.option("--trace", default="default", show_default=True, help="openb trace, or `synthetic`.")
@click.option("--policies", default="fgd,best-fit,kube-default,priced", show_default=True)
@click.option(
    "--rates",
    help="Arrivals so much faster; for `synthetic` the GPUs that pods ask for over those there "
    "are. [default: 40,48,60, or 1,1.2,1.5]",
)
@click.option(
    "--one-in",
    default=20,
    show_default=True,
    help="Keep one node in so many; of 2,400 synthetic ones.",
)
@click.option("--seeds", default=4, show_default=True, help="Seeds 0..n-1: which nodes are kept.")
@click.option("--mix", type=click.Choice(["given", "learnt"]), default="learnt", show_default=True)
@click.option(
    "--policy-file",
    type=click.Path(path_type=Path),
    help="Weights of `priced`, as written by `snugfit tune`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    data: Path,
    trace: str,
    policies: str,
    rates: str | None,
    one_in: int,
    seeds: int,
    mix: str,
    policy_file: Path | None,
    as_json: bool,
) -> None:
    """Arrivals and departures at the trace's own times: allocation, waiting, starved pods.

    The trace loads its own cluster by about one percent, and sped up enough to fill it, pods no
    longer leave in time. So both are scaled: arrivals are faster and only one node in twenty is
    there. The quiet months before the trace gets going are left out. The synthetic cluster needs no
    files: lognormal durations, and pods that are replaced eight times. Figures are means over the
    seeds, also those of the quantiles of waiting; runs of several processes at once.
    """
    from scheduler.cli.console import print_json, print_table, progress
    from scheduler.cli.inputs import read_weights
    from scheduler.core.errors import InvalidInput
    from scheduler.core.policies.table import policy_named
    from scheduler.simulator.sweep import in_processes

    names = policies.split(",")
    weights = read_weights(policy_file) if policy_file else None
    for name in names:
        policy_named(name)
    for option, value in (("--one-in", one_in), ("--seeds", seeds)):
        if value < 1:
            raise InvalidInput(option, f"is {value}", "use 1 or more")
    if trace == _SYNTHETIC:
        nodes, pods, rates = None, None, rates or "1,1.2,1.5"
    else:
        nodes, (pods,) = openb_files(data, [trace], "--trace")
        rates = rates or "40,48,60"
    cases = [(rate, name) for rate in map(float, rates.split(",")) for name in names]
    jobs = [
        ReplayJob(nodes, pods, one_in, mix, rate, name, seed, weights)
        for rate, name in cases
        for seed in range(seeds)
    ]
    with progress("replays") as bar:
        outcomes = in_processes(run, jobs, progress=bar)
    rows = [_row(outcomes[at : at + seeds]) for at in range(0, len(outcomes), seeds)]
    if as_json:
        print_json({"provenance": provenance(), "trace": trace, "mix": mix, "rows": rows})
        return
    classes = sorted({name for row in rows for name in row["waiting"]})
    print_table(
        f"Replay of {trace}, one node in {one_in}, {seeds} seeds, mix {mix}; waits: p50 / p95, s",
        ("rate", "policy", "allocated %", "waiting %", "kW", "starved", *classes),
        [
            (
                row["rate"],
                row["policy"],
                row["allocated"],
                row["waiting_demand"],
                row["power_kw"],
                row["starved"],
                *(row["waiting"].get(name, "-") for name in classes),
            )
            for row in rows
        ],
    )


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """One replay, for :func:`run`; of the synthetic cluster without files."""

    nodes: Path | None
    pods: Path | None
    one_in: int
    mix: str
    rate: float
    policy: str
    seed: int
    weights: PriceWeights | None = None


def run(job: ReplayJob) -> ReplayOutcome:
    """Replay the scaled trace, or the synthetic cluster."""
    from scheduler.simulator.inflation import Experiment
    from scheduler.simulator.replay import replay
    from scheduler.simulator.sweep import loaded

    if job.nodes is None:
        workload = _synthetic(max(1, _SYNTHETIC_NODES // job.one_in), job.seed)
    else:
        workload = _scaled(loaded(job.nodes, job.pods)[0], job.one_in, job.seed)
    experiment = Experiment(
        job.policy,
        job.seed,
        "replay",
        trace=workload.digest(),
        mix=job.mix,
        weights=job.weights,
    )
    return replay(
        workload, experiment, rate=job.rate, watts=job.weights.watts if job.weights else None
    )


def _scaled(workload: Workload, one_in: int, seed: int) -> Workload:
    nodes = list(workload.nodes)
    random.Random(f"nodes/{seed}").shuffle(nodes)  # noqa: S311 - reproducible, not secret
    arrivals = sorted(workload.arrivals, key=lambda arrival: arrival.at_s)
    return replace(
        workload,
        nodes=tuple(nodes[::one_in]),
        arrivals=tuple(arrivals[int(_QUIET * len(arrivals)) :]),
    )


def _synthetic(nodes: int, seed: int) -> Workload:
    """At rate 1 the pods in the system ask for as many GPUs as there are, if none of them waits."""
    from scheduler.simulator.generate import GeneratorConfig, generate

    config = GeneratorConfig(nodes=nodes, load=1.0, seed=seed)
    at_once = len(generate(config).arrivals)
    return generate(
        replace(
            config,
            pods=_RENEWALS * at_once,
            rate_per_s=at_once / _MEAN_DURATION_S,
            durations="lognormal",
            mean_duration_s=_MEAN_DURATION_S,
        )
    )


def _row(outcomes: Sequence[ReplayOutcome]) -> dict[str, Any]:
    first = outcomes[0]
    allocated = fmean(outcome.allocation_percent for outcome in outcomes)
    demand = fmean(outcome.demand_percent for outcome in outcomes)
    return {
        "rate": first.rate,
        "policy": first.experiment.policy,
        "allocated": round(allocated, 2),
        "waiting_demand": round(demand - allocated, 2),
        "power_kw": round(fmean(outcome.power_kw for outcome in outcomes), 2),
        "starved": sum(outcome.pods - outcome.placed for outcome in outcomes),
        "waiting": {
            name: " / ".join(
                f"{fmean(getattr(outcome.waiting[name], part) for outcome in outcomes):.0f}"
                for part in ("p50_s", "p95_s")
            )
            for name in first.waiting
        },
    }
