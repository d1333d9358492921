"""``snugfit bench``: the protocols are stated in bench/README.md."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.bench_backlog import command as backlog
from scheduler.cli.bench_decisions import command as decisions
from scheduler.cli.bench_offline import command as offline
from scheduler.cli.bench_power import command as power
from scheduler.cli.bench_replay import command as replayed
from scheduler.cli.bench_vector import command as vector
from scheduler.cli.bench_webhook import command as webhook
from scheduler.cli.bench_weights import command as weights
from scheduler.cli.options import data_option, openb_files
from scheduler.cli.provenance import provenance
from scheduler.cli.terminal import say

if TYPE_CHECKING:
    from scheduler.simulator.inflation import Outcome
    from scheduler.simulator.sweep import Job

__all__ = ["command"]

_PUBLISHED = {
    "random": "Random",
    "dot-product": "DotProd",
    "gpu-clustering": "GpuClustering",
    "gpu-packing": "GpuPacking",
    "best-fit": "BestFit",
    "fgd-published": "FGD",
}
_TRACES = "default,cpu050,cpu250,gpushare40,gpushare100,gpuspec10,gpuspec33,multigpu20,multigpu50"


@click.group("bench")
def command() -> None:
    """Benchmarks. Every row carries what is needed to get it again."""


command.add_command(backlog)
command.add_command(decisions)
command.add_command(offline)
command.add_command(power)
command.add_command(replayed)
command.add_command(vector)
command.add_command(webhook)
command.add_command(weights)

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def _jobs(
    nodes: Path,
    pods: Sequence[Path],
    policies: Sequence[str],
    seeds: int,
    arrival: float,
    mix: str = "given",
) -> list[Job]:
    from scheduler.core.policies.table import policy_named
    from scheduler.simulator.sweep import Job

    for policy in policies:
        policy_named(policy)
    return [
        Job(nodes, path, policy, seed, arrival=arrival, mix=mix)
        for path in pods
        for policy in policies
        for seed in range(seeds)
    ]


def _swept(label: str, jobs: list[Job]) -> list[Outcome]:
    from scheduler.cli.console import progress
    from scheduler.simulator.sweep import sweep

    with progress(label) as bar:
        return sweep(jobs, progress=bar)


@command.command("online")
@data_option
@click.option("--traces", default=_TRACES, help="Comma separated. [default: all nine]")
@click.option("--policies", default=",".join([*_PUBLISHED, "fgd"]), help="Comma separated.")
@click.option("--seeds", default=10, show_default=True, help="Seeds 0..n-1.")
@click.option(
    "--mix",
    type=click.Choice(["given", "learnt"]),
    default="given",
    show_default=True,
    help="given: typical pods are those of the whole trace. learnt: of the pods seen so far.",
)
@click.option("--arrival", default=1.3, show_default=True, help="End of the stream, >= 1.")
@_json
def online(
    data: Path,
    traces: str,
    policies: str,
    seeds: int,
    mix: str,
    arrival: float,
    as_json: bool,
) -> None:
    """Allocation under inflation on the openb traces, beside the published figures.

    The figure is allocated / capacity when the requested milli-GPU pass 100 % of the capacity.
    """
    from scheduler.cli.console import print_json, print_table

    nodes, pods = openb_files(data, traces.split(","))
    jobs = _jobs(nodes, pods, policies.split(","), seeds, arrival, mix)
    outcomes = _swept("online", jobs)
    published = _published(nodes.parent)
    rows = []
    for start in range(0, len(jobs), seeds):
        job, group = jobs[start], outcomes[start : start + seeds]
        assert job.pods is not None
        trace = job.pods.stem.removeprefix("openb_pod_list_")
        shares = [outcome.allocation_at["1.00"] for outcome in group]
        known = published.get((trace, _PUBLISHED.get(job.policy, "")))
        mean = statistics.fmean(shares)
        rows.append(
            {
                "trace": trace,
                "policy": job.policy,
                "mix": mix,
                "mean": round(mean, 2),
                "ci95": round(_half_width(shares), 2),
                "min": round(min(shares), 2),
                "max": round(max(shares), 2),
                "published": known,
                "difference": None if known is None else round(mean - known, 2),
                "seeds": seeds,
                "seconds_per_run": round(statistics.median(o.seconds for o in group), 2),
                "config_hash": group[0].experiment.config_hash,
            }
        )
    if as_json:
        print_json({"provenance": provenance(), "rows": rows})
        return
    print_table(
        f"GPU allocated at 100 % requested, {seeds} seeds, mix {mix}",
        (
            "trace",
            "policy",
            "mean",
            "+-",
            "min",
            "max",
            "published",
            "difference",
            "s / run",
            "config",
        ),
        [
            (
                r["trace"],
                r["policy"],
                r["mean"],
                r["ci95"],
                r["min"],
                r["max"],
                r["published"],
                r["difference"],
                r["seconds_per_run"],
                r["config_hash"],
            )
            for r in rows
        ],
    )


# Two-sided 97.5 % quantiles of Student's t by degrees of freedom; beyond, the normal one.
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14)


def _half_width(values: list[float]) -> float:
    """Half the 95 % confidence interval of the mean; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    freedom = len(values) - 1
    quantile = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.96
    return float(quantile * statistics.stdev(values) / len(values) ** 0.5)


def _published(folder: Path) -> dict[tuple[str, str], float]:
    with (folder / "published_allocation.csv").open(newline="") as file:
        return {
            (row["trace"], row["policy"]): float(row["mean_allocated_pct"])
            for row in csv.DictReader(file)
            if row["arrived_pct"] == "100"
        }


@command.command("realism")
@data_option
@click.option("--traces", default="default,gpushare100,cpu250", show_default=True)
@click.option("--policy", default="fgd-published", show_default=True)
@click.option("--seeds", default=3, show_default=True, help="Seeds 0..n-1.")
@_json
def realism(data: Path, traces: str, policy: str, seeds: int, as_json: bool) -> None:
    """What random ties, node sampling, quantisation and in-tree scores cost a policy."""
    from scheduler.cli.console import print_json, print_table
    from scheduler.simulator.emulator import SchedulerProfile

    alone = SchedulerProfile(least_allocated=0, balanced=0, random_ties=False)
    cases = {
        "engine's own order": replace(alone, extender_scores="exact"),
        "exact scores, random ties": replace(alone, extender_scores="exact", random_ties=True),
        "0..10 by rank, unique winner": replace(alone, random_ties=True),
        "0..10 scaled, random ties": replace(alone, extender_scores="scaled", random_ties=True),
        "unique winner, sampled nodes": replace(alone, random_ties=True, percentage_of_nodes=0),
        "unique winner, in-tree scores, weight 15": SchedulerProfile(),
        "unique winner, in-tree scores, weight 1": SchedulerProfile(extender_weight=1),
        "no extender": SchedulerProfile(extender_weight=0),
    }
    names = traces.split(",")
    nodes, pods = openb_files(data, names)
    base = _jobs(nodes, pods, [policy], seeds, 1.0)
    jobs = [
        replace(job, profile=replace(profile, seed=job.seed))
        for profile in cases.values()
        for job in base
    ]
    outcomes = iter(_swept("realism", jobs))
    rows = []
    for case in cases:
        row: dict[str, Any] = {"case": case}
        for trace in names:
            ends = [next(outcomes) for _ in range(seeds)]
            row[trace] = round(statistics.fmean(o.allocation_at["1.00"] for o in ends), 2)
        rows.append(row)
    if as_json:
        print_json({"provenance": provenance(), "policy": policy, "seeds": seeds, "rows": rows})
        return
    print_table(
        f"{policy} behind an emulated kube-scheduler: GPU allocated %, {seeds} seeds",
        ("case", *names),
        [tuple(row.values()) for row in rows],
    )


@command.command("speed")
@data_option
@click.option("--policies", default="fgd,fgd-published,best-fit,random", show_default=True)
@_json
def speed(data: Path, policies: str, as_json: bool) -> None:
    """Seconds of one inflation run of the default trace, and time per pod as it grows."""
    from scheduler.cli.console import print_json, print_table
    from scheduler.files.load import load_workload
    from scheduler.simulator.inflation import Experiment, run

    node_list, pod_lists = openb_files(data, ["default"])
    workload = load_workload(node_list, pod_lists[0])
    total = sum(request.gpu.requested_milli for request in workload.requests)
    rows = []
    for policy in policies.split(","):
        for pods in (2_000, 5_000, 10_801, 20_000):
            arrival = total / len(workload.requests) * pods / workload.gpu_milli
            outcome = run(workload, Experiment(policy, 0, arrival=arrival))
            count = outcome.placed + outcome.dropped
            rows.append(
                {
                    "policy": policy,
                    "pods": count,
                    "seconds": round(outcome.seconds, 3),
                    "microseconds_per_pod": round(1e6 * outcome.seconds / count, 1),
                }
            )
    if as_json:
        print_json({"provenance": provenance(), "rows": rows})
        return
    print_table(
        "One inflation run on 1,213 nodes",
        ("policy", "pods", "seconds", "us per pod"),
        [tuple(row.values()) for row in rows],
    )


@command.command("smoke")
@_json
def smoke(as_json: bool) -> None:
    """A small run of every policy on synthetic data; exit code 1 if an expectation fails."""
    from scheduler.cli.console import print_json, print_table
    from scheduler.core.policies.table import POLICIES
    from scheduler.simulator.generate import GeneratorConfig, generate
    from scheduler.simulator.inflation import Experiment, run

    workload = generate(GeneratorConfig(nodes=120, load=1.0, seed=7))
    rows = []
    figures: dict[str, float] = {}
    failures: list[str] = []
    for policy in POLICIES:
        outcomes = [run(workload, Experiment(policy, seed, arrival=1.1)) for seed in (1, 2)]
        again = run(workload, Experiment(policy, 1, arrival=1.1))
        share = statistics.fmean(o.allocation_at["1.00"] for o in outcomes)
        same = replace(again, seconds=0) == replace(outcomes[0], seconds=0)
        figures[policy] = round(share, 2)
        rows.append({"policy": policy, "allocated": figures[policy], "reproducible": same})
        if not same:
            failures.append(f"{policy} is not reproducible")
    for better, worse in (
        ("fgd", "best-fit"),
        ("best-fit", "random"),
        ("best-fit", "kube-default"),
    ):
        if figures[better] < figures[worse]:
            failures.append(f"{better} allocates less than {worse}")
    if as_json:
        print_json({"provenance": provenance(), "rows": rows, "failures": failures})
    else:
        print_table(
            "120 synthetic nodes, 2 seeds, every decision checked by the referee",
            ("policy", "GPU allocated %", "reproducible"),
            [tuple(row.values()) for row in rows],
        )
        for failure in failures:
            say(f"FAILED: {failure}")
    if failures:
        raise click.exceptions.Exit(1)
