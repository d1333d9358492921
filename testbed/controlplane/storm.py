"""A storm of pods, and components that get killed in the middle of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

from testbed.controlplane.api import Feeder, Json
from testbed.controlplane.objects import fraction_node, fraction_pod, gpu_node, gpu_pod
from testbed.controlplane.process import Daemon
from testbed.controlplane.system import System
from testbed.controlplane.vigil import Vigil

_STRIKES = 6


def roomy(parts: int = 26, wholes: int = 13) -> list[Json]:
    """Room for the storm in any order: halves and quarters fill no device beyond three quarters."""
    return [
        *(fraction_node(f"part-{i:02}", 4) for i in range(parts)),
        *(gpu_node(f"whole-{i:02}", 8) for i in range(wholes)),
    ]


def storm(count: int, seed: int) -> list[Json]:
    """Two thirds fractions, one third single GPUs."""
    chance = random.Random(seed)
    return [
        gpu_pod(f"p{i:03}") if i % 3 == 0 else fraction_pod(f"p{i:03}", chance.choice((250, 500)))
        for i in range(count)
    ]


def crash_storm(system: System, pods: int, seed: int) -> Counter[str]:
    """Kill components at random points while pods are created and placed, until all are placed.

    Parameters
    ----------
    system
        Nothing of it runs yet; the cluster is empty.
    pods
        How many, at most 300 on the nodes of :func:`roomy`.
    seed
        Decides the pods, the points in time, and who is killed.

    Returns
    -------
    Counter
        Kills by component.

    Raises
    ------
    AssertionError
        A pod that fits was not placed, something was over-committed at some moment, or the
        extender's state is not the API's at the end.
    """
    cluster, chance = system.cluster, random.Random(seed)
    plane = cluster.plane
    cluster.create(roomy())
    system.start("--log-level", "info")
    mortals = (system.extender, system.scheduler, plane.apiserver, plane.etcd)
    kills: Counter[str] = Counter()
    with Vigil(cluster.api):
        feeder = Feeder(cluster.api, storm(pods, seed), pause_s=0.02)
        for _ in range(_STRIKES):
            time.sleep(chance.uniform(0.2, 2.0))
            victims = chance.sample(mortals, chance.choice((1, 1, 1, 2)))
            for victim in victims:
                kills[victim.name.rstrip("-0123456789")] += victim.running
                victim.stop()
            time.sleep(chance.uniform(0.0, 1.0))
            # etcd before the API server, which needs it to become ready.
            for victim in sorted(victims, key=(plane.etcd, *mortals).index):
                victim.launch()
        revive((plane.etcd, plane.apiserver, *mortals))
        assert feeder.wait() == pods
        cluster.all_bound(pods, patience_s=120)
    system.verify()
    assert cluster.pending() == {}
    return kills


def revive(daemons: Sequence[Daemon]) -> None:
    """Start what has ended, and wait until all of them serve.

    A component that ended by itself because another one was down is started again, as a kubelet
    does.
    """
    for daemon in daemons:
        if not daemon.running:
            daemon.launch()
    for daemon in daemons:
        daemon.wait_ready()
