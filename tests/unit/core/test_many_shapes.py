"""However many shapes there are: what is computed with stays small, and never says too much."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from scheduler.core.engine import Engine
from scheduler.core.fragmentation import Fragmentation, Vocabulary
from scheduler.core.mig import MigType, _count, _placements
from scheduler.core.model import Device, PodRequest
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.pricing.learner import ProfileLearner
from tests.builders import node, pod

MOST_POPULAR = 192
MOST_RARE = 400
MOST_LEARNT = 1024


def _flood(kind: str, count: int) -> Iterator[PodRequest]:
    for number in range(count):
        match kind:
            case "cpu":
                yield pod(f"f{number}", cpu=1 + number, milli=500)
            case "fractions":
                yield pod(f"f{number}", cpu=1 + number * 7, milli=1 + number % 999)
            case "whole":
                yield pod(f"f{number}", cpu=1 + number, count=1 + number % 8)
            case "memory":
                yield pod(f"f{number}", memory_mib=1 + number)
            case "models":
                yield pod(f"f{number}", count=1, products=(f"model-{number}",))
            case "replicas":
                yield pod(f"f{number}", cpu=number, replicas=1 + number)
            case "instances":
                yield pod(f"f{number}", mig=(("1g.5gb", 1 + number),))
            case "no devices":
                yield pod(f"f{number}", cpu=number)
            case _:
                yield pod(f"f{number}", mig=((f"made-up-{number}", 1),))


KINDS = [
    "cpu", "fractions", "whole", "memory", "models", "replicas", "instances", "no devices", "names",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_learner_keeps_no_more_than_it_may_and_the_popular_ones_as_they_are(kind: str) -> None:
    learner = ProfileLearner(half_life_pods=2000)
    honest = pod("honest", cpu=4000, count=2)
    for number, request in enumerate(_flood(kind, 3000)):
        learner.observe(request)
        if number % 4 == 0:
            learner.observe(honest)
    known = learner.learnt()
    assert len(known.weights) <= MOST_LEARNT
    assert known.memory.keys() == known.weights.keys()
    profile = learner.profile()
    assert len(profile.shapes) <= MOST_POPULAR
    assert len(profile.rare) <= MOST_RARE
    weights = {(shape.cpu_milli, shape.gpu): shape.weight for shape in profile.shapes}
    assert 0.1 < weights[4000, honest.gpu] / sum(shape.weight for shape in profile.all_shapes) < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_tables_stay_small_and_never_call_usable_what_is_not(kind: str) -> None:
    asked = list(_flood(kind, 400))
    nodes = [
        *(node(f"p{n}", gpus=4, cpu=3000, product="A", gpu_memory=8192) for n in range(3)),
        node("m", devices=[Device("A100", mig="A100-40")] * 2, cpu=800),
        node("s", devices=[Device("T4", replicas=9)] * 2, cpu=70),
    ]
    engine = Engine(ClusterState(nodes), "fgd")
    for number in range(6):
        engine.place_on(pod(f"u{number}", cpu=150, milli=130 * number + 1), f"p{number % 3}")
    state, rows = engine.state, np.arange(len(nodes))
    profile = WorkloadProfile.from_requests(asked, coverage=1.0)
    assert len(profile.shapes) <= MOST_POPULAR
    tables = Fragmentation(state, profile)
    exact = sum(
        Fragmentation(state, WorkloadProfile.from_requests([request])).usable(state, rows)
        for request in asked
    )
    assert (tables.usable(state, rows) <= exact).all()


def test_few_shapes_are_counted_as_they_are() -> None:
    draw = random.Random(5)
    few = [
        pod(f"p{n}", cpu=draw.randint(1, 60) * 500, **draw.choice([{"count": 2}, {"milli": 333}]))
        for n in range(2000)
    ]
    profile = WorkloadProfile.from_requests(few, coverage=1.0)
    assert {(s.cpu_milli, s.gpu) for s in profile.shapes} == {(p.cpu_milli, p.gpu) for p in few}
    assert sum(s.weight for s in profile.shapes) == len(few)


def test_tables_made_of_a_vocabulary_are_those_of_the_state() -> None:
    state = ClusterState([node("a", gpus=4, gpu_memory=8192), node("b", gpus=2, product="A10")])
    profile = WorkloadProfile.from_requests(_flood("memory", 50))
    made = Fragmentation(Vocabulary.of(state), profile)
    rows = np.arange(2)
    assert (made.usable(state, rows) == Fragmentation(state, profile).usable(state, rows)).all()
    engine = Engine(state, "fgd")
    engine.put_profile_in_force(profile, made)
    assert engine.tables() is made


@pytest.mark.parametrize("what", ["a model", "memory", "another profile"])
def test_tables_that_are_out_of_date_are_made_again(what: str) -> None:
    state = ClusterState([node("a", gpus=4)])
    profile = WorkloadProfile.from_requests(_flood("memory", 50))
    made = Fragmentation(Vocabulary.of(state), profile)
    engine = Engine(state, "fgd")
    if what == "a model":
        state.add_node(node("b", gpus=1, product="A10"))
    elif what == "memory":
        state.update_node(node("a", gpus=4, gpu_memory=16384))
    else:
        profile = WorkloadProfile.from_requests(_flood("whole", 3))
    engine.put_profile_in_force(profile, made)
    assert engine.tables() is not made
    assert engine.profile is profile


def test_names_of_instances_that_do_not_exist_leave_nothing_behind() -> None:
    mig = MigType("A100-40")
    assert mig.count(mig.full_mask, "1g.5gb") == 7
    before = _count.cache_info().currsize, _placements.cache_info().currsize
    for number in range(1000):
        assert mig.count(mig.full_mask, f"1g.5gb-{number}") == 0
        assert mig.placements(f"nothing-{number}") == ()
    assert (_count.cache_info().currsize, _placements.cache_info().currsize) == before
