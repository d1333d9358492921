"""Running pods with MIG instances: charged for what the node has, in whatever order they come."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.sync import Sync
from scheduler.core.engine import Engine
from scheduler.core.mig import KNOWN_PROFILES, MEDIA_BIT
from scheduler.core.state import ClusterState
from scheduler.kube.pod_requests import charge_of, pod_request
from testbed.kube_objects import node_object, pod_object
from tests.service import Service

SEVEN = {"nvidia.com/mig-1g.5gb": "7"}


class Cluster:
    def __init__(self) -> None:
        self.service = Service(Engine(ClusterState()), ExtenderConfig(), offline=False)
        self.sync: Sync = self.service.sync
        with self.service.exclusive() as engine:
            self.state = engine.state

    def node(self, allocatable: dict[str, str]) -> None:
        self.sync.node(node_object("a", allocatable=allocatable))

    def pod(self, name: str, requests: dict[str, str], **rest: Any) -> None:
        self.sync.pod(pod_object(name, node="a", requests=requests, **rest))

    def free(self) -> list[int]:
        """Free slots of each device."""
        row = self.state.row("a")
        masks = self.state.slots_free[row, : int(self.state.device_count[row])].tolist()
        return [(mask & (MEDIA_BIT - 1)).bit_count() for mask in masks]

    def slots(self, uid: str) -> dict[int, int]:
        return {share.index: share.slots for share in self.state.placements[uid].devices}


@pytest.fixture
def cluster() -> Any:
    made = Cluster()
    yield made
    assert made.sync.charges.observed().differences(made.state, frozenset(), frozenset()) == []


@pytest.mark.parametrize(
    "more",
    [
        {"nvidia.com/mig-9g.99gb": "1"},
        {"nvidia.com/mig-7g.40gb": "1"},
        {"nvidia.com/mig-1g.5gb.me": "1000000"},
        {"nvidia.com/mig-": "1"},
        {f"nvidia.com/mig-0g.{number}gb": "1" for number in range(200)},
        {f"nvidia.com/mig-{name.replace('+', '.')}": "3" for name in KNOWN_PROFILES} | SEVEN,
        {"nvidia.com/gpu": "1"},
        {"nvidia.com/mig-1g.5gb.shared": "1"},
        {"nvidia.com/mig-1g.5gb": "1000000"},
        {"nvidia.com/mig-1g.5gb": "1e400"},
        {"nvidia.com/mig-1g.5gb": "6500m"},
        {},
    ],
    ids=range(12),
)
def test_nothing_asked_for_besides_makes_instances_free(cluster, more) -> None:
    cluster.node(SEVEN)
    cluster.pod("p", SEVEN | more)
    assert cluster.free() == [0]
    cluster.sync.pod_gone("uid-p")
    assert cluster.free() == [7]


@pytest.mark.parametrize("leaves", ["uid-p1", "uid-p2"])
def test_the_pod_that_stays_has_the_slots(cluster, leaves) -> None:
    cluster.node({"nvidia.com/mig-7g.40gb": "1"})
    for name in ("p1", "p2"):
        cluster.pod(name, {"nvidia.com/mig-7g.40gb": "1"})
    cluster.sync.pod_gone(leaves)
    assert cluster.free() == [0]
    cluster.sync.pod_gone(*({"uid-p1", "uid-p2"} - {leaves}))
    assert cluster.free() == [8]


@pytest.mark.parametrize("order", list(permutations(("uid-p0", "uid-p1", "uid-p2", "uid-p3"))))
def test_whoever_claims_the_slots_of_another_gets_those_that_become_free(cluster, order) -> None:
    cluster.node({"nvidia.com/mig-3g.20gb": "2"})
    for number in range(4):
        cluster.pod(f"p{number}", {"nvidia.com/mig-3g.20gb": "1"})
    for left, uid in enumerate(order, start=1):
        cluster.sync.pod_gone(uid)
        assert sum(cluster.free()) == 4 * max(0, left - 2)


@pytest.mark.parametrize("more", [0, 1, 40, 400])
def test_as_many_profiles_as_anybody_knows_are_remembered(more) -> None:
    asked = {f"nvidia.com/mig-{name.replace('+', '.')}": "1" for name in KNOWN_PROFILES}
    asked |= {f"nvidia.com/mig-0g.{number}gb": "1" for number in range(more)}
    found = dict(pod_request(pod_object("p", requests=asked)).gpu.mig)
    assert found.keys() >= KNOWN_PROFILES
    assert len(found) <= 64 and bool(found.keys() - KNOWN_PROFILES) == bool(more)


def test_instances_that_are_shared_have_a_name_of_their_own(cluster) -> None:
    plain, shared = "nvidia.com/mig-1g.5gb", "nvidia.com/mig-1g.5gb.shared"
    for asked in ({plain: "5", shared: "1"}, {shared: "1", plain: "5"}):
        gpu = pod_request(pod_object("p", requests=asked)).gpu
        assert (gpu.resource, gpu.count) == (shared, 1)
        assert [part.mig for part in gpu.also] == [(("1g.5gb", 5),)]
    cluster.node(SEVEN)
    containers = [{"name": n, "resources": {"requests": {n: "3"}}} for n in (plain, shared)]
    cluster.pod("p", {}, spec={"containers": containers})
    assert cluster.free() == [4], "this node has none that are shared"


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (("1e400", "0.5"), 1 << 14),
        (("1e999", "1e-999"), 1 << 14),
        (("1e-400", "0"), 1),
        (("1", "500m"), 2),
        (("0.1", "0.1"), 1),
        (("9" * 60 + "e900", "1n"), 1 << 14),
        (("1" * 70, "0"), 1 << 14),
    ],
)
@pytest.mark.parametrize("kind", ["containers", "sidecars", "init"])
def test_a_charge_refuses_no_quantity(asked, count, kind) -> None:
    listed: list[dict[str, Any]] = [
        {"name": f"c{i}", "resources": {"requests": {"nvidia.com/gpu": quantity}}}
        for i, quantity in enumerate(asked)
    ]
    if kind == "containers":
        spec: dict[str, Any] = {"containers": listed}
    elif kind == "sidecars":
        spec = {
            "containers": [],
            "initContainers": [c | {"restartPolicy": "Always"} for c in listed],
        }
    else:  # the second one runs beside the first
        listed[0]["restartPolicy"] = "Always"
        spec = {"containers": [], "initContainers": listed}
    charge = charge_of(pod_object("p", node="a", spec=spec))
    assert charge.request.gpu.count == count
    assert charge.problem and len(charge.problem) < 1200


@pytest.mark.parametrize(
    "resource",
    [
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "nvidia.com/mig-1g.5gb",
        "snugfit.io/gpu-milli",
        "snugfit.io/gpu-memory-mib",
        "aliyun.com/gpu-mem",
        "cpu",
        "memory",
        "example.com/fpga",
    ],
)
@pytest.mark.parametrize("quantity", ["1e999", "1e-999", "0.5", "1n", "-1", "x", "9" * 63, "1e400"])
@pytest.mark.parametrize("where", ["containers", "initContainers", "overhead", "resources"])
def test_a_pod_with_any_quantity_is_charged_and_taken_back(
    cluster, resource, quantity, where
) -> None:
    cluster.node({"nvidia.com/gpu": "2"})
    asked = {resource: quantity}
    containers = [{"name": "c", "resources": {"requests": asked}}]
    spec: dict[str, Any] = {
        "containers": {"containers": containers},
        "initContainers": {"initContainers": containers},
        "overhead": {"overhead": asked},
        "resources": {"resources": {"requests": asked}},
    }[where]
    cluster.pod("p", {resource: "0.5"}, spec=spec)
    assert "uid-p" in cluster.state.placements
    cluster.sync.pod_gone("uid-p")
    assert cluster.state.gpu_free[cluster.state.row("a"), :2].tolist() == [1000, 1000]
