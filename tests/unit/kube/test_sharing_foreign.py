"""Devices shared by systems whose records are not read: seen by resources, withheld, named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler.cli.main import cli
from scheduler.core.model import Reason
from scheduler.kube.installation import State, node_reports
from testbed.kube_objects import node_json, node_object, pod_json, pod_object
from tests.builders import pod
from tests.unit.cluster.test_sync import Cluster

KOORD = {"koordinator.sh/gpu-core": "400", "koordinator.sh/gpu-memory-ratio": "400"}
HALF = {"koordinator.sh/gpu-core": "50", "koordinator.sh/gpu-memory-ratio": "50"}
RECORD = "scheduling.koordinator.sh/device-allocated"
A100 = "NVIDIA-A100-SXM4-40GB"


@pytest.fixture
def cluster() -> Any:
    made = Cluster()
    yield made
    assert made.differences() == []


def _full(cluster: Cluster, node: str = "a") -> int:
    """Devices that are entirely free."""
    return int(cluster.state.full_free[cluster.state.row(node)])


@pytest.mark.parametrize(
    ("offers", "asks", "left"),
    [
        (KOORD, HALF, 3),
        (KOORD, {"koordinator.sh/gpu-core": "100"}, 3),
        (KOORD, {"koordinator.sh/gpu-core": "150"}, 2),
        (KOORD, {"koordinator.sh/gpu-memory-ratio": "400"}, 0),
        ({"koordinator.sh/gpu": "400"}, {"koordinator.sh/gpu": "200"}, 2),
        ({"volcano.sh/vgpu-number": "40"}, {"volcano.sh/vgpu-number": "2"}, 2),
        ({"volcano.sh/gpu-memory": "64000"}, {"volcano.sh/gpu-memory": "1000"}, 3),
        ({"tencent.com/vcuda-core": "400"}, {"tencent.com/vcuda-core": "20"}, 3),
        ({"nvidia.com/vgpu-number": "40"}, {"nvidia.com/vgpu-number": "99"}, 0),
        ({"elasticgpu.io/gpu-core": "400"}, {"elasticgpu.io/gpu-core": "101"}, 2),
        ({"alibabacloud.com/gpu-mem": "64"}, {"alibabacloud.com/gpu-mem": "8"}, 3),
        ({"nvidia.com/vgpu": "40"}, {"nvidia.com/vgpu": "3"}, 1),
    ],
)
def test_as_many_devices_as_a_pod_may_be_on_are_withheld(cluster, offers, asks, left) -> None:
    cluster.sync.node(node_object("a", gpus=4, allocatable=offers))
    cluster.sync.pod(pod_object("p", node="a", requests=asks))
    assert _full(cluster) == left
    (why,) = cluster.sync.charges.protocols.ambiguous_nodes.values()
    assert "records are not read" in why
    cluster.sync.pod_gone("uid-p")
    assert _full(cluster) == 4 and not cluster.sync.charges.protocols.ambiguous_nodes


def test_holds_stay_while_what_a_node_has_besides_changes(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=2, allocatable={"ephemeral-storage": "9G"}))
    cluster.engine.reserve_until(pod("held", count=2), "a", until=1e9)
    before = cluster.state.placements["held"]
    cluster.sync.node(node_object("a", gpus=2, allocatable={"ephemeral-storage": "8G"}))
    assert cluster.state.placements["held"] is before
    assert cluster.state.nodes[0].counted == {"ephemeral-storage": 8 * 10**9}


def test_each_pod_may_be_on_a_device_of_its_own(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=4, allocatable=KOORD))
    for name in ("p", "q", "r"):
        cluster.sync.pod(pod_object(name, node="a", requests=HALF))
    assert _full(cluster) == 1
    assert cluster.verdict("a", count=2) is Reason.INSUFFICIENT_DEVICES


def test_an_annotation_says_nothing_and_nor_does_a_resource_that_the_node_lacks(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=4))
    record = {RECORD: json.dumps({"gpu": [{"minor": 0}]})}
    cluster.sync.pod(pod_object("p", node="a", annotations=record))
    cluster.sync.pod(pod_object("q", node="a", requests=HALF))
    assert _full(cluster) == 4 and not cluster.sync.charges.protocols.ambiguous_nodes
    cluster.sync.node(node_object("a", gpus=4, allocatable=KOORD))
    assert _full(cluster) == 3


def test_where_no_device_can_be_told_all_of_them_are_withheld(cluster) -> None:
    mig = {"nvidia.com/mig-3g.20gb": "2", **KOORD}
    cluster.sync.node(node_object("a", allocatable=mig, product=A100))
    cluster.sync.pod(pod_object("p", node="a", requests=HALF))
    assert cluster.sync.charges.nodes.uncertain == {"a"}
    cluster.sync.pod_gone("uid-p")
    assert not cluster.sync.charges.nodes.uncertain


def test_doctor_names_the_system() -> None:
    (report,) = node_reports([node_object("a", gpus=4, allocatable=KOORD)])
    assert report.state is State.WARNING and "Koordinator shares its devices" in report.remark
    (report,) = node_reports([node_object("a", gpus=4, allocatable={"nvidia.com/gpucores": "9"})])
    assert "several ways" in report.remark


def _planned(tmp_path: Path, *items: dict[str, Any]) -> dict[str, Any]:
    path = tmp_path / "dump.json"
    path.write_text(json.dumps({"kind": "List", "items": list(items)}))
    call = ["plan", str(path), "--budget", "1s", "--deterministic", "--json"]
    return json.loads(CliRunner().invoke(cli, call).stdout)


def test_a_plan_withholds_the_devices_and_says_so(tmp_path: Path) -> None:
    made = _planned(
        tmp_path,
        node_json("a", gpus=2, allocatable=KOORD),
        pod_json("there", node="a", requests=HALF),
        pod_json("waits", requests=HALF),
        *(pod_json(f"p{i}", requests={"nvidia.com/gpu": "1"}) for i in range(2)),
    )
    assert [(p["name"], p["devices"]) for p in made["placements"]] == [("p0", [1])]
    left_out = next(one for one in made["not_considered"] if "Koordinator" in one["rule"])
    assert left_out["pods"] == ["ns/there", "ns/waits"]
    assert made["status"] == "PROVED_IN_PART" and not made["moves"]


def test_a_plan_leaves_pods_with_claims_alone(tmp_path: Path) -> None:
    claims = {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]}
    made = _planned(
        tmp_path,
        node_json("a", gpus=2, cpu="4"),
        pod_json("there", node="a", requests={"cpu": "3"}, spec=claims),
        pod_json("claims", spec=claims),
        pod_json("large", requests={"cpu": "2", "nvidia.com/gpu": "1"}),
        pod_json("small", requests={"cpu": "1", "nvidia.com/gpu": "1"}),
    )
    assert [p["name"] for p in made["placements"]] == ["small"] and not made["moves"]
    (left_out,) = made["not_considered"]
    assert "ResourceClaims" in left_out["rule"] and left_out["pods"] == ["ns/there", "ns/claims"]
    assert made["status"] == "PROVED_IN_PART"


def test_a_plan_leaves_pods_alone_whose_resource_a_device_class_stands_for(tmp_path: Path) -> None:
    stands_for = {"extendedResourceName": "example.com/gpu"}
    mapped = {"kind": "DeviceClass", "metadata": {"name": "gpu"}, "spec": stands_for}
    claims = pod_json("claims", requests={"example.com/gpu": "1"})
    made = _planned(tmp_path, node_json("a"), mapped, claims, pod_json("p"))
    assert [p["name"] for p in made["placements"]] == ["p"]
    (left_out,) = made["not_considered"]
    assert "DeviceClass" in left_out["rule"] and left_out["pods"] == ["ns/claims"]
    made = _planned(tmp_path, node_json("a"), claims)
    assert not made["not_considered"] and "example.com/gpu" in made["unplaced"][0]["reason"]


def test_the_name_that_a_device_class_has_in_any_case_needs_no_class_in_the_file(
    tmp_path: Path,
) -> None:
    claims = pod_json("claims", requests={"deviceclass.resource.kubernetes.io/gpu": "1"})
    made = _planned(tmp_path, node_json("a"), claims, pod_json("p"))
    assert [p["name"] for p in made["placements"]] == ["p"]
    (left_out,) = made["not_considered"]
    assert "DeviceClass" in left_out["rule"] and made["status"] == "PROVED_IN_PART"
