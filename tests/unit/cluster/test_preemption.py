"""Victims: as few and as cheap as make room for this very pod, never a protected one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.cluster.preemption import (
    Candidate,
    Victims,
    choose_victims,
    without_more_expensive_gangs,
)
from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.gangs.members import Members
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import DeviceShare, Placement, PodRequest, Reason
from scheduler.core.state import ClusterState
from scheduler.kube.disruption import BudgetObject
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.webhook.protocol import PreemptArgs
from testbed.kube_objects import node_json, pod_json
from tests.builders import gang_key, node, pod
from tests.depth import examples
from tests.service import Service

GANG = gang_key("g", 2)


def _fits_without(engine: Engine, request: PodRequest, uids: frozenset[str]) -> bool:
    """Whether an engine that knows only the other pods of the row says that the pod fits."""
    rest = engine.state.excerpt_without(0, {*uids, request.uid})
    return Engine(rest).filter(request)[0] == Reason.FITS.code


def _engine(*nodes: Any) -> Engine:
    return Engine(ClusterState(nodes or (node("a", gpus=4),)))


def _run(engine: Engine, request: PodRequest, *devices: int, on: str = "a", milli: int = 0) -> None:
    shares = tuple(DeviceShare(index, milli or 1000) for index in devices)
    engine.state.apply([Placement(request, on, shares)], enforce=False)


def _low(name: str, priority: int = 0, **rest: Any) -> PodRequest:
    return pod(name, cpu=100, memory=1, priority=priority, **rest)


def _wanted(**rest: Any) -> PodRequest:
    return pod("wanted", cpu=100, memory=1, priority=10, **rest)


def _choose(engine: Engine, request: PodRequest, *suggested: str, **rest: Any) -> set[str] | None:
    found = _victims(engine, request, *suggested, **rest)
    return None if found is None else set(found.uids)


def _victims(
    engine: Engine,
    request: PodRequest,
    *suggested: str,
    **rest: Any,
) -> Victims | None:
    """The choice, made twice: what is imagined in between leaves nothing behind."""
    members = Members(engine.state.placements.values())
    members.describe(GangSpec(GANG, 2))
    candidate = Candidate(engine, request, engine.state.row("a"), members)
    found = choose_victims(candidate, suggested, **rest)
    again = Candidate(engine, request, engine.state.row("a"), members)
    assert choose_victims(again, suggested, **rest) == found
    return found


def _budget(name: str, allowed: int, **labels: str) -> BudgetObject:
    content = {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": labels}},
        "status": {"disruptionsAllowed": allowed},
    }
    return msgspec.convert(content, BudgetObject)


def test_a_node_with_room_needs_no_victims() -> None:
    """From 1.38 on such candidates are asked about, and stay as they are."""
    engine = _engine()
    _run(engine, _low("x", count=1), 0)
    found = _victims(engine, _wanted(count=2))
    assert found is not None and (found.uids, found.violations) == ((), 0)


def test_an_empty_candidate_without_room_gets_victims() -> None:
    engine = _engine()
    for index in range(4):
        _run(engine, _low(f"p{index}", priority=index, count=1), index)
    assert _choose(engine, _wanted(count=2)) == {"p0", "p1"}


def test_a_fraction_needs_room_on_one_device() -> None:
    """300 free on each of two devices are no 500 on one; the cheapest pod that helps goes."""
    engine = _engine(node("a", gpus=2))
    _run(engine, _low("big", milli=700), 0, milli=700)
    _run(engine, _low("small", milli=300), 1, milli=300)
    _run(engine, _low("middle", milli=400), 1, milli=400)
    assert _choose(engine, _wanted(milli=500)) == {"small"}
    assert _choose(engine, _wanted(milli=650)) == {"middle"}
    assert _choose(engine, _wanted(milli=1000 - 1)) in ({"big"}, {"small", "middle"})


def test_kube_schedulers_victims_are_kept_and_completed() -> None:
    """It has counted milli-GPU per node; on one device they are not together."""
    engine = _engine(node("a", gpus=2))
    for index in range(2):
        _run(engine, _low(f"l{index}", milli=500), index, milli=500)
        _run(engine, _low(f"r{index}", milli=500), index, milli=500)
    chosen = _choose(engine, _wanted(milli=999), "l0")
    assert chosen == {"l0", "r0"}
    assert _choose(engine, _wanted(milli=500), "l0") == {"l0"}


def test_whole_devices_need_whole_devices() -> None:
    engine = _engine(node("a", gpus=2))
    for index in range(2):
        _run(engine, _low(f"l{index}", milli=100), index, milli=100)
        _run(engine, _low(f"r{index}", milli=100, priority=index), index, milli=100)
    assert _choose(engine, _wanted(count=1)) == {"l0", "r0"}
    assert _choose(engine, _wanted(count=2)) == {"l0", "r0", "l1", "r1"}


@pytest.mark.parametrize("priority", [10, 11])
def test_equal_and_higher_priorities_are_never_victims(priority) -> None:
    engine = _engine(node("a", gpus=1))
    _run(engine, _low("peer", priority=priority, count=1), 0)
    assert _choose(engine, _wanted(count=1)) is None
    assert _choose(engine, _wanted(count=1), "peer") is None


def test_the_wrong_model_and_too_small_a_node_are_no_candidates() -> None:
    engine = _engine(node("a", gpus=1, product="T4"))
    _run(engine, _low("x", count=1), 0)
    assert _choose(engine, _wanted(count=1, products=("A100",))) is None
    assert _choose(engine, _wanted(count=2)) is None


def test_budgets_are_spared_where_that_is_possible() -> None:
    engine = _engine(node("a", gpus=2))
    _run(engine, _low("a-guarded", count=1), 0)
    _run(engine, _low("b-free", priority=5, count=1), 1)
    rules = {
        "budgets": [_budget("b", 0, app="db")],
        "labels": lambda uid: {"app": "db"} if "guarded" in uid else {},
    }
    assert _choose(engine, _wanted(count=1), **rules) == {"b-free"}
    both = _victims(engine, _wanted(count=2), **rules)
    assert both is not None and both.violations == 1 and len(both.uids) == 2


def test_budgets_are_spared_among_pods_without_devices_too() -> None:
    engine = _engine(node("a", cpu=1000))
    for name in ("a-guarded", "b-free"):
        _run(engine, pod(name, cpu=500, memory=1))
    rules = {
        "budgets": [_budget("b", 0, app="db")],
        "labels": lambda uid: {"app": "db"} if "guarded" in uid else {},
    }
    request = pod("wanted", cpu=500, memory=1, priority=10)
    assert _choose(engine, request, **rules) == {"b-free"}


def test_a_budget_allows_so_many_and_no_more() -> None:
    engine = _engine()
    for index in range(4):
        _run(engine, _low(f"p{index}", count=1), index)
    rules = {"budgets": [_budget("b", 2, app="db")], "labels": lambda _uid: {"app": "db"}}
    for count, violations in ((1, 0), (2, 0), (3, 1), (4, 2)):
        found = _victims(engine, _wanted(count=count), **rules)
        assert found is not None and found.violations == violations


def test_a_gang_goes_whole_or_stays() -> None:
    engine = _engine(node("a", gpus=3))
    _run(engine, _low("m0", count=1, gang=GANG), 0)
    _run(engine, _low("m1", count=1, gang=GANG), 1)
    _run(engine, _low("single", priority=9, count=1), 2)
    assert _choose(engine, _wanted(count=1)) == {"single"} or _choose(engine, _wanted(count=1)) == {
        "m0", "m1"
    }  # fmt: skip
    assert _choose(engine, _wanted(count=2)) == {"m0", "m1"}
    assert _choose(engine, _wanted(count=1), "m0") == {"m0", "m1"}


def _spread(*elsewhere: PodRequest, alone: int = 0) -> Engine:
    """A gang with a member on node a, and others elsewhere; beside it a pod of that priority."""
    engine = _engine(node("a", gpus=3), node("b", gpus=4))
    _run(engine, _low("m0", count=1, gang=GANG), 0)
    for index, member in enumerate(elsewhere):
        _run(engine, member, index, on="b")
    _run(engine, _low("single", priority=alone, count=1), 2)
    return engine


def test_a_gang_with_members_elsewhere_is_evicted_at_the_price_of_all() -> None:
    """Membership costs, it does not protect."""
    engine = _spread(_low("m1", count=1, gang=GANG))
    assert _choose(engine, _wanted(count=2)) == {"single"}, "one pod, not two"
    found = _victims(engine, _wanted(count=3))
    assert found is not None and set(found.uids) == {"m0", "single"}
    assert found.price == (0, 0, 3)
    assert [pod.uid for pod in found.others] == ["m1"] and found.gangs == {"m0"}
    assert _choose(engine, _wanted(count=2), "m0") == {"m0"}, "kube-scheduler has chosen it"


def test_the_priority_that_pays_is_the_highest_of_the_gang() -> None:
    engine = _spread(_low("m1", priority=8, count=1, gang=GANG), alone=5)
    assert _choose(engine, _wanted(count=2)) == {"single"}
    engine = _spread(_low("m1", priority=20, count=1, gang=GANG), alone=9)
    found = _victims(engine, _wanted(count=3))
    assert found is not None and set(found.uids) == {"m0", "single"}, "nothing is immune"
    assert found.others == () and found.price[1] == 20, "who may not be evicted is let alone"


def test_budgets_of_members_elsewhere_count() -> None:
    engine = _spread(_low("m1", count=1, gang=GANG), alone=9)
    rules = {
        "budgets": [_budget("b", 0, app="db")],
        "labels": lambda uid: {"app": "db"} if uid == "m1" else {},
    }
    assert _choose(engine, _wanted(count=2), **rules) == {"single"}
    found = _victims(engine, _wanted(count=3), **rules)
    assert found is not None and found.violations == 1


def test_a_member_of_equal_priority_stays_and_protects_nobody() -> None:
    engine = _engine(node("a", gpus=2))
    _run(engine, _low("m0", count=1, gang=GANG), 0)
    _run(engine, _low("m1", priority=10, count=1, gang=GANG), 1)
    assert _choose(engine, _wanted(count=1)) == {"m0"}
    assert _choose(engine, _wanted(count=2)) is None


def test_all_stages_of_a_gang_pay() -> None:
    """Workers of a launcher that is being evicted run on for nothing."""
    stages = [replace(GANG, stage=stage) for stage in ("launcher", "worker")]
    engine = Engine(ClusterState([node("a", gpus=1), node("b", gpus=1)]))
    for name, gang, at in zip(("launcher", "worker"), stages, "ab", strict=True):
        engine.place_on(_low(name, count=1, gang=gang), at)
    found = _victims(engine, _wanted(count=1), "launcher")
    assert found is not None
    assert found.uids == ("launcher",) and found.price[2] == 2
    assert [other.uid for other in found.others] == ["worker"]


def test_nodes_are_left_out_where_a_gang_would_pay_more_than_another_node_costs() -> None:
    def victims(price: tuple[int, ...], *others: str) -> Victims:
        return Victims(("x",), price[0], price, tuple(_low(name) for name in others))

    found = {"a": victims((0, 0, 3), "m1"), "b": victims((0, 1, 1)), "c": victims((0, 5, 9))}
    assert set(without_more_expensive_gangs(found)) == {"a", "b", "c"}, "the gang is cheapest"
    found["d"] = victims((0, -5, 1))
    assert set(without_more_expensive_gangs(found)) == {"b", "c", "d"}
    assert set(without_more_expensive_gangs({"a": found["a"]})) == {"a"}
    assert without_more_expensive_gangs({}) == {}


def test_what_is_only_held_is_no_victim() -> None:
    engine = _engine(node("a", gpus=1))
    engine.reserve_until(_low("x", count=1), "a", 1e9)
    assert _choose(engine, _wanted(count=1)) is None


def test_who_is_bound_before_we_have_heard_of_it_may_be_a_victim() -> None:
    """Else the node would be left out, and dearer victims be taken elsewhere."""
    engine = _engine(node("a", gpus=2))
    for name in ("x", "y"):
        engine.reserve_until(_low(name, count=1), "a", 1e9)
    assert _choose(engine, _wanted(count=1), "x") == {"x"}
    assert _choose(engine, _wanted(count=2), "x") is None  # nobody says that the other one runs
    engine.reserve_until(_low("equal", priority=10), "a", 1e9)
    assert _choose(engine, _wanted(count=1), "equal") is None


def test_a_suggestion_that_is_gone_is_passed_on() -> None:
    """kube-scheduler still lists it, and would take a changed list for an error."""
    engine = _engine(node("a", gpus=1))
    _run(engine, _low("x", count=1), 0)
    assert _choose(engine, _wanted(count=1), "gone") == {"gone", "x"}


@settings(max_examples=examples(30, 150), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.sampled_from((200, 500, 1000)),
                       st.booleans()), max_size=8),
    st.sampled_from(({"count": 1}, {"count": 2}, {"milli": 300}, {"milli": 900})),
    st.integers(0, 2),
)  # fmt: skip
def test_victims_make_room_and_none_is_taken_in_vain(running, wanted, suggestions) -> None:
    engine = _engine()
    for index, (priority, device, milli, gang) in enumerate(running):
        asks = {"count": 1} if milli == 1000 else {"milli": milli}
        if engine.state.gpu_free[0, device] >= milli:
            request = _low(f"p{index}", priority=priority, gang=GANG if gang else None, **asks)
            _run(engine, request, device, milli=milli)
    request = _wanted(**wanted)
    placed = {uid: p.pod for uid, p in engine.state.placements.items()}
    suggested = sorted(uid for uid, p in placed.items() if p.priority < 10)[:suggestions]
    found = _victims(engine, request, *suggested)
    everything = frozenset(uid for uid, p in placed.items() if p.priority < 10)
    if found is None:
        assert not _fits_without(engine, request, everything)
        return
    chosen = frozenset(found.uids)
    assert _fits_without(engine, request, chosen) and chosen >= set(suggested)
    assert all(placed[uid].priority < 10 for uid in chosen)
    gang = frozenset(uid for uid, p in placed.items() if p.gang and p.priority < 10)
    assert not chosen & gang or gang <= chosen
    for uid in chosen - set(suggested) - gang:
        assert not _fits_without(engine, request, chosen - {uid})


def test_the_verb_answers_for_many_nodes_and_leaves_hopeless_ones_out() -> None:
    service = Service(Engine(ClusterState()), ExtenderConfig(), offline=False)
    sync = service.sync
    for name, gpus in (("a", 1), ("b", 1), ("small", 0)):
        sync.node(msgspec.convert(node_json(name, gpus=gpus), NodeObject))
    whole = {"nvidia.com/gpu": "1"}
    sync.budgets["ns/b"] = msgspec.convert(
        {"metadata": {"name": "b", "namespace": "ns"}, "status": {"disruptionsAllowed": 0},
         "spec": {"selector": {"matchLabels": {"app": "db"}}}}, BudgetObject
    )  # fmt: skip
    for name in ("a", "b"):
        labels = {"app": "db"} if name == "b" else {}
        obj = pod_json(f"on-{name}", node=name, requests=whole, labels=labels)
        sync.pod(msgspec.convert(obj, PodObject))
    asking = msgspec.convert(pod_json("w", requests=whole, spec={"priority": 10}), PodObject)
    candidates = dict.fromkeys(("a", "b", "small", "unknown"), ((), 0))
    answer = service.preempt(PreemptArgs(asking, candidates))
    assert answer == {"a": (["uid-on-a"], 0), "b": (["uid-on-b"], 1)}


def test_a_call_that_takes_too_long_answers_what_it_has() -> None:
    """Some good places in time are worth more than all of them too late."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    config = ExtenderConfig(preempt_deadline_s=3.0)
    service = Service(Engine(ClusterState()), config, offline=False, clock=clock)
    sync = service.sync
    for number in range(50):
        sync.node(msgspec.convert(node_json(f"n{number}", gpus=1), NodeObject))
    asking = msgspec.convert(pod_json("w", requests={"nvidia.com/gpu": "1"}), PodObject)
    answer = service.preempt(PreemptArgs(asking, {f"n{n}": ((), 0) for n in range(50)}))
    assert 1 <= len(answer) < 50


@pytest.mark.parametrize(
    ("passed", "reserved", "victims"),
    [
        (True, False, {"low"}),
        (False, False, None),
        (True, True, None),
    ],
)
def test_cpu_that_kube_scheduler_finds_behind_its_victims_is_there(
    passed: bool, reserved: bool, victims: set[str] | None
) -> None:
    """Somebody has ended without our hearing of it; what is reserved for others, only we know."""
    engine = _engine(node("a", gpus=1, cpu=1000))
    _run(engine, _low("low", count=1), 0)
    other = pod("other", cpu=850, memory=1, priority=20)
    if reserved:
        engine.reserve_until(other, "a", 100.0)
    else:
        _run(engine, other)
    wanted = pod("wanted", cpu=200, memory=1, priority=10, count=1)
    candidate = Candidate(engine, wanted, 0, passed=passed)
    found = choose_victims(candidate, ["low"])
    assert (None if found is None else set(found.uids)) == victims


@pytest.mark.parametrize(
    ("there", "asks"),
    [
        ({"cpu": 1000}, {"cpu": 2000}),
        ({"memory": 1024}, {"memory": 2048}),
        ({"pods": 0}, {}),
        ({"counted": {"example.com/nic": 1}}, {"counted": (("example.com/nic", 2),)}),
    ],
)
def test_a_node_that_has_grown_without_our_hearing_of_it_is_a_candidate(there, asks) -> None:
    """kube-scheduler counts these itself; of devices there are those we know, and no more."""
    engine = _engine(node("a", gpus=1, **there), node("b", counted={"example.com/nic": 4}))
    _run(engine, _low("low", count=1), 0)
    wanted = replace(_wanted(count=1), **_as_asked(asks))
    grown = choose_victims(Candidate(engine, wanted, 0, passed=True), [])
    assert grown is not None and grown.uids == ("low",)
    assert choose_victims(Candidate(engine, wanted, 0), []) is None
    more = replace(wanted, gpu=pod(count=2).gpu)
    assert choose_victims(Candidate(engine, more, 0, passed=True), ["low"]) is None
    assert engine.state.check() == []


def _as_asked(asks: dict[str, Any]) -> dict[str, Any]:
    request = pod(**asks)
    shape = {"cpu": "cpu_milli", "memory": "memory_bytes", "counted": "counted"}
    return {shape[name]: getattr(request, shape[name]) for name in asks}


def test_what_is_reserved_for_others_is_kept_on_a_node_that_has_grown() -> None:
    """By how much it has grown nobody here knows; the devices of others stay theirs."""
    engine = _engine(node("a", gpus=2, cpu=1000))
    _run(engine, _low("low", count=1), 0)
    engine.reserve_until(pod("other", cpu=100, memory=1, count=1, priority=20), "a", 100.0)
    wanted = pod("wanted", cpu=2000, memory=1, priority=10, count=1)
    found = choose_victims(Candidate(engine, wanted, 0, passed=True), [])
    assert found is not None and found.uids == ("low",)
    both = replace(wanted, gpu=pod(count=2).gpu)
    assert choose_victims(Candidate(engine, both, 0, passed=True), ["low"]) is None
