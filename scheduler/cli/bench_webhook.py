"""``snugfit bench webhook``: latency of the real server over real HTTP."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from scheduler.core.defaults import DEFAULT_POLICY

__all__ = ["command"]

_PRICES_WITHIN_S = 60
_ANNOTATION_BYTES = 2_200  # brings a pod to about 3 kB, as real ones are


@click.command("webhook")
@click.option("--nodes", default="5000,15000", show_default=True, help="Cluster sizes.")
@click.option("--pods", default=1500, show_default=True, help="Measured cycles per size.")
@click.option("--policy", default=DEFAULT_POLICY, show_default=True, help="See `snugfit policies`.")
@click.option("--planner", is_flag=True, help="With the planner process solving all the time.")
@click.option(
    "--rate",
    default=0.0,
    show_default=True,
    help="Cycles per second; 0 for one right after the other. kube-scheduler comes to 50 or 60.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(nodes: str, pods: int, policy: str, planner: bool, rate: float, as_json: bool) -> None:
    """Latency of filter + prioritize, with live state, holds, metrics and the decision log on.

    Each cycle is a filter and a prioritize over all node names and a bind, as kube-scheduler sends
    them, on one kept-alive connection. The cluster is filled to about 60 % first, and priced.
    Rejected pods ask for more devices than any node has free. The empty exchange (GET /healthz) is
    what HTTP alone costs on this machine at this hour: compare the others with it.
    """
    from scheduler.cli.console import print_json, print_table
    from scheduler.cli.provenance import provenance
    from scheduler.core.errors import InvalidInput

    if rate < 0:
        raise InvalidInput("--rate", f"is {rate}", "use 0 or more cycles per second")
    pause_s = 1.0 / rate if rate else 0.0
    flags = ("--policy", policy, *(("--planner",) if planner else ()))
    rows = [row for size in nodes.split(",") for row in _measure(int(size), pods, flags, pause_s)]
    if as_json:
        content = {"provenance": provenance(), "policy": policy, "planner": planner}
        content |= {"rate": rate, "rows": rows}
        print_json(content)
        return
    print_table(
        f"Webhook latency in ms, policy {policy}",
        ("nodes", "call", "p50", "p90", "p99", "max", "calls"),
        [tuple(row.values()) for row in rows],
    )


def _measure(size: int, pods: int, flags: tuple[str, ...], pause_s: float) -> list[dict[str, Any]]:
    import msgspec

    from scheduler.cli.console import progress
    from scheduler.core.model import GpuRequest
    from scheduler.files import native
    from scheduler.files.kubectl_dump import pod_json
    from scheduler.simulator.generate import GeneratorConfig, generate
    from scheduler.simulator.kube_scheduler_client import SchedulingLoop
    from scheduler.simulator.server_process import running_server
    from testbed.filled_cluster import filled_cluster
    from testbed.plain_client import PlainClient

    workload = generate(GeneratorConfig(nodes=size, load=0.6, seed=3))
    measured = generate(GeneratorConfig(nodes=size, pods=pods, seed=4)).requests
    measured = tuple(replace(pod, uid=f"m-{pod.uid}", name=f"m-{pod.name}") for pod in measured)
    impossible = replace(measured[0], gpu=GpuRequest(count=9), uid="too-large", name="too-large")
    names = [node.name for node in workload.nodes]
    with tempfile.TemporaryDirectory() as folder, progress(f"{size} nodes") as bar:
        cluster = Path(folder, "cluster.json")
        native.write(filled_cluster(workload, flags[1]), cluster)
        with running_server(cluster, *flags) as url:
            client = PlainClient(url)
            if flags[1] == "priced":
                _await_prices(url)
            models = {node.name: node.product for node in workload.nodes}
            loop = SchedulingLoop(client, names, seed=1, models=models)
            cycles, rejected, empty = [], [], []
            body = pod_json(impossible)
            body["metadata"]["annotations"] = {"padding": "x" * _ANNOTATION_BYTES}
            refused = msgspec.json.encode(body)
            due = time.monotonic()
            for number, request in enumerate(measured):
                due += pause_s
                time.sleep(max(0.0, due - time.monotonic()))
                loop.schedule(request)
                times = loop.latencies_ms
                cycles.append(times["filter"][-1] + times.get("prioritize", [0.0])[-1])
                if number % 3 == 0:
                    client.filter(refused, names)
                    rejected.append(client.elapsed_ms)
                    client.alive()
                    empty.append(client.elapsed_ms)
                bar(number + 1, len(measured))
            client.close()
    figures = {
        "filter + prioritize": cycles,
        **loop.latencies_ms,
        "filter, rejected": rejected,
        "empty exchange": empty,
    }
    return [_row(size, call, times) for call, times in figures.items()]


def _await_prices(url: str) -> None:
    """Begin once the first prices are in force: what a start costs is not latency."""
    from scheduler.core.errors import SchedulerError
    from scheduler.simulator.kube_scheduler_client import ExtenderClient

    client = ExtenderClient(url)
    end = time.monotonic() + _PRICES_WITHIN_S
    while "generation" not in client.get("/debug/prices"):
        if time.monotonic() > end:
            raise SchedulerError(f"no prices within {_PRICES_WITHIN_S} s: see /readyz")
        time.sleep(0.1)
    client.close()


def _row(size: int, call: str, times: list[float]) -> dict[str, Any]:
    ordered = sorted(times)

    def at(percent: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))], 3)

    return {
        "nodes": size,
        "call": call,
        "p50": at(50),
        "p90": at(90),
        "p99": at(99),
        "max": round(ordered[-1], 3),
        "calls": len(ordered),
    }
