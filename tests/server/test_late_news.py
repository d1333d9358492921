"""kube-scheduler is ahead of the server: nobody is refused for what it knows better."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.fake_api import NODES, PODS, FakeApi, eventually, serving
from testbed.kube_objects import node_json, pod_json
from testbed.live import LiveServer

pytestmark = pytest.mark.server

GPU, MILLI, NIC = "nvidia.com/gpu", "snugfit.io/gpu-milli", "example.com/nic"
BUDGETS = "/apis/policy/v1/poddisruptionbudgets"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeApi, LiveServer]]:
    with serving() as api:
        api.objects[BUDGETS] = {}
        server = LiveServer(api, Path(tmp_path_factory.mktemp("live")))
        yield api, server
        server.stop()


@pytest.fixture
def node(live, request) -> Iterator[str]:
    """A full node of 4 devices; the pod that fills it ends, and the node grows, unheard of."""
    api, server = live
    name = f"node-{request.node.name.replace('[', '-').replace(']', '')}"
    there = {"pods": "2", NIC: "2", MILLI: "4000"}
    api.put(NODES, node_json(name, gpus=4, cpu="4", allocatable=there))
    api.put(PODS, pod_json("ends", node=name, requests={"cpu": "4", NIC: "2"}))
    eventually(lambda: _pods_on(server, name) == ["uid-ends"])
    yield name
    api.muted = False
    for pod in list(api.objects[PODS]):
        api.delete(PODS, pod)
    api.delete(NODES, name)
    eventually(lambda: not server.get("/debug/state")["nodes"])


def _pods_on(server: LiveServer, name: str) -> list[str]:
    state = server.get("/debug/state")
    return [pod["uid"] for node in state["nodes"] if node["name"] == name for pod in node["pods"]]


def _grow(api: FakeApi, name: str) -> None:
    api.muted = True
    api.delete(PODS, "ends")
    api.put(NODES, _grown(name))


def _grown(name: str) -> dict[str, Any]:
    there = {"pods": "9", NIC: "64", MILLI: "4000"}
    return node_json(name, gpus=4, cpu="64", allocatable=there)


def _member(number: int, size: int, requests: dict[str, str]) -> dict[str, Any]:
    return pod_json(
        f"m{number}",
        requests=({} if MILLI in requests else {GPU: "1"}) | requests,
        labels={"scheduling.x-k8s.io/pod-group": "g"},
        annotations={"snugfit.io/gang-size": str(size)},
    )


def _gang(live: tuple[FakeApi, LiveServer], **requests: str) -> list[dict[str, Any]]:
    api, server = live
    members = [_member(number, 4, requests) for number in range(4)]
    for member in members:
        api.put(PODS, member)
    eventually(lambda: server.metric("snugfit_pods_pending") == 4)
    return members


OF_ONE = [{"cpu": "2"}, {"cpu": "16"}, {NIC: "2"}, {NIC: "16"}, {}]


@pytest.mark.parametrize("requests", OF_ONE)
def test_a_gang_passes_before_the_news_and_is_bound_with_them(live, node, requests) -> None:
    api, server = live
    members = _gang(live, **requests, **{MILLI: "1000"})
    _grow(api, node)
    for member in members:
        assert server.filter(member, [node]) == [node]
        assert server.prioritize(member, [node]) == {node: 10}
        assert "waits for news" in server.bind(member, node)
    assert not _bound(api, members)
    api.muted = False
    eventually(lambda: server.bind(members[0], node) == "")
    assert [server.bind(member, node) for member in members[1:]] == ["", "", ""]
    eventually(lambda: _pods_on(server, node) == [f"uid-m{number}" for number in range(4)])


def test_a_gang_is_not_bound_by_half_where_there_is_room_for_half_of_it(live, node) -> None:
    """kube-scheduler has room for two, and says so of one after another."""
    api, server = live
    members = _gang(live, cpu="2", **{MILLI: "1000"})
    api.muted = True
    api.delete(PODS, "ends")
    for member in members[:2]:
        assert server.filter(member, [node]) == [node]
    assert all("waits for news" in server.bind(member, node) for member in members[:2])
    api.muted = False
    eventually(lambda: server.filter(members[0], [node]) == [])
    assert all("2 of 4" in server.bind(member, node) for member in members)
    assert not _bound(api, members)
    api.put(NODES, _grown(node))
    eventually(lambda: server.filter(members[0], [node]) == [node])
    eventually(lambda: server.bind(members[0], node) == "")
    assert [server.bind(member, node) for member in members[1:]] == ["", "", ""]
    assert len(_bound(api, members)) == 4


@pytest.mark.parametrize("requests", OF_ONE)
def test_where_kube_scheduler_binds_no_member_passes_before_there_is_room_for_all(
    live, node, requests
) -> None:
    api, server = live
    members = _gang(live, **requests)
    _grow(api, node)
    assert [server.filter(member, [node]) for member in members] == [[]] * 4
    api.muted = False
    for member in members:
        eventually(lambda asks=member: server.filter(asks, [node]) == [node])


def _bound(api: FakeApi, members: list[dict[str, Any]]) -> list[str]:
    """Members whose bindings have reached the API, on the node of this test."""
    return [
        name
        for name in (member["metadata"]["name"] for member in members)
        if api.objects[PODS][name]["spec"].get("nodeName")
    ]


def test_devices_are_those_that_are_known(live, node) -> None:
    api, server = live
    members = [_member(number, 5, {"cpu": "2"}) for number in range(5)]
    for member in members:
        api.put(PODS, member)
    eventually(lambda: server.metric("snugfit_pods_pending") == 5)
    _grow(api, node)
    assert [server.filter(member, [node]) for member in members] == [[]] * 5
    assert server.filter(pod_json("alone", requests={GPU: "4", "cpu": "9"}), [node]) == [node]


def test_victims_on_a_node_that_has_grown(live, node) -> None:
    api, server = live
    low = pod_json("low", node=node, requests={GPU: "4"})
    api.put(PODS, low)
    eventually(lambda: len(_pods_on(server, node)) == 2)
    _grow(api, node)
    urgent = pod_json("urgent", requests={GPU: "2", "cpu": "16"}, spec={"priority": 10})
    assert server.filter(urgent, [node]) == []
    named = server.preempt(urgent, {node: ["uid-low"]})
    assert named == {node: ["uid-low"]}
