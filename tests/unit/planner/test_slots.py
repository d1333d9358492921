"""Partitioned devices: what their free slots are worth, and where instances go for it."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from scheduler.core.engine import Engine
from scheduler.core.mig import SLOT_MASKS, MigType
from scheduler.core.model import Device, DeviceShare, GpuRequest, Node, Placement, PodRequest
from scheduler.core.price_tables import EFFECTIVE_SCALE, NodeClass
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.pricing.compute import prices
from scheduler.planner.pricing.slot_values import (
    least_taken,
    requested_milli,
    slot_values,
)
from tests.builders import node, pod

A100 = MigType("A100-40")
_ONE, _THREE, _SEVEN = (((name, 1),) for name in ("1g.5gb", "3g.20gb", "7g.40gb"))


def _mig_node(name: str, devices: int = 1, **rest) -> Node:
    return node(name, devices=(Device("A100", 40_960, mig="A100-40"),) * devices, **rest)


def _profile(*wanted: tuple[tuple[tuple[str, int], ...], int]) -> WorkloadProfile:
    return WorkloadProfile.from_requests(
        [pod(mig=mig) for mig, count in wanted for _ in range(count)]
    )


def test_slots_that_no_large_instance_fits_into_are_worth_less() -> None:
    """Half a device, in one piece and in crumbs, where instances of half a device prevail, and who
    could use crumbs has enough of them."""
    state = ClusterState([_mig_node(f"n{i}") for i in range(4)])
    crumbs_on_one = [DeviceShare(0, 125, 5_120, 1 << slot) for slot in (1, 3, 5, 7)]
    state.apply(
        [Placement(pod(f"b{i}", mig=_ONE), "n0", (s,)) for i, s in enumerate(crumbs_on_one)]
    )
    slots = slot_values(state, _profile((_THREE, 20), (_ONE, 1)), scale=1.0)
    assert slots is not None
    values = slots[A100]
    assert values[A100.full_mask] == 1000 * EFFECTIVE_SCALE and values[0] == 0
    piece, crumbs = int(values[0b11110000]), int(values[0b01010101])
    assert piece == 500 * EFFECTIVE_SCALE and crumbs < piece / 2


def test_more_slots_are_never_worth_less() -> None:
    state = ClusterState([_mig_node(f"n{i}") for i in range(3)])
    profile = _profile((_THREE, 4), (_ONE, 9), ((("2g.10gb", 1),), 3), (_SEVEN, 1))
    for scale in (0.1, 1.0, 5.0):
        slots = slot_values(state, profile, scale)
        assert slots is not None
        values = slots[A100]
        for bit in range(9):
            fuller = np.arange(SLOT_MASKS) | (1 << bit)
            assert (values[fuller] >= values).all()


def test_slots_that_are_not_scarce_are_worth_what_they_are() -> None:
    state = ClusterState([_mig_node(f"n{i}", 8) for i in range(9)])
    slots = slot_values(state, _profile((_ONE, 1)), scale=0.01)
    assert slots is not None
    assert slots[A100][0b1] == 125 * EFFECTIVE_SCALE == slots[A100][0b10]
    assert least_taken(slots, "1g.5gb") == 125 * EFFECTIVE_SCALE
    assert least_taken(slots, "none") == 0


def test_nobody_asks_for_instances() -> None:
    state = ClusterState([_mig_node("n")])
    assert slot_values(state, WorkloadProfile.from_requests([pod(count=1)]), scale=1.0) == {}


@pytest.mark.parametrize(
    ("gpu", "milli"),
    [
        (GpuRequest(mig=(("3g.20gb", 2),)), 1000),
        (GpuRequest(mig=(("9g.90gb", 1),)), 0),
        (GpuRequest(replicas=2), 500),
        (GpuRequest(memory_mib=10_240), 250),
        (GpuRequest(milli=300), 300),
        (GpuRequest(count=3), 3000),
        (GpuRequest(), 0),
    ],
)
def test_what_a_request_stands_for_depends_on_the_devices(gpu: GpuRequest, milli: int) -> None:
    shared = node("s", devices=(Device("T4", 16_384, replicas=4),))
    state = ClusterState([_mig_node("m"), shared])
    assert requested_milli(state, gpu) == milli


def _engine(state: ClusterState, profile: WorkloadProfile) -> Engine:
    engine = Engine(state, "priced", profile=profile)
    engine.put_prices_in_force(prices(state, profile))
    assert engine.prices() is not None
    return engine


def test_a_small_instance_leaves_the_place_of_a_large_one_alone() -> None:
    """Both nodes have four slots free, one of them in a piece."""
    state = ClusterState([_mig_node("piece"), _mig_node("crumbs")])
    taken = pod("a", mig=_THREE)
    state.apply([Placement(taken, "piece", (DeviceShare(0, 500, 20_480, 0b1111),))])
    others = [DeviceShare(0, 125, 5_120, 1 << slot) for slot in (0, 2, 4, 6)]
    state.apply([Placement(pod(f"b{i}", mig=_ONE), "crumbs", (s,)) for i, s in enumerate(others)])
    engine = _engine(state, _profile((_THREE, 9), (_ONE, 3)))
    assert engine.best(pod("asked", mig=_ONE)) == 1
    assert engine.best(pod("large", mig=_THREE)) == 0


def test_classes_are_models_and_how_they_are_shared() -> None:
    nodes = [
        _mig_node("m"),
        node("p", devices=(Device("A100", 40_960),) * 2),
        node("s", devices=(Device("T4", 16_384, replicas=4),)),
        node("c"),
    ]
    profile = WorkloadProfile.from_requests(
        [pod(mig=_ONE), pod(count=1), pod(replicas=1), pod(cpu=4000)]
    )
    made = prices(ClusterState(nodes), profile)
    assert made is not None and made.sliced
    expected = {
        NodeClass("nvidia.com/gpu", "A100", A100),
        NodeClass("nvidia.com/gpu", "A100"),
        NodeClass("nvidia.com/gpu", "T4", shared=True),
        NodeClass("", ""),
    }
    assert {(c.product, c.mig, c.shared) for c in made.classes} == {
        (c.product, c.mig, c.shared) for c in expected
    }
    # A state that met them in another order has other codes, and the same classes.
    other = ClusterState([*reversed(nodes), _mig_node("m2")])
    aligned = made.aligned(other)
    assert aligned is not None
    codes = aligned.class_codes(other, np.arange(len(other))).tolist()
    assert [str(made.classes[code]) for code in codes] == [
        "none", "T4 shared", "A100", "A100 MIG A100-40", "A100 MIG A100-40",
    ]  # fmt: skip
    assert aligned.aligned(other) is aligned
    for name in ("m", "m2"):  # the last nodes of a class go and come back
        other.remove_node(name)
        assert aligned.aligned(other) is aligned
    other.add_node(_mig_node("m"))
    assert aligned.aligned(other) is aligned
    fixed = Device("A100", 40_960, mig="A100-40", mig_layout=(("3g.20gb", 0),))
    other.add_node(node("f", devices=(fixed,)))
    assert aligned.aligned(other) is None  # nobody knows what such a node is worth
    other.remove_node("f")
    assert aligned.aligned(other) is not None


def test_a_node_with_two_layouts_has_one_class_in_every_process() -> None:
    """Codes of partitions follow the order in which a process has met them."""
    halves = Device("A100", 40_960, mig="A100-40", mig_layout=(("3g.20gb", 0), ("3g.20gb", 4)))
    whole = Device("A100", 40_960, mig="A100-40", mig_layout=(("7g.40gb", 0),))
    mixed = node("x", devices=(halves, whole))
    profile = _profile((_THREE, 3), (_SEVEN, 1))
    made = prices(ClusterState([mixed]), profile)
    other = ClusterState([node("x", devices=(whole, whole))])
    other.update_node(mixed)
    assert other.mig_types != ClusterState([mixed]).mig_types
    assert made is not None and made.aligned(other) is not None


def test_a_node_whose_devices_are_all_unhealthy_drops_no_prices() -> None:
    """Partitioned nodes are the only ones of their model; one is withheld."""
    nodes = [_mig_node("m0", 2), _mig_node("m1", 2), node("t", gpus=2)]
    state = ClusterState(nodes)
    engine = _engine(state, _profile((_ONE, 3)))
    withheld = replace(nodes[0].devices[0], healthy=False)
    state.update_node(replace(nodes[0], devices=(withheld,) * 2))
    assert engine.prices() is not None
    assert engine.best(pod("asked", mig=_ONE)) == 1
    state.update_node(nodes[0])
    assert engine.prices() is not None


def _stream(chance: random.Random, count: int) -> list[PodRequest]:
    kinds = (*(_ONE,) * 6, *(_THREE,) * 3, (("2g.10gb", 1),), _SEVEN)
    return [
        pod(f"p{i}", cpu=chance.choice((1000, 4000, 12_000)), mig=chance.choice(kinds))
        if chance.random() < 0.8
        else pod(f"p{i}", count=1, cpu=8000)
        for i in range(count)
    ]


def test_prices_place_at_least_as_many_instances_as_fgd() -> None:
    placed = {"fgd": 0, "priced": 0}
    for seed in range(3):
        requests = _stream(random.Random(seed), 260)
        profile = WorkloadProfile.from_requests(requests)
        nodes = [_mig_node(f"m{i}", 4) for i in range(8)]
        nodes += [node(f"p{i}", gpus=2) for i in range(8)]
        for policy in placed:
            engine = Engine(ClusterState(nodes), policy, profile=profile)
            for number, request in enumerate(requests):
                if policy == "priced" and number % 20 == 0:
                    engine.put_prices_in_force(prices(engine.state, profile))
                row = engine.best(request)
                there = engine.state.nodes[row] if row >= 0 else None
                if there is not None:
                    placed[policy] += engine.place_on(request, there.name).gpu_milli
            assert engine.state.check() == []
    assert placed["priced"] >= placed["fgd"] > 0
