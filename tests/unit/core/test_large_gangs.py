"""Gangs that are large: refused by sums, or planned on a copy to the same places as at once."""

from __future__ import annotations

import math
import random
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from scheduler.core.capacity import TOO_LARGE, empty_room, excess
from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.gangs.drafts import BEING_PLANNED, Draft
from scheduler.core.model import Device, Node, PodRequest, Shape
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from tests.builders import described, gang_key, node, pod

TTL = 60.0
MIG = Device("A100", 40960, mig="A100-40")
SLICED = Device("T4", 16384, replicas=4)


def _member(name: str, size: int, **rest) -> PodRequest:
    return pod(name, gang=gang_key("g", size), **rest)


def _nodes(count: int, **rest) -> list[Node]:
    return [node(f"n{at:03d}", **rest) for at in range(count)]


class Cluster:
    """An engine with gangs; ``at_once`` as the service has it, or None to plan all at once."""

    def __init__(
        self, nodes: list[Node], at_once: int | None, policy: str = "fgd", **settings: float
    ) -> None:
        asked = [pod("like", cpu=1000, milli=300), pod("whole", count=2)]
        profile = WorkloadProfile.from_requests(asked)
        self.engine = Engine(ClusterState(nodes), policy, profile=profile, seed=3)
        self.gangs = GangCoordinator(self.engine, ttl_s=TTL, at_once=at_once, **settings)
        self.rows = np.arange(len(nodes))
        self.now = 0.0

    def exist(self, members: list[PodRequest]) -> list[PodRequest]:
        """These pods exist."""
        described(self.gangs, *members)
        for member in members:
            self.gangs.on_pod_pending(member)
        return members

    def crowd(self, size: int, name: str = "g", **rest) -> list[PodRequest]:
        """Members that are alike, and exist."""
        key = gang_key(name, size)
        return self.exist([pod(f"{name}{at:03d}", gang=key, **rest) for at in range(size)])

    def draft(self, request: PodRequest) -> Draft | None:
        described(self.gangs, request)
        return self.gangs.draft(request, self.rows, self.now)

    def make(self, draft: Draft, steps: float = math.inf) -> None:
        for step, _ in enumerate(draft.steps(), 1):
            if step >= steps:
                break
        if not draft.done:
            self.gangs.suspend_draft(draft, self.now)
            return
        for _ in self.gangs.adopt_draft(draft, self.now):
            pass

    def ask(self, request: PodRequest):
        """As the service asks."""
        draft = self.draft(request)
        if draft is not None:
            self.make(draft)
        return self.gangs.answer(request, self.rows, self.now)

    def places(self) -> list[tuple[str, str, tuple]]:
        holds = self.engine.reservations.items()
        return sorted((uid, h.placement.node, h.placement.devices) for uid, h in holds)


GANGS = {
    "alike": [{"count": 1}],
    "fractions": [{"milli": 250}],
    "unlike": [{"count": 2}, {"milli": 100}, {"cpu": 4000, "milli": 700}],
    "without devices": [{"cpu": 1500}, {"cpu": 300, "memory": 2048}],
    "by memory": [{"memory_mib": 9000}, {"count": 1}],
    "of many shapes": [{"cpu": 100 * n, "milli": 10 * n} for n in range(1, 12)],
}


def _gang(kinds: list[dict], size: int) -> list[PodRequest]:
    return [_member(f"m{at:03d}", size, **kinds[at % len(kinds)]) for at in range(size)]


@pytest.mark.parametrize("kinds", GANGS.values(), ids=GANGS)
@pytest.mark.parametrize("policy", ["fgd", "best-fit", "random"])
def test_a_draft_ends_in_the_places_of_a_plan_made_at_once(kinds: list[dict], policy: str) -> None:
    nodes = _nodes(20, gpus=8, gpu_memory=40960)
    members = _gang(kinds, 60)
    beside, at_once = (Cluster(nodes, most, policy) for most in (16, None))
    for cluster in (beside, at_once):
        for number in range(7):
            cluster.engine.place_on(pod(f"other-{number}", milli=500), f"n{number:03d}")
        cluster.exist(members)
    draft = beside.draft(members[0])
    assert draft is not None
    beside.gangs.suspend_draft(draft, 0.0, for_good=True)
    for member in members:
        answers = [cluster.ask(member) for cluster in (beside, at_once)]
        assert answers[0] == answers[1]
        assert answers[0].row >= 0
    assert beside.places() == at_once.places()
    assert beside.engine.state.check() == []


def test_a_small_gang_needs_no_draft() -> None:
    cluster = Cluster(_nodes(4, gpus=8), 16)
    member, *_ = cluster.crowd(16, count=1)
    assert cluster.draft(member) is None
    assert cluster.gangs.answer(member, cluster.rows, 0.0).row >= 0


@pytest.mark.parametrize("steps", [1, 7, 39])
def test_a_draft_that_takes_long_is_gone_on_with_by_whoever_asks_next(steps: int) -> None:
    cluster = Cluster(_nodes(10, gpus=8), 16)
    first, second, *_ = cluster.crowd(40, count=1)
    draft = cluster.draft(first)
    assert draft is not None
    assert cluster.draft(second) is None  # somebody is at it
    assert cluster.gangs.answer(second, cluster.rows, 0.0).message == BEING_PLANNED
    cluster.make(draft, steps)
    assert cluster.engine.reservations == {}
    assert cluster.gangs.answer(first, cluster.rows, 0.0).message == BEING_PLANNED
    assert cluster.draft(second) is draft
    cluster.make(draft)
    assert len(cluster.engine.reservations) == 40
    assert cluster.gangs.answer(first, cluster.rows, 0.0).row >= 0


def test_one_gang_is_drafted_at_a_time_and_an_abandoned_draft_stops_nobody() -> None:
    cluster = Cluster(_nodes(10, gpus=8), 16)
    first, other = cluster.crowd(40, count=1)[0], cluster.crowd(30, "other", count=1)[0]
    draft = cluster.draft(first)
    assert draft is not None
    cluster.make(draft, 3)
    assert cluster.draft(other) is None
    cluster.now = 20.0
    assert cluster.ask(other).row >= 0
    assert len(cluster.engine.reservations) == 30
    assert cluster.ask(first).row >= 0


def test_what_changes_meanwhile_makes_the_draft_void_and_holds_nothing() -> None:
    cluster = Cluster(_nodes(10, gpus=8), 16)
    first, *_ = cluster.crowd(80, count=1)
    draft = cluster.draft(first)
    assert draft is not None
    for _ in draft.steps():
        pass
    cluster.engine.place_on(pod("quick", count=1), "n004")
    for _ in cluster.gangs.adopt_draft(draft, 0.0):
        pass
    while cluster.engine.reservations:
        cluster.gangs.expire(0.0)
    answer = cluster.gangs.answer(first, cluster.rows, 0.0)
    assert answer.row == -1
    assert BEING_PLANNED in answer.message or "79 of 80" in answer.message
    cluster.engine.release("quick")
    assert cluster.ask(first).row >= 0


def test_a_draft_that_was_overtaken_is_planned_anew_by_whoever_asks_next() -> None:
    """There is room elsewhere, and nothing else will change that would have the gang woken."""
    cluster = Cluster(_nodes(10, gpus=8), 16)
    first, second, *_ = cluster.crowd(40, count=1)
    draft = cluster.draft(first)
    assert draft is not None
    cluster.make(draft, 20)
    cluster.engine.place_on(pod("other", count=8), draft.places[0][1])
    answer = cluster.ask(first)
    assert answer.row >= 0 or answer.message == BEING_PLANNED
    answer = cluster.ask(second)
    assert answer.row >= 0, answer.message
    assert len(cluster.engine.reservations) == 40
    assert cluster.engine.state.check() == []


def test_a_refusal_of_another_state_is_not_told_while_another_gang_is_planned() -> None:
    cluster = Cluster(_nodes(10, gpus=8), 16)
    for number in range(5):
        cluster.engine.place_on(pod(f"o{number}", count=8), f"n{number:03d}")
    waiting, *_ = cluster.crowd(60, count=1)
    refused = cluster.ask(waiting)
    assert refused.row == -1 and refused.message != BEING_PLANNED
    assert cluster.ask(waiting) == refused, "as long as nothing changes"
    for number in range(5):
        cluster.engine.release(f"o{number}")
    draft = cluster.draft(cluster.crowd(20, "h", count=1)[0])
    assert draft is not None
    cluster.make(draft, 4)
    assert cluster.ask(waiting).message == BEING_PLANNED
    cluster.now = 20.0  # the other draft is abandoned
    assert cluster.ask(waiting).row >= 0


@pytest.mark.parametrize("size", [16, 17, 40, 64])
@pytest.mark.parametrize("every_s", [15.0, 50.0])
def test_a_gang_at_rest_is_told_its_places_as_before(size: int, every_s: float) -> None:
    cluster = Cluster(_nodes(20, gpus=8), 16)
    members = cluster.crowd(size, count=1)
    rested = 0
    for at in range(int(8 * TTL / every_s)):
        cluster.now = at * every_s
        for member in members:
            answer = cluster.ask(member)
            assert answer.row >= 0, (cluster.now, answer.message)
        rested += not cluster.engine.reservations
    assert rested, "its places were open to others for a while"
    assert cluster.engine.state.check() == []


def test_a_gang_with_too_many_places_to_rest_is_planned_anew_at_once() -> None:
    cluster = Cluster(_nodes(20, gpus=8), 16)
    members = cluster.crowd(80, count=1)
    told = []
    for at in range(20 * 80):
        cluster.now = at // 80 * 30.0
        answer = cluster.ask(members[at % 80])
        told.append(answer.row >= 0)
        assert answer.row >= 0 or answer.message == BEING_PLANNED
        while not told[-1] and cluster.engine.reservations:
            cluster.gangs.expire(cluster.now)
    assert not all(told), "its places were open to others for a moment"
    assert all(before or after for before, after in pairwise(told)), told


def test_a_gang_that_goes_while_it_is_planned_leaves_nothing_behind() -> None:
    cluster = Cluster(_nodes(10, gpus=8), 16)
    members = cluster.crowd(70, count=1)
    draft = cluster.draft(members[0])
    assert draft is not None
    for _ in draft.steps():
        pass
    steps = cluster.gangs.adopt_draft(draft, 0.0)
    next(steps)
    for member in members:
        cluster.gangs.on_pod_gone(member)
    for _ in steps:
        pass
    while cluster.engine.reservations:
        cluster.gangs.expire(0.0)
    assert int(cluster.engine.state.full_free.sum()) == 80


def test_very_many_places_are_given_back_a_few_at_a_time() -> None:
    cluster = Cluster(_nodes(40, gpus=8), 16)
    first, *_ = cluster.crowd(300, count=1)
    assert cluster.ask(first).row >= 0
    cluster.gangs.on_pod_gone(first)
    left = len(cluster.engine.reservations)
    assert 0 < left < 299
    again = next(iter(reversed(cluster.engine.reservations)))
    node_name = cluster.engine.reservations[again].placement.node
    cluster.engine.reserve_until(cluster.engine.reservations[again].placement.pod, node_name, 1e9)
    while left > 1:
        cluster.gangs.expire(0.0)
        assert max(1, left - 64) == len(cluster.engine.reservations)
        left = len(cluster.engine.reservations)
    assert list(cluster.engine.reservations) == [again], "it was held anew meanwhile"
    assert cluster.engine.state.check() == []


HUGE = {
    "alike": [{"count": 1}],
    "tiny fractions": [{"milli": 1}],
    "unlike": [{"milli": 1, "memory": 1}, {"milli": 1, "memory": 2}],
    "nothing at all": [{"cpu": 0, "memory": 0}, {"cpu": 0, "memory": 1}],
    "instances": [{"mig": (("1g.5gb", 1),)}, {"mig": (("1g.5gb", 1),), "cpu": 1}],
    "replicas": [{"replicas": 1}, {"replicas": 1, "cpu": 1}],
    "device memory": [{"memory_mib": 1}, {"memory_mib": 2}],
}


@pytest.mark.parametrize("kinds", HUGE.values(), ids=HUGE)
@pytest.mark.parametrize("size", [10_000, 100_000_000, 2**62])
@pytest.mark.parametrize("unborn_share", [0.0, 1.0])
def test_more_than_the_cluster_could_hold_is_refused_without_a_list_of_it(
    kinds: list[dict], size: int, unborn_share: float
) -> None:
    mixed = [node("m", devices=[MIG] * 8), node("s", devices=[SLICED] * 4)]
    cluster = Cluster(
        [*_nodes(10, gpus=8, gpu_memory=40960), *mixed], 16, unborn_share=unborn_share
    )
    members = [_member(f"m{at}", size, **kind) for at, kind in enumerate(kinds)]
    for member in members:
        cluster.gangs.on_pod_pending(member)
    cluster.ask(members[0])  # what is kept for each shape is there
    tracemalloc.start()
    try:
        answer = cluster.ask(members[0])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.row == -1
    assert answer.message
    assert cluster.engine.reservations == {}
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("request_", "most"),
    [
        ({"count": 3}, 2),
        ({"milli": 300}, 24),
        ({"memory_mib": 20_000}, 16),
        ({"memory_mib": 50_000}, 0),
        ({"cpu": 40_000}, 2),
        ({"cpu": 1, "memory": 1}, 220),
        ({"mig": (("3g.20gb", 1),)}, 4),
        (
            {
                "mig": (
                    ("3g.20gb", 2),
                    ("1g.5gb", 1),
                )
            },
            2,
        ),
        ({"replicas": 3}, 2),
        ({"count": 1, "products": ("H100",)}, 0),
    ],
)
def test_what_the_empty_cluster_holds_of_one_shape(request_: dict, most: int) -> None:
    nodes = [
        node("a", gpus=8, gpu_memory=40960, cpu=64_000, product="A100"),
        node("m", devices=[MIG] * 2, cpu=64_000),
        node("s", devices=[SLICED] * 2, cpu=0),
    ]
    shape = pod("p", **({"cpu": 0, "memory": 0} | request_)).shape
    assert empty_room(ClusterState(nodes), shape, 1000) == most


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_is_never_below_what_can_be_placed(seed: int) -> None:
    draw = random.Random(seed)
    nodes = [
        *_nodes(3, gpus=4, gpu_memory=16384, cpu=8000, pods=20),
        node("m", devices=[MIG] * 3, cpu=9000),
        node("s", devices=[SLICED] * 3, cpu=9000),
    ]
    kinds = [
        {"count": draw.randint(1, 4)},
        {"milli": draw.randint(1, 999)},
        {"memory_mib": draw.randint(1, 16384)},
        {"mig": ((draw.choice(["1g.5gb", "2g.10gb", "3g.20gb"]), draw.randint(1, 3)),)},
        {"replicas": draw.randint(1, 4)},
    ]
    engine = Engine(ClusterState(nodes), "random", seed=seed)
    placed: dict[Shape, int] = {}
    alone: dict[Shape, int] = {}
    for number in range(300):
        request = pod(f"p{number}", cpu=draw.choice([0, 100, 900]), **draw.choice(kinds))
        row = engine.best(request)
        if row >= 0:
            engine.place_on(request, engine.state.nodes[row].name)
            placed[request.shape] = placed.get(request.shape, 0) + 1
    assert excess(engine.state, placed, first=next(iter(placed))) is None
    for shape, count in placed.items():
        alone[shape] = empty_room(engine.state, shape, 10_000)
        assert alone[shape] >= count


def test_a_gang_beyond_what_is_ever_held_is_refused_by_number() -> None:
    cluster = Cluster(_nodes(100, gpus=8, pods=250), 16)
    answer = cluster.ask(cluster.crowd(5000, milli=1, cpu=0)[0])
    assert answer.row == -1 and TOO_LARGE in answer.message
