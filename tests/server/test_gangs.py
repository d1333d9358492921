"""Gangs and the planner through the running server: whole or not at all, whatever goes wrong."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count as numbered

import msgspec
import pytest

from scheduler.core.model import GangKey, PodRequest
from scheduler.simulator.kubedump import pod_json
from tests.builders import node, pod
from tests.server.conftest import Running

pytestmark = pytest.mark.server


def _gang(name: str, size: int, count: int = 1) -> list[PodRequest]:
    key = GangKey("default", name, size)
    return [pod(f"{name}-{n}", count=count, gang=key) for n in range(size)]


def _names(server: Running) -> list[str]:
    return [n.name for n in server.engine.state.nodes if n is not None]


def _filter(server: Running, request: PodRequest) -> tuple[list[str], dict[str, str]]:
    return server.client.filter(msgspec.json.encode(pod_json(request)), _names(server))


def _bind(server: Running, request: PodRequest) -> str:
    """Filter, take the only node that is left, bind; empty if there is none."""
    passing, _ = _filter(server, request)
    if not passing:
        return ""
    assert len(passing) == 1 or not server.service._joint(request)
    assert server.client.bind(request, passing[0]) == ""
    return passing[0]


def _running(server: Running, gang: str) -> int:
    state, held = server.service.snapshot()
    return sum(
        placed.pod.gang is not None and placed.pod.gang.name == gang and uid not in held
        for uid, placed in state.placements.items()
    )


def _until(what: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_two_gangs_that_fit_alone_but_not_together(start) -> None:
    server = start([node("a", gpus=2), node("b", gpus=2)])
    one, two = _gang("one", 3), _gang("two", 3)
    order = [pod for pair in zip(one, two, strict=True) for pod in pair]
    placed = [request.name for request in order if _bind(server, request)]
    assert placed == [request.name for request in one]
    _, failed = _filter(server, two[0])
    assert all("gang does not fit" in text and "2 more devices" in text for text in failed.values())
    for request in one:
        server.client.release(request.uid)
    assert all(_bind(server, request) for request in two)
    assert server.engine.state.check() == []


def test_members_are_pinned_and_the_others_rejected_with_the_reason(start) -> None:
    server = start([node("a", gpus=1), node("b", gpus=1), node("cpu-only")])
    members = _gang("g", 2)
    passing, failed = _filter(server, members[0])
    assert len(passing) == 1
    other = ({"a", "b"} - set(passing)).pop()
    assert failed[other] == "pod is planned on another node"
    assert "no device" in failed["cpu-only"]
    body = msgspec.json.encode(pod_json(members[0]))
    scores = server.client.prioritize(body, _names(server))
    assert scores == {passing[0]: 10, other: 0, "cpu-only": 0}


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_hypothetical_calls_leaves_nothing_behind(start, seed: int) -> None:
    """Group cycles ask for members x placements, shuffled and repeated, and roll back silently."""
    server = start([node(f"n{i}", gpus=4) for i in range(6)], gang_ttl_s=30.0)
    gangs = [_gang(name, 4, count=2) for name in ("g", "h", "i", "j")]
    members = [member for gang in gangs for member in gang]
    names = _names(server)
    domains = [names, names[:3], names[3:]]
    rng = random.Random(seed)
    answers: dict[str, set[str]] = {}
    for _ in range(400):
        member, domain = rng.choice(members), rng.choice(domains)
        body = msgspec.json.encode(pod_json(member))
        passing, _ = server.client.filter(body, rng.sample(domain, len(domain)))
        if passing:
            answers.setdefault(member.uid, set()).update(passing)
            scores = server.client.prioritize(body, passing)
            assert scores[passing[0]] == 10
    assert all(len(nodes) == 1 for nodes in answers.values())
    assert server.engine.state.check() == []
    server.skipped_s += 31.0  # nobody has bound anything
    server.service.snapshot()
    assert not server.engine.holds and int(server.engine.state.full_free.sum()) == 24


def test_a_member_that_dies_does_not_leave_half_a_gang_forever(start) -> None:
    server = start([node("a", gpus=2), node("b", gpus=2)])
    members = _gang("g", 4)
    assert all(_bind(server, member) for member in members)
    server.client.release(members[1].uid)
    replacement = pod("g-again", count=1, gang=members[0].gang)
    lone = pod("lone", count=2)
    assert _filter(server, lone)[0] == []
    assert _bind(server, replacement) and _running(server, "g") == 4


def test_the_planner_finds_room_that_greedy_choices_miss(start) -> None:
    """It sees all pending pods: the large one goes where only it fits."""
    nodes = [node("small", gpus=2, cpu=4000), node("large", gpus=4, cpu=64_000)]
    server = start(nodes, planner=True, planner_debounce_s=0.1, planner_budget_s=1.0)
    waiting = [pod("x", count=2, cpu=2000), pod("y", count=4, cpu=2000)]
    for request in waiting:
        _filter(server, request)
    assert server.planner is not None
    _until(lambda: sum(server.planner.figures.plans.values()) > 0)
    _until(lambda: server.service.gang_counts()["pins"] >= 2)
    body = msgspec.json.encode(pod_json(waiting[1]))
    assert server.client.prioritize(body, ["small", "large"])["large"] == 10
    text = server.client._request("GET", "/metrics", b"").decode()
    assert "snugfit_planner_up 1.0" in text and "snugfit_planner_plan_gap 0.0" in text


def test_a_planner_that_is_killed_is_replaced_and_nobody_notices(start) -> None:
    server = start(
        [node(f"n{i}", gpus=4) for i in range(8)],
        planner=True,
        planner_debounce_s=0.05,
        planner_budget_s=0.5,
    )
    planner = server.planner
    _filter(server, pod("first", count=1))
    _until(lambda: planner.pid is not None)
    for number in range(3):
        pid = planner.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        gang = _gang(f"g{number}", 4, count=2)
        assert all(_bind(server, member) for member in gang)
        assert _running(server, f"g{number}") == 4
        _filter(server, pod(f"more-{number}", count=1))
        _until(lambda before=pid: planner.pid not in (None, before))
    assert planner.figures.restarts >= 3
    assert server.engine.state.check() == []


def test_a_planner_that_exceeds_its_deadline_or_memory_is_ended(start) -> None:
    """256 MiB of address space is less than the solver needs to be loaded."""
    server = start(
        [node("n", gpus=4)], planner=True, planner_debounce_s=0.05, planner_memory_mib=256
    )
    _filter(server, pod("p", count=1))
    figures = server.planner.figures
    _until(lambda: figures.plans["failed"] + figures.plans["crashed"] > 0)
    assert _bind(server, pod("q", count=1)) == "n"


def test_prices_are_computed_beside_the_webhook(start) -> None:
    server = start(
        [node("a", gpus=4), node("b", gpus=4, product="A10")],
        planner=True,
        planner_debounce_s=0.05,
        policy="priced",
        reprice_bindings=1,
    )
    assert server.client.get("/readyz")["prices"] == "none: scoring as fgd"
    assert server.client.get("/debug/prices") == {"prices": None}
    _until(lambda: server.service.prices is not None)
    assert server.client.get("/readyz")["prices"] == "in force"
    before = server.client.get("/debug/prices")
    assert set(before["worth_milli_gpu"]["by_model"]) == {"none", "T4", "A10"}
    assert before["device_milli_by_100_free"][0] == 0 and before["groups"] == 2
    assert _bind(server, pod("p", count=1))
    _until(lambda: server.client.get("/debug/prices")["generation"] > before["generation"])


def test_when_the_planner_keeps_dying_the_policy_is_fgd_again(start) -> None:
    server = start(
        [node("a", gpus=8)],
        planner=True,
        planner_debounce_s=0.05,
        policy="priced",
        reprice_bindings=1,
        reprice_s=0,
    )
    _until(lambda: server.service.prices is not None)
    numbers = numbered()

    def dead_and_forgotten() -> bool:
        pid = server.planner.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _filter(server, pod(f"p{next(numbers)}", milli=10))
        return server.service.prices is None

    assert _bind(server, pod("first", milli=10))
    _until(dead_and_forgotten)
    assert server.client.get("/readyz")["prices"] == "none: scoring as fgd"
    assert server.planner.figures.priced_at is None
