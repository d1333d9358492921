"""Does a storm of watch events move the latency of the webhook?

The extender follows an API server (played by a process of its own, see `sync`) while filter and
prioritize over all node names are measured, as kube-scheduler sends them. Idle and stormy phases
take turns in one run. Half of the events tell of a pod's status, the others of its end and return.
Percentiles are medians over the phases, in milliseconds, so that one bad moment of a shared machine
does not decide.
"""

from __future__ import annotations

import statistics
import time
import urllib.request
from dataclasses import replace

import click
import msgspec

from bench.figures import percentiles
from bench.report import Report, benchmark
from bench.sync import until_ready
from scheduler.files.dump_writer import pod_json
from scheduler.simulator.generate import GeneratorConfig, generate
from testbed.large_cluster import following
from testbed.plain_client import PlainClient

__all__ = ["command"]

_PHASES = ("idle", "storm") * 3


@benchmark("storm")
@click.option("--nodes", type=click.IntRange(1), default=5000, show_default=True)
@click.option("--pods", type=click.IntRange(1), default=25_000, show_default=True)
@click.option(
    "--rate", type=click.IntRange(1), default=500, show_default=True, help="Events per second."
)
@click.option(
    "--cycles", type=click.IntRange(1), default=400, show_default=True, help="Of each phase."
)
def command(report: Report, nodes: int, pods: int, rate: int, cycles: int) -> None:
    """A row for idle phases, and one for stormy ones."""
    report.title = f"{rate} events a second, {nodes} nodes, {pods} pods; filter + prioritize, ms"
    times: dict[str, list[list[float]]] = {"idle": [], "storm": []}
    with following(nodes, pods, "--reservation-ttl", "2") as (extender, api, began):
        url, synced = until_ready(extender, began)
        client = PlainClient(url)
        names = [f"node-{number}" for number in range(nodes)]
        wanted = iter(_wanted(cycles * len(_PHASES)))
        for phase, kind in enumerate(_PHASES):
            report.progress(phase, len(_PHASES))
            _get(f"{api}/rate/{rate if kind == 'storm' else 0}")
            time.sleep(1.0)
            found = []
            for _ in range(cycles):
                pod = next(wanted)
                passing, _ = client.filter(pod, names)
                cycle = client.elapsed_ms
                if len(passing) > 1:
                    client.prioritize(pod, passing)
                    cycle += client.elapsed_ms
                found.append(cycle)
                names = [*names[1:], names[0]]
            times[kind].append(found)
            report.rows = _rows(times)
        report.facts = {
            "events_applied": _metric(url, "snugfit_watch_events_total"),
            "drift": _metric(url, "snugfit_drift_rows"),
            "sync": synced,
        }


def _rows(times: dict[str, list[list[float]]]) -> list[dict[str, object]]:
    """A row per kind of phase that was measured, with its ratio to idle."""
    rows: list[dict[str, object]] = []
    for kind, phases in times.items():
        if not phases:
            continue
        row = dict(zip(("p50", "p99"), _middle(phases), strict=True))
        idle = dict(zip(("p50", "p99"), _middle(times["idle"]), strict=True))
        ratios = {f"{key}_over_idle": round(row[key] / idle[key], 2) for key in row}
        rows.append({"phases": kind, **row, **ratios})
    return rows


def _middle(phases: list[list[float]]) -> list[float]:
    """Medians over the phases of p50 and p99."""
    found = [percentiles(phase, 50, 99) for phase in phases]
    return [round(statistics.median(column), 3) for column in zip(*found, strict=True)]


def _wanted(count: int) -> list[bytes]:
    """Pods that ask; models do not matter here."""
    made = generate(GeneratorConfig(nodes=100, pods=count, seed=4)).requests
    return [
        msgspec.json.encode(
            pod_json(replace(pod, gang=None, gpu=replace(pod.gpu, products=(), resource="")))
        )
        for pod in made
    ]


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own servers
        text: str = answer.read().decode()
        return text


def _metric(url: str, name: str) -> float:
    lines = _get(f"{url}/metrics").splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))
