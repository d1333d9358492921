"""Nodes whose devices are not all alike: a unit is what it is, and no device has two owners."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.capacity import empty_room, room
from scheduler.core.engine import Engine
from scheduler.core.errors import CapacityConflict
from scheduler.core.model import (
    Device,
    GpuKind,
    GpuRequest,
    Node,
    PodRequest,
    Reason,
    Serves,
    Shape,
)
from scheduler.core.policies.table import POLICIES
from scheduler.core.state import ClusterState
from scheduler.core.validator import verify
from tests.builders import node, pod
from tests.depth import examples

NVIDIA, INTEL, AMD = "nvidia.com/gpu", "gpu.intel.com/i915", "amd.com/gpu"
SEVENTHS = (*(("1g.5gb", slot) for slot in range(7)),)

TWO_VENDORS = node(
    "two",
    devices=(Device("A2", 16_000), *(Device(resource=INTEL),) * 3),
)
REPLICAS = node("replicas", devices=(Device("T4", 16_000, replicas=4, units=True),) * 2)
INSTANCES = node(
    "instances",
    devices=(Device("A100", mig="A100-40", mig_layout=SEVENTHS, units=True),) * 2,
)
POOL = node("pool", devices=(Device("MI300X", replicas=70, units=True),), resource=AMD)
PARTLY = node(
    "partly",
    devices=(
        Device("A100", 40_000),
        Device("A100", mig="A100-40", mig_layout=(("3g.20gb", 0), ("3g.20gb", 4))),
        Device("A100", mig="1g.5gb", replicas=28, units=True, resource="pool"),
    ),
)
MODELS = node("models", devices=(Device("A10"), Device("L4"), Device("L4")))
ODD = (TWO_VENDORS, REPLICAS, INSTANCES, POOL, PARTLY, MODELS)


def _asking(*requests: GpuRequest, **rest: Any) -> PodRequest:
    first, *others = requests
    gpu = replace(first, also=tuple(others))
    made = pod(**rest)
    return PodRequest(made.uid, made.namespace, made.name, 1, 1, gpu)


def _most(one: Node, request: GpuRequest, policy: str = "fgd") -> int:
    """How many such pods the node takes, one after another."""
    engine = Engine(ClusterState([node("plain", gpus=0), one]), policy)
    count = 0
    while count < 200:
        asked = _asking(request, name=f"p{count}")
        if engine.explain(asked, one.name) is not Reason.FITS:
            break
        engine.place_on(asked, one.name)
        count += 1
    placements = list(engine.state.placements.values())
    assert verify([one], placements) == []
    assert engine.state.check() == []
    return count


@pytest.mark.parametrize(
    ("one", "asked", "most"),
    [
        (TWO_VENDORS, GpuRequest(1, resource=NVIDIA), 1),
        (TWO_VENDORS, GpuRequest(1, resource=INTEL), 3),
        (TWO_VENDORS, GpuRequest(2, resource=INTEL), 1),
        (TWO_VENDORS, GpuRequest(1, resource=AMD), 0),
        (TWO_VENDORS, GpuRequest(1), 1),
        (TWO_VENDORS, GpuRequest(milli=500), 2),
        (TWO_VENDORS, GpuRequest(memory_mib=8000), 2),
        (TWO_VENDORS, GpuRequest(mig=(("1g.5gb", 1),)), 0),
        (REPLICAS, GpuRequest(1, resource=NVIDIA), 8),
        (REPLICAS, GpuRequest(3, resource=NVIDIA), 2),
        (REPLICAS, GpuRequest(1), 0),
        (REPLICAS, GpuRequest(milli=100), 0),
        (REPLICAS, GpuRequest(replicas=1), 0),
        (REPLICAS, GpuRequest(1, resource=INTEL), 0),
        (INSTANCES, GpuRequest(1, resource=NVIDIA), 14),
        (INSTANCES, GpuRequest(4, resource=NVIDIA), 3),
        (INSTANCES, GpuRequest(mig=(("1g.5gb", 1),)), 0),
        (POOL, GpuRequest(1, resource=AMD), 70),
        (POOL, GpuRequest(64, resource=AMD), 1),
        (POOL, GpuRequest(71, resource=AMD), 0),
        (PARTLY, GpuRequest(1, resource=NVIDIA), 1),
        (PARTLY, GpuRequest(mig=(("3g.20gb", 1),)), 2),
        (PARTLY, GpuRequest(mig=(("1g.5gb", 2),)), 14),
        (PARTLY, GpuRequest(mig=(("1g.5gb", 1), ("3g.20gb", 1))), 2),
        (PARTLY, GpuRequest(milli=250), 4),
        (MODELS, GpuRequest(1, products=("L4",)), 2),
        (MODELS, GpuRequest(milli=500, products=("A10",)), 2),
        (MODELS, GpuRequest(1, products=("H100",)), 0),
        (MODELS, GpuRequest(1, products=("L4",), by_label=True), 2),
        (MODELS, GpuRequest(1, products=("no such",), by_label=True), 3),
    ],
)
def test_as_many_as_there_are(one: Node, asked: GpuRequest, most: int) -> None:
    assert _most(one, asked) == most
    state = ClusterState([one])
    assert empty_room(state, Shape(1, 1, asked), 1000) >= most
    found = room(Engine(state), _asking(asked), np.arange(1), 1000)
    assert found == most if asked.count else found >= most


def test_every_policy_decides_on_odd_nodes() -> None:
    for policy in POLICIES:
        assert _most(TWO_VENDORS, GpuRequest(1, resource=INTEL), policy) == 3
        assert _most(REPLICAS, GpuRequest(2, resource=NVIDIA), policy) == 4
        assert _most(INSTANCES, GpuRequest(3, resource=NVIDIA), policy) == 4


@pytest.mark.parametrize(
    ("one", "asked", "reason"),
    [
        (TWO_VENDORS, GpuRequest(1, resource=AMD), Reason.DEVICE_KIND_MISSING),
        (TWO_VENDORS, GpuRequest(4, resource=INTEL), Reason.NODE_TOO_SMALL),
        (MODELS, GpuRequest(1, products=("H100",)), Reason.MODEL_NOT_ALLOWED),
        (REPLICAS, GpuRequest(milli=1), Reason.DEVICE_KIND_MISSING),
        (POOL, GpuRequest(71, resource=AMD), Reason.NODE_TOO_SMALL),
    ],
)
def test_why_not(one: Node, asked: GpuRequest, reason: Reason) -> None:
    engine = Engine(ClusterState([one]))
    assert engine.explain(_asking(asked), one.name) is reason


def test_a_pod_that_asks_for_devices_of_several_resources_gets_all_or_nothing() -> None:
    asks = (GpuRequest(1, resource=NVIDIA), GpuRequest(2, resource=INTEL))
    engine = Engine(ClusterState([node("nvidia", gpus=4), TWO_VENDORS]))
    both = _asking(*asks, name="both")
    assert engine.explain(both, "nvidia") is Reason.DEVICE_KIND_MISSING
    assert engine.best(both) == engine.state.row("two")
    placed = engine.place_on(both, "two")
    assert sorted(share.index for share in placed.devices) == [0, 1, 2]
    assert engine.explain(_asking(GpuRequest(1, resource=INTEL)), "two") is Reason.FITS
    assert engine.explain(_asking(*asks), "two") is Reason.INSUFFICIENT_DEVICES
    assert verify([TWO_VENDORS], [placed]) == []
    engine.release("both")
    assert engine.state.check() == [] and engine.explain(_asking(*asks), "two") is Reason.FITS


def test_devices_of_another_vendor_are_not_offered_twice() -> None:
    """Who has an Intel device by its plugin keeps nobody from the parts of the NVIDIA one."""
    one = replace(TWO_VENDORS, serves=Serves.ONE_AT_A_TIME)
    engine = Engine(ClusterState([one]))
    for number, asked in enumerate(
        (GpuRequest(milli=500), GpuRequest(1, resource=INTEL), GpuRequest(milli=500))
    ):
        engine.place_on(_asking(asked, name=f"p{number}"), "two")
    whole = _asking(GpuRequest(1, resource=NVIDIA))
    assert engine.explain(whole, "two") is Reason.GPUS_SERVED_OTHERWISE
    assert verify([one], engine.state.placements.values()) == []
    for number in (0, 2):
        engine.release(f"p{number}")
    assert engine.explain(whole, "two") is Reason.FITS
    assert engine.state.check() == []


def test_groups_of_a_node() -> None:
    assert [(g.resource, g.kind, g.devices) for g in TWO_VENDORS.groups] == [
        (NVIDIA, GpuKind.WHOLE, (0,)),
        (INTEL, GpuKind.WHOLE, (1, 2, 3)),
    ]
    assert [g.kind for g in PARTLY.groups] == [GpuKind.WHOLE, GpuKind.MIG, GpuKind.SHARED]
    assert PARTLY.resources == {NVIDIA, "pool"}


REQUESTS = st.sampled_from(
    [
        *(GpuRequest(count, resource=r) for count in (1, 2, 5) for r in (NVIDIA, INTEL, AMD)),
        *(GpuRequest(milli=milli) for milli in (200, 600)),
        GpuRequest(1),
        GpuRequest(mig=(("3g.20gb", 1),)),
        GpuRequest(mig=(("1g.5gb", 3), ("3g.20gb", 1))),
        GpuRequest(replicas=2),
        GpuRequest(1, products=("L4",)),
        GpuRequest(1, products=("A10", "A2"), by_label=True),
    ]
)
PLAIN_ONES = (node("gpus", gpus=2), node("shared", devices=(Device("T4", replicas=3),)))


@given(
    st.lists(st.sampled_from(ODD + PLAIN_ONES), unique_by=lambda one: one.name, min_size=1),
    st.lists(st.tuples(REQUESTS, REQUESTS | st.none(), st.booleans()), max_size=30),
    st.sampled_from(["fgd", "priced", "first-fit", "random"]),
)
@settings(max_examples=examples(30, 300), deadline=None)
def test_whatever_comes_and_goes_no_device_has_two_owners(
    nodes: list[Node],
    asked: list[tuple[GpuRequest, GpuRequest | None, bool]],
    policy: str,
) -> None:
    """Placed as the engine says and validated; what is refused has no room by choosing."""
    engine = Engine(ClusterState(nodes), policy)
    for number, (first, second, leaves) in enumerate(asked):
        plugin = [g for g in (first, second) if g and (g.resource or g.mig or g.replicas)]
        parts = plugin if len({(g.resource, g.kind) for g in plugin}) == 2 else [first]
        request = _asking(*parts, name=f"p{number}")
        row = engine.best(request)
        if row < 0:
            for one in nodes:
                with pytest.raises(CapacityConflict):
                    engine.choose(request, one.name)
            continue
        where = engine.state.nodes[row]
        assert where is not None
        engine.place_on(request, where.name)
        if leaves:
            engine.release(request.uid)
    assert verify(nodes, engine.state.placements.values()) == []
    assert engine.state.check() == []
    for row in range(len(nodes)):
        assert not engine.state.overdrawn(row)
