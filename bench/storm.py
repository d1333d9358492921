"""Does a storm of watch events move the webhook's latency?

    python -m bench.storm [--nodes 5000] [--pods 25000] [--rate 500]

The extender follows an API server (played by a process of its own, see ``bench/sync.py``) while
filter and prioritize over all node names are measured, as kube-scheduler sends them. Idle and storm
take turns in one run. Half of the events tell of a pod's status, the others of its end and return.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import urllib.request
from dataclasses import replace

import msgspec

from bench.sync import following, until_ready
from scheduler.files.kubectl_dump import pod_json
from scheduler.simulator.generate import GeneratorConfig, generate
from testbed.plain_client import PlainClient

_PHASES = 6


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=25_000)
    parser.add_argument("--rate", type=int, default=500, help="Events per second.")
    parser.add_argument("--cycles", type=int, default=400, help="Of each phase.")
    chosen = parser.parse_args()
    times: dict[str, list[list[float]]] = {"idle": [], "storm": []}
    with following(chosen.nodes, chosen.pods, "--hold-ttl", "2") as (extender, api, began):
        url, synced = until_ready(extender, began)
        client = PlainClient(url)
        names = [f"node-{number}" for number in range(chosen.nodes)]
        wanted = _wanted(chosen.cycles * _PHASES)
        for phase in range(_PHASES):
            kind = ("idle", "storm")[phase % 2]
            _get(f"{api}/rate/{chosen.rate if kind == 'storm' else 0}")
            time.sleep(1.0)
            found = []
            for pod in wanted[phase * chosen.cycles : (phase + 1) * chosen.cycles]:
                passing, _ = client.filter(pod, names)
                cycle = client.elapsed_ms
                if len(passing) > 1:
                    client.prioritize(pod, passing)
                    cycle += client.elapsed_ms
                found.append(cycle)
                names = [*names[1:], names[0]]
            times[kind].append(found)
        events = _metric(url, "snugfit_watch_events_total")
        drift = _metric(url, "snugfit_drift_rows")
    figures = {
        kind: {"p50": _at(found, 0.5), "p99": _at(found, 0.99)} for kind, found in times.items()
    }
    content = {
        "nodes": chosen.nodes,
        "pods": chosen.pods,
        "rate": chosen.rate,
        "milliseconds": figures,
        "storm_over_idle": {
            key: round(figures["storm"][key] / figures["idle"][key], 2) for key in ("p50", "p99")
        },
        "events_applied": events,
        "drift": drift,
        "sync": synced,
    }
    json.dump(content, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _wanted(count: int) -> list[bytes]:
    """Pods that ask; models do not matter here."""
    made = generate(GeneratorConfig(nodes=100, pods=count, seed=4)).requests
    return [
        msgspec.json.encode(
            pod_json(replace(pod, gang=None, gpu=replace(pod.gpu, products=(), resource="")))
        )
        for pod in made
    ]


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own servers
        text: str = answer.read().decode()
        return text


def _metric(url: str, name: str) -> float:
    lines = _get(f"{url}/metrics").splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))


def _at(phases: list[list[float]], share: float) -> float:
    """Median over the phases, so that one bad moment of a shared machine does not decide."""
    return round(statistics.median(sorted(found)[int(len(found) * share)] for found in phases), 3)


if __name__ == "__main__":
    main()
