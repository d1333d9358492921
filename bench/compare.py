"""Is the webhook of one checkout faster than that of another? Protocol and figures: README.md.

Both servers run at the same time over the same filled cluster; each cycle goes to one and to the
other, in random order, so that a busy machine is as busy for both. p10 is what a call costs where
nothing else wants the processor, the ratio of p50 what stays of a difference where something does.
Processor time is that of the servers, rejected pods included (Linux only).

    python bench/compare.py BEFORE AFTER [--nodes 5000] [--cycles 300]
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from contextlib import ExitStack, chdir
from dataclasses import replace
from pathlib import Path

import msgspec

from scheduler.core.model import GpuRequest
from scheduler.files import native
from scheduler.files.kubectl_dump import pod_json
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.kube_scheduler_client import SchedulingLoop
from scheduler.simulator.server_process import running_server
from testbed.filled_cluster import filled_cluster
from testbed.plain_client import PlainClient

WARM_UP = 50
CALLS = ("filter", "prioritize", "filter + prioritize", "bind", "filter, rejected")


def _start(stack: ExitStack, checkout: str, cluster: Path) -> str:
    os.environ["PYTHONPATH"] = checkout
    with chdir(checkout):  # the first place where Python looks for modules
        return stack.enter_context(running_server(cluster))


def _processor_ms(pid: str) -> float:
    """Processor time of a process so far, all threads."""
    fields = Path("/proc", pid, "stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def _children() -> list[str]:
    tasks = Path("/proc/self/task").glob("*/children")
    return sorted((pid for task in tasks for pid in task.read_text().split()), key=int)


def _measure(urls: list[str], nodes: int, cycles: int) -> list[dict[str, list[float]]]:
    names = [node.name for node in generate(GeneratorConfig(nodes=nodes, load=0.6, seed=3)).nodes]
    pods = generate(GeneratorConfig(nodes=nodes, pods=cycles + WARM_UP, seed=4)).requests
    pods = tuple(replace(pod, uid=f"m-{pod.uid}", name=f"m-{pod.name}") for pod in pods)
    too_large = msgspec.json.encode(pod_json(replace(pods[0], gpu=GpuRequest(count=9), uid="x")))
    loops = [SchedulingLoop(PlainClient(url), names, seed=1) for url in urls]
    figures: list[dict[str, list[float]]] = [{call: [] for call in CALLS} for _ in urls]
    turns = random.Random(1)
    for number, pod in enumerate(pods):
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--cycles", type=int, default=300)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        cluster = Path(folder, "cluster.json")
        workload = generate(GeneratorConfig(nodes=options.nodes, load=0.6, seed=3))
        native.write(filled_cluster(workload, "fgd"), cluster)
        checkouts = (options.before, options.after)
        urls = [_start(stack, str(Path(tree).resolve()), cluster) for tree in checkouts]
        spent = [-_processor_ms(pid) for pid in _children()]
        before, after = _measure(urls, options.nodes, options.cycles)
        spent = [s + _processor_ms(pid) for s, pid in zip(spent, _children(), strict=True)]
    print("| call | before p10 | p50 | p99 | after p10 | p50 | p99 | p10 ratio | p50 ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for call in CALLS:
        old, new = (
            [sorted(f[call])[int(len(f[call]) * share)] for share in (0.1, 0.5, 0.99)]
            for f in (before, after)
        )
        cells = [f"{value:.2f}" for value in (*old, *new, new[0] / old[0], new[1] / old[1])]
        print(f"| {call} | {' | '.join(cells)} |")
    per_cycle = [ms / (options.cycles + WARM_UP) for ms in spent]
    print(f"\nprocessor time per cycle: {per_cycle[0]:.2f} -> {per_cycle[1]:.2f} ms")


if __name__ == "__main__":
    main()
