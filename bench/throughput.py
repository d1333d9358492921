"""What does the extender cost a real kube-scheduler, in pods per second?

kube-scheduler, kube-apiserver and etcd on this machine, nodes that nobody runs, every node scored
(`percentageOfNodesToScore: 100`), pods of one whole GPU from a standing queue. The configurations
take turns, several rounds in one run, and are compared as ratios, since the machine is shared.
`alone`: no extender. `stock`: with it, all in-tree scoring on. `packing`: with it, in-tree scoring
off. Both as `snugfit config kube-scheduler` prints them. `sampled`: no extender, and the default
sample of the nodes. The first run builds the control plane (needs Go).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import click
import yaml

from bench.options import ListOf
from bench.report import Report, benchmark
from scheduler.core.defaults import DEFAULT_POLICY
from scheduler.core.errors import InvalidInput
from scheduler.core.policies.table import policy_named
from scheduler.kube.scheduler_config.write import Profile, SchedulerSetup, kube_scheduler_config
from testbed.controlplane.assets import find
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.extender import live
from testbed.controlplane.objects import gpu_node, gpu_pod
from testbed.controlplane.plane import ControlPlane
from testbed.controlplane.process import Daemon
from testbed.controlplane.scheduling import stock

__all__ = ["command"]

_MODELS = ("NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3", "Tesla-T4")
_WARM = 20
_PROFILES = tuple(profile.value for profile in Profile)


@benchmark("throughput")
@click.option("--nodes", type=click.IntRange(1), default=1000, show_default=True)
@click.option(
    "--pods",
    type=click.IntRange(1),
    default=1500,
    show_default=True,
    help="Measured pods of each round.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--policy", default=DEFAULT_POLICY, show_default=True)
@click.option(
    "--cases",
    type=ListOf(str),
    default="alone,stock,packing",
    show_default=True,
    help="Ratios are to the first.",
)
def command(
    report: Report, nodes: int, pods: int, rounds: int, policy: str, cases: tuple[str, ...]
) -> None:
    """A row per case."""
    policy_named(policy)
    for case in cases:
        _config(case, "http://127.0.0.1")
    report.title = f"Pods per second, {nodes} nodes, {pods} pods a round, policy {policy}"
    rates: dict[str, list[float]] = {case: [] for case in cases}
    with ControlPlane(find()) as plane:
        Cluster(plane).create(_nodes(nodes))
        user = plane.kubeconfig(plane.tokens["admin"], "extender")
        extender = live(plane, user, "--policy", policy)
        extender.start()
        for number in range(rounds):
            for case, found in rates.items():
                report.progress(sum(map(len, rates.values())), rounds * len(cases))
                found.append(_round(plane, case, extender.url, pods))
                report.rows = _rows(rates)
                report.say(f"round {number} {case}: {found[-1]:.1f} pods/s")
        metrics = extender.metrics()
    report.facts = {"drift": int(metrics["snugfit_drift_rows"]), "verbs_ms": _verbs(metrics)}


def _rows(rates: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Rates of all rounds, and the median of their ratios to the first case."""
    first = next(iter(rates.values()))
    return [
        {
            "case": case,
            "pods_per_second": round(statistics.median(found), 1),
            "rounds": ", ".join(f"{rate:.0f}" for rate in found),
            "percent_of_first": round(
                100 * statistics.median(a / b for a, b in zip(found, first, strict=False))
            ),
        }
        for case, found in rates.items()
        if found
    ]


def _verbs(metrics: dict[str, float]) -> dict[str, float]:
    """Mean time of each verb inside the extender, in milliseconds."""
    found = {}
    for verb in ("filter", "prioritize", "bind"):
        count = metrics.get(f'snugfit_request_seconds_count{{verb="{verb}"}}', 0.0)
        total = metrics.get(f'snugfit_request_seconds_sum{{verb="{verb}"}}', 0.0)
        if count:
            found[verb] = round(1000 * total / count, 2)
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
    if case not in _PROFILES:
        known = ", ".join(("alone", "sampled", *_PROFILES))
        raise InvalidInput("--cases", f"{case!r} is not a case", f"use {known}")
    setup = SchedulerSetup(profile=Profile(case), url=url)
    written: dict[str, Any] = yaml.safe_load(kube_scheduler_config(setup))
    return written | {"leaderElection": {"leaderElect": False}}
