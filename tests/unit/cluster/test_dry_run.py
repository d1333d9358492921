"""Dry runs of a live service: kube-scheduler has not been asked before them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.cluster.service import ExtenderService
from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.state import ClusterState
from scheduler.kube.objects import NodeObject
from scheduler.webhook.protocol import decode_filter
from testbed.kube_objects import node_json, pod_json

GPU, MILLI, WIDGET = "nvidia.com/gpu", "snugfit.io/gpu-milli", "example.com/widget"


@pytest.fixture
def service() -> ExtenderService:
    made = ExtenderService(Engine(ClusterState()), ExtenderConfig(), offline=False)
    mirror = made.attach()
    for name, offered in (
        ("whole", {GPU: "4"}), ("parts", {MILLI: "4000"}), ("plain", {"example.com/gear": "1"})
    ):  # fmt: skip
        mirror.node(msgspec.convert(node_json(name, allocatable=offered), NodeObject))
    return made


def passing(service: ExtenderService, requests: dict[str, str]) -> list[str]:
    question: dict[str, Any] = {
        "Pod": pod_json("p", requests=requests), "NodeNames": ["whole", "parts", "plain"]
    }  # fmt: skip
    answer = service.dry_run(decode_filter(msgspec.json.encode(question)))
    return list(msgspec.json.decode(answer)["NodeNames"] or ())


@pytest.mark.parametrize(
    ("asked", "nodes"),
    [
        ({GPU: "1"}, ["whole"]),
        ({MILLI: "500"}, ["parts"]),
        ({MILLI: "2000"}, ["parts"]),
        ({"example.com/gear": "1"}, ["plain"]),
        ({WIDGET: "1"}, []),
        ({GPU: "1", WIDGET: "1"}, []),
    ],
)
def test_a_pod_goes_where_everything_is_offered_that_it_asks_for_by_that_name(
    service: ExtenderService, asked: dict[str, str], nodes: list[str]
) -> None:
    assert passing(service, asked) == nodes
