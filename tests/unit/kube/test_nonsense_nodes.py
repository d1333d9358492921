"""Node objects that say nonsense: bounded when read, named, and nobody else's trouble."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import Reason
from scheduler.core.state import ClusterState
from scheduler.kube.advertise import Action, adverts
from scheduler.kube.nodes import node_of
from testbed.kube_objects import node_object, pod_object
from tests.builders import pod
from tests.service import Service

REGISTER = "hami.io/node-nvidia-register"
A100 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}


def _register(*devices: dict[str, Any]) -> dict[str, Any]:
    usual = {"index": 0, "devmem": 40960, "type": "T4", "health": True}
    listed = [usual | {"id": f"GPU-{at}", "index": at} | own for at, own in enumerate(devices)]
    return {"gpus": 20, "annotations": {REGISTER: json.dumps(listed)}}


def _fields(memory: str = "40960", index: str = "0") -> dict[str, Any]:
    return {
        "gpus": 20,
        "annotations": {REGISTER: f"GPU-0,10,{memory},100,T4,0,true,{index},hami-core:"},
    }


def _mig(**counts: str) -> dict[str, Any]:
    resources = {f"nvidia.com/mig-{name[1:].replace('_', '.')}": n for name, n in counts.items()}
    return {"allocatable": resources, "labels": A100}


NONSENSE: dict[str, dict[str, Any]] = {
    "gpus without end": {"allocatable": {"nvidia.com/gpu": "1000000000"}},
    "gpus of another vendor": {"allocatable": {"amd.com/gpu": "1e18"}},
    "gpus out of service": {
        "allocatable": {"nvidia.com/gpu": "1"}, "capacity": {"nvidia.com/gpu": "1G"},
    },
    "negative gpus": {"allocatable": {"nvidia.com/gpu": "-1"}},
    "half a gpu": {"allocatable": {"nvidia.com/gpu": "500m"}},
    "milli": {"gpus": 2, "allocatable": {"snugfit.io/gpu-milli": "1000000000000"}},
    "shared": {"allocatable": {"nvidia.com/gpu.shared": "1E"}},
    "replicas": {"gpus": 2, "labels": {"nvidia.com/gpu.replicas": "9" * 60}},
    "replicas in another script": {"gpus": 2, "labels": {"nvidia.com/gpu.replicas": "\u0664"}},
    "negative replicas": {"gpus": 2, "labels": {"nvidia.com/gpu.replicas": "-4"}},
    "memory": {"gpus": 2, "labels": {"nvidia.com/gpu.memory": "1000000000000"}},
    "memory of thousands of digits": {"gpus": 2, "labels": {"nvidia.com/gpu.memory": "9" * 5000}},
    "memory in another script": {"gpus": 2, "labels": {"nvidia.com/gpu.memory": "\uff11\uff16"}},
    "mig": _mig(_1g_5gb="2000000"),
    "mig of many profiles": _mig(_1g_5gb="200", _2g_10gb="200", _3g_20gb="200"),
    "mig on more devices than there are": _mig(_7g_40gb="33"),
    "unknown mig": _mig(**{f"_{n}g_1gb": "1" for n in range(1000)}),
    "register: memory": _register({"devmem": 10**12}),
    "register: negative memory": _register({"devmem": -5}),
    "register: memory beyond 64 bits": _register({"devmem": 10**30}),
    "register: fraction": _register({"devmem": 1.5}),
    "register: index": _register({"index": 10**9}),
    "register: negative index": _register({"index": -1}),
    "register: one device twice": _register({"id": "GPU-0"}, {"id": "GPU-0"}),
    "register: devices": _register(*[{}] * 65),
    "register: devices without end": _register(*[{}] * 10_000),
    "register: fields": _fields(memory="9" * 5000),
    "register: negative field": _fields(memory="-1"),
    "register: another script": _fields(memory="\u0967\u0968"),
    "register: index field": _fields(index="9" * 30),
    "gpushare": {
        "allocatable": {"aliyun.com/gpu-mem": "1000000000000", "aliyun.com/gpu-count": "1G"},
    },
    "gpushare: count": {"allocatable": {"aliyun.com/gpu-mem": "1M", "aliyun.com/gpu-count": "1M"}},
    "gpushare: memory": {"allocatable": {"aliyun.com/gpu-mem": "1E", "aliyun.com/gpu-count": "2"}},
    "gpushare: negative": {
        "allocatable": {"aliyun.com/gpu-mem": "-8", "aliyun.com/gpu-count": "2"},
    },
}  # fmt: skip
"""What costs a node its devices, and leaves the rest of it."""

WORTHLESS: dict[str, dict[str, Any]] = {
    "cpu": {"cpu": "1e30"},
    "negative cpu": {"cpu": "-1"},
    "memory": {"allocatable": {"memory": "8E"}},
    "pods": {"pods": 10**12},
    "no number": {"cpu": "lots"},
    "taints": {"taints": [{"key": f"k{n}", "effect": "NoSchedule"} for n in range(10_000)]},
}
"""What leaves nothing of a node."""


class Cluster:
    """One node that is well and a sync to show others to."""

    def __init__(self) -> None:
        service = Service(Engine(ClusterState()), ExtenderConfig(), offline=False)
        self.sync = service.sync
        with service.exclusive() as engine:
            self.engine = engine
        self.sync.node(node_object("well", gpus=2))
        self.sync.pod(pod_object("p", node="well", requests={"nvidia.com/gpu": "1"}))

    def fits(self, node: str, **request: Any) -> bool:
        return self.engine.explain(pod("x", cpu=1, memory=1, **request), node) is Reason.FITS

    def differences(self) -> list[str]:
        image = self.sync.charges.observed()
        return image.differences(self.engine.state, frozenset(), frozenset())


@pytest.fixture
def cluster() -> Any:
    made = Cluster()
    yield made
    assert made.fits("well", count=1) and not made.fits("well", count=2)
    made.sync.node(node_object("late", gpus=4))
    assert made.fits("late", count=4)
    assert made.differences() == []


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_a_node_whose_devices_cannot_be_has_none_and_is_named(
    cluster: Cluster, said: dict[str, Any]
) -> None:
    cluster.sync.node(node_object("bad", **said))
    assert list(cluster.sync.unreadable) == ["Node bad"]
    assert cluster.fits("bad")
    assert not cluster.fits("bad", count=1) and not cluster.fits("bad", milli=1)
    cluster.sync.node(node_object("bad", gpus=3))
    assert cluster.sync.unreadable == {}
    assert cluster.fits("bad", count=3)


@pytest.mark.parametrize("said", WORTHLESS.values(), ids=WORTHLESS)
def test_a_node_that_cannot_be_is_empty_and_named(cluster: Cluster, said: dict[str, Any]) -> None:
    cluster.sync.node(node_object("bad", gpus=1, **said))
    assert list(cluster.sync.unreadable) == ["Node bad"]
    assert not cluster.fits("bad")
    cluster.sync.node(node_object("bad", gpus=3))
    assert cluster.fits("bad", count=3)


@pytest.mark.parametrize("said", [NONSENSE["gpus without end"], WORTHLESS["pods"]])
def test_its_pods_are_charged_once_it_is_well_again(cluster: Cluster, said: dict[str, Any]) -> None:
    cluster.sync.pod(pod_object("q", node="bad", requests={"nvidia.com/gpu": "2"}))
    cluster.sync.node(node_object("bad", **said))
    cluster.sync.node(node_object("bad", gpus=3))
    assert cluster.fits("bad", count=1) and not cluster.fits("bad", count=2)


def test_a_node_without_devices_may_carry_any_label(cluster: Cluster) -> None:
    cluster.sync.node(node_object("plain", labels={"nvidia.com/gpu.memory": "none"}))
    assert cluster.sync.unreadable == {}
    assert cluster.fits("plain")


def test_what_is_wrong_is_said_in_a_line() -> None:
    for name, said in (NONSENSE | WORTHLESS).items():
        with pytest.raises(InvalidInput) as found:
            node_of(node_object("bad", **said))
        assert len(str(found.value)) < 400, name


@pytest.mark.parametrize(
    "labels",
    [
        {"nvidia.com/gpu.memory": "9" * 30},
        {"nvidia.com/gpu.memory": "\u0664\u0662"},
        {"nvidia.com/gpu.memory": "40 GB"},
    ],
)
def test_nothing_is_advertised_from_a_label_that_cannot_be_read(labels: dict[str, str]) -> None:
    (found,) = adverts([node_object("n", gpus=2, labels=labels)])
    assert found.action is Action.SKIP
    assert "nvidia.com/gpu.memory" in found.note
