"""Does the extender grow? Pods come and go at random for half an hour, nodes flap now and then.

Real etcd, kube-apiserver and kube-scheduler, and the extender with the accounts and the
configuration that the chart ships. Resident memory, file descriptors and threads of the extender
are sampled; the slope of memory is a least-squares fit after the first minutes, in which caches
fill. A referee watches the API all the while.

    python -m bench.soak --minutes 30 --rate 15

Needs Go for the first run (the control plane is built once).
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import click
import numpy as np

from testbed.controlplane.api import Api, Json, eventually
from testbed.controlplane.assets import find
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.objects import fraction_node, fraction_pod, gpu_pod
from testbed.controlplane.plane import ControlPlane
from testbed.controlplane.storm import roomy
from testbed.controlplane.system import System
from testbed.controlplane.vigil import Vigil

_FLAP_EVERY_S = 20
_MOST_ALIVE = 150


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--warm-up", default=5.0, show_default=True, help="Minutes that do not count.")
@click.option("--rate", default=15.0, show_default=True, help="Pods created per second.")
@click.option("--every", default=10.0, show_default=True, help="Seconds between samples.")
@click.option("--seed", default=0, show_default=True)
def main(minutes: float, warm_up: float, rate: float, every: float, seed: int) -> None:
    """Print the slope of memory, and the range of descriptors and threads."""
    samples: list[tuple[float, float, int, int]] = []
    with ControlPlane(find()) as plane:
        cluster = Cluster(plane)
        cluster.create([*roomy(), fraction_node("flapping", 8)])
        system = System(cluster).start()
        extender = system.extender
        churn = _Churn(cluster.api, random.Random(seed))
        begun = time.monotonic()
        with Vigil(cluster.api) as vigil:
            while (now := time.monotonic() - begun) < 60 * minutes:
                churn.turn(now)
                if now >= every * len(samples):
                    memory = extender.memory_mib()
                    fds, threads = extender.descriptors(), extender.threads()
                    samples.append((now, memory, fds, threads))
                    sys.stderr.write(
                        f"{now:.0f} s, {memory:.1f} MiB, {fds} descriptors, {threads} threads\n"
                    )
                ahead = churn.created / rate - (time.monotonic() - begun)
                time.sleep(max(0.0, ahead))
            vigil.check()
            events = vigil.events
        cluster.api.delete_all("Pod", "default")
        eventually(lambda: not cluster.api.objects("Pod"), "all pods are gone")
        system.verify()
        metrics = extender.metrics()
    json.dump(
        _figures(samples, 60 * warm_up)
        | {
            "minutes": minutes,
            "pods_created": churn.created,
            "pods_per_second": round(churn.created / (60 * minutes), 1),
            "nodes_flapped": churn.flaps,
            "pod_events": events,
            "bound": int(metrics['snugfit_binds_total{result="bound"}']),
            "recounts": int(metrics["snugfit_recounts_total"]),
            "drifts": int(metrics["snugfit_drifts_total"]),
            "faults": int(metrics["snugfit_watch_faults_total"]),
        },
        sys.stdout,
        indent=1,
    )
    sys.stdout.write("\n")


class _Churn:
    """Creates, finishes and deletes pods, and takes a node away and brings it back."""

    def __init__(self, api: Api, chance: random.Random) -> None:
        self.created = self.flaps = 0
        self._api, self._chance = api, chance
        self._alive: list[str] = []
        self._flapped_at = 0.0

    def turn(self, now: float) -> None:
        """One pod more, and on average one less; now and then a node goes or comes."""
        name = f"c{self.created:06}"
        self._api.create(self._pod(name))
        self.created += 1
        self._alive.append(name)
        while len(self._alive) > _MOST_ALIVE or self._chance.random() < 0.4:
            if not self._alive:
                break
            gone = self._alive.pop(self._chance.randrange(len(self._alive)))
            if self._chance.random() < 0.3:
                self._api.finish("default", gone)
            self._api.delete("Pod", gone, "default")
        if now - self._flapped_at >= _FLAP_EVERY_S:
            self._flapped_at = now
            self._flap()

    def _flap(self) -> None:
        self.flaps += 1
        match self.flaps % 4:
            case 1:
                self._api.patch("Node", "part-00", {"spec": {"unschedulable": True}})
            case 2:
                self._api.patch("Node", "part-00", {"spec": {"unschedulable": None}})
            case 3:
                self._api.delete("Node", "flapping")
            case _:
                self._api.create(fraction_node("flapping", 8))

    def _pod(self, name: str) -> Json:
        if self._chance.random() < 0.3:
            return gpu_pod(name)
        return fraction_pod(name, self._chance.choice((100, 250, 500, 1000)))


def _figures(samples: list[tuple[float, float, int, int]], warm_up_s: float) -> dict[str, Any]:
    counted = [sample for sample in samples if sample[0] >= warm_up_s] or samples
    memory = np.array([sample[1] for sample in counted])
    return {
        "samples": len(counted),
        "mib_per_hour": slope([sample[0] for sample in counted], list(memory)),
        "mib_first_last": [round(float(memory[0]), 1), round(float(memory[-1]), 1)],
        "mib_min_max": [round(float(memory.min()), 1), round(float(memory.max()), 1)],
        "descriptors_min_max": [min(s[2] for s in counted), max(s[2] for s in counted)],
        "threads_min_max": [min(s[3] for s in counted), max(s[3] for s in counted)],
    }


def slope(seconds: list[float], mib: list[float]) -> float:
    """MiB per hour, by least squares."""
    if len(seconds) < 2:
        return 0.0
    return round(float(np.polyfit(np.array(seconds) / 3600, np.array(mib), 1)[0]), 2)


if __name__ == "__main__":
    main()
