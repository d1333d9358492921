"""Dry runs of a live service: kube-scheduler has not been asked before them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.model import Reason
from scheduler.core.state import ClusterState
from scheduler.kube.objects import NodeObject
from scheduler.webhook.protocol import decode_filter
from testbed.kube_objects import node_json, pod_json
from tests.service import Service

GPU, MILLI, WIDGET = "nvidia.com/gpu", "snugfit.io/gpu-milli", "example.com/widget"


@pytest.fixture
def service() -> Service:
    made = Service(Engine(ClusterState()), ExtenderConfig(), offline=False)
    sync = made.sync
    for name, offered in (
        ("whole", {GPU: "4"}), ("parts", {MILLI: "4000"}), ("plain", {"example.com/gear": "1"})
    ):  # fmt: skip
        sync.node(msgspec.convert(node_json(name, allocatable=offered), NodeObject))
    return made


def passing(service: Service, requests: dict[str, str]) -> list[str]:
    return list(answer(service, requests)["NodeNames"] or ())


def answer(service: Service, requests: dict[str, str]) -> dict[str, Any]:
    question: dict[str, Any] = {
        "Pod": pod_json("p", requests=requests), "NodeNames": ["whole", "parts", "plain"]
    }  # fmt: skip
    said = service.dry_run(decode_filter(msgspec.json.encode(question)))
    decoded: dict[str, Any] = msgspec.json.decode(said)
    return decoded


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
    service: Service, asked: dict[str, str], nodes: list[str]
) -> None:
    assert passing(service, asked) == nodes


def test_what_no_node_offers_is_named_and_so_is_what_is_used_up(service: Service) -> None:
    said = answer(service, {"example.com/gear": "1", WIDGET: "1"})
    assert said["FailedAndUnresolvableNodes"] == dict.fromkeys(
        ("whole", "parts"), f"{Reason.RESOURCE_MISSING.text}: example.com/gear"
    ) | {"plain": f"{Reason.RESOURCE_MISSING.text}: {WIDGET}"}
    assert "NotConsidered" not in said


IMPLICIT = "deviceclass.resource.kubernetes.io/nic"


@pytest.fixture
def with_classes(service: Service) -> Service:
    """Classes stand for whole GPUs and for widgets; another has its implicit name only."""
    service.sync.charges.nodes.dra.mapped = frozenset({GPU, WIDGET, IMPLICIT})
    return service


@pytest.mark.parametrize(
    ("asked", "nodes", "named"),
    [
        ({WIDGET: "1"}, ["whole", "parts", "plain"], WIDGET),
        ({IMPLICIT: "1"}, ["whole", "parts", "plain"], IMPLICIT),
        ({GPU: "1"}, ["whole", "plain"], GPU),  # the devices of "parts" go to fractions
        ({GPU: "5"}, ["plain"], GPU),
        ({WIDGET: "1", MILLI: "500"}, ["parts"], WIDGET),
        ({WIDGET: "1", "example.com/gear": "1"}, ["plain"], WIDGET),
        ({WIDGET: "1", "cpu": "4000"}, [], ""),
        ({WIDGET: "1", "example.com/unknown": "1"}, [], ""),
    ],
)
def test_what_a_device_class_stands_for_is_passed_and_named(
    with_classes: Service, asked: dict[str, str], nodes: list[str], named: str
) -> None:
    said = answer(with_classes, asked)
    assert said["NodeNames"] == nodes
    omissions = said.get("NotConsidered", [])
    assert [one["rule"] for one in omissions] == (
        ["devices of a DeviceClass (DRA)"] if named else []
    )
    assert all(named in one["effect"] and one["pods"] == ["ns/p"] for one in omissions)
    if "example.com/unknown" in asked:
        unknown = f"{Reason.RESOURCE_MISSING.text}: example.com/unknown"
        assert set(said["FailedAndUnresolvableNodes"].values()) == {unknown}


def test_a_node_that_does_not_exist_yet_may_have_devices_of_a_class(
    with_classes: Service,
) -> None:
    question = {
        "Pod": pod_json("p", requests={WIDGET: "1"}), "Nodes": {"items": [node_json("new")]}
    }  # fmt: skip
    said = msgspec.json.decode(with_classes.dry_run(decode_filter(msgspec.json.encode(question))))
    assert [one["metadata"]["name"] for one in said["Nodes"]["items"]] == ["new"]
    assert WIDGET in said["NotConsidered"][0]["effect"]
