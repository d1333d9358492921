"""The node that others take last: for whom, until when, and that it refuses nobody."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.engine import INFEASIBLE, Engine
from scheduler.core.mix import TypicalMix
from scheduler.core.model import GangKey, PodRequest, Reason
from scheduler.core.sparing import Sparing
from scheduler.core.state import ClusterState
from tests.builders import node, pod

EIGHT = pod("eight", count=8)


def _engine(*taken: int, policy: str = "fgd") -> Engine:
    """Nodes of eight devices, so many of them taken."""
    engine = Engine(
        ClusterState([node(f"n{i}", gpus=8) for i in range(len(taken))]),
        policy,
        mix=TypicalMix.from_requests([pod(count=1)]),
    )
    for i, count in enumerate(taken):
        for k in range(count):
            engine.reserve(pod(f"on-{i}-{k}", count=1), f"n{i}")
    return engine


def _spared(engine: Engine) -> str:
    return engine.spared.node if engine.spared else ""


def test_others_take_the_nearest_node_last_and_are_refused_nothing() -> None:
    engine = _engine(6, 2, 8)
    one = pod("one", count=1)
    # As tight as it gets, but for the pod of eight the other one is nearer.
    assert engine.best(one) == 0
    Sparing(engine).waits(pod("seven", count=7), 0.0)
    assert _spared(engine) == "n1" and engine.best(one) == 0
    engine = _engine(2, 1, 8)
    assert engine.best(one) == 0
    Sparing(engine).waits(EIGHT, 0.0)
    assert _spared(engine) == "n1"
    for i in range(6):
        assert engine.best(pod(f"more-{i}", count=1)) == 0
        engine.reserve(pod(f"more-{i}", count=1), "n0")
    assert engine.best(one) == 1  # nowhere else
    assert engine.explain(one, "n1") is Reason.FITS


@pytest.mark.parametrize(
    ("asked", "goes"),
    [
        (pod("one", count=1), 0),
        (pod("part", milli=300), 0),
        (pod("cpu only"), 1),
        (pod("above", count=1, priority=10), 1),
        (pod("two", count=2), 1),  # whom the node is spared for
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_who_leaves_the_node_to_another(asked: PodRequest, goes: int) -> None:
    """By itself everybody would take the tighter node."""
    engine = _engine(3, 6, policy="fgd")
    engine.spared = None
    assert engine.best(asked) == 1
    waiting = pod("two", count=2)
    sparing = Sparing(engine)
    sparing.waits(waiting, 0.0, np.array([1]))
    assert _spared(engine) == "n1"
    assert engine.best(asked) == goes


def test_who_has_waited_longest_comes_first_until_gone() -> None:
    engine = _engine(2, 3)
    sparing = Sparing(engine)
    for now, name in enumerate("abc"):
        sparing.waits(pod(name, count=8), float(now))
    sparing.waits(pod("a", count=8), 9.0)  # asks again
    for name in "abc":
        assert engine.spared is not None and engine.spared.request.name == name
        sparing.gone(pod(name).uid)
    assert engine.spared is None
    sparing.gone("nobody")


def test_who_asks_no_more_is_forgotten() -> None:
    engine = _engine(2, 3)
    sparing = Sparing(engine)
    sparing.forget(100.0)
    sparing.waits(pod("a", count=8), 0.0)
    sparing.waits(pod("b", count=8), 50.0)
    sparing.forget(0.0)
    assert engine.spared is not None and engine.spared.request.name == "a"
    sparing.forget(20.0)
    assert engine.spared is not None and engine.spared.request.name == "b"


def test_the_node_is_another_once_it_is_of_no_use() -> None:
    engine = _engine(2, 3, 4)
    sparing = Sparing(engine)
    sparing.waits(EIGHT, 0.0)
    assert _spared(engine) == "n0"
    engine.state.update_node(node("n0", gpus=8, unschedulable=True))
    sparing.waits(EIGHT, 1.0)
    assert _spared(engine) == "n1"
    for uid in [p.pod.uid for p in engine.state.pods_on(1)]:
        engine.release(uid)
    engine.state.remove_node("n1")
    assert engine.best(pod("one", count=1)) == 2  # a name without a row spares nothing
    sparing.waits(EIGHT, 2.0)
    assert _spared(engine) == "n2"


def test_where_a_pod_may_not_run_no_node_is_spared_for_it() -> None:
    """Volumes and the like are kube-scheduler's: it says which nodes it asks about."""
    engine = _engine(2, 3)
    sparing = Sparing(engine)
    sparing.waits(EIGHT, 0.0, np.array([1]))
    assert _spared(engine) == "n1"
    sparing.waits(EIGHT, 1.0, np.array([0]))
    assert _spared(engine) == "n0"
    sparing.waits(pod("other", count=8), 2.0, np.array([1]))
    sparing.waits(EIGHT, 3.0, np.array([], dtype=np.int64))
    assert engine.spared is not None and engine.spared.request.name == "other"


@pytest.mark.parametrize(
    "request_",
    [
        pod("one", count=1),
        pod("part", milli=500),
        pod("large", count=16),
        pod("member", count=8, gang=GangKey("default", "g", 4)),
    ],
    ids=lambda request: request.name,
)
def test_for_whom_nothing_is_spared(request_: PodRequest) -> None:
    engine = _engine(1, 1)
    sparing = Sparing(engine)
    sparing.waits(request_, 0.0)
    assert engine.spared is None
    sparing.waits(EIGHT, 0.0)  # who can run nowhere is in nobody's way
    assert engine.spared is not None


def test_policies_of_other_schedulers_spare_nothing() -> None:
    for policy in ("best-fit", "kube-default", "fgd-published", "random"):
        engine = _engine(1, 1, policy=policy)
        Sparing(engine).waits(EIGHT, 0.0)
        assert engine.spared is None


_PODS = [
    pod("a", count=1),
    pod("b", count=4),
    pod("c", milli=400),
    pod("d", cpu=2000),
    pod("e", count=1, priority=5),
]


@settings(max_examples=60, deadline=None)
@given(
    taken=st.lists(st.integers(0, 8), min_size=2, max_size=5),
    asked=st.sampled_from(_PODS),
    policy=st.sampled_from(["fgd", "priced"]),
)
def test_no_verdict_changes_and_only_one_score(
    taken: list[int], asked: PodRequest, policy: str
) -> None:
    plain, sparing = _engine(*taken, policy=policy), _engine(*taken, policy=policy)
    Sparing(sparing).waits(EIGHT, 0.0)
    rows = np.arange(len(taken))
    assert plain.filter(asked).tolist() == sparing.filter(asked).tolist()
    before, after = plain.scores(asked, rows), sparing.scores(asked, rows)
    changed = np.flatnonzero(before != after).tolist()
    assert len(changed) <= 1
    for row in changed:
        assert sparing.spared is not None and sparing.spared.node == f"n{row}"
        assert INFEASIBLE < after[row] < before[before != INFEASIBLE].min() + 1
    assert (plain.best(asked) < 0) == (sparing.best(asked) < 0)
