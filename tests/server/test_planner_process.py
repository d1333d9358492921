"""The planner process beside the running server, stopped at several points: it is replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from itertools import count as numbered

import msgspec
import pytest

from scheduler.cluster.worker.messages import NodesKnown
from scheduler.files.dump_writer import pod_json
from testbed.fake_api import eventually
from tests.builders import node, pod
from tests.server.conftest import Running

pytestmark = pytest.mark.server

_LARGE = 2000  # nodes; telling of them takes several times what fits into a socket's buffer


def _stop(pid: int | None) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def _place(server: Running, name: str) -> None:
    """One pod by the verbs of the protocol, whatever the planner does meanwhile."""
    request = pod(name, milli=10)
    names = [f"n{i}" for i in range(50)]
    passing, _ = server.client.filter(msgspec.json.encode(pod_json(request)), names)
    assert server.client.bind(request, passing[0]) == ""


@pytest.fixture
def priced(start, monkeypatch) -> Callable[..., Running]:
    """A server that has prices, and asks for new ones after every pod."""
    monkeypatch.setattr("scheduler.cluster.worker.process.SILENCE_S", 2.0)

    def begin(nodes: int, **settings: object) -> Running:
        server = start(
            [node(f"n{i}", gpus=8) for i in range(nodes)],
            planner=True,
            planner_debounce_s=0.05,
            policy="priced",
            reprice_bindings=1,
            reprice_s=60.0,
            **settings,
        )
        eventually(lambda: server.service.prices is not None, 150)
        return server

    return begin


def _priced_again(server: Running) -> None:
    """A new pod leads to new prices."""
    numbers, before = numbered(), server.planner.figures.priced_at

    def newer() -> bool:
        _place(server, f"later-{next(numbers)}")
        return server.planner.figures.priced_at not in (None, before)

    eventually(newer, 150)


def _metric(server: Running, name: str) -> float:
    text = server.client._request("GET", "/metrics", b"").decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
    return float(values.get(name, 0))


@pytest.mark.parametrize("asked", [False, True])
def test_a_planner_that_is_stopped_is_replaced(priced, asked: bool) -> None:
    """While nothing is asked of it, and with a pod that it should be told of."""
    server = priced(50)
    stopped = server.planner.pid
    _stop(stopped)
    if asked:
        _place(server, "first")
    eventually(lambda: server.planner.pid not in (None, stopped))
    assert _metric(server, 'snugfit_planner_faults_total{cause="stuck"}') == 1
    _priced_again(server)
    assert server.client.get("/readyz")["planner"]["given_up"] == {"stuck": 1}


@pytest.mark.parametrize("at", ["its start", "a part of the message"])
def test_a_planner_that_is_stopped_while_it_is_told_of_a_large_cluster(
    priced, monkeypatch, at: str
) -> None:
    server = priced(_LARGE)
    planner = server.planner
    sent, told = numbered(), planner.process._send

    def tell_and_stop(companion, what, items) -> None:
        if what is NodesKnown and next(sent) == 0:
            if at == "its start":
                _stop(companion.pid)
                told(companion, what, items)
            else:
                half = len(items) // 2
                told(companion, what, items[:half])
                _stop(companion.pid)
                told(companion, what, items[half:])
        told(companion, what, items)

    monkeypatch.setattr(planner.process, "_send", tell_and_stop)
    killed = planner.pid
    os.kill(killed, signal.SIGKILL)
    _place(server, "first")
    eventually(lambda: planner.figures.faults["stuck"] == 1, 150)
    eventually(lambda: planner.pid is not None)
    _priced_again(server)
    assert server.engine.state.check() == []


def test_a_planner_that_is_stopped_in_the_middle_of_its_work(priced) -> None:
    server = priced(50)
    planner = server.planner
    numbers = numbered()

    def at_work() -> bool:
        _place(server, f"p{next(numbers)}")
        if planner.state != "price":
            return False
        _stop(planner.pid)
        return True

    eventually(at_work)
    stopped = planner.pid
    eventually(lambda: planner.pid not in (None, stopped))
    _priced_again(server)


def test_who_decides_is_said_while_every_planner_is_stopped(priced) -> None:
    """Prices that nobody renews are given up; the verbs go on, and say by what."""
    server = priced(50)
    assert server.client.get("/readyz")["decided_by"] == "prices"
    assert _metric(server, 'snugfit_decided_by{by="prices"}') == 1
    server.planner.figures.priced_at -= 3600.0  # as if they were old
    numbers = numbered()

    def without() -> bool:
        _stop(server.planner.pid)
        _place(server, f"p{next(numbers)}")
        return server.service.prices is None

    eventually(without, 150)
    seen = server.client.get("/readyz")
    assert seen["decided_by"] == "fgd" and seen["planner"]["price_age_seconds"] is None
    assert _metric(server, 'snugfit_decided_by{by="prices"}') == 0
    assert _metric(server, 'snugfit_decided_by{by="fgd"}') == 1
    eventually(lambda: server.service.prices is not None, 150)
    assert server.client.get("/readyz")["decided_by"] == "prices"
