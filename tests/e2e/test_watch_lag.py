"""kube-scheduler has heard of a node what the extender has not: whom it lets in stays let in."""

from __future__ import annotations

import pytest

from testbed.controlplane.api import eventually
from testbed.controlplane.objects import gpu_node, gpu_pod, pod_group

pytestmark = pytest.mark.e2e


def _label(node):
    node["metadata"]["labels"]["pool"] = "old"
    return {"metadata": {"labels": {"pool": "new"}}}


def _taint(node):
    node["spec"] = {"taints": [{"key": "closed", "effect": "NoSchedule"}]}
    return {"spec": {"taints": None}}


def _cordon(node):
    node["spec"] = {"unschedulable": True}
    return {"spec": {"unschedulable": None}}


@pytest.mark.parametrize("hidden", [_label, _taint, _cordon])
def test_a_node_that_was_opened_a_moment_ago(system, cluster, hidden):
    nodes = [gpu_node(f"n{i}", 2) for i in range(2)]
    changes = {node["metadata"]["name"]: hidden(node) for node in nodes}
    pods = [gpu_pod("alone"), gpu_pod("m0", group="pair"), gpu_pod("m1", group="pair")]
    for pod in pods:
        if hidden is _label:
            pod["spec"]["nodeSelector"] = {"pool": "new"}
    if not cluster.plane.gangs:
        pods = pods[:1]
    with system.wire() as wire:
        cluster.create(nodes)
        system.add_extender(wire=wire, bind_deadline_s=2)
        if cluster.plane.gangs:
            cluster.create([pod_group("pair", 2)])
        cluster.create(pods)
        eventually(
            lambda: system.metric("^snugfit_pods_pending") == len(pods), "the extender knows them"
        )
        wire.silence()  # the watches; whoever connects anew gets an answer
        try:
            for name, change in changes.items():
                cluster.api.patch("Node", name, change)
            system.add_scheduler()
            cluster.all_bound(len(pods), patience_s=40)
            assert _known_to_let_in(system, pods[0]) == []
        finally:
            wire.resume()
        system.verify()


def _known_to_let_in(system, pod):
    """Nodes that let the pod in as far as the extender knows."""
    question = {"Pod": pod, "Nodes": None, "NodeNames": ["n0", "n1"]}
    return system.extender.post("/filter-dryrun", question)["NodeNames"]
