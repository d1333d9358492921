"""From Node JSON to devices: plain, fraction, time-sliced, MIG, unhealthy."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.core.errors import InvalidInput
from scheduler.core.model import Device, Node, Taint
from scheduler.kube.nodes import node_of, without_devices
from scheduler.kube.objects import NodeObject
from scheduler.kube.resource_names import ResourceNames

T4 = {"nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.memory": "15360"}


def _node(allocatable: dict[str, Any], labels: dict[str, str] | None = None, **rest: Any) -> Node:
    status = {"allocatable": allocatable, **rest.pop("status", {})}
    content = {"metadata": {"name": "n", "labels": labels}, "status": status, **rest}
    return node_of(msgspec.json.decode(msgspec.json.encode(content), type=NodeObject))


def test_a_plain_node() -> None:
    found = _node({"cpu": "7910m", "memory": "31883Mi", "pods": "58", "nvidia.com/gpu": "2"}, T4)
    assert (found.cpu_milli, found.memory_bytes, found.pods) == (7910, 31883 << 20, 58)
    assert found.devices == (Device("Tesla-T4", 15360),) * 2


def test_a_node_without_gpus() -> None:
    found = _node({"cpu": 4, "memory": "8Gi"})
    assert found.devices == () and found.cpu_milli == 4000


@pytest.mark.parametrize("status", [None, {}, {"allocatable": {"cpu": "4", "memory": "8Gi"}}])
def test_a_node_that_states_no_room_for_pods_has_none(status: dict[str, Any] | None) -> None:
    content = {"metadata": {"name": "n"}, "status": status}
    found = node_of(msgspec.json.decode(msgspec.json.encode(content), type=NodeObject))
    assert found.pods == 0


def test_whatever_else_a_node_offers_is_counted() -> None:
    offered = {"habana.ai/gaudi": "8", "hugepages-1Gi": "4Gi", "ephemeral-storage": "94371840Ki"}
    found = _node({"cpu": "8", "nvidia.com/gpu": "2", "hugepages-2Mi": "0", **offered}, T4)
    assert found.counted == {
        "habana.ai/gaudi": 8,
        "hugepages-1Gi": 4 << 30,
        "hugepages-2Mi": 0,
        "ephemeral-storage": 94371840 << 10,
    }
    assert len(found.devices) == 2


@pytest.mark.parametrize(
    "offered",
    [
        {"example.com/nic": "-1"},
        {"hugepages-1Gi": "many"},
        {f"example.com/r{number}": "1" for number in range(300)},
    ],
)
def test_nonsense_in_counted_resources_costs_the_node_these_alone(offered: dict[str, str]) -> None:
    content = {"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "8", **offered}}}
    obj = msgspec.json.decode(msgspec.json.encode(content), type=NodeObject)
    with pytest.raises(InvalidInput, match="allocatable"):
        node_of(obj)
    left = without_devices(obj, ResourceNames())
    assert (left.cpu_milli, left.counted) == (8000, {})


def test_a_node_whose_devices_are_nonsense_goes_on_offering_the_rest() -> None:
    allocatable = {"cpu": "8", "nvidia.com/gpu": "-1", "example.com/nic": "2"}
    content = {"metadata": {"name": "n"}, "status": {"allocatable": allocatable}}
    obj = msgspec.json.decode(msgspec.json.encode(content), type=NodeObject)
    left = without_devices(obj, ResourceNames())
    assert (left.devices, left.cpu_milli, left.counted) == ((), 8000, {"example.com/nic": 2})


def test_devices_that_are_not_offered_are_unhealthy() -> None:
    found = _node({"nvidia.com/gpu": 3}, T4, status={"capacity": {"nvidia.com/gpu": 4}})
    assert [d.healthy for d in found.devices] == [True, True, True, False]


def test_fraction_protocol_advertises_thousands() -> None:
    assert len(_node({"snugfit.io/gpu-milli": "4000"}, T4).devices) == 4
    with pytest.raises(InvalidInput, match="multiple of 1000"):
        _node({"snugfit.io/gpu-milli": "4500"}, T4)


def test_a_resource_of_which_nothing_is_left_is_not_offered() -> None:
    found = _node({"cpu": 8, "nvidia.com/gpu": "0", "snugfit.io/gpu-milli": "2000"})
    assert found.offers == ("snugfit.io/gpu-milli",)


def test_mig_single_strategy_label_is_stripped() -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"}
    found = _node({"nvidia.com/mig-1g.10gb": 7}, labels)
    assert found.product == "NVIDIA-A100-SXM4-80GB" and found.devices[0].mig == "A100-80"


def test_taints_and_cordon_close_a_node_and_conditions_do_not() -> None:
    found = _node(
        {},
        spec={
            "taints": [{"key": "k", "value": None, "effect": "NoSchedule"}],
            "unschedulable": True,
        },
        status={"conditions": [{"type": "Ready", "status": "Unknown"}]},
    )
    assert found.taints == (Taint("k"),) and found.unschedulable


def test_other_vendors() -> None:
    found = _node({"amd.com/gpu": 8}, {"amd.com/gpu.product-name": "MI300X"})
    assert found.resource == "amd.com/gpu" and found.product == "MI300X" and len(found.devices) == 8


def test_negative_devices_are_refused() -> None:
    with pytest.raises(InvalidInput, match="negative"):
        _node({"nvidia.com/gpu": -1}, T4)
