"""``snugfit demo``: the main job, end to end, on the embedded synthetic cluster."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from scheduler.core.metrics import ClusterMetrics
    from scheduler.simulator.workload import Workload

__all__ = ["command", "running_server"]

_START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class _Side:
    """One of the two ways in which the stream was placed."""

    name: str
    metrics: ClusterMetrics
    placed: int
    dropped: int
    latencies_ms: dict[str, list[float]]

    def to_json(self) -> dict[str, Any]:
        from scheduler.core.metrics import CAUSES

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
            "pods_dropped": self.dropped,
            "latency_ms": {
                verb: {"p50": _percentile(times, 50), "p99": _percentile(times, 99)}
                for verb, times in self.latencies_ms.items()
            },
        }


def _percentile(times: list[float], percent: int) -> float:
    ordered = sorted(times)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 3)


@click.command("demo")
@click.option("--nodes", default=1200, show_default=True, help="Nodes of the synthetic cluster.")
@click.option("--load", default=1.0, show_default=True, help="Requested GPUs / capacity.")
@click.option("--seed", default=1, show_default=True, help="Decides everything random.")
@click.option("--policy", default="fgd", show_default=True, help="See `snugfit policies`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(nodes: int, load: float, seed: int, policy: str, as_json: bool) -> None:
    """Pack a synthetic cluster through the real webhook, beside kube-scheduler's default.

    Starts `snugfit serve --offline` on loopback, drives it over HTTP as kube-scheduler would
    (filter, prioritize, bind), then places the same pods in the same order with the default
    scoring of kube-scheduler. Both place every pod that fits somewhere.
    """
    from scheduler.cli.console import message, print_json
    from scheduler.core.policies import policy_named
    from scheduler.simulator.generate import GeneratorConfig, generate

    policy_named(policy)
    workload = generate(GeneratorConfig(nodes=nodes, load=load, seed=seed))
    gpus = workload.gpu_milli // 1000
    message(f"{nodes} nodes, {gpus} GPUs of mixed models; {len(workload.arrivals)} pods arrive")
    ours, problems = _through_the_webhook(workload, policy, seed)
    default = _default_scheduler(workload, seed)
    if as_json:
        print_json(
            {"snugfit": ours.to_json(), "default": default.to_json(), "violations": problems}
        )
    else:
        _print(ours, default, problems)
    if problems:
        raise click.exceptions.Exit(1)


@contextmanager
def running_server(nodes: Path, *options: str) -> Iterator[str]:
    """The real server as a child process; yields its URL and stops it at the end."""
    from scheduler.core.errors import SchedulerError

    command = [sys.executable, "-m", "scheduler.cli.main", "serve", "--offline"]
    command += ["--nodes", str(nodes), "--port", "0", "--log-level", "warning", *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL)  # noqa: S603
        try:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while True:
                log.seek(0)
                said = log.read()
                if "listening on " in said:
                    yield said.split("listening on ", 1)[1].split()[0]
                    return
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SchedulerError(f"the server did not start:\n{said}")
                time.sleep(0.05)
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _through_the_webhook(workload: Workload, policy: str, seed: int) -> tuple[_Side, list[str]]:
    """Place the stream over HTTP; measure and referee what the server says it did."""
    from dataclasses import replace

    from scheduler.cli.console import progress
    from scheduler.core.metrics import cluster_metrics
    from scheduler.core.mix import TypicalMix
    from scheduler.core.state import ClusterState
    from scheduler.core.verify import verify
    from scheduler.simulator import native
    from scheduler.simulator.client import ExtenderClient, SchedulingLoop

    with tempfile.TemporaryDirectory() as folder:
        cluster = Path(folder, "cluster.json")
        native.write(replace(workload, arrivals=()), cluster)  # the webhook learns the mix itself
        with running_server(cluster, "--policy", policy) as url:
            client = ExtenderClient(url)
            loop = SchedulingLoop(client, [node.name for node in workload.nodes], seed)
            placed = 0
            with progress("webhook") as bar:
                for number, request in enumerate(workload.requests):
                    placed += bool(loop.schedule(request))
                    bar(number + 1, len(workload.requests))
            said = client.get("/debug/state")
            client.close()
    placements = _placements(workload, said)
    problems = verify(workload.nodes, placements)
    problems += [f"recount: {line}" for line in said["recount_differences"]]
    state = ClusterState(workload.nodes)
    state.apply(placements, enforce=False)
    figures = cluster_metrics(state, TypicalMix.from_requests(workload.requests))
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
        if not pod["held"]
    ]


def _default_scheduler(workload: Workload, seed: int) -> _Side:
    """The same stream with kube-scheduler's default scoring and random ties."""
    from scheduler.cli.console import progress
    from scheduler.core.engine import Engine
    from scheduler.core.metrics import cluster_metrics
    from scheduler.core.mix import TypicalMix
    from scheduler.core.state import ClusterState
    from scheduler.simulator.emulator import EmulatedScheduler, SchedulerProfile

    state = ClusterState(workload.nodes)
    engine = Engine(state, "first-fit")
    emulated = EmulatedScheduler(engine, SchedulerProfile(extender_weight=0, seed=seed))
    placed = 0
    with progress("kube-scheduler default") as bar:
        for number, request in enumerate(workload.requests):
            row = emulated.best(request)
            if row >= 0:
                node = state.nodes[row]
                assert node is not None
                engine.reserve(request, node.name)
                placed += 1
            if number % 100 == 0:
                bar(number + 1, len(workload.requests))
    figures = cluster_metrics(state, TypicalMix.from_requests(workload.requests))
    return _Side("kube-scheduler default", figures, placed, len(workload.arrivals) - placed, {})


def _print(ours: _Side, default: _Side, problems: list[str]) -> None:
    from scheduler.cli.console import print_table
    from scheduler.core.metrics import CAUSES

    left, right = ours.to_json(), default.to_json()
    rows: list[tuple[str, object, object]] = [
        ("GPU allocated, %", left["gpu_allocated_percent"], right["gpu_allocated_percent"]),
        ("GPUs allocated", left["gpus_allocated"], right["gpus_allocated"]),
        ("fragmentation, % of GPUs", left["fragmentation_percent"], right["fragmentation_percent"]),
    ]
    for cause in CAUSES:
        name = f"GPUs stranded by {cause}"
        rows.append((name, left["stranded_gpus"][cause], right["stranded_gpus"][cause]))
    rows.append(("pods placed", left["pods_placed"], right["pods_placed"]))
    rows.append(("pods that fit nowhere", left["pods_dropped"], right["pods_dropped"]))
    for verb, times in left["latency_ms"].items():
        rows.append((f"{verb} p50 / p99, ms", f"{times['p50']} / {times['p99']}", "-"))
    print_table(
        f"The same {ours.placed + ours.dropped} pods on the same {ours.metrics.nodes} nodes",
        ("", ours.name, default.name),
        rows,
    )
    gained = left["gpus_allocated"] - right["gpus_allocated"]
    points = left["gpu_allocated_percent"] - right["gpu_allocated_percent"]
    click.echo(f"{points:+.1f} points of GPU allocation: {gained:+.0f} GPUs in use.")
    if problems:
        click.echo(f"REFEREE: {len(problems)} violations, first: {problems[0]}")
    else:
        click.echo("Referee: no device, cpu or memory over-committed; state equals a recount.")
