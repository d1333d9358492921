"""Replay by the code of the webhook: gangs whole, places that end, pods that are requeued."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.model import Node
from scheduler.core.state import ClusterState
from scheduler.files.workload import Arrival, Workload
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment
from scheduler.simulator.replay import ReplayOutcome, replay
from scheduler.simulator.schedulers import Extended
from tests.builders import gang_key, gangs_of, node, pod
from tests.depth import examples

FIT = Experiment("best-fit", 0, "replay")
STOCK = Experiment("kube-default", 0, "replay")


def _gang(name: str, size: int, at: float, runs: float, *, count: int = 1) -> list[Arrival]:
    key = gang_key(name, size)
    return [
        Arrival(replace(pod(f"{name}{i}", count=count), gang=key), at, runs) for i in range(size)
    ]


def _workload(arrivals: list[Arrival], *nodes: Node) -> Workload:
    gangs = gangs_of(*(arrival.request for arrival in arrivals))
    return Workload(nodes, tuple(arrivals), gangs=gangs)


def _replay(arrivals: list[Arrival], *nodes: Node, policy: Experiment = FIT) -> ReplayOutcome:
    return replay(_workload(arrivals, *nodes), policy)


def test_two_gangs_that_stock_starts_by_half_run_one_after_the_other() -> None:
    """Each needs three of four devices."""
    arrivals = [*_gang("g", 3, 0, 100), *_gang("h", 3, 0, 100)]
    ours = _replay(arrivals, node(gpus=4))
    assert (ours.gangs_whole, ours.gangs_half, ours.half_gang_gpu_hours) == (2, 0, 0)
    assert ours.waiting["1 GPU"].max_s == 100
    interleaved = [
        arrival for pair in zip(arrivals[:3], arrivals[3:], strict=True) for arrival in pair
    ]
    assert _replay(interleaved, node(gpus=4)).half_gang_gpu_hours == 0
    stock = _replay(interleaved, node(gpus=4), policy=STOCK)
    assert stock.gangs_half == 2 and stock.half_gang_gpu_hours > 0


def test_a_gang_waits_for_members_that_come_later_and_starts_with_the_last() -> None:
    """Refused at 0 s, it is asked about again at 50 s: its backoff is over by then."""
    first, last = _gang("g", 2, 0, 100)
    outcome = _replay([first, replace(last, at_s=50.0)], node(gpus=2))
    assert (outcome.gangs_whole, outcome.half_gang_gpu_hours) == (1, 0)
    assert outcome.waiting["1 GPU"].max_s == 50


def test_members_that_have_ended_are_not_waited_for() -> None:
    """Two of a gang of two have ended when the third member comes: it runs by itself."""
    key = gang_key("g", 2)
    members = [replace(pod(f"g{i}", count=1), gang=key) for i in range(3)]
    arrivals = [Arrival(m, at, 10) for m, at in zip(members, (0, 0, 60), strict=True)]
    outcome = _replay(arrivals, node(gpus=2))
    assert outcome.placed == 3 and outcome.waiting["1 GPU"].max_s == 0


def test_places_that_end_are_found_without_any_departure() -> None:
    """A gang of three keeps two devices, in vain: a pod gets them once that ends.

    Two of four are taken for ever. The departure at 702 s, more than ten minutes after the gang
    was refused first, lets it keep the other two; from 703 s on kube-scheduler hears of nothing.
    """
    arrivals = [
        Arrival(pod("stays", count=1), 0),
        Arrival(pod("stays-too", count=1), 0),
        *_gang("g", 3, 1, 50),
        Arrival(pod("brief", count=1), 2, 700),
        Arrival(pod("late", count=2), 703, 10),
    ]
    outcome = _replay(arrivals, node(gpus=4))
    assert outcome.waiting["2-7 GPUs"].pending == 0
    assert 0 < outcome.waiting["2-7 GPUs"].max_s < 700
    assert (outcome.gangs_none, outcome.gangs_half) == (1, 0)


def test_a_gang_that_can_never_start_lets_the_replay_end() -> None:
    outcome = _replay([*_gang("g", 3, 0, 50), Arrival(pod("a", count=1), 1, 5)], node(gpus=2))
    assert (outcome.gangs_none, outcome.placed) == (1, 1)


@pytest.mark.parametrize("policy", ["fgd", "best-fit", "first-fit"])
def test_where_nothing_is_held_the_verbs_say_what_the_engine_says(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short way for single pods changes nothing: with the verbs in full it is the same run."""
    config = GeneratorConfig(nodes=20, load=3.0, seed=5, durations="exponential")
    workload = generate(config)
    short = replay(workload, Experiment(policy, 1), rate=0.05)
    monkeypatch.setattr(Extended, "_alone", lambda *_: False)
    whole = replay(workload, Experiment(policy, 1), rate=0.05)
    said = [{**outcome.to_json(), "seconds": 0} for outcome in (short, whole)]
    assert said[0] == said[1] and short.placed < short.attempts


@st.composite
def _workloads(draw: st.DrawFn) -> Workload:
    nodes = [node(f"n{i}", gpus=draw(st.integers(1, 4))) for i in range(draw(st.integers(1, 4)))]
    arrivals: list[Arrival] = []
    for number in range(draw(st.integers(1, 12))):
        at, runs = float(draw(st.integers(0, 900))), float(draw(st.integers(1, 400)))
        count = draw(st.integers(1, 2))
        if draw(st.booleans()):
            size = draw(st.integers(2, 4))
            members = _gang(f"g{number}", size, at, runs, count=count)
            if draw(st.booleans()):
                members[-1] = replace(members[-1], at_s=at + draw(st.integers(1, 60)))
            arrivals += members
        else:
            arrivals.append(Arrival(pod(f"p{number}", count=count), at, runs))
    return _workload(arrivals, *nodes)


@given(_workloads())
@settings(max_examples=examples(25, 500), deadline=None)
def test_no_gang_is_ever_started_by_half(workload: Workload) -> None:
    """Nor anything overcommitted: the validator follows. In the end whoever fits has started."""
    outcome = replay(workload, FIT)
    assert outcome.gangs_half == 0
    state = ClusterState(workload.nodes)
    engine = Engine(state, "first-fit")
    stuck = {one.pod.gang or one.pod.uid for one in outcome.pending}
    for one in outcome.pending:  # in the end nothing runs, so whoever waits fits nowhere
        if one.pod.gang is None:
            assert engine.best(one.pod) < 0
    for key in workload.gangs.keys() & stuck:
        members = [a.request for a in workload.arrivals if a.request.gang == key]
        twin = Engine(ClusterState(workload.nodes), "first-fit")
        assert not all(twin.place(member) for member in members)
