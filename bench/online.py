"""Pods arrive one at a time and never leave: how much of the GPU capacity ends up allocated?

The inflation protocol of FGD (Weng et al., USENIX ATC'23) on the public openb trace: 1,213 nodes,
6,212 GPUs. The pods of the trace are shuffled by the seed; pods drawn uniformly with replacement
are appended until the next one would push the requested milli-GPU over 130 % of the capacity. The
order of the nodes is shuffled by the seed. A pod that fits somewhere is placed, any other is left
out. The figure is allocated / capacity right after the pod with which the requested milli-GPU reach
100 % of the capacity, in percent, as the mean over the seeds with the half width of its 95 %
confidence interval. Published figures are those of the FGD artifact.

Profile given: the workload profile is that of the whole trace, as FGD has it. Profile learnt: it is
learnt from nothing, from the pods seen so far. The weights of `priced` were fixed on `default`,
`gpuspec10` and `gpushare40`; the other six traces are hold-out for the weights, not for the
structure.
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean, median

from bench.inflation import FULL, over_seeds, trace_of
from bench.options import (
    arrival_option,
    data_option,
    openb_files,
    policies_option,
    profile_option,
    seeds_option,
    traces_option,
)
from bench.report import Report, benchmark
from scheduler.core.policies.table import RIVALS
from scheduler.core.reading import read_text
from scheduler.simulator.intervals import half_width
from scheduler.simulator.sweep.runs import Job

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


@benchmark("online", grid=True)
@data_option
@traces_option(_TRACES)
@policies_option(",".join(dict.fromkeys([*_PUBLISHED, *RIVALS, "fgd", "priced"])))
@seeds_option(10)
@profile_option("given")
@arrival_option(1.3)
def command(
    report: Report,
    data: Path,
    traces: tuple[str, ...],
    policies: tuple[str, ...],
    seeds: int,
    profile: str,
    arrival: float,
) -> None:
    """A row per trace and policy, beside the published figure."""
    report.title = f"GPU allocated at 100 % requested, {seeds} seeds, profile {profile}"
    nodes, pods = openb_files(data, traces)
    published = _published(nodes.parent / "published_allocation.csv")
    cases = [
        Job((nodes, path), policy, 0, arrival=arrival, workload_profile=profile)
        for path in pods
        for policy in policies
    ]
    for job, rows in zip(cases, over_seeds(report, cases, seeds), strict=True):
        shares = [row.figures["allocation_at"][FULL] for row in rows]
        known = published.get((trace_of(job), _PUBLISHED.get(job.policy, "")))
        mean = fmean(shares)
        report.add(
            trace=trace_of(job),
            policy=job.policy,
            profile=profile,
            mean=round(mean, 2),
            ci95=round(half_width(shares), 2),
            min=round(min(shares), 2),
            max=round(max(shares), 2),
            published=known,
            difference=None if known is None else round(mean - known, 2),
            seconds_per_run=round(median(row.seconds for row in rows), 2),
            config_hash=rows[0].figures["config_hash"],
        )


def _published(path: Path) -> dict[tuple[str, str], float]:
    return {
        (row["trace"], row["policy"]): float(row["mean_allocated_pct"])
        for row in csv.DictReader(read_text(path).splitlines())
        if row["arrived_pct"] == "100"
    }
