"""Chores: whatever happens to one of them, the others have their turn."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from scheduler.cluster import recount
from scheduler.cluster.housekeeping import Chore, Housekeeping, Patience, RepeatLimit
from scheduler.core.errors import KubeApiError
from testbed.fake_api import PODS, eventually
from testbed.kube_objects import pod_json
from tests.following import MILLI, Following


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr("scheduler.cluster.housekeeping._TURN_S", 0.01)


@pytest.mark.parametrize(
    "error", [ValueError("digits"), KubeApiError("GET /", 500, "etcd"), AssertionError()]
)
def test_a_chore_that_fails_stops_no_other_and_comes_again(error: Exception) -> None:
    done: Counter[str] = Counter()

    def fail() -> None:
        done["failing"] += 1
        raise error

    stop, faults = threading.Event(), Counter[str]()
    chores = [
        Chore("before", lambda: done.update(["before"])),
        Chore("failing", fail),
        Chore("after", lambda: done.update(["after"]), 0.02, spread=0.5),
        Chore("rare", lambda: done.update(["rare"]), 3600.0),
    ]
    keeping = Housekeeping("test", chores, ready=lambda: True, stop=stop, faults=faults)
    keeping.thread.start()
    eventually(lambda: min(done["before"], done["after"], done["failing"]) > 3)
    stop.set()
    keeping.thread.join()
    assert faults == {"failing": done["failing"]} and not done["rare"]


def test_nothing_is_looked_after_before_there_is_anything() -> None:
    done, asked, stop = Counter[str](), Counter[str](), threading.Event()

    def ready() -> bool:
        asked["ready"] += 1
        return asked["ready"] > 3

    chores = [Chore("one", lambda: done.update({"early": asked["ready"] <= 3, "turns": 1}))]
    Housekeeping("test", chores, ready=ready, stop=stop, faults=Counter()).thread.start()
    eventually(lambda: done["turns"])
    stop.set()
    assert not done["early"]


def test_one_thing_is_told_of_once_in_a_while() -> None:
    told = RepeatLimit(every_s=3600.0)
    assert [told.now(what) for what in ("a", "a", "b", "a")] == [True, False, True, False]
    always = RepeatLimit(every_s=0.0)
    assert always.now("a") and always.now("a")


def test_what_fails_waits_ever_longer_until_it_succeeds() -> None:
    patience = Patience(first_s=1000.0, most_s=3000.0)
    assert not patience.waits("x")
    patience.failed("x")
    patience.failed("x")
    assert patience.waits("x") and not patience.waits("y")
    patience.succeeded("x")
    assert not patience.waits("x")


def _overdue(following: Following, *names: str) -> None:
    with following.service.exclusive() as engine:
        for name in names:
            engine.reserve_until(following.sync.pending[f"uid-{name}"], "a", 0.0)


def _held(following: Following) -> set[str]:
    with following.service.exclusive() as engine:
        return set(engine.reservations)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Exceeds the limit (4300 digits) for integer string conversion"),
        KubeApiError("GET /pods/bad", 403, "forbidden"),
        RecursionError(),
    ],
)
def test_one_pod_that_cannot_be_settled_stops_no_other(api, follow, monkeypatch, error) -> None:
    following = follow(recount_s=0.05, reservation_ttl_s=1.0)
    read = following.live.binder.read

    def read_or_fail(pod: Any, **how: Any) -> None:
        if pod.name == "bad":
            raise error
        read(pod, **how)

    monkeypatch.setattr(following.live.binder, "read", read_or_fail)
    for name in ("bad", "good", "late"):
        api.put(PODS, pod_json(name, requests={MILLI: "100"}))
    following.start()
    _overdue(following, "bad", "good")
    eventually(lambda: _held(following) == {"uid-bad"})
    recounts = following.live.figures.recounts
    _overdue(following, "late")
    eventually(lambda: _held(following) == {"uid-bad"})
    eventually(lambda: following.live.figures.recounts > recounts)
    if not isinstance(error, KubeApiError):
        assert following.metric('snugfit_chore_faults_total{chore="reservations"}') >= 1


@pytest.mark.parametrize("broken", ["expired_reservations", "pods_to_requeue"])
def test_a_chore_of_the_service_that_fails_is_counted_and_stops_no_other(
    api, follow, monkeypatch, broken: str
) -> None:
    following = follow(recount_s=0.05, requeue_after_s=0.05)

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(f"scheduler.cluster.caretaker.{broken}", fail)
    following.start()
    chore = {"expired_reservations": "reservations", "pods_to_requeue": "requeue"}[broken]
    eventually(lambda: following.metric(f'snugfit_chore_faults_total{{chore="{chore}"}}') > 2)
    recounts = following.live.figures.recounts
    eventually(lambda: following.live.figures.recounts > recounts + 2)
    assert following.metric('snugfit_chore_faults_total{chore="recount"}') == 0


def test_one_node_that_cannot_be_healed_stops_no_other(api, follow, monkeypatch) -> None:
    for name in "ab":
        api.put(PODS, pod_json(f"on-{name}", node=name, requests={"cpu": "1"}))
    following = follow().start()
    following.equal()
    heal = recount.heal

    def heal_or_fail(engine: Any, charges: Any, names: Any) -> None:
        if "a" in names:
            raise OverflowError
        heal(engine, charges, names)

    monkeypatch.setattr(recount, "heal", heal_or_fail)
    with following.service.exclusive() as engine:
        engine.release("uid-on-a")
        engine.release("uid-on-b")
    assert following.live.recount.run()
    with following.service.exclusive() as engine:
        assert set(engine.state.placements) == {"uid-on-b"}
    assert following.metric('snugfit_chore_faults_total{chore="recount"}') == 1
    monkeypatch.undo()
    following.live.recount.run()
    following.equal()
