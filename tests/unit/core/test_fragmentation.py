"""The table look-ups equal the published definition, computed literally."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.fragmentation import Fragmentation
from scheduler.core.model import Device, DeviceShare, Placement
from scheduler.core.policies.table import POLICIES
from scheduler.core.ranking import Candidates
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from tests.builders import node, pod
from tests.depth import examples

MODELS = ("T4", "A10")

requests = st.builds(
    lambda cpu, gpu, products: pod("t", cpu=cpu, products=products if gpu else (), **gpu),
    st.integers(0, 8).map(lambda c: c * 1000),
    st.one_of(
        st.just({}),
        st.integers(1, 4).map(lambda c: {"count": c}),
        st.integers(1, 999).map(lambda m: {"milli": m}),
    ),
    st.sampled_from([(), ("T4",), ("A10",), MODELS]),
)


def literal_fragmentation(
    row_node, cpu_free: int, free: list[int], profile: WorkloadProfile
) -> int:
    """F(n) x total weight, exactly as FGD defines it, shape by shape and device by device."""
    total = 0
    for shape in profile.shapes:
        gpu = shape.gpu
        need = gpu.milli or 1000
        count = max(1, gpu.count)
        runs = (
            gpu.kind.name != "NONE"
            and shape.cpu_milli <= cpu_free
            and (not gpu.products or row_node.product in gpu.products)
            and sum(value >= need for value in free) >= count
        )
        total += shape.weight * (sum(v for v in free if v < need) if runs else sum(free))
    return total


def _crowded(cpu_used: int, used: list[int], product: str) -> ClusterState:
    state = ClusterState([node("n0", gpus=len(used), cpu=8000, product=product)])
    for index, milli in enumerate(used):
        if milli == 1000:
            state.apply(
                [Placement(pod(f"u{index}", cpu=0, count=1), "n0", (DeviceShare(index, 1000),))]
            )
        elif milli:
            share = (DeviceShare(index, milli),)
            state.apply([Placement(pod(f"u{index}", cpu=0, milli=milli), "n0", share)])
    state.apply([Placement(pod("cpu", cpu=cpu_used), "n0")])
    return state


@settings(max_examples=examples(60, 300), deadline=None)
@given(
    st.lists(requests, min_size=1, max_size=8),
    st.integers(0, 8000),
    st.lists(st.integers(0, 1000), min_size=1, max_size=4),
    st.sampled_from(MODELS),
)
def test_fragmentation_is_the_published_one(pods, cpu_used, used, product) -> None:
    profile = WorkloadProfile.from_requests(pods, coverage=1.0)
    state = _crowded(cpu_used, used, product)
    tables = Fragmentation(state, profile)
    free = [1000 - milli for milli in used]
    expected = literal_fragmentation(state.nodes[0], 8000 - cpu_used, free, profile)
    assert tables.fragmentation(state, np.array([0])).tolist() == [expected]


@settings(max_examples=examples(60, 300), deadline=None)
@given(
    st.lists(requests, min_size=1, max_size=8),
    requests,
    st.integers(0, 8000),
    st.lists(st.integers(0, 1000), min_size=1, max_size=4),
)
def test_fgd_scores_what_the_placement_really_changes(pods, request_, cpu_used, used) -> None:
    """The score of the chosen device equals F before minus F after the engine placed the pod."""
    profile = WorkloadProfile.from_requests(pods, coverage=1.0)
    state = _crowded(cpu_used, used, "T4")
    engine = Engine(state, "fgd-published", profile=profile)
    tables = engine.tables()
    if engine.best(request_) < 0:
        return
    rows = np.array([0])
    before = int(tables.fragmentation(state, rows)[0])
    score = int(engine.scores(request_, rows)[0])
    engine.place_on(request_, "n0")
    decrease = before - int(tables.fragmentation(state, rows)[0])
    expected = 100 / (1 + np.exp(-decrease / 1000 / tables.total_weight))
    assert abs(score - expected) <= 1.0 + 1e-9 and score <= expected + 1e-9


def test_mig_and_shared_devices_are_fragmented_by_what_their_shapes_need() -> None:
    state = ClusterState(
        [
            node("m", devices=(Device("A100", mig="A100-40"),)),
            node("s", devices=(Device("T4", replicas=4),)),
        ]
    )
    big = WorkloadProfile.from_requests([pod(cpu=0, mig=(("7g.40gb", 1),))])
    rows = np.array([0, 1])
    assert Fragmentation(state, big).fragmentation(state, rows).tolist() == [0, 1000]
    state.apply([Placement(pod("p", mig=(("1g.5gb", 1),)), "m", (DeviceShare(0, 125, 0, 1),))])
    assert Fragmentation(state, big).fragmentation(state, rows).tolist() == [875, 1000]
    shared = WorkloadProfile.from_requests([pod(cpu=0, replicas=3)])
    assert Fragmentation(state, shared).fragmentation(state, rows).tolist() == [875, 0]


def test_fgd_keeps_the_large_mig_profile_alive() -> None:
    """Two A100: one broken already. A profile of 7g jobs sends the 1g pod to the broken one."""
    state = ClusterState(
        [node(f"m{i}", devices=(Device("A100", mig="A100-40"),)) for i in range(2)]
    )
    profile = WorkloadProfile.from_requests([pod(cpu=0, mig=(("7g.40gb", 1),))] * 3)
    engine = Engine(state, "fgd", profile=profile)
    engine.place_on(pod("first", mig=(("1g.5gb", 1),)), "m1")
    assert engine.best(pod("second", mig=(("1g.5gb", 1),))) == 1


def test_fgd_keeps_a_scarce_model_for_those_who_need_it() -> None:
    state = ClusterState([node("scarce", gpus=1, product="A10"), node("plenty", gpus=1)])
    needs_a10 = [pod(cpu=0, count=1, products=("A10",))] * 5
    profile = WorkloadProfile.from_requests([*needs_a10, pod(cpu=0, count=1)])
    assert Engine(state, "fgd", profile=profile).best(pod("any", count=1)) == 1


def test_memory_only_fractions_use_the_memory_of_the_model() -> None:
    state = ClusterState([node("a", gpus=1, gpu_memory=16_000)])
    profile = WorkloadProfile.from_requests([pod(cpu=0, memory_mib=8000)])
    state.apply([Placement(pod("p", milli=600), "a", (DeviceShare(0, 600, 9600),))])
    assert Fragmentation(state, profile).fragmentation(state, np.array([0])).tolist() == [400]


@pytest.mark.parametrize("late", ["labelled", "replaced", "joined by a labelled one"])
def test_tables_follow_memory_that_becomes_known_late(late: str) -> None:
    """Whatever made the memory known, scores are those of an engine that knew it from the start."""
    profile = WorkloadProfile.from_requests(
        [pod(cpu=0, memory_mib=8000)] * 3 + [pod(cpu=0, milli=700)]
    )
    engine = Engine(ClusterState([node("a", gpus=2), node("b", gpus=1)]), "fgd", profile=profile)
    asked = pod("p", cpu=0, milli=300)
    engine.best(asked)  # scored while nobody knows the memory
    labelled = node("a", gpus=2, gpu_memory=16_000)
    if late == "labelled":
        engine.state.update_node(labelled)
    elif late == "replaced":
        engine.state.remove_node("a")
        engine.state.add_node(labelled)
    else:
        engine.state.add_node(node("c", gpus=1, gpu_memory=16_000))
    known = Engine(
        ClusterState([n for n in engine.state.nodes if n is not None]), "fgd", profile=profile
    )
    rows = np.arange(len(known.state))
    expected = known.tables().fragmentation(known.state, rows)
    assert engine.tables().fragmentation(engine.state, rows).tolist() == expected.tolist()
    assert engine.scores(asked, rows).tolist() == known.scores(asked, rows).tolist()


def test_tables_stay_where_no_pod_of_the_profile_counts_memory() -> None:
    profile = WorkloadProfile.from_requests([pod(cpu=0, milli=300)])
    engine = Engine(ClusterState([node("a", gpus=1)]), "fgd", profile=profile)
    before = engine.tables()
    engine.state.update_node(node("a", gpus=1, gpu_memory=16_000))
    assert engine.tables() is before


def test_every_policy_is_blind_to_the_number_of_other_candidates() -> None:
    """Scores are per row: scoring rows together or alone gives the same numbers."""
    state = ClusterState([node(f"n{i}", gpus=1 + i % 4, cpu=4000 * (1 + i % 3)) for i in range(12)])
    profile = WorkloadProfile.from_requests([pod(milli=500), pod(count=1), pod(count=2), pod()])
    tables = Fragmentation(state, profile)
    for policy in POLICIES.values():
        for request_ in (pod("a", milli=300), pod("b", count=1), pod("c")):
            rows = np.arange(12)
            together = policy.evaluate(Candidates(state, request_.shape, rows, rows, tables, 7))
            for row in rows:
                one = np.array([row])
                alone = policy.evaluate(Candidates(state, request_.shape, one, one, tables, 7))
                assert alone.scores[0] == together.scores[row], policy.name
                assert alone.devices[0] == together.devices[row], policy.name


def test_a_profile_may_want_partitions_that_the_cluster_does_not_have() -> None:
    """A MIG pod may be seen, and learnt from, before any MIG node joins."""
    profile = WorkloadProfile.from_requests([pod(mig=(("1g.5gb", 1),)), pod(count=1)])
    engine = Engine(ClusterState([node(gpus=2)]), "fgd", profile=profile)
    assert engine.best(pod(count=1)) == 0
    assert engine.best(pod(mig=(("1g.5gb", 1),))) == -1
