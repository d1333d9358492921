"""Log lines about what others write: short, printable, once an object and hour."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.state import ClusterState
from scheduler.kube.complaints import Complaints, cut
from scheduler.webhook.protocol import decode_filter
from testbed.kube_objects import node_object, pod_json, pod_object
from tests.service import Service

log = logging.getLogger("scheduler.test")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_object_is_complained_about_once_an_hour_whatever_is_wrong(caplog) -> None:
    clock = Clock()
    complaints = Complaints(log, clock)
    assert complaints.about("Pod a/p", "this")
    assert not complaints.about("Pod a/p", "that")
    assert complaints.about("Pod a/q", "that")
    clock.now = 3599.0
    assert not complaints.about("Pod a/p", "this")
    clock.now = 3601.0
    assert complaints.about("Pod a/p", "this")
    assert len(caplog.records) == 3


def test_what_was_complained_about_longest_ago_is_forgotten_first() -> None:
    complaints = Complaints(log, Clock(), most=2)
    assert [complaints.about(name, "x") for name in "abcb"] == [True, True, True, False]
    assert complaints.about("a", "x")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Größe 4 µs", "Größe 4 µs"),
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("x\u202ey", r"x\u202ey"),
        ("x" * 10_000, "x" * 397 + "..."),
    ],
)
def test_a_line_is_a_line_and_short(text: str, shown: str) -> None:
    assert cut(text) == shown


UPDATES: dict[str, Any] = {
    "a quantity": lambda n: {"requests": {"cpu": f"{n}-" + "9" * 200_000}},
    "the name of a resource": lambda n: {"requests": {f"x/{n}" + "y" * 200_000: "-1"}},
    "two ways at once": lambda n: {
        "requests": {"nvidia.com/gpu": "1", f"nvidia.com/mig-{n}" + "z" * 200_000: "1"}
    },
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize("bound", [False, True], ids=["pending", "bound"])
def test_a_pod_that_is_changed_often_has_a_line_or_two(caplog, update, bound: bool) -> None:
    caplog.set_level(logging.INFO)
    service = Service(Engine(ClusterState()), ExtenderConfig(), offline=False)
    sync = service.sync
    sync.node(node_object("n", gpus=1))
    for number in range(20):
        sync.pod(pod_object("p", node="n" if bound else "", **update(number)))
    text = "".join(record.getMessage() for record in caplog.records)
    assert len(caplog.records) <= 3
    assert len(text) < 3000
    assert all(len(why) <= 400 for why in sync.unreadable.values())


def test_an_answer_for_every_node_does_not_repeat_what_a_pod_wrote_at_length(caplog) -> None:
    service = Service(Engine(ClusterState()), ExtenderConfig())
    names = [f"n{number}" for number in range(200)]
    requests = {"x/" + "y" * 100_000: "-1"}
    body = decode_filter_of({"Pod": pod_json("p", requests=requests), "NodeNames": names})
    for _ in range(5):
        assert len(service.filter(body)) < 200 * 1000
    assert len(caplog.records) == 1


def decode_filter_of(content: dict[str, Any]) -> Any:
    return decode_filter(msgspec.json.encode(content))


def test_an_error_is_as_long_as_a_message_may_be() -> None:
    error = InvalidInput("f" * 10**6, "p" * 10**6, "r")
    assert len(str(error)) <= 1000
    assert error.field == "f" * 10**6
