"""What the webhook learns of the pods that ask: when it comes into force."""

from __future__ import annotations

import json

import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.pricing.compute import prices
from scheduler.webhook.protocol import decode_filter
from testbed.kube_objects import pod_json
from tests.builders import node
from tests.service import Service


class Asked:
    """A service that learns from every third pod."""

    def __init__(self) -> None:
        self.state = ClusterState([node(f"n{i}", gpus=8) for i in range(3)])
        self.engine = Engine(self.state, "priced")
        self.service = Service(self.engine, ExtenderConfig(relearn_every=3))
        self.pods = 0

    def ask(self, count: int, gpus: int) -> None:
        for _ in range(count):
            self.pods += 1
            requests = {"nvidia.com/gpu": str(gpus), "cpu": "4"}
            body = {"Pod": pod_json(f"p{self.pods}", requests=requests), "NodeNames": ["n0", "n1"]}
            self.service.filter(decode_filter(json.dumps(body).encode()))

    def gpus_in_force(self) -> set[int]:
        return {shape.gpu.count for shape in self.engine.profile.shapes}

    def price(self, profile: WorkloadProfile) -> None:
        made = prices(self.state, profile)
        assert made is not None
        self.service.set_prices(made, profile)


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_without_prices_it_is_in_force_at_once(asked) -> None:
    asked.ask(3, gpus=1)
    assert asked.gpus_in_force() == {1}
    assert asked.service.profile is asked.engine.profile


def test_at_prices_it_comes_with_the_prices_made_for_it(asked) -> None:
    asked.ask(3, gpus=1)
    asked.price(asked.service.profile)
    asked.ask(3, gpus=2)
    assert asked.gpus_in_force() == {1}
    learnt = asked.service.planning_view().pricing.profile
    assert {shape.gpu.count for shape in learnt.shapes} == {1, 2}
    asked.ask(3, gpus=4)  # while they are made
    asked.price(learnt)
    assert asked.engine.profile is learnt
    assert {shape.gpu.count for shape in asked.service.profile.shapes} == {1, 2, 4}
    asked.price(asked.service.profile)
    assert asked.gpus_in_force() == {1, 2, 4}
    assert asked.service.profile is asked.engine.profile


def test_when_prices_are_given_up_it_is_in_force_without_them(asked) -> None:
    asked.ask(3, gpus=1)
    asked.price(asked.service.profile)
    asked.ask(3, gpus=2)
    asked.service.set_prices(None)
    assert asked.engine.prices() is None
    assert asked.gpus_in_force() == {1, 2}
    assert asked.service.profile is asked.engine.profile
