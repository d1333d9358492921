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

GPU, NIC = "nvidia.com/gpu", "example.com/nic"
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
    there = {"pods": "2", NIC: "2"}
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
    api.put(NODES, node_json(name, gpus=4, cpu="64", allocatable={"pods": "9", NIC: "64"}))


def _member(number: int, size: int, requests: dict[str, str]) -> dict[str, Any]:
    return pod_json(
        f"m{number}",
        requests={GPU: "1"} | requests,
        labels={"scheduling.x-k8s.io/pod-group": "g"},
        annotations={"snugfit.io/gang-size": str(size)},
    )


@pytest.mark.parametrize("requests", [{"cpu": "2"}, {"cpu": "16"}, {NIC: "2"}, {NIC: "16"}, {}])
def test_a_gang_is_bound_before_the_news_come(live, node, requests) -> None:
    api, server = live
    members = [_member(number, 4, requests) for number in range(4)]
    for member in members:
        api.put(PODS, member)
    eventually(lambda: server.metric("snugfit_pods_pending") == 4)
    _grow(api, node)
    for member in members:
        assert server.filter(member, [node]) == [node]
        assert server.prioritize(member, [node]) == {node: 10}
        assert server.bind(member, node) == ""
    assert len(api.bindings) >= 4
    api.muted = False
    eventually(lambda: _pods_on(server, node) == [f"uid-m{number}" for number in range(4)])


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
