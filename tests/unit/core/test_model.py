"""Scenarios of the model: what may be asked for, and what is refused with which words."""

from __future__ import annotations

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.core.model import Device, GpuKind, GpuRequest, Node, PodRequest, Reason
from tests.builders import node, pod


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (GpuRequest(), GpuKind.NONE),
        (GpuRequest(count=2), GpuKind.WHOLE),
        (GpuRequest(milli=500), GpuKind.FRACTION),
        (GpuRequest(memory_mib=4096), GpuKind.FRACTION),
        (GpuRequest(milli=500, memory_mib=4096), GpuKind.FRACTION),
        (GpuRequest(mig=(("1g.5gb", 1),)), GpuKind.MIG),
        (GpuRequest(replicas=3), GpuKind.SHARED),
    ],
)
def test_a_request_has_one_kind(request_: GpuRequest, kind: GpuKind) -> None:
    assert request_.kind is kind


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"milli": 1500}, "not part of one device"),
        ({"milli": 1000}, "not part of one device"),
        ({"count": -1}, "negative"),
        ({"count": 1, "milli": 500}, "mixes"),
        ({"count": 1, "memory_mib": 500}, "mixes"),
        ({"milli": 100, "mig": (("1g.5gb", 1),)}, "mixes"),
        ({"count": (1 << 14) + 1}, "more than any node"),
        ({"mig": (("1g.5gb", 0),)}, "asks for 0"),
    ],
)
def test_a_contradictory_request_is_refused(fields: dict[str, object], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        GpuRequest(**fields)


def test_order_and_repetition_of_products_make_no_difference() -> None:
    assert GpuRequest(count=1, products=("T4", "A10", "T4")) == GpuRequest(
        count=1, products=("A10", "T4")
    )


def test_requested_milli_counts_whole_devices_and_fractions() -> None:
    assert GpuRequest(count=3).requested_milli == 3000
    assert GpuRequest(milli=250).requested_milli == 250
    assert GpuRequest(mig=(("1g.5gb", 2),)).requested_milli == 0


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Node("", 1, 1), "node.name"),
        (lambda: Node("n", -1, 1), "cpu_milli"),
        (lambda: Node("n", 1, 1, devices=(Device("T4"),) * 65), "devices"),
        (lambda: Device("T4", memory_mib=-1), "device.memory_mib"),
        (lambda: Device("T4", replicas=0), "device.replicas"),
        (lambda: Device("A30", mig="A30", replicas=2), "device"),
        (lambda: PodRequest("", "default", "p"), "pod.uid"),
        (lambda: PodRequest("u", "default", "p", cpu_milli=-1), "pod.cpu_milli"),
    ],
)
def test_impossible_objects_are_refused_by_field(make, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert field in caught.value.field


def test_pods_of_one_shape_share_it() -> None:
    assert pod("a", milli=500).shape == pod("b", milli=500).shape
    assert pod("a", milli=500).shape != pod("a", milli=501).shape
    assert pod("a").key == "default/a"


def test_reasons_are_a_closed_vocabulary() -> None:
    codes = [reason.code for reason in Reason]
    assert codes == sorted(set(codes)) and Reason.of(0) is Reason.FITS
    assert all(Reason.of(reason.code) is reason for reason in Reason)
    assert Reason.INSUFFICIENT_CPU.resolvable and not Reason.MODEL_NOT_ALLOWED.resolvable
    assert len({reason.text for reason in Reason}) == len(codes)


def test_node_knows_its_gpu_capacity_and_model() -> None:
    assert node(gpus=4).gpu_milli == 4000 and node(gpus=4).product == "T4"
    assert node().product == ""
