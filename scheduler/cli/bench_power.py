"""``snugfit bench power``: what the weight ``power`` saves, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.options import data_option, openb_files
from scheduler.cli.provenance import provenance

if TYPE_CHECKING:
    from scheduler.simulator.inflation import Outcome

__all__ = ["command"]

_AT = ("0.30", "0.50", "0.70", "0.90", "1.00")


@click.command("power")
@data_option
@click.option(
    "--traces", default="default,gpuspec10,gpushare40", show_default=True, help="Comma separated."
)
@click.option("--policies", default="kube-default,best-fit,fgd", show_default=True)
@click.option(
    "--weights",
    default="0,0.1,0.3,1",
    show_default=True,
    help="Of `power` in policy priced, in milli-GPU per watt.",
)
@click.option("--seeds", default=4, show_default=True, help="Seeds 0..n-1.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    data: Path, traces: str, policies: str, weights: str, seeds: int, as_json: bool
) -> None:
    """Power that the cluster draws while it fills, and what is allocated once it is full.

    Inflation, mix given; means over the seeds. Power is modelled: a device that anything runs on
    draws its board power, any other its idle power, and so do sockets of 32 threads.
    """
    from scheduler.cli.console import print_json, print_table, progress
    from scheduler.core.errors import InvalidInput
    from scheduler.core.policies.table import policy_named
    from scheduler.core.prices import PriceWeights
    from scheduler.simulator.sweep import Job, sweep

    if seeds < 1:
        raise InvalidInput("--seeds", f"is {seeds}", "use 1 or more")
    names = [name for name in policies.split(",") if name]
    for name in names:
        policy_named(name)
    try:
        charged = [PriceWeights(power=float(text)) for text in weights.split(",")]
    except ValueError as error:
        raise InvalidInput("--weights", f"{weights!r}: {error}", "write 0,0.3,1") from error
    nodes, pods = openb_files(data, traces.split(","))
    cases = [
        (path, label, Job(nodes, path, name, 0, arrival=1.0, weights=given))
        for path in pods
        for label, name, given in (
            *((name, name, None) for name in names),
            *((f"priced, power {given.power:g}", "priced", given) for given in charged),
        )
    ]
    jobs = [replace(job, seed=seed) for _, _, job in cases for seed in range(seeds)]
    with progress("power") as bar:
        outcomes = sweep(jobs, progress=bar)
    rows = [
        _row(path.stem.removeprefix("openb_pod_list_"), label, outcomes[at : at + seeds])
        for (path, label, _), at in zip(cases, range(0, len(outcomes), seeds), strict=True)
    ]
    if as_json:
        print_json({"provenance": provenance(), "seeds": seeds, "rows": rows})
        return
    print_table(
        f"kW at the requested share of the GPUs, {seeds} seeds",
        ("trace", "policy", *_AT, "allocated at 1.00, %"),
        [
            (row["trace"], row["policy"], *row["power_kw"].values(), row["allocated"])
            for row in rows
        ],
    )


def _row(trace: str, label: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "trace": trace,
        "policy": label,
        "power_kw": {at: round(fmean(o.power_kw_at[at] for o in outcomes), 1) for at in _AT},
        "allocated": round(fmean(o.allocation_at["1.00"] for o in outcomes), 2),
    }
