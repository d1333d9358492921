"""The columnar state: all-or-nothing deltas, frozen snapshots, and a recount that always agrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.core.audit import differences
from scheduler.core.engine import Engine
from scheduler.core.errors import (
    CapacityConflict,
    FrozenState,
    SchedulerError,
    UnknownNode,
    UnknownPod,
)
from scheduler.core.model import (
    MAX_CPU_MILLI,
    MAX_DEVICE_MEMORY_MIB,
    MAX_MEMORY_BYTES,
    MAX_PODS,
    Device,
    DeviceShare,
    Placement,
    Release,
)
from scheduler.core.state import ClusterState, DeviceCode
from scheduler.core.validator import verify
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
    assert list(differences(state, before)) == [] and state.check() == []


def test_a_release_makes_room_for_what_follows_it() -> None:
    state = _two_nodes()
    state.apply([Placement(pod("old", count=1), "a", WHOLE)])
    state.apply([Release("old"), Placement(pod("new", count=1), "a", WHOLE)])
    assert set(state.placements) == {"new"}


@pytest.mark.parametrize(
    ("devices", "fields", "word"),
    [
        (WHOLE, {"cpu": 9000, "count": 1}, "milli-CPU"),
        (WHOLE, {"memory": 1 << 30, "count": 1}, "bytes of memory requested"),
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
        ("slices", DeviceShare(0, 500, 0, 2), "1 replica free"),
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
    """Random nodes, pods, holds of facts and removals; a recount and the validator always agree."""

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
            self.engine.place_on(request, found.name)

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


# -- numbers of any size -------------------------------------------------------------------------

_AMOUNTS = st.one_of(
    st.integers(0, 2000),
    st.sampled_from([1 << bits for bits in (15, 16, 31, 32, 40, 62, 63, 64, 200)]),
    st.sampled_from([(1 << bits) - 1 for bits in (15, 16, 31, 32, 63, 64)]),
    st.integers(1 << 60, 1 << 70),
)
_SIGNED = st.one_of(_AMOUNTS, st.integers(-(1 << 65), -1))
_SHARES = st.builds(DeviceShare, st.one_of(st.integers(-2, 5), _SIGNED), _SIGNED, _SIGNED, _SIGNED)


class _Unplugged(BaseException):
    """What nobody expects, such as an interrupt."""


class _Breaks:
    """A number whose reader is interrupted."""

    def __int__(self) -> int:
        raise _Unplugged


_MIXED = (
    Device("A100", 40_960),
    Device("A100", mig="A100-40"),
    Device("A100", replicas=3),
    Device("A100", healthy=False),
)


class Extremes(RuleBasedStateMachine):
    """Facts with numbers of any size, broken off anywhere: the books are exact all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = [node("a", devices=_MIXED), node("b", gpus=2), node("c")]
        self.state = ClusterState(self.nodes)
        self.empty = self.state.fork()
        self.serial = 0

    def _fact(self, where: str, cpu: int, memory: int, shares: list[DeviceShare]) -> Placement:
        self.serial += 1
        request = pod(f"p{self.serial}", cpu=cpu, memory=memory, **({"count": 1} if shares else {}))
        return Placement(request, where, tuple(shares))

    @rule(
        where=st.sampled_from("abc"), cpu=_AMOUNTS, memory=_AMOUNTS,
        shares=st.lists(_SHARES, max_size=4),
    )  # fmt: skip
    def place(self, where: str, cpu: int, memory: int, shares: list[DeviceShare]) -> None:
        self.state.apply([self._fact(where, cpu, memory, shares)], enforce=False)

    @precondition(lambda self: self.state.placements)
    @rule(data=st.data(), where=st.sampled_from("abc"), shares=st.lists(_SHARES, max_size=3),
          broken=st.sampled_from([_Breaks(), "12", None, float("nan"), 1 << 5000]),
          part=st.sampled_from(["index", "milli", "memory_mib", "slots"]))  # fmt: skip
    def break_off(self, data: st.DataObject, where: str, shares, broken, part: str) -> None:
        """A delta whose last step cannot be written, or can; then it is withdrawn again."""
        leaving = data.draw(st.sampled_from(sorted(self.state.placements)))
        bad = DeviceShare(**{"index": 0, "milli": 1, part: broken})
        steps = [
            Release(leaving),
            self._fact(where, 1 << 63, 5, shares),
            self._fact(where, 1, 1, [*shares, bad]),
        ]
        before, stamp = self.state.fork(), self.state.generation_now
        try:
            self.state.apply(steps, enforce=False)
        except (_Unplugged, TypeError, ValueError, OverflowError):
            assert list(differences(self.state, before)) == []
            assert self.state.placements == before.placements
            assert self.state.generation_now == stamp
        else:
            self.state.apply([Release(step.pod.uid) for step in steps[1:]])

    @precondition(lambda self: self.state.placements)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.state.apply([Release(data.draw(st.sampled_from(sorted(self.state.placements))))])

    @rule(
        where=st.sampled_from("abc"),
        cpu=st.sampled_from([0, MAX_CPU_MILLI]),
        memory=st.sampled_from([0, MAX_MEMORY_BYTES >> 20]),
        pods=st.sampled_from([0, 5, MAX_PODS]),
        gpu=st.sampled_from([0, 5, MAX_DEVICE_MEMORY_MIB]),
    )
    def describe_anew_and_back(
        self, where: str, cpu: int, memory: int, pods: int, gpu: int
    ) -> None:
        devices = (Device("A100", gpu),) * 3
        self.state.update_node(node(where, cpu=cpu, memory=memory, pods=pods, devices=devices))
        assert self.state.check() == []
        self.state.update_node(next(each for each in self.nodes if each.name == where))

    @invariant()
    def the_books_are_exact(self) -> None:
        assert self.state.check() == []
        over = self.state.fork()
        over.apply([Release(uid) for uid in over.placements])
        assert list(differences(over, self.empty)) == []

    @invariant()
    def nothing_is_freed_by_a_charge(self) -> None:
        for column in ("cpu_free", "mem_free", "pods_free", "gpu_free", "slots_free",
                       "device_mem_free", "most_free", "full_free", "gpu_left"):  # fmt: skip
            assert (getattr(self.state, column) <= getattr(self.empty, column)).all(), column


Extremes.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestExtremes = Extremes.TestCase


@pytest.mark.parametrize(
    ("share", "pods"),
    [
        (DeviceShare(0, 0, 1 << 24), 300),
        (DeviceShare(0, 1 << 62, 1 << 62), 300),
        (DeviceShare(1, 1000, 0, 1 << 62), 300),
        (DeviceShare(1 << 62, 1 << 62, 1 << 62, 1 << 62), 300),
        (DeviceShare(0, 1), 33_000),
    ],
)
def test_no_column_wraps_however_many_claim_however_much(share: DeviceShare, pods: int) -> None:
    state = ClusterState([node("a", devices=(Device("T4", 16), Device("T4", replicas=9)))])
    empty = state.fork()
    asks = {"cpu": 1 << 62, "memory": 1 << 62, "count": 1}
    crowd = [Placement(pod(**asks), "a", (share,)) for _ in range(pods)]
    state.apply(crowd, enforce=False)
    assert state.affinity[0].sum() == pods and state.cpu_free[0] < 0 and state.mem_free[0] < 0
    for column in ("gpu_free", "device_mem_free", "slots_free"):
        assert (getattr(state, column) <= getattr(empty, column)).all()
    state.apply([Release(placed.pod.uid) for placed in crowd])
    assert list(differences(state, empty)) == [] == state.check()


@pytest.mark.parametrize("known", [False, True])
def test_a_node_that_cannot_be_described_changes_nothing(known: bool) -> None:
    state = _two_nodes()
    state.apply([Placement(pod("p", count=1), "a", WHOLE)])
    before = state.fork()
    impossible = Device("T4", mig="no such geometry")
    with pytest.raises(Exception, match="no such geometry"):
        state.add_node(node("a" if known else "new", devices=(impossible,)))
    assert state.check() == [] and state.row_of == before.row_of
    assert not known or list(differences(state, before)) == []
    assert state.add_node(node("new", gpus=1)) == 2 and state.check() == []
