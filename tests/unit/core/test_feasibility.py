"""Verdicts: one scenario per reason, and which reason wins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scheduler.core.engine import Engine
from scheduler.core.model import Device, DeviceShare, Node, Placement, Reason
from scheduler.core.state import ClusterState
from tests.builders import node, pod

A100_MIG = Device("A100", mig="A100-40")


def _verdict(one_node, request, *placed) -> Reason:
    state = ClusterState([one_node])
    state.apply(placed)
    return Reason.of(int(Engine(state).filter(request)[0]))


def _on(request, *shares: DeviceShare) -> Placement:
    return Placement(request, "n0", shares)


@pytest.mark.parametrize(
    ("one_node", "request_", "reason"),
    [
        (node(gpus=1), pod(count=1), Reason.FITS),
        (node(gpus=1), pod(), Reason.FITS),
        (node(), pod(), Reason.FITS),
        (node(), pod(count=1), Reason.DEVICE_KIND_MISSING),
        (node(gpus=2), pod(count=3), Reason.NODE_TOO_SMALL),
        (node(gpus=2, cpu=500), pod(count=1), Reason.NODE_TOO_SMALL),
        (node(gpus=2, memory=500), pod(count=1), Reason.NODE_TOO_SMALL),
        (node(gpus=2, pods=0), pod(count=1), Reason.NODE_TOO_SMALL),
        (node(gpus=2), pod(count=1, products=("A10",)), Reason.MODEL_NOT_ALLOWED),
        (node(gpus=2), pod(count=1, products=("A10", "T4")), Reason.FITS),
        (node(gpus=2), pod(count=1, resource="amd.com/gpu"), Reason.DEVICE_KIND_MISSING),
        (node(gpus=2, resource="amd.com/gpu"), pod(count=1, resource="amd.com/gpu"), Reason.FITS),
        (node(devices=(Device(healthy=False),)), pod(count=1), Reason.DEVICE_UNHEALTHY),
        (node(devices=(Device(), Device(healthy=False))), pod(count=2), Reason.DEVICE_UNHEALTHY),
        (node(devices=(Device(), Device(healthy=False))), pod(milli=1), Reason.FITS),
        (node(gpus=1), pod(mig=(("1g.5gb", 1),)), Reason.DEVICE_KIND_MISSING),
        (node(gpus=1), pod(replicas=1), Reason.DEVICE_KIND_MISSING),
        (node(devices=(A100_MIG,)), pod(count=1), Reason.DEVICE_KIND_MISSING),
        (node(devices=(A100_MIG,)), pod(milli=10), Reason.DEVICE_KIND_MISSING),
        (node(devices=(A100_MIG,)), pod(mig=(("1g.5gb", 7),)), Reason.FITS),
        (node(devices=(A100_MIG,)), pod(mig=(("1g.6gb", 1),)), Reason.DEVICE_KIND_MISSING),
        (node(devices=(Device(replicas=4),)), pod(replicas=4), Reason.FITS),
        (node(devices=(Device(replicas=4),)), pod(replicas=5), Reason.NODE_TOO_SMALL),
        (node(gpus=1, gpu_memory=16_000), pod(memory_mib=16_000), Reason.FITS),
        (node(gpus=1, gpu_memory=16_000), pod(memory_mib=16_001), Reason.DEVICE_KIND_MISSING),
        (node(gpus=1), pod(memory_mib=4000), Reason.FITS),
    ],
)
def test_empty_node(one_node, request_, reason: Reason) -> None:
    assert _verdict(one_node, request_) is reason


def test_whole_devices_must_be_entirely_free() -> None:
    placed = _on(pod(milli=1), DeviceShare(0, 1))
    assert _verdict(node(gpus=2), pod(count=2), placed) is Reason.INSUFFICIENT_DEVICES
    assert _verdict(node(gpus=2), pod(count=1), placed) is Reason.FITS


def test_a_fraction_needs_one_device_with_room() -> None:
    half = [_on(pod(milli=600), DeviceShare(i, 600)) for i in range(2)]
    assert _verdict(node(gpus=2), pod(milli=401), *half) is Reason.INSUFFICIENT_FRACTION
    assert _verdict(node(gpus=2), pod(milli=400), *half) is Reason.FITS


def test_device_memory_binds_on_its_own() -> None:
    big = node(gpus=1, gpu_memory=16_000)
    placed = _on(pod(milli=100, memory_mib=12_000), DeviceShare(0, 100, 12_000))
    wanted = pod(milli=100, memory_mib=5000)
    assert _verdict(big, wanted, placed) is Reason.INSUFFICIENT_DEVICE_MEMORY
    assert _verdict(big, pod(milli=950), placed) is Reason.INSUFFICIENT_FRACTION
    assert _verdict(big, pod(memory_mib=4000), placed) is Reason.FITS


def test_slots_and_replicas_run_out() -> None:
    mig, shared = node(devices=(A100_MIG,)), node(devices=(Device(replicas=2),))
    taken = _on(pod(mig=(("4g.20gb", 1),)), DeviceShare(0, 500, 0, 0b1111))
    assert _verdict(mig, pod(mig=(("4g.20gb", 1),)), taken) is Reason.INSUFFICIENT_MIG_SLOTS
    assert _verdict(mig, pod(mig=(("3g.20gb", 1),)), taken) is Reason.FITS
    one = _on(pod(replicas=1), DeviceShare(0, 500, 0, 1))
    assert _verdict(shared, pod(replicas=2), one) is Reason.INSUFFICIENT_REPLICAS


def test_pods_that_divide_a_node_to_the_byte_all_fit() -> None:
    parts = 3
    each = 2_796_203  # no whole number of KiB
    whole = Node("n0", 64_000, parts * each)
    part = replace(pod(), memory_bytes=each)
    placed = [_on(replace(part, uid=f"p{i}")) for i in range(parts - 1)]
    assert _verdict(whole, part, *placed) is Reason.FITS
    larger = replace(part, memory_bytes=each + 1)
    assert _verdict(whole, larger, *placed) is Reason.INSUFFICIENT_MEMORY


def test_cpu_memory_and_pods_run_out() -> None:
    small = node(cpu=2000, memory=2048, pods=2)
    assert _verdict(small, pod(cpu=1500), _on(pod(cpu=1000))) is Reason.INSUFFICIENT_CPU
    assert _verdict(small, pod(memory=1500), _on(pod(memory=1000))) is Reason.INSUFFICIENT_MEMORY
    full = [_on(pod(cpu=1, memory=1)) for _ in range(2)]
    assert _verdict(small, pod(cpu=1, memory=1), *full) is Reason.INSUFFICIENT_PODS


def test_device_reasons_come_before_cpu() -> None:
    placed = _on(pod(cpu=64_000, count=1), DeviceShare(0, 1000))
    assert _verdict(node(gpus=1), pod(count=1), placed) is Reason.INSUFFICIENT_DEVICES


def test_an_unknown_row_is_said_to_be_unknown() -> None:
    state = ClusterState([node("a"), node("b")])
    state.remove_node("a")
    codes = Engine(state).filter(pod(), np.array([0, 1, -1]))
    assert [Reason.of(int(c)) for c in codes] == [
        Reason.NODE_UNKNOWN,
        Reason.FITS,
        Reason.NODE_UNKNOWN,
    ]


@pytest.mark.parametrize(
    ("asks", "reason"),
    [
        ({"cpu": 0, "memory": 0}, Reason.FITS),
        ({"cpu": 0, "memory": 0, "count": 1}, Reason.FITS),
        ({"cpu": 1, "memory": 0}, Reason.INSUFFICIENT_CPU),
        ({"cpu": 0, "memory": 1}, Reason.INSUFFICIENT_MEMORY),
    ],
)
def test_what_is_not_asked_for_may_be_over_full(asks: dict[str, int], reason: Reason) -> None:
    state = ClusterState([node(cpu=2000, memory=1024, gpus=1)])
    running = [_on(pod(f"r{i}", cpu=1500, memory=900)) for i in range(2)]
    state.apply(running, enforce=False)  # a shrunk node, a pod of the kubelet's own
    request = pod("asks", **asks)
    engine = Engine(state)
    assert Reason.of(int(engine.filter(request)[0])) is reason
    if reason is Reason.FITS:
        engine.place_on(request, "n0")
        assert state.check() == []


def test_a_full_node_takes_nobody_whatever_he_asks_for() -> None:
    small = node(cpu=2000, memory=2048, pods=1)
    assert _verdict(small, pod(cpu=0, memory=0), _on(pod())) is Reason.INSUFFICIENT_PODS
    assert _verdict(node(pods=0), pod(cpu=0, memory=0)) is Reason.NODE_TOO_SMALL
