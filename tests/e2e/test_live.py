"""kube-scheduler and the extender together, on every kind of GPU, under the validator's eyes."""

from __future__ import annotations

import random
import time

import pytest

from testbed.controlplane import scheduling
from testbed.controlplane.api import eventually
from testbed.controlplane.objects import (
    DEVICES,
    disruption_budget,
    fraction_node,
    fraction_pod,
    gpu_node,
    gpu_pod,
    mig_node,
    mig_pod,
    node,
    pod,
    pod_group,
    priority_class,
    shared_node,
    shared_pod,
)
from testbed.controlplane.vigil import Vigil

pytestmark = pytest.mark.e2e

A100, T4 = "NVIDIA-A100-SXM4-80GB", "Tesla-T4"


def mixed_cluster():
    return [
        *(gpu_node(f"whole-{i}", 8) for i in range(3)),
        *(gpu_node(f"t4-{i}", 2, product=T4) for i in range(2)),
        *(fraction_node(f"part-{i}", 4) for i in range(3)),
        mig_node("mig-0", {"1g.10gb": 7, "2g.20gb": 3}, A100),
        shared_node("shared-0", 2, replicas=4),
        node("cpu-0", cpu=16, memory_gib=64),
    ]


def mixed_stream(count, seed):
    chance = random.Random(seed)
    kinds = (
        lambda name: gpu_pod(name, chance.choice((1, 1, 2, 4, 8))),
        lambda name: gpu_pod(name, 1, products=(T4,)),
        lambda name: fraction_pod(name, chance.choice((100, 250, 300, 500, 700))),
        lambda name: fraction_pod(name, 1000 * chance.choice((1, 2))),
        lambda name: fraction_pod(name, 400, memory_mib=chance.choice((8_000, 40_000))),
        lambda name: mig_pod(name, chance.choice(("1g.10gb", "2g.20gb"))),
        lambda name: shared_pod(name, chance.choice((1, 2))),
        lambda name: pod(name, cpu_milli=1500),
    )
    return [chance.choices(kinds, (4, 1, 4, 1, 2, 2, 2, 2))[0](f"p{i:03}") for i in range(count)]


def test_a_mixed_stream_until_the_cluster_is_full(system, cluster):
    cluster.create(mixed_cluster())
    system.start()
    with Vigil(cluster.api) as vigil:
        cluster.create(mixed_stream(120, seed=1))
        bound = cluster.settle()
    assert vigil.events > 120 and len(bound) > 40
    system.verify()
    # Whatever is still pending really has no place: one more round changes nothing.
    assert cluster.settle() == bound


def test_stock_scheduling_strands_the_large_pod_and_packing_does_not(cluster, system):
    nodes = [gpu_node(f"n{i}", 8) for i in range(3)]
    small = [gpu_pod(f"small-{i:02}") for i in range(12)]
    large = gpu_pod("large", 8)

    cluster.create(nodes)
    stock = cluster.scheduler(scheduling.stock())
    for one in small:
        cluster.create([one])
    cluster.all_bound(12)
    cluster.create([large])
    assert "large" not in cluster.settle()
    cluster.validator.check()

    stock.stop()
    cluster.api.delete_all("Pod", "default")
    system.start()
    for one in small:
        cluster.create([one])
    cluster.all_bound(12)
    cluster.create([large])
    assert "large" in cluster.all_bound(13)
    system.verify()


def test_fractions_get_devices_in_the_binding_itself(cluster, system):
    cluster.create([fraction_node("f", 2)])
    system.start()
    cluster.create([fraction_pod(f"p{i}", 500) for i in range(5)])
    cluster.all_bound(4)
    bound = cluster.settle()
    assert len(bound) == 4
    (waiting,) = cluster.pending()
    devices = {
        p["metadata"]["name"]: p["metadata"].get("annotations", {}).get(DEVICES)
        for p in cluster.api.objects("Pod")
    }
    assert devices.pop(waiting) is None
    assert sorted(text.split(":")[0] for text in devices.values()) == ["0", "0", "1", "1"]
    system.verify()
    # Whoever finishes makes room for the one that waits, on the same device.
    done = next(iter(bound))
    freed = devices[done]
    cluster.api.finish("default", done)
    eventually(lambda: waiting in cluster.bound(), "the waiting one got its place")
    taken = cluster.api.get("Pod", waiting, "default")["metadata"]["annotations"][DEVICES]
    assert taken == freed
    system.verify()


def test_memory_of_a_device_is_not_sold_twice(cluster, system):
    cluster.create([fraction_node("f", 1)])
    system.start()
    cluster.create([fraction_pod(f"p{i}", 100, memory_mib=30_000) for i in range(3)])
    cluster.all_bound(2)
    assert len(cluster.settle()) == 2
    system.verify()


def test_models_by_affinity(cluster, system):
    cluster.create([gpu_node("a", 4), gpu_node("t", 2, product=T4)])
    system.start()
    cluster.create([gpu_pod(f"t{i}", products=(T4,)) for i in range(3)])
    cluster.create([gpu_pod(f"any{i}", products=(T4, A100)) for i in range(3)])
    cluster.all_bound(5)
    bound = cluster.settle()
    assert sorted(node for name, node in bound.items() if name.startswith("t")) == ["t", "t"]
    assert [node for name, node in bound.items() if name.startswith("any")] == ["a"] * 3
    system.verify()


def test_preemption_takes_the_cheapest_and_respects_budgets(cluster, system):
    cluster.create([gpu_node("n0", 4), gpu_node("n1", 4)])
    cluster.create([priority_class("low", 10), priority_class("high", 1000)])
    cluster.create([disruption_budget("guard", {"app": "guarded"}, at_least=4)])
    system.start()
    guarded = [
        gpu_pod(f"guarded-{i}", labels={"app": "guarded"}, priority_class="low") for i in range(4)
    ]
    cluster.create(guarded, connections=1)
    cluster.all_bound(4)
    for name in ("guarded-0", "guarded-1", "guarded-2", "guarded-3"):
        cluster.api.patch(
            "Pod", name, {"status": {"phase": "Running",
                                     "conditions": [{"type": "Ready", "status": "True"}]}},
            "default", subresource="status",
        )  # fmt: skip
    cluster.create([gpu_pod(f"free-{i}", priority_class="low") for i in range(4)])
    cluster.all_bound(8)
    with Vigil(cluster.api):
        cluster.create([gpu_pod("urgent", 2, priority_class="high")])
        eventually(lambda: "urgent" in cluster.bound(), "the urgent pod is bound", 60)
    left = {name for name in cluster.bound() if name != "urgent"}
    assert {f"guarded-{i}" for i in range(4)} <= left
    assert len(left) == 6  # exactly two had to go
    system.verify()


@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "extender-killed"])
def test_two_gangs_that_fit_alone_but_not_together(cluster, system, killed):
    if not cluster.plane.gangs:
        pytest.skip(f"Kubernetes {cluster.plane.assets.version} has no PodGroup v1beta1")
    nodes = [gpu_node(f"n{i}", 4) for i in range(2)] + [fraction_node("f", 4)]
    cluster.create(nodes)
    system.start()
    cluster.create([pod_group("red", 9), pod_group("blue", 9)])
    # Of each, six whole devices and three parts: eight devices, and four to be cut, are there.
    members = [
        gpu_pod(f"{g}-{i}", group=g) if i < 6 else fraction_pod(f"{g}-{i}", 800, group=g)
        for i in range(9)
        for g in ("red", "blue")
    ]
    with Vigil(cluster.api):
        cluster.create(members)
        if killed:
            filters = 'verb="filter"'
            eventually(lambda: system.metric(f"request_seconds_count.*{filters}") > 0, "asked", 60)
            system.extender.kill()
            system.extender.start()
        bound = eventually(
            lambda: b if len(b := cluster.bound()) >= 9 else None, "one gang is complete", 90
        )
        assert len({name.split("-")[0] for name in bound}) == 1
        winner = next(iter(bound)).split("-")[0]
        loser = "blue" if winner == "red" else "red"
        cluster.settle()
        system.verify()
        for i in range(9):
            cluster.api.delete("Pod", f"{winner}-{i}", "default")
        eventually(
            lambda: {f"{loser}-{i}" for i in range(9)} <= set(cluster.bound()), "then the other", 90
        )
    system.verify()


def test_a_foreign_scheduler_binds_behind_our_back(cluster, system):
    cluster.create([fraction_node("f", 2), gpu_node("g", 4)])
    system.start()
    cluster.create([gpu_pod(f"theirs-{i}", scheduler="somebody-else") for i in range(3)])
    for i in range(3):
        cluster.api.bind("default", f"theirs-{i}", "g")
    cluster.create([fraction_pod("theirs-part", 600, scheduler="somebody-else")])
    cluster.api.bind("default", "theirs-part", "f", {DEVICES: "1:600:49152:0"})
    with Vigil(cluster.api):
        cluster.create([gpu_pod(f"ours-{i}", 1) for i in range(2)])
        cluster.create([fraction_pod(f"part-{i}", 500) for i in range(3)])
        cluster.all_bound(4 + 1 + 2)
        bound = cluster.settle()
    assert len([name for name in bound if name.startswith("ours")]) == 1
    assert len([name for name in bound if name.startswith("part")]) == 2
    system.verify()


def test_static_pods_count(cluster, system):
    cluster.create([gpu_node("g", 2), gpu_pod("static", 1, node_name="g")])
    system.start()
    cluster.create([gpu_pod(f"p{i}") for i in range(2)])
    cluster.all_bound(2)
    assert len(cluster.settle()) == 2  # the static one and one of ours
    system.verify()


def test_nodes_come_and_go(cluster, system):
    cluster.create([fraction_node(f"f{i}", 2) for i in range(3)])
    system.start()
    cluster.create([fraction_pod(f"p{i}", 400) for i in range(6)])
    cluster.all_bound(6)
    for _ in range(5):
        cluster.api.delete("Node", "f1")
        cluster.api.patch("Node", "f2", {"spec": {"unschedulable": True}})
        cluster.create([fraction_node("f1", 2)])
        cluster.api.patch("Node", "f2", {"spec": {"unschedulable": None}})
    cluster.create([fraction_pod(f"q{i}", 400) for i in range(8)])
    cluster.all_bound(12)
    assert len(cluster.settle()) == 12  # two of 400 on each of six devices
    system.verify()


def test_devices_that_vanish_are_not_free(cluster, system):
    cluster.create([fraction_node("f", 2)])
    system.start()
    cluster.create([fraction_pod(f"p{i}", 700) for i in range(2)])
    cluster.all_bound(2)
    shrunk = {"status": {"allocatable": {"snugfit.io/gpu-milli": "1000"}}}
    cluster.api.patch("Node", "f", shrunk, subresource="status")
    eventually(
        lambda: system.extender.get("/readyz")["nodes_with_unknown_devices"] == ["f"],
        "the extender says that it does not know",
    )
    cluster.api.delete("Pod", "p0", "default")
    cluster.api.delete("Pod", "p1", "default")
    eventually(
        lambda: not system.extender.get("/readyz")["nodes_with_unknown_devices"], "known again"
    )
    cluster.create([fraction_pod("next", 700)])
    assert set(cluster.all_bound(1)) == {"next"}
    system.verify()


def test_a_pod_refused_by_a_late_watch_is_scheduled_all_the_same(cluster, system):
    # kube-scheduler hears of the deletion, asks, and is refused by an extender that has not heard.
    # Where nothing else happens it would not ask again for five minutes.
    cluster.create([fraction_node("f", 1)])
    with system.wire() as wire:
        system.add_extender(wire=wire, requeue_after_s=11)
        system.add_scheduler()
        cluster.create([fraction_pod("first", 700)])
        cluster.all_bound(1)
        cluster.create([fraction_pod("second", 700)])
        assert set(cluster.settle()) == {"first"}

        def times_asked():
            decisions = system.extender.get("/debug/decisions?limit=100")["decisions"]
            return sum(d["verb"] == "filter" and d["pod"] == "default/second" for d in decisions)

        before = times_asked()
        wire.silence()
        cluster.api.delete("Pod", "first", "default")
        eventually(lambda: times_asked() > before, "kube-scheduler asks for it again")
        while times_asked() != before:  # until it has given up
            before = times_asked()
            time.sleep(4)
        wire.resume()
        assert set(cluster.all_bound(1)) == {"second"}
        assert system.metric("snugfit_requeues_total") == 1
        system.verify()


def test_verbs_under_a_path(system, cluster):
    """Bound by us and by kube-scheduler: each of the four verbs is found where it is."""
    cluster.create([gpu_node("whole", 2), fraction_node("part", 2)])
    extender = system.add_extender(url_prefix="/scheduler/v1")
    system.add_scheduler(f"{extender.url}/scheduler/v1")
    cluster.create([gpu_pod("p0", 1), fraction_pod("p1", 500)])
    cluster.all_bound(2)
    system.verify()
