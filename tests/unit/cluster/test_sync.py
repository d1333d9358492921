"""The sync: what the API tells, in whatever order, ends in what is true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.cluster.repair import evict_phantoms, heal
from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.sync import Sync
from scheduler.core.engine import Engine
from scheduler.core.errors import SchedulerError
from scheduler.core.model import DeviceShare, GangKey, GpuKind, Reason
from scheduler.core.state import ClusterState
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.kube.pod_requests import pod_request
from scheduler.kube.workloads import Stated
from testbed.kube_objects import node_json, node_object, pod_json, pod_object
from tests.builders import pod
from tests.depth import examples
from tests.service import Service

GANG = {"scheduling.x-k8s.io/pod-group": "g"}
GROUP = GangKey("scheduler-plugins", "ns", "g")
WHOLE = {"nvidia.com/gpu": "1"}


class Cluster:
    """A sync and what it writes into."""

    def __init__(self) -> None:
        self.service = Service(Engine(ClusterState()), ExtenderConfig(), offline=False)
        self.sync: Sync = self.service.sync
        with self.service.exclusive() as engine:
            self.engine = engine
        self.assumed: set[str] = set()

    @property
    def state(self) -> ClusterState:
        return self.engine.state

    def differences(self) -> list[str]:
        held, placements = frozenset(self.engine.reservations), self.state.placements
        self.assumed = {uid for uid in self.assumed if uid in placements}
        return self.sync.charges.observed().differences(self.state, held, frozenset(self.assumed))

    def verdict(self, node: str, **request: Any) -> Reason:
        return self.engine.explain(pod("asking", cpu=100, memory=1, **request), node)

    def used(self, node: str) -> int:
        return int(self.state.gpu_used[self.state.row(node)])


@pytest.fixture
def cluster() -> Any:
    made = Cluster()
    yield made
    assert made.differences() == []


def test_usage_is_every_bound_pod_whoever_scheduled_it(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=2))
    foreign = {"schedulerName": "somebody-else"}
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE, spec=foreign))
    assert cluster.verdict("a", count=2) is Reason.INSUFFICIENT_DEVICES
    assert cluster.verdict("a", count=1) is Reason.FITS


def test_a_terminating_pod_keeps_its_room_until_it_is_gone(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=1))
    leaving = pod_object("p", node="a", requests=WHOLE, deletionTimestamp="2026-01-01T00:00:00Z")
    cluster.sync.pod(leaving)
    assert cluster.verdict("a", count=1) is Reason.INSUFFICIENT_DEVICES
    cluster.sync.pod_gone("uid-p")
    assert cluster.verdict("a", count=1) is Reason.FITS


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_free_at_once(cluster, phase) -> None:
    cluster.sync.node(node_object("a", gpus=1))
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE))
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE, phase=phase))
    assert cluster.verdict("a", count=1) is Reason.FITS
    assert not cluster.sync.pods


def test_the_uid_decides_between_pods_of_one_name(cluster) -> None:
    """The deletion of the first was missed; a late word of it does not end the second."""
    first = {"uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    second = {"uid": "u2", "creationTimestamp": "2026-01-01T00:00:09Z"}
    cluster.sync.node(node_object("a", gpus=2))
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE, **first))
    cluster.sync.pod(pod_object("p", node="a", requests={"nvidia.com/gpu": "2"}, **second))
    assert set(cluster.sync.pods) == {"u2"} and cluster.used("a") == 2000
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE, **first))
    cluster.sync.pod_gone("u1")
    assert set(cluster.sync.pods) == {"u2"} and cluster.used("a") == 2000


def test_a_pod_that_cannot_be_charged_at_once_waits_no_more_all_the_same(
    cluster, monkeypatch
) -> None:
    cluster.sync.node(node_object("a", gpus=1))
    with cluster.service.ledger.locked() as inside:
        inside.pods.record_waiting(pod("p", uid="uid-p", count=1), inside.now)
    charges, attempts = cluster.sync.charges, []
    place = charges._place

    def place_or_fail(*args: Any) -> None:
        attempts.append(args)
        place(*args if len(attempts) > 1 else ())

    monkeypatch.setattr(charges, "_place", place_or_fail)
    with pytest.raises(TypeError):
        cluster.sync.pod(pod_object("p", node="a", requests=WHOLE))
    view = cluster.service.planning_view()
    assert [placement.pod.uid for placement in view.placements] == ["uid-p"]
    assert view.pending == () and view.pricing.changes == 1


def test_a_pod_is_charged_to_its_node_whatever_was_reserved_for_it_elsewhere(cluster) -> None:
    cluster.sync.node(node_object("b", gpus=1))
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE))
    cluster.engine.reserve_until(pod("p", uid="uid-p", count=1), "b", 60.0)
    cluster.sync.node(node_object("a", gpus=1))
    assert cluster.verdict("a", count=1) is Reason.INSUFFICIENT_DEVICES
    assert cluster.verdict("b", count=1) is Reason.FITS and not cluster.engine.reservations


def test_a_pod_on_a_node_that_is_not_known_yet_is_charged_when_it_arrives(cluster) -> None:
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE))
    assert cluster.differences() == []
    cluster.sync.node(node_object("a", gpus=1))
    assert cluster.verdict("a", count=1) is Reason.INSUFFICIENT_DEVICES


def test_a_node_that_is_deleted_and_added_again_finds_its_pods(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=1))
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE))
    cluster.sync.node_gone("a")
    assert cluster.verdict("a", count=1) is Reason.NODE_UNKNOWN
    cluster.sync.node(node_object("a", gpus=1))
    assert cluster.verdict("a", count=1) is Reason.INSUFFICIENT_DEVICES
    cluster.sync.node_gone("a")
    cluster.sync.pod_gone("uid-p")
    cluster.sync.node(node_object("a", gpus=1))
    assert cluster.verdict("a", count=1) is Reason.FITS


def test_a_node_that_offers_less_than_is_used_is_overfull_and_gives_a_reason(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=4, cpu="8"))
    for number in range(4):
        requests = {"cpu": "2", **WHOLE}
        cluster.sync.pod(pod_object(f"p{number}", node="a", requests=requests))
    cluster.sync.node(node_object("a", gpus=2, cpu="4"))
    row = cluster.state.row("a")
    assert cluster.state.cpu_free[row] == -4000
    assert cluster.verdict("a") is Reason.INSUFFICIENT_CPU
    cluster.sync.node(node_object("a", gpus=2, cpu="64"))
    assert cluster.verdict("a", count=1) is Reason.INSUFFICIENT_DEVICES
    assert cluster.verdict("a", milli=1) is Reason.INSUFFICIENT_FRACTION
    for number in range(2):
        cluster.sync.pod_gone(f"uid-p{number}")
    assert cluster.verdict("a", count=1) is Reason.INSUFFICIENT_DEVICES, "two pods still run there"
    cluster.sync.pod_gone("uid-p2")
    assert cluster.verdict("a", count=1) is Reason.FITS


def test_a_device_may_be_claimed_any_number_of_times(cluster) -> None:
    """Replicas whose label vanished: many more pods than devices; the sums do not wrap."""
    cluster.sync.node(node_object("a", gpus=1))
    for number in range(70):
        cluster.sync.pod(pod_object(f"p{number}", node="a", requests=WHOLE))
    assert cluster.state.gpu_free[cluster.state.row("a"), 0] == -69_000
    assert cluster.verdict("a", milli=1) is Reason.INSUFFICIENT_FRACTION


def test_a_request_beyond_every_machine_is_no_fault(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=1))
    huge = {"cpu": "9223372036854775807", "memory": "9223372036854775807", "nvidia.com/gpu": 10**12}
    cluster.sync.pod(pod_object("p", node="a", requests=huge))
    assert cluster.verdict("a") is Reason.INSUFFICIENT_CPU


def test_while_a_vanished_device_is_claimed_the_others_are_withheld(cluster) -> None:
    cluster.sync.node(node_object("a", allocatable={"snugfit.io/gpu-milli": "4000"}))
    record = {"snugfit.io/devices": "3:500:0:0"}
    part = {"snugfit.io/gpu-milli": "500"}
    cluster.sync.pod(pod_object("p", requests=part))
    placement = cluster.service.reserve(cluster.sync.pending["uid-p"], "a")
    bound = replace(placement, devices=(DeviceShare(3, 500),))
    cluster.sync.charges.bound_here(bound)
    cluster.sync.pod(pod_object("p", node="a", requests=part, annotations=record))
    assert cluster.state.placements["uid-p"].devices == bound.devices
    cluster.sync.node(node_object("a", allocatable={"snugfit.io/gpu-milli": "3000"}))
    assert cluster.sync.charges.nodes.uncertain == {"a"}
    assert cluster.verdict("a", milli=100) is not Reason.FITS
    # It comes while the devices are withheld, and still has one when they no longer are.
    cluster.sync.pod(pod_object("q", node="a", requests={"snugfit.io/gpu-milli": "3000"}))
    cluster.sync.pod_gone("uid-p")
    assert not cluster.sync.charges.nodes.uncertain
    assert cluster.verdict("a", milli=100) is Reason.INSUFFICIENT_FRACTION
    cluster.sync.pod_gone("uid-q")
    assert cluster.verdict("a", count=3) is Reason.FITS


def test_a_vanished_device_that_only_its_owner_names_withholds_nothing(cluster) -> None:
    cluster.sync.node(node_object("a", allocatable={"snugfit.io/gpu-milli": "2000"}))
    record, part = {"snugfit.io/devices": "900:500"}, {"snugfit.io/gpu-milli": "500"}
    cluster.sync.pod(pod_object("p", node="a", requests=part, annotations=record))
    assert not cluster.sync.charges.nodes.uncertain and "Pod ns/p" in cluster.sync.unreadable
    assert cluster.used("a") == 500 and cluster.verdict("a", count=1) is Reason.FITS


@pytest.mark.parametrize(
    "record",
    ["", "rubbish", "0:70000:0:0", "0:1:99999999999", "0:500,0:500", "0:1", "0:499", "0:500,1:500",
     f"{'9' * 5000}:500", "0:\u0665\u0660\u0660", ","],
)  # fmt: skip
def test_a_record_that_cannot_be_believed_costs_what_the_pod_asks_for(cluster, record) -> None:
    cluster.sync.node(node_object("a", allocatable={"snugfit.io/gpu-milli": "2000"}))
    part = {"snugfit.io/gpu-milli": "500"}
    annotations = {"snugfit.io/devices": record}
    cluster.sync.pod(pod_object("p", node="a", requests=part, annotations=annotations))
    assert not cluster.sync.charges.nodes.uncertain and "Pod ns/p" in cluster.sync.unreadable
    assert cluster.used("a") == 500
    assert cluster.verdict("a", count=1) is Reason.FITS
    assert cluster.verdict("a", count=2) is Reason.INSUFFICIENT_DEVICES
    cluster.sync.pod_gone("uid-p")
    assert cluster.verdict("a", count=2) is Reason.FITS and not cluster.sync.unreadable


def test_a_running_pod_whose_request_contradicts_itself_is_charged_all_of_it(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=2, cpu="8"))
    both = {"cpu": "3", "nvidia.com/gpu": "1", "snugfit.io/gpu-milli": "500"}
    cluster.sync.pod(pod_object("p", node="a", requests=both))
    assert cluster.state.cpu_free[cluster.state.row("a")] == 5000, "what can be read counts"
    assert cluster.state.gpu_free[cluster.state.row("a"), :2].tolist() == [0, 500]
    assert cluster.verdict("a", count=1) is not Reason.FITS
    assert cluster.verdict("a", milli=500) is Reason.FITS
    assert cluster.verdict("a") is Reason.FITS


def test_cordon_taints_and_labels_are_seen_and_conditions_are_not(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=1))
    assert cluster.verdict("a", count=1) is Reason.FITS
    taint = [{"key": "dedicated", "value": "x", "effect": "NoSchedule"}]
    for change in ({"cordoned": True}, {"taints": taint}):
        cluster.sync.node(node_object("a", gpus=1, **change))
        assert cluster.verdict("a", count=1) is not Reason.FITS
    cluster.sync.node(node_object("a", gpus=1, ready=False))
    assert cluster.verdict("a", count=1) is Reason.FITS
    cluster.sync.node(node_object("a", gpus=1, product="H100"))
    assert cluster.verdict("a", count=1, products=("H100",)) is Reason.FITS
    assert cluster.verdict("a", count=1, products=("A100",)) is not Reason.FITS


CLOUD = "cloud.google.com/gke-accelerator"
VENDOR = "nvidia.com/gpu.product"


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ({VENDOR: "NVIDIA-L4"}, True),
        ({CLOUD: "nvidia-l4"}, True),
        ({CLOUD: "nvidia-l4", VENDOR: "NVIDIA-L4"}, True),
        ({CLOUD: "NVIDIA-L4"}, False),
        ({CLOUD: "nvidia-l4", VENDOR: "NVIDIA-A100"}, False),
    ],
)
@pytest.mark.parametrize("affinity", [False, True])
def test_labels_that_name_a_model_are_compared_as_they_are(
    cluster, selector: dict[str, str], fits: bool, affinity: bool
) -> None:
    """A node of two labels is selected by either; the devices themselves refuse nobody."""
    cluster.sync.node(
        node_object("a", gpus=1, product="", labels={CLOUD: "nvidia-l4", VENDOR: "NVIDIA-L4"})
    )
    rules = [{"key": k, "operator": "In", "values": [v, "other"]} for k, v in selector.items()]
    required = {"nodeSelectorTerms": [{"matchExpressions": rules}]}
    spec = {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    }
    asked = pod_object("p", spec=spec if affinity else {"nodeSelector": selector}, requests=WHOLE)
    request = pod_request(asked)
    assert (cluster.engine.explain(request, "a") is Reason.FITS) is fits
    found = cluster.engine.filter(request, np.array([0]))
    assert found[0] == Reason.FITS.code, "kube-scheduler has compared the labels"


@pytest.mark.parametrize("label", ["A100-SHARED", "A100-MIG-1g.5gb"])
def test_a_label_with_a_suffix_selects_as_it_is_written(cluster, label: str) -> None:
    cluster.sync.node(node_object("a", gpus=1, product=label))
    for value, reason in ((label, Reason.FITS), ("A100", Reason.NODE_NOT_SELECTED)):
        spec = {"nodeSelector": {VENDOR: value}}
        request = pod_request(pod_object("p", spec=spec, requests=WHOLE))
        assert cluster.engine.explain(request, "a") is reason


def test_a_change_of_geometry_or_replicas_keeps_what_runs_there(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=2))
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE))
    replicas = {"nvidia.com/gpu.replicas": "4"}
    shared = {"nvidia.com/gpu.shared": "8"}
    cluster.sync.node(node_object("a", allocatable=shared, labels=replicas))
    assert cluster.verdict("a", replicas=1) is Reason.FITS
    mig = {"nvidia.com/mig-1g.5gb": "7"}
    labels = {"nvidia.com/gpu.memory": "40960"}
    cluster.sync.node(
        node_object("a", allocatable=mig, product="NVIDIA-A100-SXM4-40GB", labels=labels)
    )
    assert cluster.verdict("a", mig=(("1g.5gb", 1),)) is Reason.FITS
    cluster.sync.node(node_object("a", gpus=1))
    assert cluster.verdict("a", count=1) is Reason.INSUFFICIENT_DEVICES


def test_a_node_that_cannot_be_understood_has_no_devices_to_give(cluster) -> None:
    shared, labels = {"nvidia.com/gpu.shared": "-7"}, {"nvidia.com/gpu.replicas": "4"}
    cluster.sync.node(node_object("a", allocatable=shared, labels=labels))
    assert "Node a" in cluster.sync.unreadable
    assert cluster.verdict("a") is Reason.FITS
    assert cluster.verdict("a", replicas=1) is not Reason.FITS
    cluster.sync.node(node_object("a", allocatable={"nvidia.com/gpu.shared": "8"}, labels=labels))
    assert not cluster.sync.unreadable
    assert cluster.verdict("a", replicas=1) is Reason.FITS


def test_static_pods_count_like_any_other(cluster) -> None:
    cluster.sync.node(node_object("a", cpu="4"))
    owner = [{"kind": "Node", "name": "a", "controller": True}]
    mirrored = {"kubernetes.io/config.mirror": "abc"}
    static = pod_object(
        "static-a", node="a", requests={"cpu": "3"}, ownerReferences=owner, annotations=mirrored
    )
    cluster.sync.pod(static)
    assert cluster.state.cpu_free[cluster.state.row("a")] == 1000


def _resizing(asked: str, allocated: str, in_force: str, **status: Any) -> PodObject:
    one = {
        "name": "main",
        "allocatedResources": {"cpu": allocated, "memory": "1Gi"},
        "resources": {"requests": {"cpu": in_force, "memory": "1Gi"}},
    }
    requests = {"cpu": asked}
    return pod_object(
        "p", node="a", requests=requests, status={"containerStatuses": [one]} | status
    )


@pytest.mark.parametrize(
    ("asked", "allocated", "in_force", "counts"),
    [("1", "1", "1", 1000), ("3", "1", "1", 3000), ("1", "3", "3", 3000), ("1", "1", "2", 2000),
     ("2000m", "2", "2", 2000)],
)  # fmt: skip
def test_during_a_resize_in_place_the_largest_counts(
    cluster, asked, allocated, in_force, counts
) -> None:
    cluster.sync.node(node_object("a", cpu="8"))
    cluster.sync.pod(_resizing(asked, allocated, in_force))
    assert cluster.state.cpu_free[cluster.state.row("a")] == 8000 - counts


def test_a_resize_that_is_infeasible_asks_for_nothing(cluster) -> None:
    cluster.sync.node(node_object("a", cpu="8"))
    refused = {"type": "PodResizePending", "status": "True", "reason": "Infeasible"}
    cluster.sync.pod(_resizing("100", "2", "2", conditions=[refused]))
    assert cluster.state.cpu_free[cluster.state.row("a")] == 6000
    cluster.sync.pod(_resizing("3", "2", "2", conditions=[{**refused, "reason": "Deferred"}]))
    assert cluster.state.cpu_free[cluster.state.row("a")] == 5000


def test_recorded_devices_are_kept_and_unrecorded_ones_do_not_move(cluster) -> None:
    cluster.sync.node(node_object("a", allocatable={"snugfit.io/gpu-milli": "2000"}))
    cluster.sync.pod(pod_object("p", node="a", requests={"snugfit.io/gpu-milli": "300"}))
    believed = cluster.state.placements["uid-p"].devices
    recorded = {"snugfit.io/devices": "1:700:0:0"}
    requests = {"snugfit.io/gpu-milli": "700"}
    cluster.sync.pod(pod_object("q", node="a", requests=requests, annotations=recorded))
    assert cluster.state.placements["uid-q"].devices == (DeviceShare(1, 700),)
    relabelled = pod_object(
        "p", node="a", requests={"snugfit.io/gpu-milli": "300"}, labels={"new": "label"}
    )
    cluster.sync.pod(relabelled)
    assert cluster.state.placements["uid-p"].devices == believed


def test_a_hold_becomes_the_placement_where_the_pod_went(cluster) -> None:
    for name in ("a", "b"):
        cluster.sync.node(node_object(name, gpus=1))
    cluster.sync.pod(pod_object("p", requests=WHOLE))
    waiting = cluster.sync.pending["uid-p"]
    cluster.engine.reserve_until(waiting, "a", 1e9)
    cluster.sync.pod(pod_object("p", node="b", requests=WHOLE))
    assert not cluster.engine.reservations and not cluster.sync.pending
    assert (cluster.used("a"), cluster.used("b")) == (0, 1000)


def test_a_reservation_under_way_survives_a_change_of_the_nodes_devices(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=2))
    cluster.sync.pod(pod_object("p", requests=WHOLE))
    cluster.service.reserve(cluster.sync.pending["uid-p"], "a")
    cluster.assumed = {"uid-p"}
    cluster.sync.node(node_object("a", gpus=3))
    assert cluster.used("a") == 1000
    cluster.sync.node_gone("a")
    assert "uid-p" not in cluster.state.placements


def test_old_messages_change_nothing(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=1))
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE))
    cluster.sync.pod(pod_object("p", requests=WHOLE))
    assert not cluster.sync.pending and cluster.used("a") == 1000
    cluster.sync.pod_gone("never heard of")
    cluster.sync.node_gone("never heard of")


def test_a_gang_learns_its_size_whenever_it_is_stated(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=4))
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE, labels=GANG))
    cluster.sync.pod(pod_object("q", requests=WHOLE, labels=GANG))
    stated = {"snugfit.io/gang-size": "5"}
    cluster.sync.pod(pod_object("r", requests=WHOLE, labels=GANG, annotations=stated))

    def sizes() -> list[int]:
        pending = cluster.sync.pending
        found = [cluster.sync.pods["uid-p"].request, pending["uid-q"], pending["uid-r"]]
        return [cluster.service.gangs.members.minimum(request.gang) for request in found]

    assert sizes() == [5, 5, 5]  # what one of them states holds for all
    assert cluster.sync.group({GROUP: Stated(3)}) and sizes() == [3, 3, 3]
    assert not cluster.sync.group({GROUP: Stated(3)})
    assert cluster.sync.group_gone([GROUP]) and sizes() == [5, 5, 5]
    cluster.sync.pod_gone("uid-r")
    assert cluster.service.gangs.members.minimum(GROUP) == 1


def test_drift_is_found_and_mended(cluster) -> None:
    for name in ("a", "b"):
        cluster.sync.node(node_object(name, gpus=2))
    cluster.sync.pod(pod_object("p", node="a", requests=WHOLE))
    cluster.sync.pod(pod_object("q", node="b", requests=WHOLE))
    cluster.engine.release("uid-p")
    cluster.engine.place_on(pod("phantom", count=1), "b")
    cluster.engine.state.cpu_free[cluster.state.row("b")] += 5
    assert len(cluster.differences()) == 3
    evict_phantoms(cluster.engine, cluster.sync.charges, frozenset())
    heal(cluster.engine, cluster.sync.charges, ["a", "b"])
    assert cluster.differences() == [] and cluster.used("a") == cluster.used("b") == 1000


def test_nothing_is_kept_of_pods_that_are_gone(cluster) -> None:
    """What a sync remembers follows what exists, not what has ever existed."""
    cluster.sync.node(node_object("a", gpus=1))
    for number in range(50):
        labels = {**GANG, "scheduling.x-k8s.io/pod-group": f"g{number}"}
        cluster.sync.pod(pod_object(f"p{number}", node="a", labels=labels))
        cluster.sync.pod_gone(f"uid-p{number}")
    charges = cluster.sync.charges
    parts = (cluster.sync, charges, charges.nodes, charges.protocols, charges.records)
    kept = {k for part in parts for k, v in vars(part).items() if isinstance(v, dict) and v}
    assert kept == {"observed"}


# -- any order ---------------------------------------------------------------------------------

NODES = ("a", "b")
HAMI = (
    "GPU-0,10,32768,100,NVIDIA-T4,0,true,{},hami-core:GPU-1,10,32768,100,NVIDIA-T4,0,true,{},mps:"
)
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"gpus": 4},
    {"gpus": 2},
    {"gpus": 1, "cpu": "2", "pods": 2},
    {"gpus": 4, "cordoned": True},
    {"gpus": 4, "product": "H100", "ready": False},
    {"allocatable": {"snugfit.io/gpu-milli": "3000"}, "labels": {"nvidia.com/gpu.memory": "40000"}},
    {"allocatable": {"snugfit.io/gpu-milli": "1000"}},
    {"allocatable": {"nvidia.com/gpu.shared": "8"}, "labels": {"nvidia.com/gpu.replicas": "4"}},
    {"allocatable": {"nvidia.com/gpu.shared": "7"}, "labels": {"nvidia.com/gpu.replicas": "4"}},
    {"allocatable": {"nvidia.com/mig-1g.5gb": "7"}, "product": "NVIDIA-A100-SXM4-40GB"},
    {"gpus": 20, "annotations": {"hami.io/node-nvidia-register": HAMI.format(0, 1)}},
    {"gpus": 20, "annotations": {"hami.io/node-nvidia-register": HAMI.format(1, 0)}},
    {"allocatable": {"aliyun.com/gpu-mem": "64", "aliyun.com/gpu-count": "2"}},
)
REQUESTS: tuple[dict[str, str], ...] = (
    {},
    {"nvidia.com/gpu": "1"},
    {"nvidia.com/gpu": "3"},
    {"snugfit.io/gpu-milli": "300"},
    {"snugfit.io/gpu-milli": "700"},
    {"snugfit.io/gpu-milli": "2000"},
    {"nvidia.com/gpu.shared": "2"},
    {"nvidia.com/mig-1g.5gb": "1"},
    {"nvidia.com/gpu": "1", "snugfit.io/gpu-milli": "300"},
    {"aliyun.com/gpu-mem": "8"},
)
FOREIGN: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"annotations": {"hami.io/vgpu-devices-allocated": "GPU-0,NVIDIA,3000,30:;"}},
    {"annotations": {"hami.io/vgpu-devices-allocated": "GPU-7,NVIDIA,3000,30:;"}},
    {"annotations": {"gpu-fraction": "0.5"}, "labels": {"runai-gpu-group": "one"}},
    {"annotations": {"run.ai/reserve_for_gpu_index": "0"}, "labels": {"runai-gpu-group": "one"}},
    {"annotations": {"ALIYUN_COM_GPU_MEM_IDX": "1", "ALIYUN_COM_GPU_MEM_POD": "8"}},
)
RECORDS = (None, "0:300:0:0", "1:300:0:0", "2:700:0:0", "0:1000:0:0,1:1000:0:0", "rubbish")


class AnyOrder(RuleBasedStateMachine):
    """A cluster happens; the sync hears of it late, twice, or only by a new list."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.nodes: dict[str, dict] = {}
        self.pods: dict[str, dict] = {}
        self.group = 0
        self.serial = 0
        self.unseen = False

    def _tell(self, uid: str) -> None:
        self.cluster.sync.pod(msgspec.convert(self.pods[uid], PodObject))

    def _some(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.pods)))

    @rule(name=st.sampled_from(NODES), shape=st.sampled_from(SHAPES))
    def node_changes(self, name: str, shape: dict[str, Any]) -> None:
        self.nodes[name] = node_json(name, **shape)
        self.cluster.sync.node(msgspec.convert(self.nodes[name], NodeObject))

    @rule(name=st.sampled_from(NODES), seen=st.booleans())
    def node_goes(self, name: str, *, seen: bool) -> None:
        known = self.nodes.pop(name, None)
        if seen:
            self.cluster.sync.node_gone(name)
        elif known:
            self.unseen = True

    @rule(
        name=st.sampled_from(("p", "q", "r", "s", "t", "u")),
        requests=st.sampled_from(REQUESTS),
        gang=st.booleans(),
        node=st.sampled_from(("", *NODES)),
        foreign=st.sampled_from(FOREIGN),
    )
    def pod_is_created(
        self,
        name: str,
        requests: dict[str, str],
        *,
        gang: bool,
        node: str,
        foreign: dict[str, Any],
    ) -> None:
        """An older pod of this name may have been deleted without a word."""
        self.pods = {u: p for u, p in self.pods.items() if p["metadata"]["name"] != name}
        self.serial += 1
        uid = f"u{self.serial}"
        created = f"2026-01-01T00:{self.serial // 60:02}:{self.serial % 60:02}Z"
        self.pods[uid] = pod_json(
            name, uid=uid, node=node, requests=requests,
            labels=(GANG if gang else {}) | foreign.get("labels", {}), creationTimestamp=created,
            annotations=foreign.get("annotations", {}),
        )  # fmt: skip
        self._tell(uid)

    @precondition(lambda self: self.pods)
    @rule(data=st.data(), node=st.sampled_from(NODES), record=st.sampled_from(RECORDS))
    def pod_is_bound(self, data: st.DataObject, node: str, record: str | None) -> None:
        uid = self._some(data)
        pod = self.pods[uid]
        if not pod["spec"].get("nodeName"):
            if record:
                pod["metadata"]["annotations"] = {"snugfit.io/devices": record}
            pod["spec"]["nodeName"], pod["status"]["phase"] = node, "Running"
            self._tell(uid)

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def word_is_repeated(self, data: st.DataObject) -> None:
        self._tell(self._some(data))

    @precondition(lambda self: self.pods)
    @rule(data=st.data(), how=st.sampled_from(("ended", "deleted", "unseen")))
    def pod_goes(self, data: st.DataObject, how: str) -> None:
        uid = self._some(data)
        if how == "ended":
            self.pods[uid]["status"]["phase"] = "Succeeded"
            self._tell(uid)
        elif how == "deleted":
            self.cluster.sync.pod_gone(uid)
        else:
            self.unseen = True
        del self.pods[uid]

    @rule(size=st.integers(0, 3))
    def group_is_resized(self, size: int) -> None:
        self.group = size
        if size:
            self.cluster.sync.group({GROUP: Stated(size)})
        else:
            self.cluster.sync.group_gone([GROUP])

    @precondition(lambda self: self.cluster.sync.pending and self.nodes)
    @rule(data=st.data(), kind=st.sampled_from(("hold", "reserve", "ask")))
    def pod_is_answered(self, data: st.DataObject, kind: str) -> None:
        """What the verbs do with a pending pod, whether or not it is bound there later."""
        cluster = self.cluster
        uid = data.draw(st.sampled_from(sorted(cluster.sync.pending)))
        node = data.draw(st.sampled_from(sorted(self.nodes)))
        request = cluster.sync.pending[uid]
        gangs = cluster.service.gangs
        try:
            if kind == "ask" and gangs.is_incomplete_gang(request):
                gangs.answer(request, np.arange(len(cluster.state)), 0.0)
            elif kind == "hold":
                cluster.engine.reserve_until(request, node, 1e9)
            elif kind == "reserve":
                cluster.service.reserve(request, node)
                cluster.assumed.add(uid)
        except SchedulerError:
            pass  # it does not fit there; nothing has changed

    @rule()
    def list_again(self) -> None:
        sync = self.cluster.sync
        for name in set(sync.node_names()) - set(self.nodes):
            sync.node_gone(name)
        for name in self.nodes:
            sync.node(msgspec.convert(self.nodes[name], NodeObject))
        missing = set(sync.pod_uids()) - set(self.pods)
        for uid in self.pods:
            self._tell(uid)
        for uid in missing:
            sync.pod_gone(uid)
        self.unseen = False

    @invariant()
    def state_equals_the_facts(self) -> None:
        assert self.cluster.differences() == []
        assert self.cluster.state.check() == []
        if not self.unseen:
            self.equals_the_truth()

    def teardown(self) -> None:
        self.list_again()
        self.state_equals_the_facts()

    def equals_the_truth(self) -> None:
        """As told of what exists now alone, in another order."""
        fresh = Cluster()
        if self.group:
            fresh.sync.group({GROUP: Stated(self.group)})
        for uid in sorted(self.pods, reverse=True):
            fresh.sync.pod(msgspec.convert(self.pods[uid], PodObject))
        for name in self.nodes:
            fresh.sync.node(msgspec.convert(self.nodes[name], NodeObject))
        mine, theirs = self.cluster.sync, fresh.sync
        assert mine.charges.observed() == theirs.charges.observed()
        assert mine.pending == theirs.pending
        assert mine.unreadable == theirs.unreadable
        assert mine.charges.nodes.uncertain == theirs.charges.nodes.uncertain
        ambiguous = [sync.charges.protocols.ambiguous_nodes for sync in (mine, theirs)]
        assert ambiguous[0] == ambiguous[1]
        for uid, there in mine.pods.items():
            gang = there.request.gang
            assert gang is None or uid in self.cluster.service.gangs.members.running(gang)
            if there.node in self.nodes and there.node not in mine.charges.nodes.uncertain:
                self._same_usage(fresh, uid)

    def _same_usage(self, fresh: Cluster, uid: str) -> None:
        mine, theirs = self.cluster.state.placements[uid], fresh.state.placements[uid]
        assert mine.node == theirs.node and mine.pod == theirs.pod
        if mine.pod.gpu.kind is not GpuKind.MIG:  # who gets the last instance depends on the order
            assert mine.gpu_milli == theirs.gpu_milli


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=examples(8, 100),
    stateful_step_count=30,
    deadline=None,
    phases=(
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ),  # shrinking takes minutes and gains little
)
