"""Nodes whose devices kube-scheduler hands out by itself: passed, not counted, named."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.model import Reason
from testbed.fake_api import NODES, PODS, eventually, refuse, say
from testbed.kube_objects import node_json, pod_json
from tests.following import MILLI, Following

GPU = "nvidia.com/gpu"
GROUP = '{"versions": [{"groupVersion": "resource.k8s.io/v1"}]}'
SERVED = '{"resources": [{"name": "deviceclasses", "kind": "DeviceClass"}]}'
CLASSES = (
    '{"items": [{"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "nvidia.com/gpu"}},'
    ' {"metadata": {"name": "nic"}, "spec": null}]}'
)


def _serve(api: Any, classes: str = CLASSES) -> None:
    """Answer what is asked about classes once."""
    for path, text in (("/v1/deviceclasses", classes), ("/v1", SERVED), ("", GROUP)):
        api.next("GET", f"/apis/resource.k8s.io{path}", say(text))


@pytest.fixture
def following(api, follow) -> Following:
    api.put(NODES, node_json("c", cpu="8"))
    _serve(api)
    return follow().start()


def _asks(following: Following, nodes: list[str], verb: str = "filter", **requests: str) -> Any:
    pod = pod_json("asks", requests={GPU: "2"} | requests)
    following.api.put(PODS, pod)
    return following.web.post(f"/{verb}", json={"Pod": pod, "NodeNames": nodes}).get_json()


def _bind(following: Following, node: str) -> str:
    call = {"PodName": "asks", "PodNamespace": "ns", "PodUID": "uid-asks", "Node": node}
    return following.web.post("/bind", json=call).get_json()["Error"]


def test_a_node_that_kube_scheduler_has_passed_is_passed_and_charged_without_devices(
    following,
) -> None:
    assert sorted(_asks(following, ["b", "c"])["NodeNames"]) == ["b", "c"]
    ranks = {one["Host"]: one["Score"] for one in _asks(following, ["b", "c"], "prioritize")}
    assert set(ranks) == {"b", "c"}
    assert _bind(following, "c") == ""
    following.equal()
    with following.service.exclusive() as engine:
        row = engine.state.row("c")
        assert engine.state.cpu_free[row] == 7000 and engine.state.gpu_used[row] == 0
    assert following.live.detail()["nodes_with_devices_by_dra"] == {"c": (GPU,)}


def test_cpu_there_is_what_kube_scheduler_says_as_anywhere(following) -> None:
    following.api.put(PODS, pod_json("large", node="c", requests={"cpu": "7500m"}))
    following.equal()
    assert _asks(following, ["c"], cpu="3")["NodeNames"] == ["c"]  # it has heard of an end
    other = {"Pod": pod_json("other", requests={"cpu": "100m"}), "NodeNames": ["c"]}
    said = following.web.post("/filter", json=other).get_json()  # room there is kept for that pod
    assert said["FailedAndUnresolvableNodes"] == {"c": Reason.INSUFFICIENT_CPU.text}


def test_what_no_class_stands_for_is_refused_as_before(following) -> None:
    assert not _asks(following, ["c"], **{GPU: "0", MILLI: "500"})["NodeNames"]
    assert not _asks(following, ["c"], **{GPU: "0", "nvidia.com/gpu.shared": "1"})["NodeNames"]


def test_nodes_of_the_device_plugin_are_counted_as_ever(following) -> None:
    assert _asks(following, ["b", "c"], **{GPU: "5"})["NodeNames"] == ["c"]
    following.api.put(NODES, node_json("c", gpus=1))  # it has a device plugin by now

    def devices() -> int:
        with following.service.exclusive() as engine:
            return int(engine.state.device_count[engine.state.row("c")])

    eventually(lambda: devices() == 1)
    assert following.live.recount.run() == []
    assert not _asks(following, ["c"])["NodeNames"]


def test_other_counted_resources_may_come_by_dra_too(following) -> None:
    nic = "deviceclass.resource.kubernetes.io/nic"
    assert _asks(following, ["b"], **{nic: "1"})["NodeNames"] == ["b"]
    following.api.put(NODES, node_json("d", allocatable={nic: "1"}))
    following.equal()
    assert sorted(_asks(following, ["b", "d"], **{GPU: "0", nic: "1"})["NodeNames"]) == ["b", "d"]
    asked = _asks(following, ["b", "d"], **{GPU: "0", nic: "2"})
    assert sorted(asked["NodeNames"]) == ["b", "d"]  # as many as kube-scheduler has counted


def test_classes_come_and_go(following) -> None:
    assert _asks(following, ["c"])["NodeNames"] == ["c"]
    _serve(following.api, '{"items": []}')
    following.live.lookups[1].look()
    assert not _asks(following, ["c"])["NodeNames"]
    assert following.live.recount.run() == []
    _serve(following.api)
    following.live.lookups[1].look()
    assert _asks(following, ["c"])["NodeNames"] == ["c"]
    following.api.next("GET", "/apis/resource.k8s.io", refuse(503))
    following.live.lookups[1].look()  # told of, and what is known stays
    assert _asks(following, ["c"])["NodeNames"] == ["c"]


def test_without_the_right_to_list_classes_such_nodes_are_refused(api, follow, caplog) -> None:
    api.put(NODES, node_json("c"))
    api.next("GET", "/apis/resource.k8s.io", refuse(403))
    following = follow().start()
    assert not _asks(following, ["c"])["NodeNames"]
    assert "nodes whose devices come by DRA are refused" in caplog.text
