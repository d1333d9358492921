"""``snugfit bench replay``: a trace with its own times, on a cluster small enough to be full."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.options import data_option
from scheduler.cli.provenance import provenance

if TYPE_CHECKING:
    from scheduler.simulator.replay import ReplayOutcome
    from scheduler.simulator.workload import Workload

__all__ = ["command"]

_NODE_LIST = "openb_node_list_gpu_node.csv"
_QUIET = 0.002  # share of the arrivals before the trace gets going


@click.command("replay")
@data_option
@click.option("--trace", default="default", show_default=True, help="openb trace.")
@click.option("--policies", default="fgd,best-fit,kube-default,priced", show_default=True)
@click.option("--rates", default="40,48,60", show_default=True, help="Arrivals so much faster.")
@click.option("--one-in", default=20, show_default=True, help="Keep one node in so many.")
@click.option("--seed", default=0, show_default=True, help="Decides which nodes are kept.")
@click.option("--mix", type=click.Choice(["given", "learnt"]), default="learnt", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    data: Path,
    trace: str,
    policies: str,
    rates: str,
    one_in: int,
    seed: int,
    mix: str,
    as_json: bool,
) -> None:
    """Arrivals and departures at the trace's own times: allocation, waiting, starved pods.

    The trace loads its own cluster by about one percent, and sped up enough to fill it, pods no
    longer leave in time. So both are scaled: arrivals are faster and only one node in twenty is
    there. The quiet months before the trace gets going are left out.
    """
    from scheduler.cli.console import print_json, print_table, progress
    from scheduler.core.errors import InvalidInput
    from scheduler.core.policies import policy_named
    from scheduler.simulator.files import load_workload
    from scheduler.simulator.inflation import Experiment
    from scheduler.simulator.replay import replay

    names = policies.split(",")
    for name in names:
        policy_named(name)
    if one_in < 1:
        raise InvalidInput("--one-in", f"is {one_in}", "use 1 or more")
    folder = data / "openb"
    if not (folder / _NODE_LIST).exists():
        raise InvalidInput("--data", f"{folder} holds no openb trace", "set SNUGFIT_DATA")
    whole = load_workload(folder / _NODE_LIST, folder / f"openb_pod_list_{trace}.csv")
    workload = _scaled(whole, one_in, seed)
    digest = workload.digest()
    rows: list[dict[str, Any]] = []
    for rate in map(float, rates.split(",")):
        for name in names:
            with progress(f"{name}, arrivals x {rate:g}") as bar:
                experiment = Experiment(name, seed, "replay", trace=digest, mix=mix)
                rows.append(_row(replay(workload, experiment, rate=rate, progress=bar)))
    if as_json:
        print_json({"provenance": provenance(), "trace": trace, "mix": mix, "rows": rows})
        return
    classes = sorted({name for row in rows for name in row["waiting"]})
    print_table(
        f"Replay of {trace} on {len(workload.nodes)} nodes, mix {mix}; waits are p50 / p95 in s",
        ("rate", "policy", "asked for %", "allocated %", "starved", *classes),
        [
            (
                row["rate"],
                row["policy"],
                row["demand"],
                row["allocated"],
                row["starved"],
                *(row["waiting"].get(name, "-") for name in classes),
            )
            for row in rows
        ],
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


def _row(outcome: ReplayOutcome) -> dict[str, Any]:
    return {
        "rate": outcome.rate,
        "policy": outcome.experiment.policy,
        "demand": round(outcome.demand_percent, 2),
        "allocated": round(outcome.allocation_percent, 2),
        "starved": outcome.pods - outcome.placed,
        "waiting": {
            name: f"{wait.p50_s:.0f} / {wait.p95_s:.0f}" for name, wait in outcome.waiting.items()
        },
    }
