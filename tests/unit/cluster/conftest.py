"""A fake API server with two nodes, and services that follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testbed.fake_api import NODES, FakeApi, serving
from testbed.kube_objects import node_json
from tests.following import BUDGETS, MILLI, Following


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with serving() as made:
        made.objects[BUDGETS] = {}
        made.put(NODES, node_json("a", allocatable={MILLI: "2000"}))
        made.put(NODES, node_json("b", gpus=4))
        yield made


@pytest.fixture
def follow(api) -> Iterator[Callable[..., Following]]:
    made: list[Following] = []

    def begin(**settings: Any) -> Following:
        made.append(Following(api, **settings))
        return made[-1]

    yield begin
    for one in made:
        one.live.stop()
