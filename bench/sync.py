"""How long until an extender that was just started knows a large cluster, and what does it weigh?

A process of its own plays the API server: 5,000 nodes and 50,000 running pods of 200 templates,
4.2 kB each with managed fields, conditions and statuses, in pages of 500 over HTTP, all made
beforehand. The extender is `snugfit serve`, started as a user would. Half of the nodes are shared
by `snugfit.io/gpu-milli` with recorded devices, half by the device plugin. Beside it, what decoding
costs: the same page of 500 pods, decoded into the fields that are read (msgspec) and into the
models of the official client, taking turns in one process, best of three.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

import click
import msgspec
from kubernetes.client import ApiClient

from bench.processes import children, memory_mib, processor_s
from bench.report import Report, benchmark
from scheduler.kube.objects import PodObject
from testbed.large_cluster import following, pod

__all__ = ["command", "until_ready"]


@benchmark("sync")
@click.option("--nodes", type=click.IntRange(1), default=5000, show_default=True)
@click.option("--pods", type=click.IntRange(1), default=50_000, show_default=True)
def command(report: Report, nodes: int, pods: int) -> None:
    """One row; decoding is told beside it."""
    report.title = f"First sync of {nodes} nodes and {pods} pods"
    with following(nodes, pods) as (extender, _, began):
        _, figures = until_ready(extender, began)
    report.add(**figures)
    report.facts["decoding"] = decoding(nodes)


def until_ready(extender: subprocess.Popen[str], began: float) -> tuple[str, dict[str, Any]]:
    """Wait until an extender knows the cluster; its URL, and what that has cost."""
    assert extender.stderr is not None
    url = next(line.split()[-1] for line in extender.stderr if "listening on" in line)
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz") as answer:  # noqa: S310 - our own server
                content = json.load(answer)
            break
        except urllib.error.HTTPError:
            time.sleep(0.05)
    ready_s, busy_s = time.monotonic() - began, processor_s(extender.pid)
    synced = next(line for line in extender.stderr if "synced" in line)
    time.sleep(2)
    with urllib.request.urlopen(f"{url}/metrics") as answer:  # noqa: S310 - our own server
        metrics = dict(
            line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#"
        )
    return url, {
        "start_to_ready_s": round(ready_s, 2),
        "processor_s_until_ready": round(busy_s, 2),
        "first_sync_s": float(synced.split(" in ")[1].split()[0]),
        "resident_mib": memory_mib(extender.pid),
        "peak_mib": memory_mib(extender.pid, "VmHWM"),
        "planner_process_mib": sum(map(memory_mib, children(extender.pid))),
        "pods": int(float(metrics["snugfit_pods_running"])),
        "nodes": content["nodes"],
        "faults": int(float(metrics["snugfit_watch_faults_total"])),
    }


def decoding(nodes: int, count: int = 500) -> dict[str, Any]:
    """One page decoded by us and by the official client, taking turns."""
    page = msgspec.json.encode({"items": [pod(number, nodes) for number in range(count)]})
    decoder = msgspec.json.Decoder(type=dict[str, list[PodObject]])
    official = ApiClient()
    text = page.decode()

    ours, theirs = [], []
    for _ in range(3):
        began = time.perf_counter()
        decoder.decode(page)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        official.deserialize(text, "V1PodList", "application/json")
        theirs.append(time.perf_counter() - began)
    return {
        "bytes_per_pod": len(page) // count,
        "msgspec_us_per_pod": round(min(ours) / count * 1e6, 1),
        "official_client_us_per_pod": round(min(theirs) / count * 1e6, 1),
        "factor": round(min(theirs) / min(ours)),
    }
