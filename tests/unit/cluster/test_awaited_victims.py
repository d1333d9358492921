"""After a preemption: what kube-scheduler has heard of before us costs nobody else its place."""

from __future__ import annotations

import json
import threading
from typing import Any

import msgspec
import pytest

from scheduler.cluster.named_victims import NamedVictims, OnNode
from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.model import Placement, Release
from scheduler.core.state import ClusterState
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.webhook.protocol import PreemptArgs, decode_filter
from testbed.kube_objects import node_json, pod_json
from tests.builders import node, pod
from tests.service import Service

MILLI = "snugfit.io/gpu-milli"
DEVICES = "snugfit.io/devices"


class Live:
    """A service in front of a sync, with two nodes of two devices each, full of low pods."""

    def __init__(self, *running: tuple[str, str, str]) -> None:
        self.now = 0.0
        self.service = Service(
            Engine(ClusterState()), ExtenderConfig(), offline=False, clock=lambda: self.now
        )
        self.sync = self.service.sync
        for name in ("n0", "n1"):
            content = node_json(name, gpus=2, allocatable={MILLI: "2000"})
            self.sync.node(msgspec.convert(content, NodeObject))
        for each in running:
            self.place(*each)

    def place(self, name: str, where: str, device: str) -> None:
        requests, written = {MILLI: device.split(":")[1]}, {DEVICES: f"{device}:0:0"}
        content = pod_json(name, node=where, requests=requests, annotations=written)
        with self.service.exclusive():
            self.sync.pod(msgspec.convert(content, PodObject))

    def asking(self, milli: int) -> dict[str, Any]:
        return pod_json("urgent", requests={MILLI: str(milli)}, spec={"priority": 10})

    def preempt(self, milli: int, **candidates: tuple[str, ...]) -> dict[str, set[str]]:
        asking = msgspec.convert(self.asking(milli), PodObject)
        question = {n: (tuple(f"uid-{v}" for v in victims), 0) for n, victims in candidates.items()}
        answer = self.service.preempt(PreemptArgs(asking, question))
        return {name: set(uids) for name, (uids, _) in answer.items()}

    def filter(self, milli: int, *names: str) -> dict[str, Any]:
        body = {"Pod": self.asking(milli), "Nodes": None, "NodeNames": list(names)}
        answer: dict[str, Any] = json.loads(
            self.service.filter(decode_filter(json.dumps(body).encode()))
        )
        return answer

    def ends(self, name: str) -> None:
        with self.service.exclusive():
            self.sync.pod_gone(f"uid-{name}")


@pytest.fixture
def live(monkeypatch) -> Live:
    """Waits take no time but that of the service's clock."""
    made = Live(
        ("a", "n0", "0:1000"), ("b", "n0", "1:1000"), ("c", "n1", "0:1000"), ("d", "n1", "1:1000")
    )

    def sleep(seconds: float) -> None:
        made.now += seconds

    monkeypatch.setattr("scheduler.cluster.awaited_victims.time.sleep", sleep)
    return made


def test_the_end_of_a_victim_is_waited_for(live, monkeypatch) -> None:
    assert live.preempt(1000, n0=("a",), n1=("c",)) == {"n0": {"uid-a"}, "n1": {"uid-c"}}
    steps = iter(range(100))

    def sleep(seconds: float) -> None:
        live.now += seconds
        if next(steps) == 3:
            live.ends("c")

    monkeypatch.setattr("scheduler.cluster.awaited_victims.time.sleep", sleep)
    assert live.filter(1000, "n1")["NodeNames"] == ["n1"]
    assert 0 < live.now < 0.1


def test_a_real_watch_is_waited_for() -> None:
    live = Live(("a", "n0", "0:1000"), ("b", "n0", "1:1000"))
    live.preempt(1000, n0=("a",))
    late = threading.Timer(0.05, live.ends, ("a",))
    late.start()
    assert live.filter(1000, "n0")["NodeNames"] == ["n0"]
    late.join()


def test_without_word_of_it_the_pod_asks_again_and_evicts_nobody(live) -> None:
    live.preempt(1000, n0=("a",), n1=("c",))
    answer = live.filter(1000, "n1")
    assert "the end of 1 victim" in answer["Error"]
    assert live.service.decisions(1)[0]["detail"] == answer["Error"]
    said = live.service.webhook.metrics.exposition().decode()
    assert "snugfit_filters_put_off_total 1.0" in said and "snugfit_power_watts " in said
    assert not answer["FailedNodes"]
    assert not answer["NodeNames"]
    waited = live.now
    assert 0.2 < waited < 0.5
    # In the same cycle kube-scheduler asks once more: no second wait.
    assert live.filter(1000, "n1")["Error"]
    assert live.now == waited
    live.ends("c")
    assert live.filter(1000, "n1")["NodeNames"] == ["n1"]


def test_what_is_never_confirmed_stops_nobody_for_good(live) -> None:
    live.preempt(1000, n1=("c",))
    assert live.filter(1000, "n1")["Error"]
    live.now += 6
    answer = live.filter(1000, "n1")
    assert not answer["Error"]
    assert "n1" in answer["FailedNodes"]


def test_a_node_that_fits_is_taken_without_a_wait(live) -> None:
    live.preempt(1000, n1=("c",))
    live.ends("a")
    assert live.filter(1000, "n0", "n1")["NodeNames"] == ["n0"]
    assert live.now == 0


def test_where_nobody_was_named_nothing_is_waited_for(live) -> None:
    live.preempt(1000, n1=("c",))
    answer = live.filter(1000, "n0")
    assert "n0" in answer["FailedNodes"]
    assert not answer["Error"]
    assert live.now == 0


def test_whoever_has_found_its_place_has_no_victims_any_more(live) -> None:
    live.preempt(1000, n1=("c",))
    live.ends("c")
    bound = live.asking(1000)
    bound["spec"]["nodeName"] = "n1"
    bound["metadata"]["annotations"] = {DEVICES: "0:1000:0:0"}
    with live.service.exclusive():
        live.sync.pod(msgspec.convert(bound, PodObject))
    assert not live.service.ledger.awaits_victims()


def test_while_the_rest_of_the_victims_ends_nobody_is_evicted_elsewhere(monkeypatch) -> None:
    """800 thousandths need both pods of a device; the node's sum suffices once one has gone.

    As "not to be resolved" the verdict would make kube-scheduler preempt again, elsewhere.
    """
    live = Live(
        ("a", "n0", "0:500"), ("b", "n0", "0:500"), ("c", "n0", "1:500"), ("d", "n1", "0:1000"),
        ("e", "n1", "1:1000"),
    )  # fmt: skip

    def sleep(seconds: float) -> None:
        live.now += seconds

    monkeypatch.setattr("scheduler.cluster.awaited_victims.time.sleep", sleep)
    assert live.preempt(800, n0=("a", "b"))["n0"] == {"uid-a", "uid-b"}
    live.ends("a")
    answer = live.filter(800, "n0")
    assert not answer["Error"]
    assert "n0" in answer["FailedNodes"]
    assert "n0" not in answer["FailedAndUnresolvableNodes"]
    waited = live.now
    live.filter(800, "n0")
    assert live.now == waited  # once for the same victims
    live.ends("b")
    assert live.filter(800, "n0")["NodeNames"] == ["n0"]


def test_victims_that_end_one_by_one_do_not_make_one_call_long(monkeypatch) -> None:
    names = [f"v{i}" for i in range(10)]
    live = Live(*((name, "n0", f"{i // 5}:200") for i, name in enumerate(names)))
    ending = iter(names[:8])
    steps = iter(range(10_000))

    def sleep(seconds: float) -> None:
        live.now += seconds
        if next(steps) % 50 == 49:
            live.ends(next(ending))

    monkeypatch.setattr("scheduler.cluster.awaited_victims.time.sleep", sleep)
    assert live.preempt(2000, n0=tuple(names)) == {"n0": {f"uid-{name}" for name in names}}
    assert live.filter(2000, "n0")["Error"]
    assert live.now < 0.3


def test_what_has_become_certain_is_waited_for_anew(live) -> None:
    """First only a device is short, then the node's sum, which kube-scheduler knows better."""
    live.ends("d")
    live.ends("c")
    live.place("e", "n1", "0:500")
    live.place("f", "n1", "0:500")
    live.place("other", "n1", "1:500")
    assert live.preempt(1000, n1=("e", "f"))["n1"] == {"uid-e", "uid-f"}
    live.ends("e")
    answer = live.filter(1000, "n1")
    assert not answer["Error"]
    assert "n1" in answer["FailedNodes"]
    live.now += 20
    live.place("late", "n1", "1:500")
    assert live.filter(1000, "n1")["Error"]
    live.ends("f")
    assert live.filter(1000, "n1")["NodeNames"] == ["n1"]


def test_where_kube_scheduler_evicts_nobody_nothing_is_waited_for(live) -> None:
    live.preempt(1000, n0=("a",), n1=("c",))
    chosen = live.asking(1000)
    chosen["status"]["nominatedNodeName"] = "n1"
    with live.service.exclusive():
        live.sync.pod(msgspec.convert(chosen, PodObject))
    answer = live.filter(1000, "n0")
    assert "n0" in answer["FailedNodes"]
    assert not answer["Error"]
    assert live.now == 0
    assert live.filter(1000, "n1")["Error"]


def test_so_many_are_remembered_and_no_more() -> None:
    state = ClusterState([node("n", gpus=2)])
    victims = NamedVictims(2)
    running = pod("low", count=2)
    state.apply([Placement(running, "n")], enforce=False)
    asking = [pod(f"high-{i}", count=1) for i in range(3)]
    for request in asking:
        victims.record(request.uid, {"n": OnNode((running.uid,))})
    assert [len(victims.left(request.uid, state)) for request in asking] == [0, 1, 1]
    victims.record(asking[1].uid, {"n": OnNode(())})
    assert len(victims) == 1
    state.apply([Release(running.uid)])
    assert not len(victims.left(asking[2].uid, state))
