"""The workload profile: counted, and learnt with forgetting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidInput
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.pricing.learner import ProfileLearner
from tests.builders import pod


def test_the_most_popular_shapes_are_kept_until_they_cover_enough() -> None:
    pods = [pod(count=1)] * 90 + [pod(milli=500)] * 6 + [pod(milli=10)] * 4
    profile = WorkloadProfile.from_requests(pods, coverage=0.95)
    assert [(s.gpu.kind.name, s.weight) for s in profile.shapes] == [("WHOLE", 90), ("FRACTION", 6)]
    assert profile.total_weight == 96


def test_memory_does_not_tell_shapes_apart() -> None:
    profile = WorkloadProfile.from_requests([pod(count=1, memory=1000), pod(count=1, memory=3000)])
    assert [(s.weight, s.memory_bytes) for s in profile.shapes] == [(2, 2000 << 20)]


@given(st.permutations([pod(milli=m) for m in (100, 100, 200, 300, 300, 400)]))
def test_order_makes_no_difference(pods) -> None:
    assert WorkloadProfile.from_requests(pods) == WorkloadProfile.from_requests(
        sorted(pods, key=str)
    )


def test_an_empty_trace_has_an_empty_profile() -> None:
    assert (
        WorkloadProfile.from_requests([]).shapes == () and ProfileLearner().profile().shapes == ()
    )


def test_old_observations_fade() -> None:
    learner = ProfileLearner(half_life_pods=10)
    for _ in range(100):
        learner.observe(pod(count=1))
    for _ in range(10):
        learner.observe(pod(milli=500))
    weights = {s.gpu.kind.name: s.weight for s in learner.profile().shapes}
    assert learner.observed == 110
    assert abs(weights["WHOLE"] - weights["FRACTION"]) < 20_000


def test_forgetting_survives_rescaling() -> None:
    learner = ProfileLearner(half_life_pods=1)
    for _ in range(200):
        learner.observe(pod(count=1))
    learner.observe(pod(count=2))
    assert {s.gpu.count for s in learner.profile().shapes} == {1, 2}


def test_running_pods_come_first_in_no_order_and_fade_like_others() -> None:
    running = [pod(count=1)] * 500 + [pod(count=2)] * 500
    forwards, backwards = (
        ProfileLearner(half_life_pods=10, running=pods) for pods in (running, running[::-1])
    )
    assert forwards.profile() == backwards.profile() and forwards.observed == 1000
    one, two = forwards.profile().shapes
    assert one.weight == two.weight
    for _ in range(10):
        forwards.observe(pod(milli=500))
    weights = {s.gpu.kind.name: s.weight for s in forwards.profile().shapes if s.gpu.count < 2}
    # Ten new ones are half of all that counts, as among pods seen one by one.
    assert abs(weights["FRACTION"] - 2 * weights["WHOLE"]) < 40_000
    few = ProfileLearner(half_life_pods=1000, running=[pod(count=1)])
    few.observe(pod(count=2))
    assert {s.gpu.count for s in few.profile().shapes} == {1, 2}


@pytest.mark.parametrize(("half_life", "coverage"), [(0, 0.9), (10, 0.0), (10, 1.5)])
def test_impossible_settings_are_refused(half_life: int, coverage: float) -> None:
    with pytest.raises(InvalidInput):
        ProfileLearner(half_life, coverage)


def test_impossible_coverage_is_refused() -> None:
    with pytest.raises(InvalidInput, match="coverage"):
        WorkloadProfile.from_requests([pod()], coverage=2.0)
