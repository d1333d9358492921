"""Gangs and the planner through the running server: whole or not at all, whatever goes wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count as numbered

import msgspec
import pytest

from scheduler.cluster.worker.messages import PlanMade, PlanQuestion
from scheduler.cluster.worker.planning import PlannerLoop
from scheduler.core.model import PodRequest
from scheduler.files.dump_writer import pod_json
from scheduler.simulator.kube_scheduler_client import SchedulingLoop
from scheduler.webhook.decision_log import DecisionLog
from scheduler.webhook.metrics import ExtenderMetrics
from tests.builders import gang_key, gangs_of, node, pod
from tests.server.conftest import Running

pytestmark = pytest.mark.server


def _gang(name: str, size: int, count: int = 1) -> list[PodRequest]:
    key = gang_key(name, size)
    return [pod(f"{name}-{n}", count=count, gang=key) for n in range(size)]


def _body(request: PodRequest) -> bytes:
    return msgspec.json.encode(pod_json(request, gangs=gangs_of(request)))


def _names(server: Running) -> list[str]:
    return [n.name for n in server.engine.state.nodes if n is not None]


def _filter(server: Running, request: PodRequest) -> tuple[list[str], dict[str, str]]:
    return server.client.filter(_body(request), _names(server))


def _gather(server: Running, members: list[PodRequest]) -> None:
    """Ask about each of them: they exist by that, and where all of them fit they are planned."""
    for member in members:
        _filter(server, member)


def _bind(server: Running, request: PodRequest) -> str:
    """Filter, take the only node that is left, bind; empty if there is none."""
    passing, _ = _filter(server, request)
    if not passing:
        return ""
    assert len(passing) == 1 or not server.service.is_joint(request)
    assert server.client.bind(request, passing[0]) == ""
    return passing[0]


def _running(server: Running, gang: str) -> int:
    state, held = server.service.snapshot()
    return sum(
        placed.pod.gang is not None and placed.pod.gang.name == gang and uid not in held
        for uid, placed in state.placements.items()
    )


def _until(what: Callable[[], bool], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def _kill(server: Running) -> int | None:
    """End the planner process, if there is one; its id."""
    pid = server.planner.pid
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pid


def test_two_gangs_that_fit_alone_but_not_together(start) -> None:
    server = start([node("a", gpus=2), node("b", gpus=2)])
    one, two = _gang("one", 3), _gang("two", 3)
    _gather(server, one)
    _gather(server, two)
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
    _, failed = _filter(server, members[0])
    assert {failed[name] for name in "ab"} == {"gang does not fit: 1 of 2 pods exist"}
    passing, failed = _filter(server, members[1])
    assert len(passing) == 1
    other = ({"a", "b"} - set(passing)).pop()
    assert failed[other] == "planned elsewhere"
    assert "no device" in failed["cpu-only"]
    body = _body(members[1])
    scores = server.client.prioritize(body, _names(server))
    assert scores == {passing[0]: 10, other: 0, "cpu-only": 0}


def test_a_member_that_dies_does_not_leave_half_a_gang_forever(start) -> None:
    server = start([node("a", gpus=2), node("b", gpus=2)])
    members = _gang("g", 4)
    _gather(server, members)
    assert all(_bind(server, member) for member in members)
    server.client.release(members[1].uid)
    replacement = pod("g-again", count=1, gang=members[0].gang)
    lone = pod("lone", count=2)
    assert _filter(server, lone)[0] == []
    assert _bind(server, replacement) and _running(server, "g") == 4


def test_the_planner_finds_room_that_greedy_choices_miss(start) -> None:
    """It sees all pending pods: the large one goes where only it fits."""
    nodes = [node("small", gpus=2, cpu=4000), node("large", gpus=4, cpu=64_000)]
    server = start(nodes, planner=True, planner_debounce_s=0.1, planner_budget_s=60.0)
    waiting = [pod("x", count=2, cpu=2000), pod("y", count=4, cpu=2000)]
    for request in waiting:
        _filter(server, request)
    assert server.planner is not None
    _until(lambda: sum(server.planner.figures.plans.values()) > 0)
    _until(lambda: server.service.gang_counts()["pins"] >= 2)
    body = _body(waiting[1])
    assert server.client.prioritize(body, ["small", "large"])["large"] == 10
    text = server.client._request("GET", "/metrics", b"").decode()
    assert "snugfit_planner_up 1.0" in text and "snugfit_planner_plan_gap 0.0" in text


def test_a_planner_that_is_killed_is_replaced_and_nobody_notices(start) -> None:
    server = start(
        [node(f"n{i}", gpus=4) for i in range(8)],
        planner=True,
        planner_debounce_s=0.05,
        planner_budget_s=30.0,
    )
    planner = server.planner
    _filter(server, pod("first", count=1))
    _until(lambda: planner.pid is not None)
    numbers = numbered()

    def another_than(before: int | None) -> bool:
        # Something new to plan each time: the latest may have gone to the one that was dying.
        _filter(server, pod(f"more-{next(numbers)}", milli=10))
        return planner.pid not in (None, before)

    for number in range(3):
        pid = _kill(server)
        gang = _gang(f"g{number}", 4, count=2)
        _gather(server, gang)
        assert all(_bind(server, member) for member in gang)
        assert _running(server, f"g{number}") == 4
        _until(lambda before=pid: another_than(before))
    assert planner.figures.restarts >= 3
    assert server.engine.state.check() == []


def test_a_planner_that_exceeds_its_deadline_or_memory_is_ended(start) -> None:
    """256 MiB of address space is less than the solver needs to be loaded."""
    server = start(
        [node("n", gpus=4)],
        planner=True,
        planner_debounce_s=0.05,
        planner_budget_s=60.0,
        planner_memory_mib=256,
    )
    _filter(server, pod("p", count=1))
    figures = server.planner.figures
    _until(lambda: figures.plans["failed"] + figures.faults["crashed"] > 0)
    assert _bind(server, pod("q", count=1)) == "n"


def test_prices_are_computed_beside_the_webhook(start) -> None:
    nodes = [node("a", gpus=4), node("b", gpus=4, product="A10")]
    without = start(nodes, policy="priced")  # nobody computes any
    assert without.client.get("/readyz")["prices"] == "none: scoring as fgd"
    assert without.client.get("/debug/prices") == {"prices": None}
    server = start(
        nodes, planner=True, planner_debounce_s=0.05, policy="priced", reprice_bindings=1
    )
    _until(lambda: server.service.prices is not None)
    assert server.client.get("/readyz")["prices"] == "in force"
    before = server.client.get("/debug/prices")
    assert set(before["worth_milli_gpu"]["by_model"]) == {"none", "T4", "A10"}
    assert before["device_milli_by_100_free"][0] == 0 and before["groups"] == 2
    assert set(before["sets_milli_gpu_by_free_devices"]) == {"none", "T4", "A10"}
    assert _bind(server, pod("p", count=1))
    _until(lambda: server.client.get("/debug/prices")["generation"] > before["generation"])


def _die(*_: object) -> None:
    """Instead of the planner's main."""


def test_prices_that_fail_are_tried_again_after_a_while(start, monkeypatch) -> None:
    """The process dies whenever it comes up: it is not started five times a second."""
    monkeypatch.setattr("scheduler.cluster.worker.child.serve", _die)
    server = start([node("a", gpus=4)], planner=True, planner_debounce_s=300.0, policy="priced")
    planner = server.planner
    _until(lambda: planner.figures.faults["crashed"] > 0)
    _until(lambda: planner.prices._again_at > 0)
    turns, due = [], planner.prices.due
    monkeypatch.setattr(planner.prices, "due", lambda: turns.append(due()) or turns[-1])
    _until(lambda: len(turns) > 4)  # what it would be started for, if it were not for the pause
    assert not any(turns) and planner.figures.restarts == 1 and server.service.prices is None
    assert planner.prices._again_at < time.monotonic() + 300.0
    assert server.client.get("/readyz")["prices"] == "none: scoring as fgd"
    assert _bind(server, pod("p", count=1)) == "a"
    monkeypatch.undo()
    planner.prices._again_at = 0.0  # as if the while were over
    _until(lambda: server.service.prices is not None)


def test_the_metrics_say_what_became_of_plans(start) -> None:
    """The loop is not started: a plan is handed over as the planner process would, but late."""
    server = start([node("a", gpus=2), node("b", gpus=2), node("c", gpus=1)], gang_ttl_s=60.0)
    planner = PlannerLoop(server.service.ledger)
    registry = ExtenderMetrics(server.service.ledger, DecisionLog(1), planner)
    waiting = [pod("x", count=2), pod("y", count=2), pod("z", count=1), *_gang("g", 2)]
    for request in waiting:
        _filter(server, request)
    view = server.service.planning_view()
    assert {request.uid for request in view.pending} == {request.uid for request in waiting}
    server.skipped_s += 61.0
    server.service.snapshot()  # the gang has not come back; its places are free
    assert server.client.bind(waiting[2], "c") == "" and _bind(server, pod("quick", count=2))
    taken = {p.node for p in server.engine.state.placements.values() if p.pod.gpu.count == 2}
    places = [("x", "a"), ("y", "b"), ("z", "c"), ("g-0", "a"), ("g-1", "b"), ("stranger", "a")]
    planner.plans.adopt(PlanMade("IMPROVED", tuple(places), 0.25, 0.125), view)
    said = registry.exposition().decode()
    values = dict(line.rsplit(" ", 1) for line in said.splitlines() if line[:1] != "#")
    assert values['snugfit_planner_plans_total{status="improved"}'] == "1.0"
    assert values["snugfit_planner_plan_seconds"] == "0.25"
    assert values["snugfit_planner_plan_gap"] == "0.125"
    assert 0 <= float(values["snugfit_planner_plan_age_seconds"]) < 60
    assert values["snugfit_planner_pods_planned_total"] == "5.0"  # nobody waits for the stranger
    assert values['snugfit_planner_pods_rejected_total{cause="placed meanwhile"}'] == "1.0"
    assert values['snugfit_planner_pods_rejected_total{cause="no longer fits"}'] == "1.0"
    assert values['snugfit_planner_pods_rejected_total{cause="gang no longer fits"}'] == "2.0"
    assert values["snugfit_planner_pods_adopted_total"] == "1.0"
    assert values["snugfit_pins"] == "1.0"
    pinned = next(uid for uid, name in places[:2] if name not in taken)
    body = msgspec.json.encode(pod_json(pod(pinned, count=2)))
    free = dict(places[:2])[pinned]
    assert server.client.prioritize(body, _names(server))[free] == 10


def test_the_planner_process_is_told_what_changes(start) -> None:
    """Of placements and nodes only the difference is handed over, from plan to plan."""
    server = start(
        [node("a", gpus=1), node("b", gpus=1)], reservation_ttl_s=0, planner_budget_s=60.0
    )
    loop = PlannerLoop(server.service.ledger)
    _filter(server, pod("x", count=1))

    def planned() -> list[tuple[str, str]]:
        answer = loop.process.ask(server.service.planning_view(), PlanQuestion(0.3, {}))
        assert isinstance(answer, PlanMade)
        return list(answer.places)

    try:
        assert len(planned()) == 1
        for taken, left in (("a", "b"), ("b", "a"), ("a", "b")):
            running = pod(f"on-{taken}", count=1)
            _filter(server, running)
            assert server.client.bind(running, taken) == ""
            assert planned() == [("x", left)]
            server.client.release(running.uid)
        server.engine.state.remove_node("a")
        assert planned() == [("x", "b")]
        server.engine.state.update_node(node("b", gpus=0))
        assert planned() == []
        server.engine.state.add_node(node("c", gpus=1))
        assert planned() == [("x", "c")]
    finally:
        loop.process.end()


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
        _kill(server)
        _filter(server, pod(f"p{next(numbers)}", milli=10))
        return server.service.prices is None

    assert _bind(server, pod("first", milli=10))
    _until(dead_and_forgotten)
    assert server.client.get("/readyz")["prices"] == "none: scoring as fgd"
    assert server.planner.figures.priced_at is None


def _loop(server: Running, *members: PodRequest) -> SchedulingLoop:
    return SchedulingLoop(server.client, _names(server), gangs=gangs_of(*members))


def test_a_scheduling_loop_asks_about_members_again_until_their_gang_is_placed(start) -> None:
    server = start([node(f"n{i}", gpus=4) for i in range(3)])
    gang, large = _gang("g", 4, count=2), _gang("large", 4, count=4)
    single = pod("single", count=1)
    arriving = [gang[0], large[0], gang[1], single, *large[1:], *gang[2:]]
    ended = list(_loop(server, *gang, *large).run(arriving))
    assert sorted(request.uid for request, _ in ended) == sorted(p.uid for p in arriving)
    assert all(node for request, node in ended if request in gang)
    assert not any(node for request, node in ended if request in large)
    assert _running(server, "g") == 4 and _running(server, "large") == 0
    assert ended[0][0] == single and bool(ended[0][1])


def test_a_scheduling_loop_places_a_gang_that_is_planned_during_many_questions(
    start, monkeypatch
) -> None:
    server = start([node(f"n{i}", gpus=8) for i in range(12)])
    # A few places for each question.
    monkeypatch.setattr("scheduler.cluster.planned._LONGEST_S", 0.0)
    gang = _gang("g", 90)
    ended = dict(_loop(server, *gang).run(gang))
    assert len(ended) == 90 and all(ended.values())
