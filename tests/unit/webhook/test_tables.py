"""Tables of pods that ask: bounded in number, whoever asks and whether anybody looks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scheduler.cluster import named_victims as named
from scheduler.cluster.named_victims import NamedVictims, OnNode
from scheduler.cluster.pod_memory import Waiting
from scheduler.cluster.recent import Recent
from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.state import ClusterState
from scheduler.webhook.decision_log import DecisionLog
from scheduler.webhook.protocol import decode_filter
from testbed.kube_objects import pod_json
from tests.builders import node, pod
from tests.service import Service


def test_what_was_put_in_longest_ago_is_forgotten_first() -> None:
    table: Recent[str, int] = Recent(2)
    for at, key in enumerate("abac"):
        table.put(key, at)
    assert (table.get("a"), table.get("b"), table.get("c"), len(table)) == (2, None, 3, 2)
    table.drop("a")
    table.drop("a")
    assert "a" not in table and "c" in table


def test_who_waits_is_bounded_in_number_and_in_time() -> None:
    waiting = Waiting(3)
    for at, name in enumerate("abcd"):
        waiting.asks(pod(name), float(at))
    assert [request.name for request in waiting.pods(3.0)] == ["b", "c", "d"]
    waiting.asks(pod("b"), 500.0)
    assert [request.name for request in waiting.pods(602.5)] == ["b", "d"]
    waiting.drop("b")
    assert len(waiting) == 1


@pytest.mark.parametrize("gpu", [{"snugfit.io/gpu-milli": "1"}, {"nvidia.com/gpu": "99"}, {}])
def test_pods_that_ask_and_never_come_fill_no_table(gpu: dict[str, str]) -> None:
    engine = Engine(ClusterState([node("n", gpus=2)]), "fgd")
    service = Service(engine, ExtenderConfig(remembered_pods=50, reservation_ttl_s=0.0))
    for number in range(300):
        body = {"Pod": pod_json(f"p{number}", requests=gpu), "NodeNames": ["n"]}
        service.filter(decode_filter(json.dumps(body).encode()))
    with service.ledger.locked() as cluster:
        sizes = (*cluster.pods.sizes(), len(cluster.requeue))
    assert all(size <= 50 for size in sizes)
    assert len(service.planning_view().pending) <= 50


def test_victims_named_for_pods_are_bounded_in_all(monkeypatch) -> None:
    monkeypatch.setattr(named, "_MOST_VICTIMS", 100)
    table = NamedVictims(1000)
    for number in range(30):
        eight = OnNode(tuple(f"v{at}" for at in range(8)))
        table.record(f"p{number}", {"n": eight, "m": OnNode(("w",))})
    assert len(table) == 11
    assert "p29" in table and "p0" not in table
    table.on_pod_nominated("p29", "m", 0.0)
    for number in range(30):
        table.drop(f"p{number}")
    table.record("large", {"n": OnNode(tuple(f"v{at}" for at in range(1000)))})
    assert "large" in table and table._victims == 1000


def test_decisions_are_kept_with_texts_of_bounded_length() -> None:
    log = DecisionLog(10)
    for _ in range(20):
        log.record("filter", "p" * 10**5, "u" * 10**5, np.zeros(0, int), detail="d" * 10**5)
    assert len(json.dumps(log.latest(100))) < 30_000
