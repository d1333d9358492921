"""Nodes that kube-scheduler has passed: reservations and devices refuse them, late news never."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cluster_metrics import cluster_metrics
from scheduler.core.engine import INFEASIBLE, Engine
from scheduler.core.errors import CapacityConflict
from scheduler.core.model import Placement, PodRequest, Reason
from scheduler.core.policies.table import POLICIES
from scheduler.core.state import ClusterState
from tests.builders import node, pod

NIC = "example.com/nic"
ROW = np.array([0])


def engine_of(*nodes, policy="fgd", holds=(), runs=()) -> Engine:
    """An engine beside a live cluster: pods that run there, and reservations."""
    state = ClusterState(nodes)
    state.counted.elsewhere_counts = True
    engine = Engine(state, policy)
    state.apply([Placement(request, at) for request, at in runs], enforce=False)
    for request, at in holds:
        engine.reserve_until(request, at, 100.0, passed=True)
    return engine


def verdict(engine: Engine, request: PodRequest, *, passed: bool = True) -> Reason:
    return Reason.of(int(engine.filter(request, ROW, passed=passed)[0]))


SHORT = [
    (node(cpu=4000), pod(cpu=3000), Reason.INSUFFICIENT_CPU),
    (node(memory=4096), pod(memory=3072), Reason.INSUFFICIENT_MEMORY),
    (node(pods=1), pod(), Reason.INSUFFICIENT_PODS),
    (node(counted={NIC: 4}), pod(counted=((NIC, 3),)), Reason.INSUFFICIENT_RESOURCE),
]


@pytest.mark.parametrize(("there", "asks", "reason"), SHORT)
def test_a_pod_whose_end_we_have_not_heard_of_is_no_reason(there, asks, reason):
    engine = engine_of(there, runs=[(replace(asks, uid="ended", name="ended"), "n0")])
    assert verdict(engine, asks, passed=False) is reason
    assert verdict(engine, asks) is Reason.FITS
    with pytest.raises(CapacityConflict):
        engine.place_on(asks, "n0")
    engine.reserve_until(asks, "n0", 100.0, passed=True)
    assert engine.place_on(asks, "n0", passed=True).node == "n0"
    assert engine.state.check() == []
    engine.release("ended")
    assert engine.state.check() == []


@pytest.mark.parametrize(("there", "asks", "reason"), SHORT)
def test_a_reservation_for_another_pod_is_a_reason(there, asks, reason):
    other = replace(asks, uid="other", name="other")
    engine = engine_of(there, holds=[(other, "n0")])
    assert verdict(engine, asks) is reason
    with pytest.raises(CapacityConflict):
        engine.place_on(asks, "n0", passed=True)
    assert verdict(engine, other) is Reason.FITS  # its own is none
    engine.reservations.drop("other")
    assert verdict(engine, asks) is Reason.FITS


@pytest.mark.parametrize(
    ("there", "asks", "reason"),
    [
        (node(cpu=2000), pod(cpu=3000), Reason.NODE_TOO_SMALL),
        (node(memory=2048), pod(memory=3072), Reason.NODE_TOO_SMALL),
        (node(pods=0), pod(), Reason.NODE_TOO_SMALL),
        (node(counted={NIC: 2}), pod(counted=((NIC, 3),)), Reason.RESOURCE_MISSING),
    ],
)
def test_a_node_that_has_grown_without_our_knowing_is_passed(there, asks, reason):
    engine = engine_of(there, holds=[(pod(), "n0")])
    assert verdict(engine, asks, passed=False) is reason
    assert verdict(engine, asks) is Reason.FITS
    engine.place_on(asks, "n0", passed=True)
    assert engine.state.check() == []


def test_a_reservation_there_is_no_reason_where_the_pod_would_not_fit_without_it_either():
    other, ended = pod(cpu=1000), pod(cpu=3000)
    engine = engine_of(node(cpu=4000), runs=[(ended, "n0")], holds=[(other, "n0")])
    assert verdict(engine, pod(cpu=2000)) is Reason.FITS
    assert verdict(engine, pod(cpu=1000)) is Reason.INSUFFICIENT_CPU


def test_where_one_thing_is_late_nothing_else_that_is_counted_refuses_either():
    """A pod that has ended gives back its cpu, and its place among the pods of the node."""
    engine = engine_of(
        node(cpu=4000, pods=2), runs=[(pod(cpu=4000), "n0")], holds=[(pod("other", cpu=0), "n0")]
    )
    assert verdict(engine, pod(cpu=0)) is Reason.INSUFFICIENT_PODS
    assert verdict(engine, pod(cpu=3000)) is Reason.FITS


def test_devices_are_never_more_than_the_state_says():
    there = node(cpu=4000, gpus=2)
    engine = engine_of(there, runs=[(pod(cpu=4000), "n0")])
    assert verdict(engine, pod(cpu=3000, count=3)) is Reason.NODE_TOO_SMALL
    engine.place_on(pod(cpu=3000, count=1), "n0", passed=True)
    assert verdict(engine, pod(cpu=3000, count=2)) is Reason.INSUFFICIENT_DEVICES
    engine.place_on(pod(cpu=3000, milli=600), "n0", passed=True)
    assert verdict(engine, pod(cpu=3000, milli=600)) is Reason.INSUFFICIENT_FRACTION
    assert engine.state.check() == []


def test_devices_that_only_the_pods_own_reservation_has_are_there_for_it():
    asks = pod(cpu=3000, count=2)
    engine = engine_of(node(cpu=4000, gpus=2), holds=[(asks, "n0")])
    engine.state.apply([Placement(pod(cpu=4000), "n0")], enforce=False)
    assert verdict(engine, asks, passed=False) is Reason.INSUFFICIENT_CPU
    assert verdict(engine, asks) is Reason.FITS


AMOUNTS = st.integers(0, 4)
PODS = st.builds(
    lambda cpu, memory, nic, count, milli: pod(
        cpu=cpu * 1000, memory=memory * 1024, counted=((NIC, nic),) if nic else (),
        **({"count": count} if count else {"milli": milli * 250} if milli else {}),
    ),
    AMOUNTS, AMOUNTS, st.integers(0, 3), st.integers(0, 2), st.integers(0, 3),
)  # fmt: skip
NODES = st.lists(
    st.builds(
        lambda cpu, memory, pods, nic, gpus: {
            "cpu": cpu * 1000, "memory": memory * 1024, "pods": pods, "gpus": gpus,
            "counted": {NIC: nic} if nic else {},
        },
        AMOUNTS, AMOUNTS, st.integers(0, 4), AMOUNTS, st.integers(0, 3),
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip
PLACED = st.lists(st.tuples(PODS, st.integers(0, 2), st.booleans()), max_size=6)


def _by_the_rule(engine: Engine, asks: PodRequest, row: int) -> bool:
    """The rule itself: devices by the state, the rest unless reservations for others take it."""
    state, there = engine.state, engine.state.nodes[row]
    assert there is not None
    ample = replace(there, cpu_milli=1 << 30, memory_bytes=1 << 46, pods=1000, counted={NIC: 1000})
    devices = ClusterState([ample])
    others = [p for p in state.pods_on(row) if p.pod.uid != asks.uid]
    devices.apply(others, enforce=False)
    if Engine(devices).filter(asks)[0] != Reason.FITS.code:
        return False

    def nic(request: PodRequest) -> int:
        return dict(request.counted).get(NIC, 0)

    kept_from_it = False
    somewhere = any(node.counted.get(NIC) for node in state.nodes if node)
    for offered, of in (
        (there.cpu_milli, lambda p: p.cpu_milli),
        (there.memory_bytes, lambda p: p.memory_bytes),
        (there.pods, lambda _p: 1),
        (there.counted.get(NIC, 0), nic),
    ):
        free = offered - sum(of(p.pod) for p in others)
        kept = sum(of(p.pod) for p in others if p.pod.uid in engine.reservations)
        if not offered and of is nic:  # no pod is charged for it there
            free, kept = 0, 0 if somewhere else of(asks)
        if of(asks) and of(asks) > free + kept:  # what is not asked for is not looked at
            return True  # without reservations it would not fit either: we are late
        kept_from_it |= bool(of(asks)) and (offered or of is not nic) and free < of(asks)
    return not kept_from_it


@settings(max_examples=150, deadline=None)
@given(
    nodes=NODES,
    placed=PLACED,
    asks=PODS,
    own=st.integers(-1, 2),
    policy=st.sampled_from(sorted(POLICIES)),
)
def test_verdict_score_and_reservation_follow_one_rule(nodes, placed, asks, own, policy):
    engine = engine_of(*(node(f"n{i}", **facts) for i, facts in enumerate(nodes)), policy=policy)
    engine.state.apply(
        [Placement(p, f"n{at % len(nodes)}") for p, at, held in placed if not held], enforce=False
    )
    for request, at, held in placed:
        if held and engine.filter(request, np.array([at % len(nodes)]), passed=True)[0] == 0:
            engine.reserve_until(request, f"n{at % len(nodes)}", 100.0, passed=True)
    if own >= 0 and engine.filter(asks, np.array([own % len(nodes)]), passed=True)[0] == 0:
        engine.reserve_until(asks, f"n{own % len(nodes)}", 100.0, passed=True)
    rows = np.arange(len(nodes))
    strict, codes = engine.filter(asks, rows), engine.filter(asks, rows, passed=True)
    scores = engine.scores(asks, rows, passed=True)
    assert (codes[strict == 0] == 0).all()
    assert (scores[strict == 0] == engine.scores(asks, rows)[strict == 0]).all()
    assert ((scores != INFEASIBLE) == (codes == 0)).all()
    cluster_metrics(engine.state.snapshot(), engine.profile)
    assert [code == 0 for code in codes] == [_by_the_rule(engine, asks, row) for row in rows]
    for row in rows.tolist():
        if codes[row] == 0:
            chosen = engine.choose(asks, f"n{row}", passed=True)
            engine.reserve_until(asks, f"n{row}", 100.0, passed=True)
            assert engine.state.placements[asks.uid] == chosen
            assert engine.state.check() == []
            cluster_metrics(engine.state.snapshot(), engine.profile)
            return


def test_the_counted_resource_that_is_lacking_is_named_by_its_position():
    asks = pod(counted=((NIC, 2), ("example.com/tpu", 1)))
    rows = np.array([0, 1, 2, -1])
    both = {NIC: 3, "example.com/tpu": 1}
    engine = engine_of(
        *(node(f"n{i}", counted=both) for i in range(3)),
        holds=[(pod(counted=((NIC, 2),)), "n0"), (pod(counted=(("example.com/tpu", 1),)), "n1")],
        runs=[(pod(counted=((NIC, 3),)), "n2")],
    )
    codes = engine.filter(asks, rows, passed=True)
    assert engine.short_of(asks, rows, codes, passed=True).tolist() == [0, 1, -1, -1]
    strict = engine.filter(asks, rows)
    assert engine.short_of(asks, rows, strict).tolist() == [0, 1, 0, -1]
    engine.state.counted.elsewhere_counts = False
    asks = pod(counted=((NIC, 2), ("example.com/unknown", 1)))
    assert engine.short_of(asks, rows, engine.filter(asks, rows)).tolist() == [1, 1, 1, -1]
