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
    from scheduler.core.cluster_metrics import ClusterMetrics
    from scheduler.files.workload import Workload
    from scheduler.simulator.emulator import SchedulerProfile

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
@click.option("--nodes", default=1200, show_default=True, help="Nodes of the synthetic cluster.")
@click.option("--load", default=1.0, show_default=True, help="Requested GPUs / capacity.")
@click.option("--pods", default=0, help="Number of pods, instead of a load.")
@click.option("--seed", default=1, show_default=True, help="Decides everything random.")
@click.option("--policy", default=DEFAULT_POLICY, show_default=True, help="See `snugfit policies`.")
@json_option
def command(nodes: int, load: float, pods: int, seed: int, policy: str, as_json: bool) -> None:
    """Pack a synthetic cluster through the real webhook, beside kube-scheduler's default.

    Starts `snugfit serve --offline` on loopback, drives it over HTTP as kube-scheduler would
    (filter, prioritize, bind), then places the same pods in the same order with the default
    scoring of kube-scheduler, which spreads, and with its packing strategy MostAllocated. All of
    them place every pod that fits somewhere, and count fractions per device as Snugfit does.
    """
    from scheduler.cli.output import message, print_json
    from scheduler.core.policies.table import policy_named
    from scheduler.simulator.generate import GeneratorConfig, generate

    policy_named(policy)
    inapplicable(load=(not pods, "--pods says how many there are"))
    workload = generate(GeneratorConfig(nodes=nodes, load=load, pods=pods, seed=seed))
    gpus = workload.gpu_milli // 1000
    message(
        f"{plural(nodes, 'node')}, {plural(gpus, 'GPU')} of mixed models; "
        f"arriving: {plural(len(workload.arrivals), 'pod')}"
    )
    ours, problems = _through_the_webhook(workload, policy, seed)
    default = _default_scheduler(workload, seed)
    packing = _packing_scheduler(workload, seed)
    if as_json:
        sides = {"snugfit": ours, "default": default, "packing": packing}
        said = {key: side.to_json() for key, side in sides.items()}
        print_json({**said, "violations": problems})
    else:
        _print(ours, default, packing, problems)
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


def _default_scheduler(workload: Workload, seed: int) -> _Side:
    """The same stream with kube-scheduler's default scoring and random ties."""
    from scheduler.simulator.emulator import SchedulerProfile

    profile = SchedulerProfile(extender_weight=0, seed=seed)
    return _in_process("kube default", workload, "first-fit", profile)


def _packing_scheduler(workload: Workload, seed: int) -> _Side:
    """The same stream packed as kube-scheduler's MostAllocated does, GPUs included.

    What a user gets without any extender, and a little more: nodes are told apart by its scores
    alone, and a fraction goes to the fullest device that has room.
    """
    from scheduler.simulator.emulator import SchedulerProfile

    profile = SchedulerProfile(least_allocated=0, balanced=0, extender_scores="exact", seed=seed)
    return _in_process("MostAllocated", workload, "most-allocated", profile)


def _in_process(name: str, workload: Workload, policy: str, profile: SchedulerProfile) -> _Side:
    from scheduler.cli.output import progress
    from scheduler.core.cluster_metrics import cluster_metrics
    from scheduler.core.engine import Engine
    from scheduler.core.state import ClusterState
    from scheduler.core.workload_profile import WorkloadProfile
    from scheduler.simulator.emulator import EmulatedScheduler

    state = ClusterState(workload.nodes)
    engine = Engine(state, policy)
    emulated = EmulatedScheduler(engine, profile)
    placed = 0
    with progress(name) as bar:
        for number, request in enumerate(workload.requests):
            row = emulated.best(request)
            if row >= 0:
                node = state.node(row)
                engine.place_on(request, node.name)
                placed += 1
            if number % 100 == 0:
                bar(number + 1, len(workload.requests))
    figures = cluster_metrics(state, WorkloadProfile.from_requests(workload.requests))
    return _Side(name, figures, placed, len(workload.arrivals) - placed, {})


def _print(ours: _Side, default: _Side, packing: _Side, problems: list[str]) -> None:
    from scheduler.cli.output import print_table
    from scheduler.core.cluster_metrics import CAUSES

    sides = [side.to_json() for side in (ours, default, packing)]
    rows: list[tuple[object, ...]] = [
        (label, *(side[key] for side in sides))
        for label, key in (
            ("GPU allocated, %", "gpu_allocated_percent"),
            ("GPUs allocated", "gpus_allocated"),
            ("fragmentation, % of GPUs", "fragmentation_percent"),
        )
    ]
    rows += [
        (f"GPUs stranded by {cause}", *(side["stranded_gpus"][cause] for side in sides))
        for cause in CAUSES
    ]
    rows.append(("pods placed", *(side["pods_placed"] for side in sides)))
    rows.append(("pods pending", *(side["pods_pending"] for side in sides)))
    for verb, times in sides[0]["latency_ms"].items():
        rows.append((f"{verb} p50 / p99, ms", f"{times['p50']} / {times['p99']}", None, None))
    print_table(
        f"The same {plural(ours.placed + ours.pending, 'pod')} "
        f"on the same {plural(ours.metrics.nodes, 'node')}",
        ("", ours.name, default.name, packing.name),
        rows,
    )
    if problems:
        say(f"INVALID: {plural(len(problems), 'violation')}, first: {problems[0]}")
    else:
        say("Validator: no device, cpu or memory over-committed; state equals a recount.")
    for rival, other in (
        ("spreading by default", sides[1]),
        ("packing by MostAllocated", sides[2]),
    ):
        gained = sides[0]["gpus_allocated"] - other["gpus_allocated"]
        points = sides[0]["gpu_allocated_percent"] - other["gpu_allocated_percent"]
        say(f"{points:+.1f} points of GPU allocation over {rival}: {gained:+.0f} GPUs.")
