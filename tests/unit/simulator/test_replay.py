"""Replay: queue order, backoff, departures, gangs, figures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.files.workload import Arrival, Workload
from scheduler.simulator.emulator import EmulatedScheduler, SchedulerProfile
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, run
from scheduler.simulator.pending import pod_class
from scheduler.simulator.replay import ReplayOutcome, backoff_s, replay
from tests.builders import gang_key, gangs_of, node, pod

FIT = Experiment("best-fit", 0, "replay")
STOCK = Experiment("kube-default", 0, "replay")
ONE_GPU = (node(gpus=1),)


def _replay(
    arrivals: list[Arrival], nodes=ONE_GPU, experiment: Experiment = FIT, **options
) -> ReplayOutcome:
    gangs = gangs_of(*(arrival.request for arrival in arrivals))
    return replay(Workload(tuple(nodes), tuple(arrivals), gangs=gangs), experiment, **options)


def test_backoff_doubles_from_one_to_ten_seconds() -> None:
    assert [backoff_s(n) for n in (1, 2, 3, 4, 5, 50)] == [1, 2, 4, 8, 10, 10]


def test_a_pod_waits_until_another_leaves() -> None:
    """The second pod comes at 5 s and gets the device at 100 s: its backoff is long over."""
    outcome = _replay([Arrival(pod("a", count=1), 0, 100), Arrival(pod("b", count=1), 5, 10)])
    wait = outcome.waiting["1 GPU"]
    assert (wait.pods, wait.pending, wait.p50_s, wait.max_s) == (2, 0, 95, 95)
    assert outcome.placed == 2 and outcome.attempts == 3


def test_power_is_a_mean_over_time() -> None:
    """64 cores are two sockets, 30 W idle, and a T4 10 W; busy for 50 of 100 s: 105 and 60 more."""
    outcome = _replay([Arrival(pod("a", count=1), 0, 50), Arrival(pod("b"), 100, 10)], rate=1.0)
    assert outcome.power_kw == pytest.approx((40 + 0.5 * 165) / 1000)
    assert outcome.to_json()["power_kw"] == round(outcome.power_kw, 4)


def test_a_departure_within_the_backoff_is_used_at_its_end() -> None:
    """Tried at 0.5 s, backoff until 1.5 s; the device is free from 0.75 s on."""
    outcome = _replay([Arrival(pod("a", count=1), 0, 0.75), Arrival(pod("b", count=1), 0.5, 10)])
    assert outcome.waiting["1 GPU"].max_s == 1.0


def test_room_of_one_instant_is_made_before_it_is_used() -> None:
    outcome = _replay([Arrival(pod("a", count=1), 0, 7), Arrival(pod("b", count=1), 7, 1)])
    assert outcome.waiting["1 GPU"].max_s == 0 and outcome.attempts == 2


def test_a_higher_priority_is_tried_first() -> None:
    low, high = pod("low", count=1), replace(pod("high", count=1), priority=5)
    outcome = _replay(
        [Arrival(pod("a", count=1), 0, 60), Arrival(low, 1, 60), Arrival(high, 2, 30)]
    )
    assert outcome.waiting["1 GPU"].max_s == 60 + 30 - 1  # the low one comes after the high one


def test_what_never_fits_stays_pending_and_waits_without_end() -> None:
    outcome = _replay([Arrival(pod("a", count=1), 0, 5), Arrival(pod("b", count=2), 0, 5)])
    wait = outcome.waiting["2-7 GPUs"]
    assert (outcome.placed, wait.pending, wait.p95_s) == (1, 1, float("inf"))
    content = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    assert content["pending"] == 1 and content["waiting"]["2-7 GPUs"]["p95_s"] is None


def test_allocation_is_weighted_by_time_up_to_the_last_arrival() -> None:
    """Both devices for 10 s of 40 s, one of them for 20 s more."""
    outcome = _replay(
        [
            Arrival(pod("a", count=1), 0, 30),
            Arrival(pod("b", count=1), 0, 10),
            Arrival(pod("c", cpu=1), 40, 1000),
        ],
        nodes=(node(gpus=2),),
    )
    assert outcome.allocation_percent == pytest.approx(100 * (2 * 10 + 20) / (2 * 40))
    assert outcome.demand_percent == outcome.allocation_percent
    assert outcome.peak_percent == 100


def test_arrivals_come_faster_and_run_as_long() -> None:
    arrivals = [Arrival(pod("a", count=1), 0, 10), Arrival(pod("b", count=1), 20, 10)]
    assert _replay(arrivals).waiting["1 GPU"].max_s == 0
    assert _replay(arrivals, rate=4).waiting["1 GPU"].max_s == 5
    for rate in (0, -1):
        with pytest.raises(InvalidInput, match="rate"):
            _replay(arrivals, rate=rate)


def test_half_started_gangs_are_counted_with_the_time_they_waste() -> None:
    """Stock: one of two members runs from 0 on, the other gets its device at 3,600 s."""
    gang = gang_key("g", 2)
    members = [replace(pod(f"m{i}", count=1), gang=gang) for i in range(2)]
    lone = replace(pod("lone", count=1), gang=gang_key("never", 2))
    arrivals = [
        Arrival(pod("a", count=1), 0, 3600),
        Arrival(members[0], 0, 7200),
        Arrival(members[1], 1, 3600),
        Arrival(lone, 2, 5),
    ]
    nodes = (node("n1", gpus=1), node("n2", gpus=1))
    outcome = _replay(arrivals, nodes, STOCK)
    assert (outcome.gangs_whole, outcome.gangs_half, outcome.gangs_none) == (1, 1, 0)
    assert outcome.half_gang_gpu_hours == pytest.approx(1 + 5 / 3600)
    emulated = _replay(
        arrivals,
        nodes,
        selector=lambda engine: EmulatedScheduler(engine, SchedulerProfile(extender_weight=0)),
    )
    assert emulated.gangs_half == 1


def test_pods_that_stay_end_where_listing_them_ends() -> None:
    workload = generate(GeneratorConfig(nodes=30, load=1.2, seed=5))
    forever = Workload(
        workload.nodes, tuple(Arrival(r, float(i)) for i, r in enumerate(workload.requests))
    )
    stayed = replay(forever, Experiment("fgd", 0))
    listed = run(forever, Experiment("fgd", 0, "as-listed"))
    assert stayed.placed == listed.placed
    assert stayed.peak_percent == pytest.approx(
        100 * listed.allocated_gpu_milli / listed.capacity_gpu_milli
    )


@pytest.mark.parametrize("learn", [False, True])
def test_the_same_replay_twice(learn: bool) -> None:
    workload = generate(
        GeneratorConfig(nodes=20, load=3.0, seed=5, gang_share=0.3, durations="exponential")
    )
    seen: list[float] = []
    runs = [
        replay(
            workload,
            Experiment("fgd", 1, workload_profile="learnt" if learn else "given"),
            rate=0.05,
            selector=lambda engine: EmulatedScheduler(engine, SchedulerProfile()),
            observe=lambda now, _engine, _waiting: seen.append(now),
        )
        for _ in range(2)
    ]
    said = [{**outcome.to_json(), "seconds": 0} for outcome in runs]
    assert said[0] == said[1] and said[0]["waiting"]
    assert seen == sorted(seen[: len(seen) // 2]) * 2


def test_classes() -> None:
    assert pod_class(pod(cpu=1)) == "cpu"
    assert pod_class(pod(milli=300)) == "fraction"
    assert [pod_class(pod(count=n)) for n in (1, 4, 8)] == ["1 GPU", "2-7 GPUs", "8+ GPUs"]


def test_with_a_planner_gangs_start_whole_or_not_at_all() -> None:
    """Two gangs of two on two devices: one by one each would get a half of both."""
    arrivals = []
    for number in range(2):
        for name in ("g", "h"):
            member = replace(pod(f"{name}{number}", count=1), gang=gang_key(name, 2))
            arrivals.append(Arrival(member, float(number), 100))
    alone = _replay(arrivals, (node(gpus=1), node("n1", gpus=1)), STOCK)
    assert alone.half_gang_gpu_hours > 0
    planned = _replay(arrivals, nodes=(node(gpus=1), node("n1", gpus=1)), plan_every_s=10)
    assert (planned.gangs_whole, planned.half_gang_gpu_hours) == (2, 0)
    assert planned.plans >= 2 and planned.placed == 4
    assert planned.experiment.config_hash != alone.experiment.config_hash


def test_a_planned_replay_ends_and_repeats() -> None:
    workload = generate(
        GeneratorConfig(nodes=10, load=3.0, seed=5, gang_share=0.4, durations="exponential")
    )
    runs = [replay(workload, Experiment("fgd", 1), rate=0.05, plan_every_s=120) for _ in range(2)]
    said = [{**outcome.to_json(), "seconds": 0} for outcome in runs]
    assert said[0] == said[1] and said[0]["plans"] > 0
    with pytest.raises(InvalidInput, match="plan_every_s"):
        replay(workload, Experiment("fgd", 1), plan_every_s=-1)
