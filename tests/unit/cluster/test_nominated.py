"""What kube-scheduler nominates a pod for, it has chosen: holds follow."""

from __future__ import annotations

import msgspec
import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.sync import Sync
from scheduler.core.engine import Engine
from scheduler.core.state import ClusterState
from scheduler.kube.objects import PodObject
from scheduler.webhook.protocol import decode_filter
from tests.builders import node
from tests.service import Service

POD = {
    "metadata": {"name": "p", "namespace": "default", "uid": "p"},
    "spec": {"containers": [{"resources": {"requests": {"nvidia.com/gpu": "1"}}}]},
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def asked() -> tuple[Service, Sync, Clock]:
    """A pod that has asked; node a was the only one offered, and is held."""
    clock = Clock()
    engine = Engine(ClusterState([node("a", gpus=1), node("b", gpus=1)]), "best-fit")
    service = Service(engine, ExtenderConfig(reservation_ttl_s=30), offline=False, clock=clock)
    sync = service.sync
    sync.pod(msgspec.convert(POD, PodObject))
    service.filter(decode_filter(msgspec.json.encode({"Pod": POD, "NodeNames": ["a"]})))
    assert service.holds == 1
    return service, sync, clock


def nominate(sync: Sync, where: str) -> None:
    sync.pod(msgspec.convert(POD | {"status": {"nominatedNodeName": where}}, PodObject))


def held(service: Service) -> list[str]:
    with service.exclusive() as engine:
        return [hold.placement.node for hold in engine.reservations.values()]


def test_a_hold_on_the_nominated_node_lives_on(asked) -> None:
    service, sync, clock = asked
    clock.now = 25.0
    nominate(sync, "a")
    clock.now = 40.0
    assert held(service) == ["a"] and service.overdue() == []
    clock.now = 56.0
    assert [pod.uid for pod in service.overdue()] == ["p"]


def test_a_hold_elsewhere_is_given_back(asked) -> None:
    service, sync, _ = asked
    nominate(sync, "b")
    assert held(service) == []


def test_a_nomination_that_waits_for_victims_holds_nothing(asked) -> None:
    service, sync, _ = asked
    nominate(sync, "b")
    nominate(sync, "b")
    assert held(service) == [] and "p" in sync.pending
