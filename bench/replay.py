"""Pods come and go on a cluster that is full: who gets more in, and who waits?

The openb trace loads its own 1,213 nodes by about one percent on average, and sped up until it
fills them its pods no longer leave before it ends. So both are scaled: one node in twenty (61) is
kept, and pods arrive 40, 48 and 60 times faster; durations stay. The quiet months before the trace
gets going are left out. Profile learnt; means over the seeds, which decide the nodes that are kept;
pods without GPU never wait. Waiting is the GPU demand of waiting pods over the capacity, in
percent, averaged over time. Waits are p50 and p95 in seconds, by GPUs of the pod; pods that are
never placed count as waiting without end.

`--trace synthetic` needs no files: 120 nodes of many models, lognormal durations, pods that are
replaced eight times; the rate is what pods request over what there is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from bench.options import (
    ListOf,
    data_option,
    openb_files,
    policies_option,
    profile_option,
    seeds_option,
)
from bench.report import Report, benchmark
from scheduler.cli.inputs import read_weights
from scheduler.core.policies.table import RIVALS
from scheduler.core.price_weights import PriceWeights
from scheduler.files.workload import Workload
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment
from scheduler.simulator.replay import replay
from scheduler.simulator.sweep.runs import figures_of, loaded

__all__ = ["ReplayJob", "command", "run"]

_QUIET = 0.002  # share of the arrivals before the trace gets going
_SYNTHETIC = "synthetic"
_SYNTHETIC_NODES = 2400
_RENEWALS = 8  # times that the pods of the synthetic cluster are replaced
_MEAN_DURATION_S = 3600.0
_RATES = {_SYNTHETIC: (1.0, 1.2, 1.5)}
_OPENB_RATES = (40.0, 48.0, 60.0)


@benchmark("replay", grid=True)
@data_option
@click.option("--trace", default="default", show_default=True, help="Of openb, or `synthetic`.")
@policies_option(",".join([*RIVALS, "fgd", "priced"]))
@click.option(
    "--rates",
    type=ListOf(float, 0.001),
    help="Arrivals so much faster; for `synthetic` requested GPUs over those there are.  "
    "[default: 40,48,60, or 1,1.2,1.5]",
)
@click.option(
    "--one-in",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Keep one node in so many; of 2,400 synthetic ones.",
)
@seeds_option(4, "Seeds 0..n-1: which nodes are kept.")
@profile_option("learnt")
@click.option(
    "--policy-file",
    type=click.Path(path_type=Path),
    help="Weights of `priced`, as written by `snugfit tune`.",
)
def command(
    report: Report,
    data: Path,
    trace: str,
    policies: tuple[str, ...],
    rates: tuple[float, ...] | None,
    one_in: int,
    seeds: int,
    profile: str,
    policy_file: Path | None,
) -> None:
    """A row per rate and policy."""
    report.title = f"Replay of {trace}, one node in {one_in}, {seeds} seeds, profile {profile}"
    weights = read_weights(policy_file) if policy_file else None
    if trace == _SYNTHETIC:
        nodes, pods = None, None
    else:
        nodes, (pods,) = openb_files(data, [trace], "--trace")
    jobs = [
        ReplayJob(nodes, pods, one_in, profile, rate, name, seed, weights)
        for rate in rates or _RATES.get(trace, _OPENB_RATES)
        for name in policies
        for seed in range(seeds)
    ]
    rows = report.sweep(run, jobs)
    for _ in range(0, len(jobs), seeds):
        report.add(**_row([row.figures for row in islice(rows, seeds)]))


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """One replay, for :func:`run`; of the synthetic cluster without files."""

    nodes: Path | None
    pods: Path | None
    one_in: int
    profile: str
    rate: float
    policy: str
    seed: int
    weights: PriceWeights | None = None


def run(job: ReplayJob) -> dict[str, Any]:
    """Replay the scaled trace, or the synthetic cluster."""
    if job.nodes is None or job.pods is None:
        workload = _synthetic(max(1, _SYNTHETIC_NODES // job.one_in), job.seed)
    else:
        workload = _scaled(loaded(job.nodes, job.pods)[0], job.one_in, job.seed)
    experiment = Experiment(
        job.policy,
        job.seed,
        "replay",
        trace=workload.digest(),
        workload_profile=job.profile,
        weights=job.weights,
    )
    watts = job.weights.watts if job.weights else None
    return figures_of(replay(workload, experiment, rate=job.rate, watts=watts))


def _scaled(workload: Workload, one_in: int, seed: int) -> Workload:
    nodes = list(workload.nodes)
    random.Random(f"nodes/{seed}").shuffle(nodes)
    arrivals = sorted(workload.arrivals, key=lambda arrival: arrival.at_s)
    return replace(
        workload,
        nodes=tuple(nodes[::one_in]),
        arrivals=tuple(arrivals[int(_QUIET * len(arrivals)) :]),
    )


def _synthetic(nodes: int, seed: int) -> Workload:
    """At rate 1 the pods in the system ask for as many GPUs as there are, if none of them waits."""
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


def _row(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = outcomes[0]
    allocated = fmean(outcome["allocation_percent"] for outcome in outcomes)
    demand = fmean(outcome["demand_percent"] for outcome in outcomes)
    waits = {
        f"{name} {label}": round(fmean(o["waiting"][name][part] for o in outcomes))
        for name in first["waiting"]
        for label, part in (("p50", "p50_s"), ("p95", "p95_s"))
        if all(o["waiting"][name][part] is not None for o in outcomes)
    }
    return {
        "rate": first["rate"],
        "policy": first["policy"],
        "allocated": round(allocated, 2),
        "waiting": round(demand - allocated, 2),
        "power_kw": round(fmean(outcome["power_kw"] for outcome in outcomes), 2),
        "pending": sum(outcome["pending"] for outcome in outcomes),
        **waits,
    }
