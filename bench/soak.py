"""Does the extender grow?

Real etcd, kube-apiserver and kube-scheduler, and the extender with the accounts and the
configuration that the chart ships. Pods are created, finished and deleted at random, at most 150
alive at a time; every 20 s a node is cordoned, removed or brought back. Resident memory, file
descriptors and threads of the extender are sampled; the slope of memory is a least-squares fit
after the warm-up, in which caches fill. A validator watches the API all the while. Give the
benchmark `MALLOC_ARENA_MAX=2`, as the image has it. The first run builds the control plane (needs
Go).
"""

from __future__ import annotations

import random
import time
from typing import Any

import click

from bench.figures import slope
from bench.report import Report, benchmark
from testbed.controlplane.api import Api, Json, eventually
from testbed.controlplane.assets import find
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.objects import fraction_node, fraction_pod, gpu_pod
from testbed.controlplane.plane import ControlPlane
from testbed.controlplane.storm import roomy
from testbed.controlplane.system import System
from testbed.controlplane.vigil import Vigil

__all__ = ["command"]

_FLAP_EVERY_S = 20
_MOST_ALIVE = 150


Sample = tuple[float, float, int, int]
"""Seconds, MiB, descriptors, threads."""


@benchmark("soak")
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--warm-up", default=5.0, show_default=True, help="Minutes that do not count.")
@click.option("--rate", default=15.0, show_default=True, help="Pods created per second.")
@click.option("--every", default=10.0, show_default=True, help="Seconds between samples.")
@click.option("--seed", default=0, show_default=True)
def command(
    report: Report, minutes: float, warm_up: float, rate: float, every: float, seed: int
) -> None:
    """One row."""
    report.title = f"Soak at {rate:g} pods a second"
    samples: list[Sample] = []
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
                    samples.append((now, memory, extender.descriptors(), extender.threads()))
                    report.rows = [_figures(samples, 60 * warm_up, churn)]
                    report.progress(int(now), int(60 * minutes))
                    report.say(f"{now:.0f} s, {memory:.1f} MiB, {churn.created} pods")
                ahead = churn.created / rate - (time.monotonic() - begun)
                time.sleep(max(0.0, ahead))
            vigil.check()
            report.rows = [_figures(samples, 60 * warm_up, churn)]
            report.facts["pod_events"] = vigil.events
        cluster.api.delete_all("Pod", "default")
        eventually(lambda: not cluster.api.objects("Pod"), "all pods are gone")
        system.verify()
        metrics = extender.metrics()
    report.facts |= {
        "bound": int(metrics['snugfit_binds_total{result="bound"}']),
        "recounts": int(metrics["snugfit_recounts_total"]),
        "drifts": int(metrics["snugfit_drifts_total"]),
        "faults": int(metrics["snugfit_watch_faults_total"]),
    }


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


def _figures(samples: list[Sample], warm_up_s: float, churn: _Churn) -> dict[str, Any]:
    counted = [sample for sample in samples if sample[0] >= warm_up_s] or samples
    seconds, memory, descriptors, threads = zip(*counted, strict=True)
    lasted = samples[-1][0]
    return {
        "minutes": round(lasted / 60, 1),
        "pods": churn.created,
        "pods_per_second": round(churn.created / lasted, 1) if lasted else None,
        "nodes_flapped": churn.flaps,
        "samples": len(counted),
        "mib_per_hour": slope(seconds, memory),
        "mib_first": round(memory[0], 1),
        "mib_last": round(memory[-1], 1),
        "descriptors": f"{min(descriptors)}-{max(descriptors)}",
        "threads": f"{min(threads)}-{max(threads)}",
    }
