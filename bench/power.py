"""What does a charge for the watts that a placement switches on save, and what does it cost?

Inflation (see `online`), profile given, means over the seeds: kW that the cluster draws when 30,
50, 70, 90 and 100 % of the GPUs are requested, and GPU allocated at the end, in percent. Power is
modelled (`scheduler/core/power.py`): a device that anything runs on draws its board power, any
other its idle power, and so do sockets of 32 threads.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import click

from bench.inflation import FULL, over_seeds, trace_of
from bench.options import (
    ListOf,
    data_option,
    openb_files,
    policies_option,
    seeds_option,
    traces_option,
)
from bench.report import Report, benchmark
from scheduler.core.policies.table import RIVALS
from scheduler.core.price_weights import PriceWeights
from scheduler.simulator.sweep.runs import Job

__all__ = ["command"]

_AT = ("0.30", "0.50", "0.70", "0.90", FULL)


@benchmark("power", grid=True)
@data_option
@traces_option("default,gpuspec10,gpushare40")
@policies_option(",".join([*RIVALS, "fgd"]))
@click.option(
    "--weights",
    type=ListOf(float),
    default="0,0.1,0.3,1",
    show_default=True,
    help="Of `power` in policy priced, in milli-GPU per watt.",
)
@seeds_option(4)
def command(
    report: Report,
    data: Path,
    traces: tuple[str, ...],
    policies: tuple[str, ...],
    weights: tuple[float, ...],
    seeds: int,
) -> None:
    """A row per trace and policy, and per trace and weight."""
    report.title = f"kW at the requested share of the GPUs, {seeds} seeds"
    nodes, pods = openb_files(data, traces)
    charged = [PriceWeights(power=weight) for weight in weights]
    ways = [
        *((name, name, None) for name in policies),
        *((f"priced, power {given.power:g}", "priced", given) for given in charged),
    ]
    labels = [label for label, _, _ in ways] * len(pods)
    cases = [
        Job((nodes, path), name, 0, arrival=1.0, weights=given)
        for path in pods
        for _, name, given in ways
    ]
    for label, job, rows in zip(labels, cases, over_seeds(report, cases, seeds), strict=True):
        report.add(
            trace=trace_of(job),
            policy=label,
            **{
                f"kw_at_{float(at):.0%}".rstrip("%"): round(
                    fmean(row.figures["power_kw_at"][at] for row in rows), 1
                )
                for at in _AT
            },
            allocated=round(fmean(row.figures["allocation_at"][FULL] for row in rows), 2),
        )
