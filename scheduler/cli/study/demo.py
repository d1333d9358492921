"""``snugfit demo``: the main job, end to end, on the embedded synthetic cluster."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.options import inapplicable, json_option
from scheduler.cli.output import say
from scheduler.core.defaults import DEFAULT_POLICY
from scheduler.core.plural import plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.core.cluster_metrics import ClusterMetrics
    from scheduler.core.model import PodRequest
    from scheduler.files.workload import Workload

__all__ = ["command"]


@dataclass(frozen=True)
class _Side:
    """One of the ways in which the stream was placed."""

    name: str
    metrics: ClusterMetrics
    placed: int
    pending: int
    latencies_ms: dict[str, list[float]]

    def to_json(self) -> dict[str, Any]:
        import numpy as np

        from scheduler.core.cluster_metrics import CAUSES

        capacity = self.metrics.capacity_milli
        return {
            "name": self.name,
            "gpu_allocated_percent": round(100 * self.metrics.allocation, 2),
            "gpus_allocated": self.metrics.allocated_milli / 1000,
            "gpus": capacity / 1000,
            "fragmentation_percent": round(100 * self.metrics.fragmentation_milli / capacity, 2),
            "stranded_gpus": {
                cause: round(self.metrics.stranded_milli[cause] / 1000, 1) for cause in CAUSES
            },
            "pods_placed": self.placed,
            "pods_pending": self.pending,
            "latency_ms": {
                verb: {
                    f"p{percent}": round(float(np.percentile(times, percent)), 3)
                    for percent in (50, 99)
                }
                for verb, times in self.latencies_ms.items()
            },
        }


@click.command("demo")
@click.option("--nodes", default=1200, show_default=True, help="Nodes of the cluster.")
@click.option("--load", default=1.0, show_default=True, help="Requested GPUs / capacity.")
@click.option("--pods", default=0, help="Number of pods, instead of a load.")
@click.option("--seed", default=1, show_default=True, help="Decides everything random.")
@click.option("--policy", default=DEFAULT_POLICY, show_default=True, help="See `snugfit policies`.")
@json_option
def command(nodes: int, load: float, pods: int, seed: int, policy: str, as_json: bool) -> None:
    """Pack a cluster through the real webhook, beside all that others would run.

    Nodes and pods come in the shares of a public trace (Alibaba gpu-v2023): scarce models, nodes
    with little cpu per GPU, one pod in ten that names its model.

    Starts `snugfit serve --offline` on loopback, drives it over HTTP as kube-scheduler would
    (filter, prioritize, bind), then places the same pods in the same order by each rival. All of
    them place every pod that fits somewhere, and count fractions per device as Snugfit does.
    """
    from scheduler.cli.output import message, print_json
    from scheduler.core.policies.table import RIVALS, policy_named
    from scheduler.simulator.fleets import OPENB_NODES, OPENB_PODS
    from scheduler.simulator.generate import GeneratorConfig, generate

    policy_named(policy)
    inapplicable(load=(not pods, "--pods says how many there are"))
    config = GeneratorConfig(
        nodes=nodes,
        load=load,
        pods=pods,
        seed=seed,
        node_shapes=OPENB_NODES,
        pod_shapes=OPENB_PODS,
    )
    workload = generate(config)
    gpus = workload.gpu_milli // 1000
    message(
        f"{plural(nodes, 'node')}, {plural(gpus, 'GPU')} of mixed models; "
        f"arriving: {plural(len(workload.arrivals), 'pod')}"
    )
    ours, problems = _through_the_webhook(workload, policy, seed)
    sides = [ours, *(_rival(name, workload, seed) for name in RIVALS)]
    if as_json:
        print_json({"runs": [side.to_json() for side in sides], "violations": problems})
    else:
        _print(sides, problems)
    if problems:
        raise click.exceptions.Exit(1)


def _through_the_webhook(workload: Workload, policy: str, seed: int) -> tuple[_Side, list[str]]:
    """Place the stream over HTTP; measure and validate what the server says it did."""
    from dataclasses import replace

    from scheduler.cli.output import progress
    from scheduler.core.cluster_metrics import cluster_metrics
    from scheduler.core.state import ClusterState
    from scheduler.core.validator import verify
    from scheduler.core.workload_profile import WorkloadProfile
    from scheduler.files import native
    from scheduler.simulator.kube_scheduler_client import ExtenderClient, SchedulingLoop
    from scheduler.simulator.server_process import running_server

    with tempfile.TemporaryDirectory() as folder:
        cluster = Path(folder, "cluster.json")
        # The webhook learns the workload profile itself.
        native.write(replace(workload, arrivals=()), cluster)
        with running_server(cluster, "--policy", policy) as url:
            client = ExtenderClient(url)
            loop = SchedulingLoop(
                client,
                [node.name for node in workload.nodes],
                seed,
                workload.gangs,
                {node.name: node.product for node in workload.nodes},
            )
            placed = 0
            with progress("webhook") as bar:
                for number, (_, node) in enumerate(loop.run(workload.requests)):
                    placed += bool(node)
                    bar(number + 1, len(workload.requests))
            said = client.get("/debug/state")
            client.close()
    placements = _placements(workload, said)
    problems = verify(workload.nodes, placements)
    problems += [f"recount: {line}" for line in said["recount_differences"]]
    state = ClusterState(workload.nodes)
    state.apply(placements, enforce=False)
    figures = cluster_metrics(state, WorkloadProfile.from_requests(workload.requests))
    side = _Side(
        f"snugfit ({policy})", figures, placed, len(workload.arrivals) - placed, loop.latencies_ms
    )
    return side, problems


def _placements(workload: Workload, said: dict[str, Any]) -> list[Any]:
    from scheduler.core.model import DeviceShare, Placement

    requests = {request.uid: request for request in workload.requests}
    return [
        Placement(
            requests[pod["uid"]],
            node["name"],
            tuple(
                DeviceShare(d["index"], d["milli"], d["memory_mib"], d["slots"])
                for d in pod["devices"]
            ),
        )
        for node in said["nodes"]
        for pod in node["pods"]
        if not pod["reserved"]
    ]


def _rival(name: str, workload: Workload, seed: int) -> _Side:
    """The same stream by a policy that others would run, its profile given if it needs one.

    kube-scheduler's default breaks ties at random, as kube-scheduler does. The others are told
    apart by their scores alone, and a fraction goes to the device that they say, which is more
    than a user gets of them without an extender.
    """
    from scheduler.cli.output import progress
    from scheduler.core.cluster_metrics import cluster_metrics
    from scheduler.core.engine import Engine
    from scheduler.core.state import ClusterState
    from scheduler.core.workload_profile import WorkloadProfile
    from scheduler.simulator.emulator import EmulatedScheduler, SchedulerProfile

    state, profile = ClusterState(workload.nodes), WorkloadProfile.from_requests(workload.requests)
    stock = name == "kube-default"
    choose = Engine(state, "first-fit" if stock else name, profile=profile)
    best: Callable[[PodRequest], int] = choose.best
    if stock:
        best = EmulatedScheduler(choose, SchedulerProfile(extender_weight=0, seed=seed)).best
    placed = 0
    with progress(name) as bar:
        for number, request in enumerate(workload.requests):
            row = best(request)
            if row >= 0:
                choose.place_on(request, state.node(row).name)
                placed += 1
            if number % 100 == 0:
                bar(number + 1, len(workload.requests))
    figures = cluster_metrics(state, profile)
    return _Side(name, figures, placed, len(workload.arrivals) - placed, {})


def _print(sides: list[_Side], problems: list[str]) -> None:
    from scheduler.cli.output import print_table
    from scheduler.core.cluster_metrics import CAUSES

    ours, *rivals = (side.to_json() for side in sides)
    pods, nodes = sides[0].placed + sides[0].pending, sides[0].metrics.nodes
    print_table(
        f"The same {plural(pods, 'pod')} on the same {plural(nodes, 'node')}: GPU allocated and "
        "fragmented, %, GPUs lost to each cause, pods pending",
        ("", "GPU %", "frag %", *CAUSES, "pending"),
        [
            (
                side["name"],
                side["gpu_allocated_percent"],
                side["fragmentation_percent"],
                *(side["stranded_gpus"][cause] for cause in CAUSES),
                side["pods_pending"],
            )
            for side in (ours, *rivals)
        ],
    )
    print_table(
        "Latency of the webhook, ms",
        ("verb", "p50", "p99"),
        [(verb, times["p50"], times["p99"]) for verb, times in ours["latency_ms"].items()],
    )
    if problems:
        say(f"INVALID: {plural(len(problems), 'violation')}, first: {problems[0]}")
    else:
        say("Validator: no device, cpu or memory over-committed; state equals a recount.")
    best = max(rivals, key=lambda side: side["gpus_allocated"])
    default = next(side for side in rivals if side["name"] == "kube-default")
    for what, other in (
        ("kube-scheduler's default", default),
        (f"the best rival ({best['name']})", best),
    ):
        gained = ours["gpus_allocated"] - other["gpus_allocated"]
        points = ours["gpu_allocated_percent"] - other["gpu_allocated_percent"]
        say(f"{points:+.1f} points of GPU allocation over {what}: {gained:+.0f} GPUs.")
