"""Others on the same nodes: the stock scheduler beside ours, and pods that are resized."""

from __future__ import annotations

import pytest

from testbed.controlplane import scheduling
from testbed.controlplane.api import Feeder, eventually
from testbed.controlplane.objects import fraction_node, fraction_pod, gpu_node, gpu_pod, pod
from testbed.controlplane.vigil import Vigil

pytestmark = pytest.mark.e2e

STOCK = "default-scheduler"


def free_cpu(system, name):
    nodes = system.extender.get("/debug/state")["nodes"]
    return next(node["cpu_free_milli"] for node in nodes if node["name"] == name)


def test_stock_and_ours_share_the_nodes(system, cluster):
    cluster.create([gpu_node(f"g{i}", 4, cpu=64) for i in range(4)])
    cluster.create([fraction_node(f"f{i}", 2, cpu=64) for i in range(2)])
    system.start()
    cluster.scheduler(scheduling.stock(STOCK))
    with Vigil(cluster.api):
        # Both at once: theirs want no GPU, ours want nothing else that is scarce.
        plain = [pod(f"plain-{i:02}", cpu_milli=2000, scheduler=STOCK) for i in range(40)]
        theirs = Feeder(cluster.api, plain)
        cluster.create([fraction_pod(f"part-{i}", 500) for i in range(6)])
        cluster.create([gpu_pod(f"ours-{i}") for i in range(5)])
        theirs.wait()
        cluster.all_bound(51)
        system.verify()
        # Then both want the same devices, in turns; each counts what the other has bound.
        cluster.create([gpu_pod(f"stock-{i}", scheduler=STOCK) for i in range(6)])
        cluster.all_bound(57)
        system.verify()
        cluster.create([gpu_pod(f"more-{i}") for i in range(7)])
        cluster.all_bound(57 + 16 - 5 - 6)
        bound = cluster.settle()
    assert len([name for name in bound if name.startswith("more")]) == 16 - 5 - 6
    asked = {
        entry["pod"] for entry in system.extender.get("/debug/decisions?limit=500")["decisions"]
    }
    assert not [name for name in asked if "plain" in name or "stock" in name]
    system.verify()


def test_pods_are_resized_in_place(system, cluster):
    cluster.create([gpu_node("g", 4, cpu=8)])
    system.start()
    cluster.create([gpu_pod("p", cpu_milli=1000)])
    cluster.all_bound(1)
    eventually(lambda: free_cpu(system, "g") == 7000, "one cpu is taken")

    def resize(cpu):
        room = {"cpu": cpu}
        change = {
            "spec": {
                "containers": [{"name": "main", "resources": {"requests": room, "limits": room}}]
            }
        }
        cluster.api.patch("Pod", "p", change, "default", subresource="resize", strategic=True)

    resize("6")
    eventually(lambda: free_cpu(system, "g") == 2000, "what it asks for counts at once")
    cluster.create([gpu_pod("big", cpu_milli=3000), gpu_pod("small", cpu_milli=2000)])
    cluster.all_bound(2)
    assert set(cluster.settle()) == {"p", "small"}
    system.verify()
    # The kubelet gives six cpus; asked for fewer, they are in use until it has taken them back.
    kubelet(cluster, "6")
    resize("1")
    cluster.settle()
    assert free_cpu(system, "g") == 0
    kubelet(cluster, "1")
    eventually(lambda: free_cpu(system, "g") <= 5000, "given back")
    assert set(cluster.all_bound(3)) == {"p", "small", "big"}
    system.verify()


def kubelet(cluster, cpu):
    """What a kubelet reports about the container of the pod ``p``."""
    room = {"cpu": cpu, "memory": "512Mi", "nvidia.com/gpu": "1"}
    status = {
        "name": "main",
        "image": "pause:3.10",
        "imageID": "",
        "ready": True,
        "restartCount": 0,
        "allocatedResources": room,
        "resources": {"requests": room, "limits": room},
        "state": {"running": {}},
    }
    change = {"status": {"phase": "Running", "containerStatuses": [status]}}
    cluster.api.patch("Pod", "p", change, "default", subresource="status")
