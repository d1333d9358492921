"""Advertising fractions: what is written on which node, and the way back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.cluster.api.paging import list_objects
from scheduler.kube.advertise import Action, adverts, withdrawals
from scheduler.kube.nodes import node_of
from scheduler.kube.objects import NodeObject, node_decoder


def _node(labels: dict[str, str] | None = None, **allocatable: str) -> dict[str, Any]:
    resources = {"cpu": "8", "memory": "32Gi", "pods": "110"} | allocatable
    return {
        "metadata": {"name": "n", "labels": labels or {}},
        "status": {"capacity": dict(resources), "allocatable": dict(resources)},
    }


def _object(node: dict[str, Any]) -> NodeObject:
    return msgspec.convert(node, NodeObject)


def _patched(node: dict[str, Any], patch: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """What the API server makes of it: JSON patch, add and remove."""
    made = msgspec.json.decode(msgspec.json.encode(node))
    for change in patch:
        *parents, last = (
            step.replace("~1", "/").replace("~0", "~") for step in change["path"][1:].split("/")
        )
        target = made
        for step in parents:
            target = target[step]
        if change["op"] == "remove":
            del target[last]
        else:
            target[last] = change["value"]
    return made


def test_a_labelled_node_gets_a_thousand_per_gpu_and_all_of_its_memory() -> None:
    node = _node({"nvidia.com/gpu.count": "4", "nvidia.com/gpu.memory": "16384"})
    (advert,) = adverts([_object(node)])
    assert (advert.action, advert.gpus, advert.note) == (Action.SET, 4, "")
    after = _patched(node, advert.patch)
    for part in ("capacity", "allocatable"):
        assert after["status"][part]["snugfit.io/gpu-milli"] == "4000"
        assert after["status"][part]["snugfit.io/gpu-memory-mib"] == "65536"
    understood = node_of(_object(after))
    assert [(d.memory_mib, d.healthy) for d in understood.devices] == [(16384, True)] * 4


def test_doing_it_twice_changes_nothing_and_undo_leaves_no_trace() -> None:
    node = _node({"nvidia.com/gpu.count": "8"})
    (advert,) = adverts([_object(node)])
    after = _patched(node, advert.patch)
    after["status"]["allocatable"]["snugfit.io/gpu-milli"] = "8k"  # as the API server writes it
    (again,) = adverts([_object(after)])
    assert (again.action, again.patch) == (Action.KEEP, ())
    (back,) = withdrawals([_object(after)])
    assert back.action is Action.REMOVE and _patched(after, back.patch) == node
    (nothing,) = withdrawals([_object(node)])
    assert (nothing.action, nothing.patch) == (Action.KEEP, ())


def test_a_changed_number_of_gpus_is_corrected() -> None:
    node = _node({"nvidia.com/gpu.count": "2"}, **{"snugfit.io/gpu-milli": "4000"})
    (advert,) = adverts([_object(node)])
    assert advert.action is Action.SET
    assert _patched(node, advert.patch)["status"]["capacity"]["snugfit.io/gpu-milli"] == "2000"


def test_a_node_without_a_status_gets_one() -> None:
    bare = {"metadata": {"name": "n", "labels": {"nvidia.com/gpu.count": "1"}}, "status": {}}
    (advert,) = adverts([_object(bare)])
    assert _patched(bare, advert.patch)["status"]["allocatable"] == {"snugfit.io/gpu-milli": "1000"}


def test_a_device_plugin_beside_it_is_worth_a_warning() -> None:
    (advert,) = adverts([_object(_node(None, **{"nvidia.com/gpu": "2"}))])
    assert (advert.action, advert.gpus) == (Action.SET, 2)
    assert "hands out nvidia.com/gpu by itself" in advert.note


@pytest.mark.parametrize(
    ("labels", "resources", "why"),
    [
        ({}, {}, "no GPU"),
        ({}, {"nvidia.com/mig-1g.5gb": "7"}, "MIG"),
        ({"nvidia.com/gpu.replicas": "4"}, {"nvidia.com/gpu": "8"}, "time-sliced"),
        ({}, {"nvidia.com/gpu.shared": "8"}, "time-sliced"),
        (
            {
                "cloud.google.com/gke-accelerator-count": "2",
                "cloud.google.com/gke-max-shared-clients-per-gpu": "8",
            },
            {"nvidia.com/gpu": "16"},
            "time-sliced",
        ),
        (
            {"nvidia.com/mig.strategy": "single", "nvidia.com/gpu.product": "A100-MIG-1g.5gb"},
            {"nvidia.com/gpu": "7"},
            "MIG",
        ),
        (
            {
                "nvidia.com/mig.strategy": "single",
                "nvidia.com/gpu.product": "A100-MIG-1g.5gb",
                "nvidia.com/gpu.count": "7",
            },
            {},
            "MIG",
        ),
        ({}, {"nvidia.com/gpu": "8", "koordinator.sh/gpu": "800"}, "Koordinator shares"),
        ({}, {"nvidia.com/gpu": "70"}, "no label says how many"),
        ({}, {"gpu.intel.com/i915": "10"}, "may be shares"),
        ({"gpu.intel.com/device.count": "1"}, {"gpu.intel.com/i915": "10"}, "time-sliced"),
        (
            {"amd.com/compute-memory-partition": "cpx_nps4"},
            {"amd.com/gpu": "64"},
            "partitioned",
        ),
        ({}, {"nvidia.com/gpu": "1", "amd.com/gpu": "1"}, "which are these devices"),
        ({}, {"nvidia.com/gpu": "1.5"}, "not whole"),
    ],
)
def test_nodes_where_fractions_make_no_sense_are_left_alone(labels, resources, why: str) -> None:
    (advert,) = adverts([_object(_node(labels, **resources))])
    assert advert.action is Action.SKIP and not advert.patch and why in advert.note


def test_devices_that_are_all_out_of_service_are_not_advertised() -> None:
    node = _node({"nvidia.com/gpu.count": "4"}, **{"nvidia.com/gpu": "4"})
    node["status"]["allocatable"]["nvidia.com/gpu"] = "0"
    (advert,) = adverts([_object(node)])
    assert advert.action is Action.SKIP and "in service" in advert.note


def test_a_node_that_another_system_describes_is_left_alone() -> None:
    node = _node(None, **{"nvidia.com/gpu": "20"})
    register = "GPU-0,10,16384,100,T4,0,true,0,hami-core:GPU-1,10,16384,100,T4,0,true,1,hami-core:"
    node["metadata"]["annotations"] = {"hami.io/node-nvidia-register": register}
    (advert,) = adverts([_object(node)])
    assert advert.action is Action.SKIP and "another system" in advert.note


def test_what_was_advertised_once_says_nothing_about_the_devices() -> None:
    """Sixteen thousand on a node of two devices is what an earlier version wrote."""
    labels = {"nvidia.com/gpu.replicas": "8", "nvidia.com/gpu.count": "2"}
    offered = {"nvidia.com/gpu": "16", "snugfit.io/gpu-milli": "16000"}
    (advert,) = adverts([_object(_node(labels, **offered))])
    assert advert.action is Action.SKIP and "time-sliced" in advert.note
    assert len(node_of(_object(_node(labels, **offered))).devices) == 2


class _Pages:
    """An API that hands out one object a page."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    def get(self, path: str, params=None) -> bytes:
        self.asked.append(dict(params))
        index = int(params.get("continue", "0"))
        following = str(index + 1) if index < 2 else ""
        item = {"metadata": {"name": f"{path}-{index}"}}
        return msgspec.json.encode({"metadata": {"continue": following}, "items": [item]})


def test_lists_are_read_to_the_last_page() -> None:
    pages = _Pages()
    found = list_objects(pages, "/nodes", node_decoder, "gpu=true")
    assert [node.metadata.name for node in found] == ["/nodes-0", "/nodes-1", "/nodes-2"]
    assert all(asked["labelSelector"] == "gpu=true" for asked in pages.asked)
