"""The columnar state: all-or-nothing deltas, frozen snapshots, and a recount that always agrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.core.engine import Engine
from scheduler.core.errors import (
    CapacityConflict,
    FrozenState,
    SchedulerError,
    UnknownNode,
    UnknownPod,
)
from scheduler.core.model import Device, DeviceShare, Placement, Release
from scheduler.core.state import ClusterState, DeviceCode
from scheduler.core.verify import verify
from tests.builders import node, pod
from tests.depth import examples

WHOLE = (DeviceShare(0, 1000),)


def _two_nodes() -> ClusterState:
    return ClusterState([node("a", gpus=2, cpu=8000), node("b", gpus=4, cpu=8000)])


def test_columns_say_what_is_left() -> None:
    state = _two_nodes()
    state.apply([Placement(pod("p", cpu=3000, milli=300), "a", (DeviceShare(1, 300),))])
    assert state.cpu_free.tolist() == [5000, 8000]
    assert state.gpu_free.tolist() == [[1000, 700, -1, -1], [1000] * 4]
    assert state.full_free.tolist() == [1, 4] and state.most_free.tolist() == [1000, 1000]
    assert state.gpu_used.tolist() == [300, 0] and state.gpu_left.tolist() == [1700, 4000]
    assert state.check() == []


def test_a_delta_is_all_or_nothing() -> None:
    state = _two_nodes()
    state.apply([Placement(pod("old", count=1), "a", WHOLE)])
    before = state.snapshot()
    with pytest.raises(CapacityConflict, match="milli-GPU free"):
        state.apply(
            [
                Release("old"),
                Placement(pod("x", count=1), "b", WHOLE),
                Placement(pod("y", count=1), "b", WHOLE),
            ]
        )
    assert state.placements == before.placements
    assert state.generation_now == before.generation_now
    assert list(state._differences(before)) == [] and state.check() == []


def test_a_release_makes_room_for_what_follows_it() -> None:
    state = _two_nodes()
    state.apply([Placement(pod("old", count=1), "a", WHOLE)])
    state.apply([Release("old"), Placement(pod("new", count=1), "a", WHOLE)])
    assert set(state.placements) == {"new"}


@pytest.mark.parametrize(
    ("devices", "fields", "word"),
    [
        (WHOLE, {"cpu": 9000, "count": 1}, "milli-CPU"),
        (WHOLE, {"memory": 1 << 30, "count": 1}, "MiB requested"),
        ((DeviceShare(7, 1000),), {"count": 1}, "does not exist"),
        ((DeviceShare(-1, 1000),), {"count": 1}, "does not exist"),
        ((DeviceShare(0, 500), DeviceShare(0, 500)), {"count": 1}, "listed twice"),
        ((DeviceShare(0, 500, 20_000),), {"milli": 500}, "MiB free"),
    ],
)
def test_over_commitment_is_refused_by_name(devices, fields, word: str) -> None:
    state = ClusterState([node("a", gpus=2, cpu=8000, gpu_memory=16_000)])
    with pytest.raises(CapacityConflict, match=word):
        state.apply([Placement(pod("p", **fields), "a", devices)])
    assert state.check() == [] and not state.placements


def test_no_pod_slot_left() -> None:
    state = ClusterState([node("a", pods=1)])
    state.apply([Placement(pod("p"), "a")])
    with pytest.raises(CapacityConflict, match="pod slot"):
        state.apply([Placement(pod("q"), "a")])


def test_slots_replicas_and_health_are_respected() -> None:
    state = ClusterState(
        [
            node("mig", devices=(Device("A100", mig="A100-40"),)),
            node("slices", devices=(Device("T4", replicas=4),)),
            node("sick", devices=(Device("T4", healthy=False),)),
        ]
    )
    state.apply([Placement(pod("m", mig=(("1g.5gb", 1),)), "mig", (DeviceShare(0, 125, 0, 1),))])
    state.apply([Placement(pod("s", replicas=3), "slices", (DeviceShare(0, 750, 0, 3),))])
    for name, share, word in (
        ("mig", DeviceShare(0, 125, 0, 1), "MIG slots"),
        ("mig", DeviceShare(0, 125, 0, 0), "MIG slots"),
        ("slices", DeviceShare(0, 500, 0, 2), "replicas"),
        ("sick", DeviceShare(0, 1000), "unhealthy"),
    ):
        with pytest.raises(CapacityConflict, match=word):
            state.apply([Placement(pod(count=1), name, (share,))])
    assert state.gpu_left.tolist() == [875, 250, 0]
    state.apply([Release("m"), Release("s")])
    assert state.gpu_left.tolist() == [1000, 1000, 0] and state.check() == []


def test_unknown_names_are_refused() -> None:
    state = _two_nodes()
    with pytest.raises(UnknownNode, match="'zz'"):
        state.apply([Placement(pod("p"), "zz")])
    with pytest.raises(UnknownPod, match="'nobody'"):
        state.apply([Release("nobody")])
    with pytest.raises(CapacityConflict, match="already placed on a"):
        state.apply([Placement(pod("p"), "a"), Placement(pod("p"), "b")])
    assert not state.placements


def test_facts_may_over_fill_a_row_and_are_given_back() -> None:
    state = ClusterState([node("a", gpus=1, cpu=1000)])
    crowd = [Placement(pod(f"p{i}", cpu=800, count=1), "a", WHOLE) for i in range(2)]
    state.apply(crowd, enforce=False)
    assert state.cpu_free[0] == -600 and state.gpu_free[0, 0] == -1000
    assert Engine(state).best(pod("q", cpu=1)) == -1
    state.apply([Release("p0"), Release("p1")])
    assert state.cpu_free[0] == 1000 and state.gpu_free[0, 0] == 1000


def test_slots_claimed_twice_stay_taken_until_both_are_gone() -> None:
    state = ClusterState([node("a", devices=(Device("A100", mig="A100-40"),))])
    claim = (DeviceShare(0, 125, 0, 1),)
    state.apply(
        [Placement(pod(f"p{i}", mig=(("1g.5gb", 1),)), "a", claim) for i in range(2)],
        enforce=False,
    )
    state.apply([Release("p0")])
    assert state.slots_free[0, 0] & 1 == 0
    state.apply([Release("p1")])
    assert state.slots_free[0, 0] & 1 == 1


def test_a_device_that_vanishes_keeps_its_pods_on_the_books() -> None:
    state = ClusterState([node("a", gpus=2)])
    state.apply([Placement(pod("p", count=1), "a", (DeviceShare(1, 1000),))])
    state.update_node(node("a", gpus=1))
    assert state.gpu_used[0] == 1000 and state.gpu_free[0].tolist() == [1000, -1]
    state.apply([Release("p")])
    assert state.gpu_used[0] == 0 and state.check() == []


def test_a_snapshot_is_frozen_and_a_fork_is_free() -> None:
    state = _two_nodes()
    frozen, fork = state.snapshot(), state.fork()
    assert frozen.frozen and not fork.frozen
    for write in (
        lambda: frozen.apply([]),
        lambda: frozen.add_node(node("c")),
        lambda: frozen.update_node(node("a")),
        lambda: frozen.remove_node("a"),
    ):
        with pytest.raises(FrozenState):
            write()
    with pytest.raises(ValueError, match="read-only"):
        frozen.cpu_free[0] = 0
    fork.apply([Placement(pod("p", count=1), "a", WHOLE)])
    assert state.gpu_used[0] == 0 and frozen.gpu_used[0] == 0 and fork.check() == []


def test_a_removed_node_leaves_a_row_that_is_used_again() -> None:
    state = _two_nodes()
    placed = Placement(pod("p", count=1), "a", WHOLE)
    state.apply([placed])
    assert state.remove_node("a") == (placed,)
    assert state.nodes[0] is None and state.empty_rows == [0] and not state.placements
    assert state.check() == []
    assert state.add_node(node("c", gpus=8)) == 0
    assert len(state) == 2 and state.gpu_free.shape == (2, 8) and state.check() == []
    assert state.add_node(node("c", gpus=1)) == 0 and state.device_count[0] == 1


def test_the_journal_tells_what_changed_or_that_it_forgot() -> None:
    state = _two_nodes()
    _, position = state.changed_since(0)
    state.apply([Placement(pod("p", count=1), "b", WHOLE)])
    changed, position = state.changed_since(position)
    assert changed == [1] and state.changed_since(position)[0] == []
    for _ in range(4000):
        state.apply([Release("p"), Placement(pod("p", count=1), "b", WHOLE)])
    state.apply([Release("p")])
    for _ in range(3000):
        state.update_node(node("a", gpus=2, cpu=8000))
    assert state.changed_since(position)[0] is None


def test_fifteen_thousand_nodes_of_eight_devices_are_held() -> None:
    state = ClusterState(node(f"n{i}", gpus=8) for i in range(15_000))
    assert state.gpu_free.shape == (15_000, 8)
    assert int(state.gpu_left.sum()) == 15_000 * 8_000
    assert state.snapshot().cpu_free.nbytes == 15_000 * 8


class Churn(RuleBasedStateMachine):
    """Random nodes, pods, holds of facts and removals; a recount and the referee always agree."""

    def __init__(self) -> None:
        super().__init__()
        self.state = ClusterState([node("n0", gpus=2, cpu=8000)])
        self.engine = Engine(self.state)
        self.serial = 0

    @rule(
        gpus=st.integers(0, 3),
        kind=st.sampled_from(["plain", "mig", "shared", "sick"]),
        name=st.integers(0, 3),
        cpu=st.integers(0, 16_000),
    )
    def put_node(self, gpus: int, kind: str, name: int, cpu: int) -> None:
        if any(p.node == f"n{name}" for p in self.state.placements.values()):
            return
        device = {
            "plain": Device("T4", 16_000),
            "mig": Device("T4", mig="A100-40"),
            "shared": Device("T4", replicas=3),
            "sick": Device("T4", healthy=False),
        }[kind]
        self.state.add_node(node(f"n{name}", devices=(device,) * gpus, cpu=cpu))

    @rule(
        gpu=st.sampled_from(
            [
                {},
                {"count": 1},
                {"count": 2},
                {"milli": 300},
                {"milli": 700, "memory_mib": 4000},
                {"memory_mib": 5000},
                {"mig": (("1g.5gb", 1),)},
                {"mig": (("3g.20gb", 1), ("2g.10gb", 1))},
                {"replicas": 2},
            ]
        ),
        cpu=st.integers(0, 4000),
    )
    def place(self, gpu: dict[str, object], cpu: int) -> None:
        self.serial += 1
        request = pod(f"p{self.serial}", cpu=cpu, **gpu)
        row = self.engine.best(request)
        if row >= 0:
            found = self.state.nodes[row]
            assert found is not None
            self.engine.reserve(request, found.name)

    @precondition(lambda self: self.state.placements)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.engine.release(data.draw(st.sampled_from(sorted(self.state.placements))))

    @precondition(lambda self: self.state.row_of)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.state.remove_node(data.draw(st.sampled_from(sorted(self.state.row_of))))

    @rule(data=st.data())
    def refuse_nonsense(self, data: st.DataObject) -> None:
        before = self.state.generation_now
        with pytest.raises(SchedulerError):
            self.state.apply([Placement(pod("bad"), "nowhere"), Release("nobody")])
        assert self.state.generation_now == before

    @invariant()
    def recount_agrees(self) -> None:
        assert self.state.check() == []

    @invariant()
    def nothing_is_over_committed(self) -> None:
        alive = [n for n in self.state.nodes if n is not None]
        assert verify(alive, self.state.placements.values()) == []
        assert (self.state.cpu_free[self.state.device_code[:, 0] > DeviceCode.ABSENT] >= 0).all()

    @invariant()
    def caches_agree_with_a_fresh_engine(self) -> None:
        fresh = Engine(self.state)
        for request in (pod("x", milli=300), pod("y", count=1), pod("z", mig=(("1g.5gb", 1),))):
            np.testing.assert_array_equal(self.engine.filter(request), fresh.filter(request))
            rows = np.arange(len(self.state))
            np.testing.assert_array_equal(
                self.engine.scores(request, rows), fresh.scores(request, rows)
            )


Churn.TestCase.settings = settings(
    max_examples=examples(15, 100), stateful_step_count=25, deadline=None
)
TestChurn = Churn.TestCase
