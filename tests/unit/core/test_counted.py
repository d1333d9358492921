"""Counted resources: required, charged and packed like cpu; a cluster without any pays nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.capacity import excess, overmuch
from scheduler.core.cluster_metrics import overfull_rows
from scheduler.core.counted import CountedColumns
from scheduler.core.engine import Engine
from scheduler.core.errors import CapacityConflict, InvalidInput
from scheduler.core.model import MAX_COUNTED, Placement, Reason, Release
from scheduler.core.state import ClusterState
from scheduler.core.validator import Validator, Violation
from tests.builders import node, pod

NIC = "example.com/nic"
HUGE = "hugepages-1Gi"


def _nics(count: int, name: str = "n0", **rest):
    return node(name, counted={NIC: count}, **rest)


def _asks(nics: int, name: str = "", **rest):
    return pod(name, counted=((NIC, nics),), **rest)


def _reasons(state: ClusterState, request) -> list[Reason]:
    return [Reason.of(int(code)) for code in Engine(state).filter(request)]


def test_a_pod_goes_where_all_that_it_counts_on_is_left() -> None:
    state = ClusterState([node("none"), _nics(1, "few"), _nics(4, "many")])
    wants = _asks(3, "wants")
    missing, fits, short = Reason.RESOURCE_MISSING, Reason.FITS, Reason.INSUFFICIENT_RESOURCE
    assert _reasons(state, wants) == [missing, missing, fits]
    Engine(state).place_on(wants, "many")
    assert _reasons(state, _asks(2)) == [missing, missing, short]
    assert _reasons(state, _asks(1)) == [missing, fits, fits]
    assert not Reason.RESOURCE_MISSING.resolvable and Reason.INSUFFICIENT_RESOURCE.resolvable
    state.apply([Release("wants")])
    assert _reasons(state, wants)[2] is fits and state.check() == []


def test_what_nobody_offers_nobody_gets_unless_kube_scheduler_counts_it_elsewhere() -> None:
    state = ClusterState([node("a"), _nics(2, "b")])
    strange = pod(counted=(("example.com/strange", 1),))
    assert _reasons(state, strange) == [Reason.RESOURCE_MISSING] * 2
    state.counted.elsewhere_counts = True
    engine = Engine(state)
    assert [int(code) for code in engine.filter(strange)] == [0, 0]
    engine.place_on(strange, "a")
    assert _reasons(state, _asks(1)) == [Reason.RESOURCE_MISSING, Reason.FITS]
    assert state.check() == [] and state.fork().counted.elsewhere_counts


def test_other_reasons_come_first_and_full_nodes_stay_full() -> None:
    state = ClusterState([_nics(0, cpu=1000, gpus=1, pods=1)])
    assert _reasons(state, _asks(1, count=2)) == [Reason.NODE_TOO_SMALL]
    state = ClusterState([_nics(1, cpu=1000, gpus=1, pods=2)])
    state.apply([Placement(_asks(1, cpu=600), "n0")])
    assert _reasons(state, _asks(1, cpu=600)) == [Reason.INSUFFICIENT_CPU]
    assert _reasons(state, pod(cpu=1, count=1)) == [Reason.FITS]


def test_a_node_that_is_over_full_of_something_takes_those_who_do_not_ask_for_it() -> None:
    state = ClusterState([_nics(2)])
    state.apply([Placement(_asks(2, f"r{i}"), "n0") for i in range(2)], enforce=False)
    assert overfull_rows(state).tolist() == [True]
    assert _reasons(state, pod()) == [Reason.FITS]
    assert _reasons(state, _asks(1)) == [Reason.INSUFFICIENT_RESOURCE]
    with pytest.raises(CapacityConflict, match=r"1 example\.com/nic requested, -2 free"):
        state.apply([Placement(_asks(1), "n0")])


def test_nodes_may_learn_of_a_resource_after_their_pods() -> None:
    state = ClusterState([node("n0")])
    state.apply([Placement(_asks(3, "early"), "n0")], enforce=False)
    assert state.check() == []
    state.update_node(_nics(4))
    assert _reasons(state, _asks(2)) == [Reason.INSUFFICIENT_RESOURCE]
    state.update_node(node("n0"))
    assert _reasons(state, _asks(1)) == [Reason.RESOURCE_MISSING] and state.check() == []
    state.remove_node("n0")
    state.add_node(node("other"))
    assert _reasons(state, _asks(1)) == [Reason.RESOURCE_MISSING] and state.check() == []


def test_a_node_that_cannot_be_described_keeps_what_is_left() -> None:
    state = ClusterState([_nics(4)])
    state.apply([Placement(_asks(3), "n0")])
    broken = replace(_nics(9, gpus=1), serves="nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        state.update_node(broken)
    assert _reasons(state, _asks(2)) == [Reason.INSUFFICIENT_RESOURCE] and state.check() == []


def test_snapshots_forks_and_excerpts_count_for_themselves() -> None:
    state = ClusterState([_nics(4)])
    state.apply([Placement(_asks(3, "a"), "n0")])
    frozen, fork = state.snapshot(), state.fork()
    fork.apply([Release("a")])
    state.apply([Placement(_asks(1, "b"), "n0")])
    assert _reasons(fork, _asks(4)) == [Reason.FITS]
    assert _reasons(frozen, _asks(1)) == [Reason.FITS]
    assert _reasons(state, _asks(1)) == [Reason.INSUFFICIENT_RESOURCE]
    assert _reasons(state.excerpt_without(0, {"a"}), _asks(3)) == [Reason.FITS]
    with pytest.raises(ValueError, match="read-only"):
        frozen.counted.describe(0, {NIC: 1})


def test_the_validator_counts_too() -> None:
    validator = Validator([_nics(3)])
    validator.place(Placement(_asks(2, "a"), "n0"))
    with pytest.raises(Violation, match=r"over-commits example\.com/nic"):
        validator.place(Placement(_asks(2, "b"), "n0"))
    with pytest.raises(Violation, match="over-commits hugepages-1Gi"):
        validator.place(Placement(pod("c", counted=((HUGE, 1),)), "n0"))
    validator.release("a")
    validator.place(Placement(_asks(3, "b"), "n0"))


def test_gangs_are_refused_by_sums_of_what_they_count_on() -> None:
    state = ClusterState([_nics(4, f"n{i}", gpus=8) for i in range(3)])
    member = _asks(3, count=1)
    over = excess(state, {member.shape: 4}, first=member.shape)
    assert over is not None and (over.holds, over.wanted) == (3, 4)
    small, large = _asks(1, count=1), _asks(4, count=1)
    mixed = excess(state, {small.shape: 5, large.shape: 2}, first=small.shape)
    assert mixed is not None and (mixed.what, mixed.holds, mixed.wanted) == (NIC, 12, 13)
    assert excess(state, {small.shape: 4, large.shape: 2}, first=small.shape) is None
    Engine(state).place_on(_asks(2, "there"), "n0")
    text = overmuch(Engine(state), [member], 3, now_too=True)
    assert "2 of 3 missing members have a place" in text


@pytest.mark.parametrize(
    "make",
    [
        lambda: node(counted={NIC: -1}),
        lambda: node(counted={f"example.com/r{i}": 1 for i in range(MAX_COUNTED + 1)}),
        lambda: _asks(-1),
    ],
)
def test_nonsense_is_refused(make) -> None:
    with pytest.raises(InvalidInput, match="counted"):
        make()


def test_requests_are_told_apart_by_what_they_ask_for_alone() -> None:
    assert pod(counted=((NIC, 0),)).shape == pod().shape
    one, other = ((NIC, 1), (HUGE, 2)), ((HUGE, 2), (NIC, 1))
    assert pod(counted=one).shape == pod(counted=other).shape != pod().shape


def test_very_many_names_cost_no_more_than_some() -> None:
    state = ClusterState()
    for number in range(12):
        names = {f"example.com/r{number}-{i}": 1 for i in range(100)}
        state.add_node(node("n0", counted=names))
    assert len(state.counted.names) <= 1024 and state.check() == []
    assert _reasons(state, pod(counted=(("example.com/r11-5", 1),))) == [Reason.FITS]
    assert _reasons(state, pod(counted=(("example.com/r0-5", 1),))) == [Reason.RESOURCE_MISSING]


def test_amounts_beyond_measure_fill_up_and_never_wrap() -> None:
    state = ClusterState([_nics(1 << 62, pods=400)])
    crowd = [Placement(_asks(1 << 62, cpu=0, memory=0), "n0") for _ in range(300)]
    state.apply(crowd, enforce=False)
    assert _reasons(state, _asks(1)) == [Reason.INSUFFICIENT_RESOURCE]
    state.apply([Release(placed.pod.uid) for placed in crowd])
    assert state.check() == [] and not overfull_rows(state).any()


def test_without_any_there_is_nothing_to_look_at() -> None:
    state = ClusterState([node(f"n{i}") for i in range(3)])
    assert state.counted.free.shape[1] == 0 and state.snapshot().counted.names == ()
    assert CountedColumns(2).overdrawn(2).tolist() == [False, False]


_NAMES = st.sampled_from([NIC, HUGE, "ephemeral-storage"])
_OFFERS = st.dictionaries(_NAMES, st.integers(0, 6), max_size=3)


@given(
    offers=st.lists(_OFFERS, min_size=1, max_size=3),
    asks=st.lists(st.tuples(_OFFERS, st.integers(0, 2)), max_size=8),
    later=st.lists(st.tuples(st.integers(0, 2), _OFFERS), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_what_is_left_is_what_is_offered_less_what_is_taken(offers, asks, later) -> None:
    state = ClusterState([node(f"n{i}", counted=offer) for i, offer in enumerate(offers)])
    for number, (wanted, where) in enumerate(asks):
        request = pod(f"p{number}", cpu=0, memory=0, counted=tuple(wanted.items()))
        state.apply([Placement(request, f"n{where % len(offers)}")], enforce=False)
    for where, offer in later:
        state.update_node(node(f"n{where % len(offers)}", counted=offer))
    assert state.check() == []
    for row, there in enumerate(state.nodes):
        assert there is not None
        taken = [dict(placed.pod.counted) for placed in state.pods_on(row)]
        for name in (NIC, HUGE, "ephemeral-storage"):
            left = there.counted.get(name, 0) - sum(each.get(name, 0) for each in taken)
            asks_one = pod(cpu=0, memory=0, counted=((name, 1),))
            fits = _reasons(state, asks_one)[row] is Reason.FITS
            assert fits == (left >= 1), (name, left)


GPU = "nvidia.com/gpu"


def test_what_is_handed_out_elsewhere_on_a_node_is_not_asked_of_us() -> None:
    by_dra = node("dra", cpu=8000, by_dra=(GPU, NIC))
    state = ClusterState([node("plain"), node("plugin", gpus=2, counted={NIC: 1}), by_dra])
    request = _asks(2, "wants", count=4, resource=GPU)
    small, missing = Reason.NODE_TOO_SMALL, Reason.DEVICE_KIND_MISSING
    assert _reasons(state, request) == [missing, small, Reason.FITS]
    placed = Engine(state).place_on(request, "dra")
    assert placed.devices == () and state.cpu_free[2] == 7000 and state.check() == []
    assert _reasons(state, pod(milli=500))[2] is missing
    assert _reasons(state, pod(count=1, resource="amd.com/gpu"))[2] is missing
    assert _reasons(state, pod(cpu=7500, count=1, resource=GPU))[2] is Reason.INSUFFICIENT_CPU
    members = [pod(f"m{i}", count=8, resource=GPU) for i in range(7)]
    assert overmuch(Engine(state), members, 7, now_too=True) == ""
    assert overmuch(Engine(state), members, 8, now_too=True) != ""


def test_a_node_may_have_devices_of_its_own_beside_those_handed_out_elsewhere() -> None:
    both = node("n0", gpus=2, by_dra=("amd.com/gpu",))
    state = ClusterState([both])
    assert _reasons(state, pod(count=9, resource="amd.com/gpu")) == [Reason.FITS]
    engine = Engine(state)
    assert len(engine.place_on(pod(count=2, resource=GPU), "n0").devices) == 2
    assert _reasons(state, pod(count=1, resource=GPU)) == [Reason.INSUFFICIENT_DEVICES]
    assert state.check() == []
