"""Everything gets killed while pods are being placed; in the end each is placed, and none twice."""

from __future__ import annotations

import os
import random
import time

import pytest

from testbed.controlplane.api import Feeder, eventually, insist
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.objects import (
    DEVICES,
    fraction_node,
    fraction_pod,
    gpu_node,
    gpu_pod,
)
from testbed.controlplane.storm import crash_storm, revive, roomy, storm
from testbed.controlplane.tap import Tap
from testbed.controlplane.vigil import Vigil

pytestmark = pytest.mark.e2e

CRASH_RUNS = int(os.environ.get("SNUGFIT_E2E_CRASH_RUNS", "1"))
CRASH_PODS = int(os.environ.get("SNUGFIT_E2E_CRASH_PODS", "150"))
CHURN_PODS = int(os.environ.get("SNUGFIT_E2E_CHURN_PODS", "200"))


@pytest.fixture
def cluster(plane):
    cluster = Cluster(plane)
    try:
        yield cluster
    finally:
        revive((plane.etcd, plane.apiserver))
        cluster.close()


@pytest.mark.parametrize("seed", range(CRASH_RUNS))
def test_random_crashes_in_a_storm(system, seed):
    assert sum(crash_storm(system, CRASH_PODS, seed).values()) >= 4


def test_the_extender_is_killed_during_a_storm_of_bindings(system, cluster):
    cluster.create(roomy(13, 7))
    system.start()
    with Vigil(cluster.api):
        feeder = Feeder(cluster.api, storm(150, seed=7))
        for count in (20, 60, 100):
            eventually(lambda count=count: len(cluster.bound()) >= count, f"{count} bound", 60)
            system.extender.kill()
            system.extender.start()
        feeder.wait()
        cluster.all_bound(150)
    system.verify()


def test_devices_survive_a_restart_of_the_extender(system, cluster):
    cluster.create([fraction_node("f", 4)])
    system.start()
    cluster.create([fraction_pod(f"p{i}", 300) for i in range(12)])
    cluster.all_bound(12)
    before = system.extender.get("/debug/state")["nodes"]
    system.extender.kill()
    system.extender.start()
    after = system.extender.get("/debug/state")["nodes"]
    assert {p["uid"]: p["devices"] for n in before for p in n["pods"]} == {
        p["uid"]: p["devices"] for n in after for p in n["pods"]
    }
    cluster.create([fraction_pod("one-more", 300)])
    assert "one-more" not in cluster.settle()
    system.verify()


def test_watches_are_cut_again_and_again(system, cluster):
    cluster.create(roomy(7, 4))
    with system.wire() as wire:
        system.add_extender(wire=wire)
        system.add_scheduler()
        feeder = Feeder(cluster.api, storm(80, seed=3), pause_s=0.02)
        cuts = 0
        for _ in range(8):
            time.sleep(0.3)
            cuts += wire.cut()
        feeder.wait()
        cluster.all_bound(80)
        assert cuts >= 4
        system.verify()


def test_a_half_open_connection_is_noticed(system, cluster):
    cluster.create([gpu_node("g", 4), gpu_node("h", 4)])
    with system.wire() as wire:
        system.add_extender(wire=wire, watch_read_s=2)
        wire.silence(new_ones_too=True)
        cluster.create([gpu_pod("theirs", 4, scheduler="somebody-else")])
        cluster.api.bind("default", "theirs", "g")
        assert system.differences(system.extender)  # it cannot know
        wire.admit()
        eventually(lambda: not system.differences(system.extender), "it has noticed by itself")
        assert system.metric("^snugfit_watch_restarts_total") > 0
        system.verify()


def test_compaction_forces_a_new_list(system, cluster):
    plane = cluster.plane
    cluster.create([gpu_node("g", 4), gpu_node("h", 4), gpu_pod("there", 2, node_name="h")])
    with system.wire() as wire:
        system.add_extender(wire=wire)
        wire.silence(new_ones_too=True)
        cluster.create([gpu_pod("theirs", 4, scheduler="somebody-else")])
        cluster.api.bind("default", "theirs", "g")
        cluster.api.delete("Pod", "there", "default")
        cluster.api.delete("Node", "h")
        plane.compact()
        plane.apiserver.kill()
        plane.apiserver.start()
        plane.compact()
        wire.cut()
        wire.resume()
        system.verify()
        assert {n["name"] for n in system.extender.get("/debug/state")["nodes"]} == {"g"}


def test_the_scheduler_restarts_between_filter_and_bind(system, cluster):
    cluster.create([fraction_node(f"f{i}", 2) for i in range(2)])
    system.add_extender()
    with Tap(system.extender.url) as tap:
        system.add_scheduler(tap.url)
        tap.delay_s = 0.4
        cluster.create([fraction_pod(f"p{i}", 500) for i in range(8)])
        eventually(lambda: tap.calls("filter"), "asked")
        system.scheduler.kill()
        tap.delay_s = 0.0
        system.scheduler.start()
        cluster.all_bound(8)
    system.verify()


def test_two_schedulers_fail_over(system, cluster):
    cluster.create(roomy(7, 4))
    election = {
        "leaderElect": True,
        "leaseDuration": "6s",
        "renewDeadline": "5s",
        "retryPeriod": "1s",
        "resourceLock": "leases",
        "resourceNamespace": "kube-system",
        "resourceName": "kube-scheduler",
    }
    for _ in range(2):
        system.add_extender()
        system.add_scheduler(leaderElection=election)
    with Vigil(cluster.api):
        feeder = Feeder(cluster.api, storm(80, seed=5), pause_s=0.02)
        eventually(lambda: len(cluster.bound()) >= 20, "the leader works")
        holder = cluster.api.get(
            "Lease", "kube-scheduler", "kube-system", "coordination.k8s.io/v1"
        )["spec"]["holderIdentity"]
        first = _leader(system)
        system.schedulers[first].kill()
        system.extenders[first].kill()
        feeder.wait()
        cluster.all_bound(80)
    now = cluster.api.get("Lease", "kube-scheduler", "kube-system", "coordination.k8s.io/v1")
    assert now["spec"]["holderIdentity"] != holder
    system.verify()


def _leader(system):
    """Whose extender has been asked: warm state is everywhere, calls go to one."""
    calls = 'snugfit_request_seconds_count{verb="filter"}'
    asked = [extender.metrics().get(calls, 0) for extender in system.extenders]
    assert min(asked) == 0 < max(asked), asked
    return asked.index(max(asked))


def test_an_upgrade_loses_and_doubles_nothing(system, cluster):
    cluster.create(roomy(13, 7))
    old = system.add_extender()
    with Tap(old.url) as tap:
        system.add_scheduler(tap.url)
        with Vigil(cluster.api):
            feeder = Feeder(cluster.api, storm(150, seed=11), pause_s=0.01)
            eventually(lambda: len(cluster.bound()) >= 40, "the old one works")
            new = system.add_extender()
            tap.target = new.url
            assert old.terminate() == 0
            feeder.wait()
            cluster.all_bound(150)
    system.verify()


def test_churn(system, cluster):
    """Pods come and go at random; the state follows, and nothing stays behind."""
    chance = random.Random(17)
    cluster.create(roomy(7, 4))
    system.start()
    alive: list[str] = []
    with Vigil(cluster.api) as vigil:
        for number in range(CHURN_PODS):
            name = f"c{number:05}"
            size = chance.choice((100, 250, 500, 1000))
            one = fraction_pod(name, size) if chance.random() < 0.7 else gpu_pod(name)
            insist(lambda one=one: cluster.api.create(one))
            alive.append(name)
            while len(alive) > 60 or (alive and chance.random() < 0.3):
                gone = alive.pop(chance.randrange(len(alive)))
                if chance.random() < 0.5:
                    cluster.api.delete("Pod", gone, "default")
                else:
                    cluster.api.finish("default", gone)
        assert vigil.events > CHURN_PODS
    cluster.settle()
    system.verify()
    cluster.api.delete_all("Pod", "default")
    eventually(
        lambda: not any(n["pods"] for n in system.extender.get("/debug/state")["nodes"]), "empty"
    )
    assert all(
        device["free_milli"] == 1000
        for node in system.extender.get("/debug/state")["nodes"]
        for device in node["devices"]
    )


def test_a_second_binding_of_the_same_pod_is_harmless(system, cluster):
    cluster.create([fraction_node("f", 1)])
    system.start()
    cluster.create([fraction_pod("p", 500)])
    cluster.all_bound(1)
    found = cluster.api.get("Pod", "p", "default")
    again = {
        "PodName": "p", "PodNamespace": "default", "PodUID": found["metadata"]["uid"], "Node": "f"
    }  # fmt: skip
    assert not system.extender.post("/bind", again).get("Error")
    elsewhere = system.extender.post("/bind", again | {"Node": "g"})["Error"]
    assert "bound to f" in elsewhere
    assert (
        cluster.api.get("Pod", "p", "default")["metadata"]["annotations"][DEVICES]
        == (found["metadata"]["annotations"][DEVICES])
    )
    system.verify()
