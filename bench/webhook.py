"""How long do filter, prioritize and bind take, as kube-scheduler sends them?

The real server in a process of its own, cluster filled to 60 %, live state, reservations, metrics
and decision log on, prices computed. Each cycle is a filter and a prioritize over all node names
and a bind, on one kept-alive connection. The client does next to nothing (a plain socket); times
run from the first byte sent to the last byte received, in milliseconds. Rejected pods request more
devices than any node has. The empty exchange (`GET /healthz`) is what HTTP between two processes
costs on this machine at this hour: compare the other calls with it.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from bench.figures import percentiles
from bench.options import ListOf
from bench.report import Report, benchmark
from scheduler.core.defaults import DEFAULT_POLICY
from scheduler.core.errors import SchedulerError
from scheduler.core.model import GpuRequest, PodRequest
from scheduler.core.policies.table import policy_named
from scheduler.files import native
from scheduler.files.dump_writer import pod_json
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.kube_scheduler_client import ExtenderClient, SchedulingLoop
from scheduler.simulator.server_process import running_server
from testbed.filled_cluster import filled_cluster
from testbed.plain_client import PlainClient

__all__ = ["command"]

_PRICES_WITHIN_S = 60
_ANNOTATION_BYTES = 2_200  # brings a pod to about 3 kB, as real ones are


@benchmark("webhook")
@click.option("--nodes", type=ListOf(int, 1), default="5000,15000", show_default=True)
@click.option(
    "--pods",
    type=click.IntRange(1),
    default=1500,
    show_default=True,
    help="Measured cycles per size.",
)
@click.option("--policy", default=DEFAULT_POLICY, show_default=True, help="See `snugfit policies`.")
@click.option("--planner", is_flag=True, help="With the planner process solving all the time.")
@click.option(
    "--rate",
    type=click.FloatRange(0.0),
    default=0.0,
    show_default=True,
    help="Cycles per second; 0 for one right after the other. kube-scheduler comes to 50 or 60.",
)
def command(
    report: Report, nodes: tuple[int, ...], pods: int, policy: str, rate: float, *, planner: bool
) -> None:
    """A row per size and call."""
    policy_named(policy)
    report.title = f"Latency of the webhook in ms, policy {policy}"
    pause_s = 1.0 / rate if rate else 0.0
    options = ("--policy", policy, *(("--planner",) if planner else ()))
    for number, size in enumerate(nodes):
        report.progress(number * pods, len(nodes) * pods)
        for call, times in _measured(report, size, pods, options, pause_s).items():
            p50, p90, p99 = percentiles(times, 50, 90, 99)
            report.add(
                nodes=size,
                call=call,
                p50=p50,
                p90=p90,
                p99=p99,
                max=round(max(times), 3),
                calls=len(times),
            )


def _measured(
    report: Report, size: int, pods: int, options: tuple[str, ...], pause_s: float
) -> dict[str, list[float]]:
    """Times of each call in milliseconds."""
    workload = generate(GeneratorConfig(nodes=size, load=0.6, seed=3))
    measured = generate(GeneratorConfig(nodes=size, pods=pods, seed=4)).requests
    measured = tuple(replace(pod, uid=f"m-{pod.uid}", name=f"m-{pod.name}") for pod in measured)
    names = [node.name for node in workload.nodes]
    with tempfile.TemporaryDirectory() as folder:
        cluster = Path(folder, "cluster.json")
        native.write(filled_cluster(workload, options[1]), cluster)
        with running_server(cluster, *options) as url:
            client = PlainClient(url)
            if options[1] == "priced":
                _await_prices(url)
            models = {node.name: node.product for node in workload.nodes}
            loop = SchedulingLoop(client, names, seed=1, models=models)
            cycles: list[float] = []
            rejected: list[float] = []
            empty: list[float] = []
            impossible = _impossible(measured[0])
            due = time.monotonic()
            for number, request in enumerate(measured):
                due += pause_s
                time.sleep(max(0.0, due - time.monotonic()))
                loop.schedule(request)
                times = loop.latencies_ms
                cycles.append(times["filter"][-1] + times.get("prioritize", [0.0])[-1])
                if number % 3 == 0:
                    client.filter(impossible, names)
                    rejected.append(client.elapsed_ms)
                    client.alive()
                    empty.append(client.elapsed_ms)
                report.progress(report.done + 1, report.total)
            client.close()
    return {
        "filter + prioritize": cycles,
        **loop.latencies_ms,
        "filter, rejected": rejected,
        "empty exchange": empty,
    }


def _impossible(request: PodRequest) -> bytes:
    """A pod that no node has enough devices for."""
    asked = replace(request, gpu=GpuRequest(count=9), uid="too-large", name="too-large")
    body = pod_json(asked)
    body["metadata"]["annotations"] = {"padding": "x" * _ANNOTATION_BYTES}
    return msgspec.json.encode(body)


def _await_prices(url: str) -> None:
    """Begin once the first prices are in force: what a start costs is not latency."""
    client = ExtenderClient(url)
    end = time.monotonic() + _PRICES_WITHIN_S
    while "generation" not in client.get("/debug/prices"):
        if time.monotonic() > end:
            raise SchedulerError(f"no prices within {_PRICES_WITHIN_S} s: see /readyz")
        time.sleep(0.1)
    client.close()
