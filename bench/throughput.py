"""What does the extender cost a real kube-scheduler? Pods per second with it, and without.

kube-scheduler, kube-apiserver and etcd on this machine, nodes that nobody runs, every node scored
(``percentageOfNodesToScore: 100``), whole GPUs. The configurations take turns, several rounds in
one run, and are compared as ratios: the machine is shared.

    python -m bench.throughput --nodes 1000 --pods 1500 --rounds 3
    python -m bench.throughput --nodes 5000 --pods 500 --rounds 3

``alone``: no extender. ``stock``: with it, all in-tree scoring on. ``packing``: with it, in-tree
scoring off. Both as `snugfit config kube-scheduler` prints them. ``sampled``: no extender, and
kube-scheduler's default sample of the nodes. The first run builds the control plane (needs Go).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import click
import yaml

from scheduler.core.defaults import DEFAULT_POLICY
from scheduler.kube.scheduler_config.write import Profile, SchedulerSetup, kube_scheduler_config
from testbed.controlplane.assets import find
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.extender import live
from testbed.controlplane.objects import gpu_node, gpu_pod
from testbed.controlplane.plane import ControlPlane
from testbed.controlplane.process import Daemon
from testbed.controlplane.scheduling import stock

_MODELS = ("NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3", "Tesla-T4")
_WARM = 20


@click.command()
@click.option("--nodes", default=1000, show_default=True)
@click.option("--pods", default=1500, show_default=True, help="Measured pods of each round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--policy", default=DEFAULT_POLICY, show_default=True)
@click.option("--cases", default="alone,stock,packing", show_default=True)
def main(nodes: int, pods: int, rounds: int, policy: str, cases: str) -> None:
    """Print pods per second of each case, and ratios to kube-scheduler alone."""
    rates: dict[str, list[float]] = {case: [] for case in cases.split(",")}
    with ControlPlane(find()) as plane:
        Cluster(plane).create(_nodes(nodes))
        user = plane.kubeconfig(plane.tokens["admin"], "extender")
        extender = live(plane, user, "--policy", policy)
        extender.start()
        for number in range(rounds):
            for case, found in rates.items():
                rate = _round(plane, case, extender.url, pods)
                found.append(rate)
                sys.stderr.write(f"round {number} {case}: {rate:.1f} pods/s\n")
        metrics = extender.metrics()
        sys.stderr.write(f"extender: {_verbs(metrics)}\n")
    middle = {case: round(statistics.median(found), 1) for case, found in rates.items()}
    content = {
        "nodes": nodes,
        "pods": pods,
        "rounds": rounds,
        "policy": policy,
        "pods_per_second": middle,
        "all_rounds": {case: [round(rate, 1) for rate in found] for case, found in rates.items()},
        "percent_of_alone": {
            case: round(
                100 * statistics.median(a / b for a, b in zip(found, rates["alone"], strict=True))
            )
            for case, found in rates.items()
        },
        "drift": metrics["snugfit_drift_rows"],
    }
    json.dump(content, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _verbs(metrics: dict[str, float]) -> dict[str, str]:
    """Mean time of each verb inside the extender."""
    found = {}
    for verb in ("filter", "prioritize", "bind"):
        count = metrics.get(f'snugfit_request_seconds_count{{verb="{verb}"}}', 0.0)
        total = metrics.get(f'snugfit_request_seconds_sum{{verb="{verb}"}}', 0.0)
        if count:
            found[verb] = f"{1000 * total / count:.2f} ms, {count:.0f} calls"
    return found


def _nodes(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield gpu_node(f"node-{number:05d}", 8, _MODELS[number % 3])


def _round(plane: ControlPlane, case: str, url: str, pods: int) -> float:
    """Pods per second of one kube-scheduler from a standing queue, and everything undone."""
    plane.api.delete_all("Pod", "default")
    cluster = Cluster(plane)
    cluster.create(_pod(number) for number in range(_WARM))
    scheduler = plane.scheduler(_config(case, url))
    scheduler.start()
    cluster.all_bound(_WARM, patience_s=120)
    _pause(scheduler, cluster, pods)
    started = time.perf_counter()
    scheduler.resume()
    cluster.all_bound(_WARM + pods, patience_s=600)
    seconds = time.perf_counter() - started
    plane.forget(scheduler)
    return pods / seconds


def _pause(scheduler: Daemon, cluster: Cluster, pods: int) -> None:
    """Let the queue fill while kube-scheduler stands still, so that creating costs it nothing."""
    scheduler.pause()
    cluster.create(_pod(_WARM + number) for number in range(pods))


def _pod(number: int) -> dict[str, Any]:
    # One GPU each: with larger ones kube-scheduler alone would strand some, and never be done.
    return gpu_pod(f"p{number:05d}", 1, cpu_milli=4000, scheduler="snugfit")


def _config(case: str, url: str) -> dict[str, Any]:
    if case in ("alone", "sampled"):
        config = stock("snugfit")
        if case == "sampled":
            del config["percentageOfNodesToScore"]
        return config
    setup = SchedulerSetup(profile=Profile(case), url=url)
    config = yaml.safe_load(kube_scheduler_config(setup))
    return config | {"leaderElection": {"leaderElect": False}}


if __name__ == "__main__":
    main()
