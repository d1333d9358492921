"""Is the webhook of one checkout faster than that of another?

The servers of two checkouts run at the same time over the same filled cluster; each cycle goes to
one and to the other, in random order, so that a busy machine is as busy for both. p10 is what a
call costs where nothing else wants the processor, the ratio of p50 what stays of a difference where
something does; milliseconds. Processor time is that of the servers, rejected pods included (Linux
only).
"""

from __future__ import annotations

import os
import random
import tempfile
from contextlib import ExitStack, chdir
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from bench.figures import percentiles
from bench.processes import children, processor_s
from bench.report import Report, benchmark
from scheduler.core.model import GpuRequest
from scheduler.files import native
from scheduler.files.dump_writer import pod_json
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.kube_scheduler_client import SchedulingLoop
from scheduler.simulator.server_process import running_server
from testbed.filled_cluster import filled_cluster
from testbed.plain_client import PlainClient

__all__ = ["command"]

WARM_UP = 50
CALLS = ("filter", "prioritize", "filter + prioritize", "bind", "filter, rejected")
_CHECKOUT = click.Path(exists=True, file_okay=False, path_type=Path)


@benchmark("compare")
@click.argument("before", type=_CHECKOUT)
@click.argument("after", type=_CHECKOUT)
@click.option("--nodes", type=click.IntRange(1), default=5000, show_default=True)
@click.option("--cycles", type=click.IntRange(1), default=300, show_default=True)
def command(report: Report, before: Path, after: Path, nodes: int, cycles: int) -> None:
    """A row per call."""
    report.title = f"Webhook of {before} and of {after}, {nodes} nodes, ms"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        cluster = Path(folder, "cluster.json")
        workload = generate(GeneratorConfig(nodes=nodes, load=0.6, seed=3))
        native.write(filled_cluster(workload, "fgd"), cluster)
        urls = [_start(stack, str(tree.resolve()), cluster) for tree in (before, after)]
        spent = [-processor_s(pid) for pid in children(os.getpid())]
        figures = _measure(report, urls, nodes, cycles)
        spent = [s + processor_s(pid) for s, pid in zip(spent, children(os.getpid()), strict=True)]
    for call in CALLS:
        old, new = (percentiles(times[call], 10, 50, 99, digits=2) for times in figures)
        report.add(
            call=call,
            **{f"before_p{at}": value for at, value in zip((10, 50, 99), old, strict=True)},
            **{f"after_p{at}": value for at, value in zip((10, 50, 99), new, strict=True)},
            p10_ratio=round(new[0] / old[0], 2),
            p50_ratio=round(new[1] / old[1], 2),
        )
    report.facts["processor_ms_per_cycle"] = [
        round(1000 * seconds / (cycles + WARM_UP), 2) for seconds in spent
    ]


def _start(stack: ExitStack, checkout: str, cluster: Path) -> str:
    os.environ["PYTHONPATH"] = checkout
    with chdir(checkout):  # the first place where Python looks for modules
        return stack.enter_context(running_server(cluster))


def _measure(
    report: Report, urls: list[str], nodes: int, cycles: int
) -> list[dict[str, list[float]]]:
    names = [node.name for node in generate(GeneratorConfig(nodes=nodes, load=0.6, seed=3)).nodes]
    pods = generate(GeneratorConfig(nodes=nodes, pods=cycles + WARM_UP, seed=4)).requests
    pods = tuple(replace(pod, uid=f"m-{pod.uid}", name=f"m-{pod.name}") for pod in pods)
    too_large = msgspec.json.encode(pod_json(replace(pods[0], gpu=GpuRequest(count=9), uid="x")))
    loops = [SchedulingLoop(PlainClient(url), names, seed=1) for url in urls]
    figures: list[dict[str, list[float]]] = [{call: [] for call in CALLS} for _ in urls]
    turns = random.Random(1)
    for number, pod in enumerate(pods):
        report.progress(number, len(pods))
        for which in turns.sample(range(len(urls)), len(urls)):
            loop, mine = loops[which], figures[which]
            loop.latencies_ms.clear()
            loop.schedule(pod)
            times = {verb: measured[0] for verb, measured in loop.latencies_ms.items()}
            times["filter + prioritize"] = times["filter"] + times.get("prioritize", 0.0)
            loop.client.filter(too_large, names)
            times["filter, rejected"] = loop.client.elapsed_ms
            if number >= WARM_UP:
                for call, time_ms in times.items():
                    mine[call].append(time_ms)
    return figures
