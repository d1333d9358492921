"""The bind verb: whatever the API answers, no device is lost or given twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from scheduler.cluster.bind_request import BindRequest
from scheduler.cluster.binding import Binder
from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.errors import KubeApiError
from scheduler.core.state import ClusterState
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.webhook.protocol import decode_filter
from testbed.fake_api import NODES, PODS, FakeApi, carry_out_and_drop, drop, refuse, serving
from testbed.kube_objects import node_json, pod_json
from tests.service import Service

MILLI = "snugfit.io/gpu-milli"
DEVICES = "snugfit.io/devices"


class Binding:
    """Two nodes of one device each, a pod that wants 600 milli-GPU, and a watch run by hand."""

    def __init__(self, api: FakeApi, *, deadline_s: float = 60.0) -> None:
        self.api, self.now, self.deadline_s = api, 1000.0, deadline_s
        for name in ("a", "b"):
            api.put(NODES, node_json(name, allocatable={MILLI: "1000"}))
        self.create("p")
        self.restart()

    def restart(self) -> None:
        """A new process: nothing is known but what a first list tells."""
        engine = Engine(ClusterState())
        self.service = Service(
            engine,
            ExtenderConfig(),
            offline=False,
            clock=lambda: self.now + time.monotonic(),
        )
        self.sync = self.service.sync
        self.binder = Binder(self.service.ledger, self.api.client(), deadline_s=self.deadline_s)
        self.engine = engine
        for obj in self.api.objects[NODES].values():
            self.sync.node(msgspec.convert(obj, NodeObject))
        self.watch()

    def create(self, name: str, milli: int = 600, **rest: Any) -> None:
        self.api.put(PODS, pod_json(name, requests={MILLI: str(milli)}, **rest))

    def watch(self) -> None:
        """The watch catches up."""
        exists = {obj["metadata"]["uid"]: obj for obj in self.api.objects[PODS].values()}
        for uid in set(self.sync.pod_uids()) - set(exists):
            self.sync.pod_gone(uid)
        for obj in exists.values():
            self.sync.pod(msgspec.convert(obj, PodObject))

    def bind(self, node: str, name: str = "p") -> str:
        return self.binder.bind(BindRequest(name, "ns", f"uid-{name}", node))

    def settle(self) -> None:
        """What is overdue is asked for, long after."""
        self.now += 60
        for request in [*self.service.overdue(), *self.binder.overdue()]:
            self.binder.read(request)

    def where(self, name: str = "p") -> str:
        return self.api.objects[PODS][name]["spec"].get("nodeName", "")

    def posts(self) -> int:
        return self.api.count("POST")

    def free(self) -> tuple[int, int]:
        state = self.engine.state
        return int(state.gpu_free[state.row("a"), 0]), int(state.gpu_free[state.row("b"), 0])


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with serving() as made:
        yield made


@pytest.fixture
def binding(api) -> Iterator[Binding]:
    """Whatever happened: once the watch has caught up, the state is the truth."""
    made = Binding(api)
    yield made
    api.script.clear()
    made.watch()
    made.settle()
    held = frozenset(made.engine.reservations)
    assert made.sync.charges.observed().differences(made.engine.state, held, frozenset()) == []
    with made.service.ledger.locked() as cluster:
        assert not cluster.pods.assumed and not held


def test_devices_are_recorded_in_the_very_write_that_binds(binding) -> None:
    assert binding.bind("a") == ""
    pod = binding.api.objects[PODS]["p"]
    assert pod["spec"]["nodeName"] == "a"
    assert pod["metadata"]["annotations"] == {
        DEVICES: "0:600:0:0", "snugfit.io/visible-devices": "0",
        "snugfit.io/devices-uid": "uid-p",
    }  # fmt: skip
    assert binding.free() == (400, 1000), "and counted before the watch tells"
    binding.watch()
    assert binding.free() == (400, 1000) and binding.binder.results == {"bound": 1}


def test_a_repeated_call_is_a_success_before_and_after_the_watch_has_told(binding) -> None:
    assert binding.bind("a") == "" and binding.bind("a") == ""
    binding.watch()
    posts = binding.posts()
    assert binding.bind("a") == "" and binding.posts() == posts
    assert binding.free() == (400, 1000)
    assert binding.binder.results == {"bound": 1, "already": 2}


def test_a_call_whose_answer_was_lost_is_settled_by_reading_the_pod(binding) -> None:
    binding.api.next("POST", "binding", carry_out_and_drop)
    assert binding.bind("a") == ""
    assert binding.where() == "a" and binding.free() == (400, 1000)


def test_a_pod_that_is_bound_elsewhere_stays_there(binding) -> None:
    """Another scheduler was faster and the watch has not told yet."""
    binding.create("p", node="b", annotations={DEVICES: "0:600:0:0"})
    assert "bound to b" in binding.bind("a")
    assert binding.free() == (1000, 400)
    assert "bound to b" in binding.bind("a")
    assert binding.binder.results == {"conflict": 2}


def test_a_pod_that_is_being_deleted_gives_its_reservation_back(binding) -> None:
    binding.create("p", deletionTimestamp="2026-01-01T00:00:00Z")
    assert "409" in binding.bind("a")
    assert binding.free() == (1000, 1000)


def test_a_pod_that_was_deleted_or_replaced_gives_its_reservation_back(binding) -> None:
    binding.api.delete(PODS, "p")
    assert "404" in binding.bind("a")
    assert binding.free() == (1000, 1000)
    binding.create("p", uid="another")
    assert "does not exist any more" in binding.bind("a")
    assert binding.free() == (1000, 1000)


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_refusal_gives_the_reservation_back(binding, status) -> None:
    binding.api.next("POST", "binding", refuse(status))
    assert str(status) in binding.bind("a")
    assert binding.free() == (1000, 1000) and binding.where() == ""
    assert binding.bind("b") == "" and binding.free() == (1000, 400)


def test_a_busy_api_server_is_asked_again(binding) -> None:
    for _ in range(2):
        binding.api.next("POST", "binding", refuse(429, Retry_After="1"))
    assert binding.bind("a") == "" and binding.where() == "a"
    assert binding.posts() == 3 and binding.binder.results == {"bound": 1}


def test_an_api_server_that_stays_busy_has_done_nothing(binding) -> None:
    def busy(handler: Any) -> bool:
        binding.now += 20.0  # as if the answer had taken so long
        return refuse(429, Retry_After="1")(handler)

    binding.deadline_s = 60.0
    binding.restart()
    binding.api.next("POST", "binding", *[busy] * 20)
    assert "429" in binding.bind("a")
    assert 2 <= binding.posts() < 20
    binding.api.script.clear()
    assert binding.binder.results == {"refused": 1}
    assert binding.free() == (1000, 1000)
    assert binding.bind("b") == "" and binding.free() == (1000, 400)


@pytest.mark.parametrize("trouble", [drop, refuse(500), refuse(503)])
def test_what_is_unknown_keeps_its_room_until_the_api_says(binding, trouble) -> None:
    binding.api.next("POST", "binding", trouble)
    binding.api.next("GET", "/pods/p", drop)
    assert binding.bind("a")
    assert binding.free() == (400, 1000) and binding.binder.results == {"unknown": 1}
    binding.api.next("GET", "/pods/p", drop)
    with pytest.raises(KubeApiError):
        binding.settle()
    assert binding.free() == (400, 1000), "nobody knows yet"
    binding.settle()
    assert binding.free() == (1000, 1000)
    assert binding.bind("a") == ""


def test_a_binding_that_arrives_late_after_all_is_found(binding) -> None:
    binding.api.next("POST", "binding", drop)
    assert binding.bind("a")
    assert binding.free() == (400, 1000)
    binding.create("p", node="a", annotations={DEVICES: "0:600:0:0"})
    binding.settle()
    assert binding.free() == (400, 1000) and set(binding.sync.pods) == {"uid-p"}


def test_after_an_unknown_end_the_pod_may_go_elsewhere_if_it_is_not_bound(binding) -> None:
    binding.api.next("POST", "binding", drop)
    assert binding.bind("a")
    assert binding.bind("b") == ""
    assert binding.where() == "b" and binding.free() == (1000, 400)


def test_after_an_unknown_end_the_pod_may_not_go_elsewhere_if_it_is_bound(binding) -> None:
    binding.api.next("POST", "binding", carry_out_and_drop)
    binding.api.next("GET", "/pods/p", drop)
    assert binding.bind("a")
    assert "bound to a" in binding.bind("b")
    assert binding.where() == "a" and binding.free() == (400, 1000)


def test_an_extender_that_was_restarted_between_filter_and_bind_reads_the_pod(binding) -> None:
    binding.restart()
    binding.sync.pod_gone("uid-p")  # its watch has not told of the pod yet
    assert binding.bind("a") == "" and binding.free() == (400, 1000)
    assert "does not exist any more" in binding.bind("a", "nobody")


def test_an_extender_that_was_restarted_after_bind_finds_the_devices_on_the_pod(binding) -> None:
    binding.create("q", milli=300)
    binding.watch()
    assert binding.bind("a") == "" and binding.bind("a", "q") == ""
    before = binding.engine.state.gpu_free.tolist()
    binding.restart()
    assert binding.engine.state.gpu_free.tolist() == before


def test_what_no_longer_fits_is_not_even_asked_for(binding) -> None:
    binding.create("q")
    binding.watch()
    assert binding.bind("a") == ""
    posts = binding.posts()
    assert binding.bind("a", "q") and binding.posts() == posts
    assert binding.bind("a", "p") == ""
    assert binding.bind("nowhere", "q") and binding.binder.results["no_room"] == 2


def test_a_hold_that_was_renewed_while_the_pod_was_read_is_kept(binding) -> None:
    """The answer of the API is older than the hold."""
    waiting = binding.sync.pending["uid-p"]
    binding.engine.reserve_until(waiting, "a", binding.now)

    def meanwhile(_handler: Any) -> bool:
        binding.engine.reserve_until(waiting, "a", binding.now + 100)
        return False

    binding.api.next("GET", "/pods/p", meanwhile)
    binding.binder.read(waiting)
    assert binding.free() == (400, 1000)
    binding.settle()
    binding.settle()
    assert binding.free() == (1000, 1000)


def test_a_reservation_that_was_made_while_the_pod_was_read_is_kept(binding) -> None:
    waiting = binding.sync.pending["uid-p"]
    binding.engine.reserve_until(waiting, "b", binding.now)

    def meanwhile(handler: Any) -> bool:
        before = binding.api.objects[PODS]["p"]
        assert binding.bind("a") == ""
        handler.answer(before)
        return True

    binding.api.next("GET", "/pods/p", meanwhile)
    binding.binder.read(waiting)
    assert binding.where() == "a" and binding.free() == (400, 1000)


def test_every_way_ends_before_the_caller_gives_up(api) -> None:
    """An API server that accepts calls and never answers."""
    binding = Binding(api, deadline_s=0.4)
    released = threading.Event()
    client = binding.binder._client
    request, patience = client._request, []

    def hang(_handler: Any) -> bool:
        released.wait(600)
        return drop(_handler)

    def noted(*args: Any, read_s: float, **rest: Any) -> Any:
        patience.append(read_s)
        return request(*args, read_s=read_s, **rest)

    client._request = noted
    api.next("POST", "binding", hang)
    api.next("GET", "/pods/p", hang, hang, hang)
    began = time.monotonic()
    try:
        assert binding.bind("a")
        assert len(patience) == 2 and sum(patience) < 0.4 + 0.1
        binding.sync.pod_gone("uid-p")
        assert binding.bind("b")  # it has to be read first
        assert len(patience) == 3 and patience[-1] < 0.4 + 0.1
        assert time.monotonic() - began < 25  # those waits do end the calls
    finally:
        released.set()


def test_a_pod_that_is_gone_is_forgotten(binding) -> None:
    """What has asked is remembered for its bind call, and no longer than it exists."""
    pod = binding.api.objects[PODS]["p"]
    question = msgspec.json.encode({"Pod": pod, "Nodes": None, "NodeNames": ["a"]})
    binding.service.filter(decode_filter(question))
    assert binding.bind("a") == ""
    binding.watch()
    assert binding.service.seen("uid-p") is not None  # the call may be repeated
    del binding.api.objects[PODS]["p"]
    binding.watch()
    assert binding.service.seen("uid-p") is None
