"""What a node advertises is traced back to devices, as far as its labels tell."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.model import Node, Reason
from scheduler.core.state import ClusterState
from scheduler.core.validator import verify
from scheduler.kube.nodes import node_of
from scheduler.kube.objects import NodeObject
from scheduler.kube.pod_requests import pod_request
from testbed.kube_objects import pod_object
from tests.depth import examples

GPU, SHARED, MIG = "nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-"
COUNT, REPLICAS, STRATEGY = f"{GPU}.count", f"{GPU}.replicas", "nvidia.com/mig.strategy"
PRODUCT, MEMORY = f"{GPU}.product", f"{GPU}.memory"
GKE = "cloud.google.com/gke-"
I915, XE = "gpu.intel.com/i915", "gpu.intel.com/xe"


def _node(
    offered: dict[str, int], labels: dict[str, str], capacity: dict[str, int] | None = None
) -> Node:
    plain = {"cpu": "64", "memory": "512Gi", "pods": "500"}
    allocatable = plain | {name: str(count) for name, count in offered.items()}
    status = {"allocatable": allocatable, "capacity": allocatable | (capacity or {})}
    metadata = {"name": "n", "labels": labels}
    return node_of(msgspec.convert({"metadata": metadata, "status": status}, NodeObject))


def _taken(node: Node, asked: dict[str, int]) -> int:
    """Pods that each ask for this and find room, one after another."""
    engine = Engine(ClusterState([node]))
    for number in range(120):
        wants = {"cpu": "1m", "memory": "1"} | {n: str(c) for n, c in asked.items()}
        request = pod_request(pod_object(f"p{number}", requests=wants))
        if engine.explain(request, "n") is not Reason.FITS:
            break
        engine.place_on(request, "n")
    assert verify([node], engine.state.placements.values()) == []
    return len(engine.state.placements)


CASES: dict[str, tuple[dict[str, int], dict[str, str], int, dict[str, int]]] = {
    # what is offered, labels, devices, and how many pods of one unit of each resource fit
    "plain": ({GPU: 4}, {COUNT: "4"}, 4, {GPU: 4, I915: 0, MIG + "1g.5gb": 0}),
    "fewer are offered than there are": ({GPU: 3}, {COUNT: "4"}, 3, {GPU: 3}),
    "time-sliced, default naming": (
        {GPU: 12}, {REPLICAS: "3", COUNT: "4", PRODUCT: "Tesla-T4-SHARED"}, 4,
        {GPU: 12, SHARED: 0},
    ),
    "time-sliced, count unknown": ({GPU: 12}, {REPLICAS: "3"}, 4, {GPU: 12}),
    "time-sliced, renamed": ({SHARED: 12}, {REPLICAS: "3"}, 4, {GPU: 0, SHARED: 12}),
    "one of two is time-sliced": (
        {GPU: 9}, {REPLICAS: "8", COUNT: "2"}, 1, {GPU: 9},
    ),
    "more units than devices, evenly": ({GPU: 80}, {COUNT: "8"}, 8, {GPU: 80}),
    "more units than any machine has devices": ({GPU: 75}, {}, 1, {GPU: 75}),
    "a cloud's sharing": (
        {GPU: 96}, {GKE + "accelerator-count": "2", GKE + "max-shared-clients-per-gpu": "48"}, 2,
        {GPU: 96},
    ),
    "strategy single": (
        {GPU: 56},
        {STRATEGY: "single", PRODUCT: "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", COUNT: "56",
         MEMORY: "4864"}, 8, {GPU: 56, MIG + "1g.5gb": 0},
    ),
    "strategy single of halves, one instance missing": (
        {GPU: 3}, {STRATEGY: "single", PRODUCT: "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb"}, 2, {GPU: 3},
    ),
    "strategy single of an unknown model": (
        {GPU: 14}, {STRATEGY: "single", PRODUCT: "NVIDIA-B300-SXM6-AC-MIG-1g.34gb"}, 2, {GPU: 14},
    ),
    "strategy single, time-sliced": (
        {GPU: 28}, {STRATEGY: "single", PRODUCT: "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb-SHARED",
                    REPLICAS: "2"}, 2, {GPU: 28},
    ),
    "strategy single without MIG": ({GPU: 8}, {STRATEGY: "single", PRODUCT: "H100"}, 8, {GPU: 8}),
    "a cloud's partitions": (
        {GPU: 14}, {GKE + "gpu-partition-size": "1g.5gb", GKE + "accelerator-count": "2"}, 2,
        {GPU: 14},
    ),
    "a cloud's partitions, shared": (
        {GPU: 42}, {GKE + "gpu-partition-size": "1g.5gb", GKE + "accelerator-count": "2",
                    GKE + "max-shared-clients-per-gpu": "3"}, 2, {GPU: 42},
    ),
    "partly partitioned": (
        {GPU: 6, MIG + "2g.20gb": 3, MIG + "1g.10gb": 1, MIG + "4g.40gb": 1, MIG + "3g.40gb": 1},
        {PRODUCT: "NVIDIA-A100-SXM4-80GB", COUNT: "8", STRATEGY: "mixed"}, 8,
        {GPU: 6, MIG + "2g.20gb": 3, MIG + "4g.40gb": 1},
    ),
    "partly partitioned, count unknown": (
        {GPU: 2, MIG + "3g.20gb": 2}, {PRODUCT: "A100-SXM4-40GB"}, 3, {GPU: 2, MIG + "3g.20gb": 2},
    ),
    "partly partitioned, the others time-sliced": (
        {GPU: 8, MIG + "3g.20gb": 2}, {PRODUCT: "A100-SXM4-40GB", COUNT: "3", REPLICAS: "4"}, 3,
        {GPU: 8, MIG + "3g.20gb": 2},
    ),
    "partly partitioned, the others time-sliced and renamed": (
        {SHARED: 8, MIG + "3g.20gb": 2}, {PRODUCT: "A100-SXM4-40GB", COUNT: "3", REPLICAS: "4"}, 3,
        {GPU: 0, SHARED: 8, MIG + "3g.20gb": 2},
    ),
    "a stale count beside full MIG": (
        {GPU: 2, MIG + "1g.5gb": 14}, {PRODUCT: "A100-SXM4-40GB", COUNT: "2"}, 2,
        {GPU: 0, MIG + "1g.5gb": 14},
    ),
    "balanced": (
        {MIG + "1g.10gb": 16, MIG + "2g.20gb": 8, MIG + "3g.40gb": 8},
        {PRODUCT: "NVIDIA-A100-SXM4-80GB", COUNT: "8"}, 8,
        {MIG + "1g.10gb": 16, MIG + "2g.20gb": 8, MIG + "3g.40gb": 8},
    ),
    "H100 NVL": (
        {MIG + "1g.12gb": 2, MIG + "2g.24gb": 1, MIG + "3g.47gb": 1},
        {PRODUCT: "NVIDIA-H100-NVL", COUNT: "1", MEMORY: "95830"}, 1,
        {MIG + "1g.12gb": 2, MIG + "3g.47gb": 1, MIG + "4g.47gb": 0},
    ),
    "GH200 of 144 GB": (
        {MIG + "1g.18gb": 7}, {PRODUCT: "NVIDIA-GH200-144G-HBM3e", COUNT: "1"}, 1,
        {MIG + "1g.18gb": 7},
    ),
    "GB200": (
        {MIG + "1g.24gb": 8, MIG + "3g.95gb": 4}, {PRODUCT: "NVIDIA-GB200", COUNT: "4"}, 4,
        {MIG + "1g.24gb": 8, MIG + "3g.95gb": 4},
    ),
    "RTX PRO with attributes": (
        {MIG + "1g.24gb.gfx": 2, MIG + "1g.24gb.me.all": 1, MIG + "1g.24gb-me": 1},
        {PRODUCT: "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", MEMORY: "97887"}, 1,
        {MIG + "1g.24gb.gfx": 2, MIG + "1g.24gb.me.all": 1, MIG + "1g.24gb-me": 1,
         MIG + "1g.24gb": 0},
    ),
    "profiles of no pattern": (
        {MIG + "5g.1gb": 3, MIG + "1c.3g.20gb": 2}, {PRODUCT: "next year's", COUNT: "2"}, 2,
        {MIG + "5g.1gb": 3, MIG + "1c.3g.20gb": 2},
    ),
    "instances that are time-sliced": (
        {MIG + "1g.5gb": 28}, {f"{MIG}1g.5gb.replicas": "4", COUNT: "1"}, 1, {MIG + "1g.5gb": 28},
    ),
    "instances that are time-sliced and renamed": (
        {MIG + "1g.5gb.shared": 28, GPU: 1}, {f"{MIG}1g.5gb.replicas": "4"}, 2,
        {MIG + "1g.5gb.shared": 28, MIG + "1g.5gb": 0, GPU: 1},
    ),
    "a single share": ({SHARED: 1}, {}, 1, {SHARED: 1, GPU: 0}),
    "a single share of what is labelled as four": (
        {SHARED: 1}, {REPLICAS: "4", COUNT: "1"}, 1, {SHARED: 1, GPU: 0},
    ),
    "a single share beside a whole GPU": (
        {SHARED: 1, GPU: 1}, {COUNT: "2"}, 2, {SHARED: 1, GPU: 1},
    ),
    "a single share of an instance": (
        {MIG + "1g.5gb.shared": 1}, {}, 1, {MIG + "1g.5gb.shared": 1},
    ),
    "a single device of another driver": ({XE: 1}, {}, 1, {XE: 1, I915: 0}),
    "a single share of another driver": (
        {I915: 1}, {"gpu.intel.com/device.count": "1"}, 1, {I915: 1},
    ),
    "two vendors": ({GPU: 1, I915: 5}, {COUNT: "1"}, 6, {GPU: 1, I915: 5, XE: 0}),
    "two drivers": ({I915: 2, XE: 3}, {}, 5, {I915: 2, XE: 3, GPU: 0}),
    "three vendors": ({GPU: 1, "amd.com/gpu": 2, XE: 3}, {}, 6, {GPU: 1, "amd.com/gpu": 2, XE: 3}),
    "shares of one device": ({I915: 10}, {"gpu.intel.com/device.count": "1"}, 1, {I915: 10}),
    "partitions in a mode": (
        {"amd.com/gpu": 64}, {"amd.com/compute-memory-partition": "cpx_nps4"}, 8,
        {"amd.com/gpu": 64},
    ),
    "whole in a mode": (
        {"amd.com/gpu": 8}, {"amd.com/compute-memory-partition": "spx_nps1"}, 8,
        {"amd.com/gpu": 8},
    ),
    "partitions named by their mode": (
        {"amd.com/cpx_nps4": 32, "amd.com/spx_nps1": 4}, {}, 8,
        {"amd.com/cpx_nps4": 32, "amd.com/spx_nps1": 4, "amd.com/gpu": 0},
    ),
    "six partitions of each": (
        {"amd.com/gpu": 24},
        {"amd.com/compute-memory-partition": "cpx_nps1",
         "amd.com/gpu.product-name": "AMD_Instinct_MI300A"},
        4, {"amd.com/gpu": 24},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_pod_that_asks_for_a_unit_gets_a_unit(name: str) -> None:
    offered, labels, devices, fit = CASES[name]
    node = _node(offered, labels)
    assert len(node.devices) == devices
    assert {resource: _taken(node, {resource: 1}) for resource in fit} == fit


def test_what_is_not_offered_is_out_of_service() -> None:
    plain = _node({GPU: 3}, {}, {GPU: "4"})
    assert [device.healthy for device in plain.devices] == [True] * 3 + [False]
    sliced = _node({GPU: 8}, {REPLICAS: "4"}, {GPU: "12"})
    assert [device.healthy for device in sliced.devices] == [True, True, False]
    assert _taken(sliced, {GPU: 1}) == 8


def test_a_device_none_of_whose_instances_are_offered_refuses_no_pod() -> None:
    labels = {STRATEGY: "single", PRODUCT: "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", COUNT: "14"}
    node = _node({GPU: 14}, labels, {GPU: "21"})
    assert _taken(node, {GPU: 1}) == 14
    assert _taken(node, {GPU: 9}) == 1


@pytest.mark.parametrize("devices", ["1", "2"])
def test_more_instances_than_the_stated_devices_can_have_are_units(devices: str) -> None:
    labels = {GKE + "gpu-partition-size": "1g.5gb", GKE + "accelerator-count": devices}
    assert _taken(_node({GPU: 48}, labels), {GPU: 1}) == 48


@pytest.mark.parametrize("count", [1000, 1001, 2500])
def test_shares_that_nobody_can_trace_are_all_offered(count: int) -> None:
    assert _taken(_node({SHARED: count}, {}), {SHARED: count}) == 1
    assert _taken(_node({SHARED: count}, {}), {SHARED: count + 1}) == 0


def test_a_label_of_very_many_devices_costs_an_instance_nothing() -> None:
    node = _node({GPU: 33, MIG + "5g.77gb": 1}, {COUNT: "66"})
    assert _taken(node, {GPU: 1, MIG + "5g.77gb": 1}) == 1


def test_labels_of_a_vendor_without_devices_on_the_node_are_of_no_interest() -> None:
    assert (
        _taken(_node({"amd.com/gpu": 8}, {MEMORY: "plenty", COUNT: "-"}), {"amd.com/gpu": 1}) == 8
    )


def test_models_are_those_of_the_vendor() -> None:
    labels = {PRODUCT: "NVIDIA-L4", "amd.com/gpu.product-name": "W7900"}
    node = _node({GPU: 1, "amd.com/gpu": 1, XE: 1}, labels)
    assert {(g.resource, g.product) for g in node.groups} == {
        (GPU, "NVIDIA-L4"), ("amd.com/gpu", "W7900"), (XE, ""),
    }  # fmt: skip


def test_several_resources_at_once() -> None:
    node = _node({GPU: 2, I915: 3}, {})
    assert _taken(node, {GPU: 1, I915: 1}) == 2
    assert _taken(node, {GPU: 1, I915: 4}) == 0
    partly = _node({GPU: 1, MIG + "3g.20gb": 2}, {PRODUCT: "A100-SXM4-40GB"})
    assert _taken(partly, {GPU: 1, MIG + "3g.20gb": 2}) == 1


PROFILES = ["1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"]


@given(
    st.dictionaries(st.sampled_from(PROFILES), st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from(["NVIDIA-A100-SXM4-40GB", "of nobody", ""]),
    st.integers(0, 8),
)
@settings(max_examples=examples(25, 400), deadline=None)
def test_instances_add_up_whatever_the_devices(
    counts: dict[str, int], product: str, devices: int
) -> None:
    labels = {PRODUCT: product} | ({COUNT: str(devices)} if devices else {})
    node = _node({MIG + profile: count for profile, count in counts.items()}, labels)
    found = Counter(profile for device in node.devices for profile, _ in device.mig_layout)
    assert found == counts
    assert all(len(device.mig_layout) <= 8 for device in node.devices)
    for profile, count in counts.items():
        assert _taken(node, {MIG + profile: 1}) == count


@given(
    st.dictionaries(
        st.sampled_from([GPU, SHARED, MIG + "1g.5gb", MIG + "3g.47gb", I915, XE, "amd.com/gpu",
                         "amd.com/dpx_nps2", MIG + "1g.5gb.shared"]),
        st.integers(1, 24), max_size=3,
    ),
    st.dictionaries(
        st.sampled_from([COUNT, REPLICAS, GKE + "accelerator-count",
                         GKE + "max-shared-clients-per-gpu", f"{MIG}1g.5gb.replicas",
                         "gpu.intel.com/device.count"]),
        st.integers(1, 9).map(str), max_size=3,
    ),
    st.dictionaries(
        st.sampled_from([STRATEGY, PRODUCT, GKE + "gpu-partition-size",
                         "amd.com/compute-memory-partition"]),
        st.sampled_from(["single", "mixed", "A100-MIG-1g.5gb", "T4-SHARED", "cpx_nps4", "1g.5gb"]),
        max_size=2,
    ),
)  # fmt: skip
@settings(max_examples=examples(25, 400), deadline=None)
def test_no_more_units_are_handed_out_than_are_offered(
    offered: dict[str, int], numbers: dict[str, str], words: dict[str, str]
) -> None:
    """Nor fewer, unless a label says that there are no such devices."""
    node = _node(offered, numbers | words)
    for resource, count in offered.items():
        taken = _taken(node, {resource: 1})
        assert taken <= count, (resource, offered, numbers, words, node.devices)
        stale = resource in (GPU, SHARED) and any(name.startswith(MIG) for name in offered)
        alone = resource == SHARED and count == 1
        assert taken == count or stale or alone, (resource, offered, numbers, words, node.devices)
