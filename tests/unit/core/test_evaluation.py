"""What is remembered of a shape is what would be found afresh, whatever has happened since."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core import evaluation
from scheduler.core.engine import Engine
from scheduler.core.model import Device, Node, PodRequest, Reason
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from tests.builders import node, pod

MIG = Device("A100", memory_mib=40_960, mig="A100-40")
SLICED = Device("T4", memory_mib=16_000, replicas=4)
ASKED = (
    pod("none"),
    pod("half", milli=500),
    pod("two", count=2),
    pod("small", mig=(("1g.5gb", 2),)),
    pod("mixed", mig=(("1g.5gb+me", 1), ("3g.20gb", 1))),
    pod("slices", replicas=3),
    pod("nic", count=1, counted=(("example.com/nic", 1),)),
)
PROFILE = WorkloadProfile.from_requests(ASKED)


def _node(name: str, kind: int) -> Node:
    if kind < 2:
        return node(name, gpus=4, counted={"example.com/nic": 2} if kind else {})
    if kind == 2:
        return node(name, devices=(MIG, MIG))
    if kind == 3:
        return node(name, devices=(SLICED, SLICED))
    return node(name, devices=(Device("T4", healthy=False), Device("T4")), cpu=2_000)


def _same(engine: Engine, fresh: Engine, asked: tuple[PodRequest, ...] = ASKED) -> None:
    rows = np.arange(len(engine.state))
    for request in asked:
        assert engine.filter(request).tolist() == fresh.filter(request).tolist()
        assert engine.scores(request, rows).tolist() == fresh.scores(request, rows).tolist()


_EVENT = st.tuples(
    st.sampled_from(("come", "change", "go", "place", "release", "ask")),
    st.integers(0, 5),
    st.integers(0, 6),
)


@pytest.mark.parametrize("policy", ["fgd", "best-fit"])
@given(events=st.lists(_EVENT, max_size=30))
def test_the_remembered_is_the_fresh(policy: str, events: list[tuple[str, int, int]]) -> None:
    state = ClusterState([_node("n0", 0), _node("n1", 2)])
    engine = Engine(state, policy, profile=PROFILE)
    for serial, (event, at, which) in enumerate(events):
        name, request = f"n{at}", ASKED[which]
        if event == "come":
            state.add_node(_node(name, which % 5))
        elif event == "change" and name in state.row_of:
            state.update_node(replace(state.node(state.row(name)), labels={"at": str(serial)}))
        elif event == "go" and name in state.row_of:
            state.remove_node(name)
        elif event == "place":
            engine.place(replace(request, uid=f"u{serial}"))
        elif event == "release" and state.placements:
            engine.release(list(state.placements)[at % len(state.placements)])
        else:
            engine.filter(request)
    _same(engine, Engine(state, policy, profile=PROFILE))
    assert state.check() == []


def test_what_one_node_offers_first_or_last_is_heeded_on_all() -> None:
    """Beside kube-scheduler a name that no node offers is counted elsewhere."""
    state, request = ClusterState([_node("n0", 0)]), ASKED[-1]
    state.counted.elsewhere_counts = True
    engine = Engine(state, "fgd", profile=PROFILE)
    assert engine.filter(request).tolist() == [Reason.FITS.code]
    state.add_node(_node("n1", 1))
    assert engine.filter(request).tolist() == [Reason.RESOURCE_MISSING.code, Reason.FITS.code]
    _same(engine, Engine(state, "fgd", profile=PROFILE), (request,))
    state.remove_node("n1")
    assert engine.filter(request).tolist() == [Reason.FITS.code, Reason.NODE_UNKNOWN.code]
    _same(engine, Engine(state, "fgd", profile=PROFILE), (request,))


def test_a_shape_is_prepared_in_steps_between_which_the_cluster_changes(monkeypatch) -> None:
    monkeypatch.setattr(evaluation, "_CELLS_PER_STEP", 8)
    state = ClusterState(_node(f"n{i}", i % 5) for i in range(20))
    engine = Engine(state, "fgd", profile=PROFILE)
    shapes = [request.shape for request in ASKED]
    steps = engine.preparation(shapes)
    assert steps is not None
    for number, _ in enumerate(steps):
        if number % 5 == 0:
            engine.place(replace(ASKED[number % 3], uid=f"u{number}"))
        if number == 7:
            state.remove_node("n3")
            state.update_node(replace(state.node(0), unschedulable=True))
        if number == 20:
            state.add_node(_node("new", 2))
    assert number > 30
    _same(engine, Engine(state, "fgd", profile=PROFILE))
    assert engine.preparation(shapes) is None, "nothing is left to be prepared"


def test_small_clusters_need_no_preparation() -> None:
    engine = Engine(ClusterState([_node("n0", 2)]), "fgd", profile=PROFILE)
    assert engine.preparation([ASKED[3].shape]) is None


def test_what_was_prepared_for_another_profile_is_not_used(monkeypatch) -> None:
    monkeypatch.setattr(evaluation, "_CELLS_PER_STEP", 8)
    state = ClusterState(_node(f"n{i}", i % 5) for i in range(10))
    engine = Engine(state, "fgd", profile=PROFILE)
    steps = engine.preparation([ASKED[1].shape])
    assert steps is not None
    next(steps)
    other = WorkloadProfile.from_requests([ASKED[2]])
    engine.put_profile_in_force(other)
    assert list(steps)
    assert engine.preparation([ASKED[1].shape]) is not None
    _same(engine, Engine(state, "fgd", profile=other))
