"""Preemption where devices matter: who is evicted for a fraction, and who gets the place."""

from __future__ import annotations

import time

import pytest

from testbed.controlplane.api import eventually
from testbed.controlplane.objects import (
    DEVICES,
    fraction_node,
    fraction_pod,
    gpu_node,
    gpu_pod,
    priority_class,
)
from testbed.controlplane.tap import Tap
from testbed.controlplane.vigil import Vigil

pytestmark = pytest.mark.e2e


@pytest.fixture
def full(system, cluster):
    """Low pods of the given sizes on one node with two devices, and the product running."""

    def fill(*sizes, grace_s=0):
        cluster.create([fraction_node("f", 2)])
        cluster.create([priority_class("low", 10), priority_class("high", 1000)])
        system.start()
        for number, size in enumerate(sizes):
            name = f"low-{number}"
            cluster.create([fraction_pod(name, size, priority_class="low", grace_s=grace_s)])
            cluster.all_bound(number + 1)

    return fill


def device(cluster, name):
    found = cluster.api.get("Pod", name, "default")["metadata"]["annotations"][DEVICES]
    return found.split(":")[0]


def test_a_fraction_evicts_from_one_device(full, system, cluster):
    full(500, 500, 500, 500)
    before = {f"low-{i}": device(cluster, f"low-{i}") for i in range(4)}
    with Vigil(cluster.api):
        cluster.create([fraction_pod("urgent", 800, priority_class="high")])
        eventually(lambda: "urgent" in cluster.bound(), "the urgent pod is bound", 60)
    left = set(cluster.bound()) - {"urgent"}
    # Both pods of its device had to go. kube-scheduler, which counts thousandths, would name two
    # of whatever devices; its victims are kept, so one more may be gone.
    assert not [name for name in left if before[name] == device(cluster, "urgent")]
    assert left
    system.verify()


def test_nobody_is_evicted_where_only_devices_are_short(full, system, cluster):
    # 800 of the node's 2000 are free, 400 on each device. kube-scheduler's dry run, which counts
    # by node, finds nobody whose eviction it needs: the node has to be out of its question.
    full(600, 600)
    cluster.create([fraction_pod("urgent", 700, priority_class="high")])
    assert set(cluster.settle()) == {"low-0", "low-1"}
    assert "no single GPU has the requested fraction free" in cluster.pending()["urgent"]
    cluster.api.delete("Pod", "low-0", "default")
    assert set(cluster.all_bound(2)) == {"low-1", "urgent"}
    system.verify()


def test_the_nominated_pod_gets_the_place_that_its_victims_leave(full, system, cluster):
    full(1000, 1000, grace_s=60)
    cluster.create([fraction_pod("urgent", 1000, priority_class="high")])

    def nominated():
        return cluster.api.get("Pod", "urgent", "default")["status"].get("nominatedNodeName")

    assert eventually(nominated, "the urgent pod is promised the node") == "f"
    (victim,) = eventually(
        lambda: [p for p in cluster.api.objects("Pod") if p["metadata"].get("deletionTimestamp")],
        "somebody terminates",
    )
    # Whoever terminates still has its device; the room that it leaves is promised.
    cluster.create([fraction_pod(f"late-{i}", 500, priority_class="low") for i in range(2)])
    assert set(cluster.settle()) == {"low-0", "low-1"}
    system.verify()
    with Vigil(cluster.api):
        cluster.api.delete("Pod", victim["metadata"]["name"], "default")
        eventually(lambda: "urgent" in cluster.bound(), "the urgent pod is bound", 60)
        cluster.settle()
    assert not [name for name in cluster.bound() if name.startswith("late")]
    system.verify()


def _until_one_of_two_victims_is_gone(cluster, start):
    """The node's sum suffices once the first has gone, its device only without the second."""
    cluster.create([fraction_node("f", 2), fraction_node("g", 2)])
    cluster.create([priority_class(name, 10 * n) for n, name in enumerate(("low", "mid", "high"))])
    cluster.api.patch("Node", "g", {"spec": {"unschedulable": True}})
    start()
    for name, size, grade, grace_s in (
        ("stays", 600, "high", 0), ("first", 500, "low", 0), ("second", 500, "low", 60),
    ):  # fmt: skip
        cluster.create([fraction_pod(name, size, priority_class=grade, grace_s=grace_s)])
        eventually(lambda name=name: name in cluster.bound(), f"{name} is bound")
    cluster.api.patch("Node", "g", {"spec": {"unschedulable": None}})
    dearer = [fraction_pod(f"dearer-{i}", 1000, priority_class="mid") for i in range(2)]
    cluster.create(dearer)
    assert set(cluster.all_bound(5).values()) == {"f", "g"}
    cluster.create([fraction_pod("urgent", 800, priority_class="high")])
    eventually(lambda: "first" not in cluster.bound(), "the first victim is gone")


def test_while_one_victim_terminates_nobody_is_evicted_elsewhere(cluster, system):
    _until_one_of_two_victims_is_gone(cluster, system.start)
    left = cluster.settle(quiet_s=4.0)
    assert set(left) == {"stays", "second", "dearer-0", "dearer-1"}
    cluster.api.delete("Pod", "second", "default")
    assert cluster.all_bound(4)["urgent"] == "f"
    system.verify()


def test_word_of_the_last_victims_end_is_late_and_costs_nobody_its_place(cluster, system):
    """The same question as while it terminated has another answer, which no watch has told us."""
    with system.wire() as wire:
        system.add_extender(wire=wire)
        with Tap(system.extender.url) as tap:
            _until_one_of_two_victims_is_gone(cluster, lambda: system.add_scheduler(tap.url))
            eventually(lambda: tap.calls("filter", pod="urgent"), "asked while it terminates")
            assert set(cluster.settle(quiet_s=2.0)) == {"stays", "second", "dearer-0", "dearer-1"}
            asked = len(tap.calls("filter", pod="urgent"))
            wire.silence()  # the watches; whoever connects anew gets an answer
            cluster.api.delete("Pod", "second", "default")
            assert cluster.all_bound(4) == {
                "stays": "f", "urgent": "f", "dearer-0": "g", "dearer-1": "g"
            }  # fmt: skip
            answers = [call.answer for call in tap.calls("filter", pod="urgent")[asked:]]
            assert answers and not [answer for answer in answers if answer["FailedNodes"]]
            assert not [call for call in tap.calls("preempt")[1:] if call.pod == "urgent"]
            wire.resume()
            system.verify()


def test_word_of_the_victims_end_is_late_and_costs_nobody_its_place(cluster, system):
    """kube-scheduler hears that they are gone, we do not: an error, and a new attempt."""
    cluster.create([gpu_node("n0", 2), gpu_node("n1", 2)])
    cluster.create([priority_class("low", 10), priority_class("high", 1000)])
    with system.wire() as wire:
        system.add_extender(wire=wire)
        with Tap(system.extender.url) as tap:
            system.add_scheduler(tap.url)
            cluster.create([gpu_pod(f"low-{i}", priority_class="low") for i in range(4)])
            cluster.all_bound(4)
            system.verify()
            wire.silence(new_ones_too=True)
            cluster.create([gpu_pod("urgent", 2, priority_class="high")])
            eventually(lambda: tap.calls("filter", pod="urgent"), "asked again, with room")
            time.sleep(2.0)
            wire.resume()
            bound = eventually(
                lambda: b if "urgent" in (b := cluster.bound()) else None, "it is bound", 60
            )
            answers = [call.answer for call in tap.calls("filter", pod="urgent")]
    assert len(bound) == 3
    assert not [answer for answer in answers if answer.get("FailedNodes")]
    assert any(answer.get("Error") for answer in answers)
    system.verify()
