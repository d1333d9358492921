"""The engine as its drivers use it: pure answers, reservations, holds, ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.engine import INFEASIBLE, Engine
from scheduler.core.errors import CapacityConflict, InvalidInput, UnknownNode, UnknownPod
from scheduler.core.model import Device, NodeSelection, Reason, Taint, Toleration
from scheduler.core.policies.table import POLICIES, policy_named
from scheduler.core.ranking import best_first, ranks
from scheduler.core.state import ClusterState
from scheduler.core.validator import verify
from scheduler.core.workload_profile import WorkloadProfile
from tests.builders import node, pod
from tests.depth import examples

ALL = sorted(POLICIES)


def _cluster(count: int = 6) -> ClusterState:
    return ClusterState(
        [
            node(f"n{i}", gpus=(1, 2, 4, 8)[i % 4], cpu=16_000, product=("T4", "A10")[i % 2])
            for i in range(count)
        ]
    )


def test_answers_change_nothing() -> None:
    state = _cluster()
    engine = Engine(state, profile=WorkloadProfile.from_requests([pod(count=1)]))
    generation = state.generation_now
    request = pod("p", milli=300)
    first = engine.choose(request, "n2")
    for _ in range(3):
        engine.filter(request)
        engine.ranks(request, np.arange(6))
        assert engine.choose(request, "n2") == first
    assert state.generation_now == generation and not state.placements


@pytest.mark.parametrize("policy", ALL)
def test_every_policy_fills_the_cluster_without_over_commitment(policy: str) -> None:
    state = _cluster(8)
    nodes = [n for n in state.nodes if n]
    sizes = [{"milli": 300}, {"count": 1}, {"milli": 700}, {"count": 2}, {}, {"count": 4}]
    requests = [pod(f"p{i}", cpu=500, **sizes[i % 6]) for i in range(120)]
    engine = Engine(state, policy, profile=WorkloadProfile.from_requests(requests), seed=3)
    refused = 0
    for request in requests:
        row = engine.best(request)
        if row < 0:
            refused += 1
            assert (engine.filter(request) != Reason.FITS.code).all()
            continue
        engine.place_on(request, nodes[row].name)
    assert refused and verify(nodes, state.placements.values()) == [] and state.check() == []


@pytest.mark.parametrize("policy", ALL)
def test_the_same_run_twice_is_the_same_run(policy: str) -> None:
    def run() -> list[int]:
        engine = Engine(
            _cluster(), policy, profile=WorkloadProfile.from_requests([pod(count=1)]), seed=5
        )
        rows = []
        for i in range(30):
            request = pod(f"p{i}", milli=100 + 37 * i % 800)
            rows.append(engine.best(request))
            if rows[-1] >= 0:
                engine.place_on(request, f"n{rows[-1]}")
        return rows

    assert run() == run()


def test_another_seed_is_another_random_run() -> None:
    def picks(seed: int) -> list[int]:
        engine = Engine(_cluster(), "random", seed=seed)
        return [engine.best(pod(f"p{i}", milli=100)) for i in range(20)]

    assert picks(1) == picks(1) and picks(1) != picks(2)


def test_reserving_twice_is_reserving_once() -> None:
    engine = Engine(_cluster())
    request = pod("p", count=1)
    assert engine.place_on(request, "n1") == engine.place_on(request, "n1")
    assert engine.state.gpu_used[1] == 1000
    with pytest.raises(CapacityConflict, match="already placed on n1"):
        engine.place_on(request, "n2")


def test_reserving_what_does_not_fit_says_why() -> None:
    engine = Engine(_cluster())
    with pytest.raises(CapacityConflict, match="larger than the whole node"):
        engine.place_on(pod(count=2), "n0")
    with pytest.raises(UnknownNode):
        engine.place_on(pod(), "elsewhere")
    assert engine.explain(pod(), "elsewhere") is Reason.NODE_UNKNOWN


def test_release_gives_everything_back() -> None:
    engine = Engine(_cluster())
    engine.place_on(pod("p", count=1), "n0")
    assert engine.explain(pod("q", count=1), "n0") is Reason.INSUFFICIENT_DEVICES
    engine.release("p")
    assert engine.explain(pod("q", count=1), "n0") is Reason.FITS
    with pytest.raises(UnknownPod):
        engine.release("p")


class TestHolds:
    """A hold counts for every other pod, and is invisible to its own."""

    def test_two_quick_pods_do_not_count_on_the_same_hole(self) -> None:
        engine = Engine(ClusterState([node("n0", gpus=1)]))
        first, second = pod("first", count=1), pod("second", count=1)
        engine.reserve_until(first, "n0", until=10.0)
        assert engine.best(first) == 0 and engine.best(second) == -1
        assert engine.ranks(first, np.array([0])).tolist() == [10]

    def test_a_hold_expires_at_its_time_and_not_before(self) -> None:
        engine = Engine(ClusterState([node("n0", gpus=1)]))
        engine.reserve_until(pod("a", count=1), "n0", until=10.0)
        assert engine.reservations.expire(9.99) == 0 and engine.best(pod("b", count=1)) == -1
        assert engine.reservations.expire(10.0) == 1 and engine.best(pod("b", count=1)) == 0
        assert engine.state.check() == []

    def test_a_hold_becomes_the_placement(self) -> None:
        engine = Engine(_cluster())
        request = pod("p", milli=300)
        engine.reserve_until(request, "n2", until=5.0)
        held = engine.reservations["p"].placement
        assert engine.place_on(request, "n2") == held and not engine.reservations
        assert engine.reservations.expire(100.0) == 0 and engine.state.placements["p"] == held

    def test_a_hold_follows_the_winner(self) -> None:
        engine = Engine(_cluster())
        request = pod("p", count=1)
        engine.reserve_until(request, "n0", until=5.0)
        engine.reserve_until(request, "n1", until=6.0)
        assert engine.state.gpu_used.tolist()[:2] == [0, 1000]
        engine.reserve_until(request, "n1", until=9.0)
        assert engine.reservations["p"].until == 9.0

    def test_a_hold_is_replaced_by_a_placement_elsewhere(self) -> None:
        engine = Engine(_cluster())
        request = pod("p", count=1)
        engine.reserve_until(request, "n0", until=5.0)
        engine.place_on(request, "n1")
        assert engine.state.gpu_used.tolist()[:2] == [0, 1000] and not engine.reservations

    def test_a_failed_move_keeps_the_hold(self) -> None:
        engine = Engine(_cluster())
        engine.reserve_until(pod("p", count=2), "n1", until=5.0)
        with pytest.raises(CapacityConflict):
            engine.place_on(pod("p", count=2), "n0")
        assert engine.reservations["p"].placement.node == "n1" and engine.state.check() == []

    def test_a_placed_pod_gets_no_hold(self) -> None:
        engine = Engine(_cluster())
        engine.place_on(pod("p", count=1), "n0")
        engine.reserve_until(pod("p", count=1), "n1", until=5.0)
        assert not engine.reservations and engine.state.placements["p"].node == "n0"

    def test_a_dropped_hold_leaves_nothing(self) -> None:
        engine = Engine(_cluster())
        engine.reserve_until(pod("q", count=1), "n1", until=5.0)
        engine.reservations.drop("q")
        assert "q" not in engine.state.placements
        with pytest.raises(UnknownPod):
            engine.reservations.drop("q")

    def test_a_hold_on_a_removed_node_is_gone_with_it(self) -> None:
        engine = Engine(_cluster())
        engine.reserve_until(pod("p", count=1), "n0", until=5.0)
        engine.state.remove_node("n0")
        assert engine.reservations.expire(10.0) == 1 and not engine.reservations

    @pytest.mark.parametrize("policy", ALL)
    def test_repeating_a_question_repeats_the_answer(self, policy: str) -> None:
        engine = Engine(_cluster(), policy, profile=WorkloadProfile.from_requests([pod(count=1)]))
        request = pod("p", milli=300)
        rows = np.arange(6)
        before = engine.scores(request, rows).tolist()
        engine.reserve_until(request, f"n{engine.best(request)}", until=5.0)
        assert engine.scores(request, rows).tolist() == before
        assert engine.filter(request).tolist() == [0] * 6


def test_selection_rules_are_applied_on_request_only() -> None:
    state = ClusterState(
        [node("a", gpus=1, taints=(Taint("gpu"),)), node("b", gpus=1, unschedulable=True)]
    )
    engine = Engine(state)
    assert engine.filter(pod(count=1)).tolist() == [0, 0]
    assert engine.best(pod(count=1), selection=True) == -1
    tolerant = pod(count=1, selection=NodeSelection(tolerations=(Toleration("", "Exists"),)))
    assert engine.best(tolerant, selection=True) == 0
    assert engine.explain(pod(count=1), "a") is Reason.NODE_TAINTED
    state.update_node(node("a", gpus=1))
    assert engine.best(pod(count=1), selection=True) == 0


def test_best_looks_at_the_given_rows_only() -> None:
    engine = Engine(_cluster(), "first-fit")
    assert engine.best(pod(count=1), np.array([5, 3])) == 3
    assert engine.best(pod(count=8), np.array([0, 1])) == -1
    assert engine.best(pod(), np.array([], dtype=np.int64)) == -1
    assert Engine(ClusterState()).best(pod()) == -1
    assert engine.scores(pod(count=8), np.array([0])).tolist() == [INFEASIBLE]


def test_a_new_model_or_a_new_profile_is_taken_into_account() -> None:
    state = ClusterState([node("a", gpus=1)])
    engine = Engine(
        state, profile=WorkloadProfile.from_requests([pod(cpu=0, count=1, products=("H100",))])
    )
    assert engine.best(pod(count=1)) == 0
    state.add_node(node("b", gpus=1, product="H100"))
    assert engine.best(pod("x", count=1)) == 0
    engine.put_profile_in_force(
        WorkloadProfile.from_requests([pod(cpu=0, count=1, products=("T4",))])
    )
    assert engine.best(pod("x", count=1)) == 1


def test_many_shapes_do_not_grow_the_cache_without_bound() -> None:
    engine = Engine(_cluster())
    for cpu in range(600):
        engine.best(pod("p", cpu=cpu, selection=NodeSelection(node_selector=(("a", str(cpu)),))))
        engine.best(
            pod("p", cpu=cpu, selection=NodeSelection(node_selector=(("a", str(cpu)),))),
            selection=True,
        )
    assert len(engine._evaluations) == 512 and len(engine._admission) == 256


@given(st.lists(st.integers(-5, 5), max_size=40))
def test_ranks_have_one_winner_and_keep_the_order(scores: list[int]) -> None:
    ranked = ranks(np.array(scores, dtype=np.int64), np.arange(len(scores))).tolist()
    assert all(0 <= rank <= 10 for rank in ranked) and ranked.count(10) == min(1, len(ranked))
    for a, rank_a in zip(scores, ranked, strict=True):
        for b, rank_b in zip(scores, ranked, strict=True):
            assert a <= b or rank_a >= rank_b
    if scores:
        assert ranked.index(10) == scores.index(max(scores))


@settings(max_examples=examples(25, 120), deadline=None)
@given(st.permutations(range(6)), st.sampled_from(ALL))
def test_the_order_of_the_names_in_a_call_changes_no_score(order: list[int], policy: str) -> None:
    engine = Engine(
        _cluster(), policy, profile=WorkloadProfile.from_requests([pod(count=1), pod()])
    )
    request = pod("p", milli=400)
    shuffled = np.array(order)
    by_row = dict(zip(order, engine.ranks(request, shuffled).tolist(), strict=True))
    straight = engine.ranks(request, np.arange(6)).tolist()
    assert [by_row[i] for i in range(6)] == straight


def test_a_mistyped_policy_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'best-fit'"):
        policy_named("bestfit")


def test_mig_and_replicas_are_placed_and_given_back() -> None:
    state = ClusterState(
        [
            node("m", devices=(Device("A100", mig="A100-40"),) * 2),
            node("s", devices=(Device("T4", replicas=4),) * 2),
        ]
    )
    engine = Engine(state, "best-fit")
    nodes = [n for n in state.nodes if n]
    engine.place_on(pod("a", mig=(("3g.20gb", 3),)), "m")
    engine.place_on(pod("b", replicas=5), "s")
    assert [(s.index, s.slots) for s in state.placements["b"].devices] == [(0, 4), (1, 1)]
    assert verify(nodes, state.placements.values()) == []
    assert engine.best(pod("c", mig=(("4g.20gb", 1),))) == 0  # the third 3g spared it
    assert engine.best(pod("d", mig=(("7g.40gb", 1),))) == -1
    engine.release("a")
    engine.release("b")
    assert state.gpu_left.tolist() == [2000, 2000]


def test_the_best_come_first_and_what_does_not_fit_last() -> None:
    scores = np.array([5, INFEASIBLE, 7, INFEASIBLE, 7, 6])
    rows = np.array([10, 11, 13, 9, 12, 14])
    assert best_first(scores, rows, 3).tolist() == [4, 2, 5]
    assert best_first(scores, rows, 99).tolist() == [4, 2, 5, 0, 3, 1]
    assert best_first(scores, rows, 0).tolist() == []
