"""Whose word counts for which device: what a pod asks for, and records that say which devices."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.cluster.repair import heal
from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.sync import Sync
from scheduler.core.engine import Engine
from scheduler.core.model import DeviceShare, Reason
from scheduler.core.state import ClusterState
from testbed.kube_objects import node_object, pod_object
from tests.builders import pod
from tests.service import Service

DEVICES, UID = "snugfit.io/devices", "snugfit.io/devices-uid"
WHOLE = {"nvidia.com/gpu": "1"}
HALF = {"snugfit.io/gpu-milli": "500"}
MOST = {"snugfit.io/gpu-milli": "900"}
REGISTER = "GPU-0,10,32768,100,NVIDIA-T4,0,true:GPU-1,10,32768,100,NVIDIA-T4,0,true:"
EVERY_RECORD: tuple[dict[str, str], ...] = (
    {DEVICES: ",".join(f"{index}:1000" for index in range(8))},
    {DEVICES: "x"},
    {DEVICES: "900:1"},
    {DEVICES: ""},
    {"gpu-fraction": "0.1"},
    {"run.ai/reserve_for_gpu_index": "0"},
    {"hami.io/vgpu-devices-allocated": "GPU-0,NVIDIA,32768,100:;"},
    {"hami.io/vgpu-devices-allocated": "zzz"},
    {"hami.io/vgpu-devices-to-allocate": f"GPU-1,NVIDIA,{'9' * 5000},1:;"},
    {"ALIYUN_COM_GPU_MEM_IDX": "0", "ALIYUN_COM_GPU_MEM_POD": "1"},
    {"ALIYUN_COM_GPU_MEM_IDX": "9" * 5000},
    {"snugfit.io/gang-size": "9" * 5000, "pod-group-name": "g"},
    {DEVICES: "0:1000", UID: "uid-tenant"},
)
NODES: dict[str, dict[str, Any]] = {
    "plain": {"gpus": 2},
    "fractions": {"allocatable": {"snugfit.io/gpu-milli": "2000"}},
    "both": {"gpus": 2, "allocatable": {"snugfit.io/gpu-milli": "2000"}},
    "hami": {"gpus": 20, "annotations": {"hami.io/node-nvidia-register": REGISTER}},
    "gpushare": {"allocatable": {"aliyun.com/gpu-mem": "64", "aliyun.com/gpu-count": "2"}},
}


class Cluster:
    def __init__(self) -> None:
        self.service = Service(Engine(ClusterState()), ExtenderConfig(), offline=False)
        self.sync: Sync = self.service.sync
        with self.service.exclusive() as engine:
            self.engine = engine

    def free(self, name: str = "a") -> list[int]:
        state = self.engine.state
        row = state.row(name)
        return state.gpu_free[row, : int(state.device_count[row])].tolist()

    def devices(self, uid: str) -> tuple[DeviceShare, ...]:
        return self.engine.state.placements[uid].devices


@pytest.fixture
def cluster() -> Any:
    made = Cluster()
    yield made
    differences = made.sync.charges.observed().differences(
        made.engine.state, frozenset(), frozenset()
    )
    assert differences == []


def _fractions(cluster: Cluster, devices: int = 2) -> None:
    cluster.sync.node(node_object("a", allocatable={"snugfit.io/gpu-milli": str(devices * 1000)}))


@pytest.mark.parametrize("annotations", EVERY_RECORD, ids=range(len(EVERY_RECORD)))
@pytest.mark.parametrize("node", NODES)
def test_a_record_on_a_pod_that_asks_for_no_device_is_ignored(cluster, node, annotations) -> None:
    cluster.sync.node(node_object("a", **NODES[node]))
    labels = {"runai-gpu-group": "g"}
    evil = pod_object("tenant", node="a", annotations=annotations, labels=labels)
    cluster.sync.pod(evil)
    assert cluster.free() == [1000, 1000]
    assert not cluster.sync.charges.nodes.uncertain and not cluster.sync.unreadable
    assert not cluster.sync.charges.protocols.ambiguous_nodes


@pytest.mark.parametrize("annotations", EVERY_RECORD, ids=range(len(EVERY_RECORD)))
@pytest.mark.parametrize(
    ("node", "requests", "left"),
    [
        ("plain", WHOLE, [0, 1000]),
        ("fractions", HALF, [500, 1000]),
        ("fractions", {"snugfit.io/gpu-milli": "2000"}, [0, 0]),
        ("both", WHOLE, [0, 1000]),
        ("both", MOST, [100, 1000]),
        ("hami", {**WHOLE, "nvidia.com/gpumem": "16384"}, [500, 1000]),
        ("gpushare", {"aliyun.com/gpu-mem": "16"}, [500, 1000]),
    ],
)
def test_whatever_is_written_on_a_pod_it_costs_what_it_asks_for(
    cluster, node, requests, left, annotations
) -> None:
    cluster.sync.node(node_object("a", **NODES[node]))
    labels = {"runai-gpu-group": "g"}
    cluster.sync.pod(
        pod_object("p", node="a", requests=requests, annotations=annotations, labels=labels)
    )
    assert sorted(cluster.free()) == sorted(left) and not cluster.sync.charges.nodes.uncertain
    cluster.sync.pod_gone("uid-p")
    assert cluster.free() == [1000, 1000] and not cluster.sync.unreadable


def test_contradictions_cost_others_no_more_than_what_is_asked_for(cluster) -> None:
    """One on each of eight nodes of eight: 4,000 of 64,000 milli-GPU."""
    for number in range(8):
        name = f"n{number}"
        cluster.sync.node(node_object(name, allocatable={"snugfit.io/gpu-milli": "8000"}))
        record = {DEVICES: ",".join(f"{index}:1000" for index in range(8))}
        cluster.sync.pod(pod_object(f"p{number}", node=name, requests=HALF, annotations=record))
    assert sum(sum(cluster.free(f"n{number}")) for number in range(8)) == 64_000 - 4_000
    assert not cluster.sync.charges.nodes.uncertain


@pytest.mark.parametrize("later", ["1:500", "0:1", "", "rubbish", None, "0:1000"])
def test_the_first_record_that_is_believed_stays(cluster, later) -> None:
    _fractions(cluster)
    cluster.sync.pod(pod_object("p", node="a", requests=HALF, annotations={DEVICES: "0:500"}))
    changed = {} if later is None else {DEVICES: later}
    cluster.sync.pod(pod_object("p", node="a", requests=HALF, annotations=changed))
    assert cluster.free() == [500, 1000]
    assert "was changed" in cluster.sync.unreadable["Pod ns/p"]
    cluster.sync.pod(pod_object("p", node="a", requests=HALF, annotations={DEVICES: "0:500"}))
    assert not cluster.sync.unreadable


@pytest.mark.parametrize("told_first", [True, False])
@pytest.mark.parametrize("record", ["0:900", "1:900", "0:1", "", None])
def test_what_we_have_bound_is_remembered(cluster, record, told_first) -> None:
    """Whether the watch or the answer to our Binding comes first."""
    _fractions(cluster)
    cluster.sync.pod(pod_object("p", requests=MOST))
    placement = cluster.service.reserve(cluster.sync.pending["uid-p"], "a")
    annotations = {} if record is None else {DEVICES: record, UID: "uid-p"}
    bound = pod_object("p", node="a", requests=MOST, annotations=annotations)
    if not told_first:
        cluster.sync.charges.bound_here(placement)
    cluster.sync.pod(bound)
    if told_first:
        cluster.sync.charges.bound_here(placement)
    assert cluster.devices("uid-p") == placement.devices
    assert cluster.sync.charges.records.unprotected(cluster.sync.pods) == 0


def test_the_record_of_another_pod_is_void(cluster) -> None:
    """As a restored or copied pod carries it."""
    _fractions(cluster)
    cluster.sync.pod(pod_object("p", node="a", requests=MOST, annotations={DEVICES: "0:900"}))
    copied = {DEVICES: "0:900", UID: "uid-of-the-original"}
    cluster.sync.pod(pod_object("q", node="a", requests=MOST, annotations=copied))
    assert cluster.free() == [100, 100]
    assert "another pod" in cluster.sync.unreadable["Pod ns/q"]


SINCE = 1_700_000_000.0
BEFORE, AFTER = "2023-11-14T20:00:00Z", "2023-11-15T00:00:00Z"


@pytest.mark.parametrize(
    ("created", "named", "believed", "unprotected"),
    [(BEFORE, False, True, 1), (BEFORE, True, True, 1), (AFTER, True, True, 0),
     (AFTER, False, False, 0), ("rubbish", False, False, 0),
     ("2023-11-14T22:13:30Z", False, True, 1)],
)  # fmt: skip
def test_where_a_policy_guards_records_only_those_of_older_pods_need_no_uid(
    cluster, created, named, believed, unprotected
) -> None:
    """A policy is in force a moment after it was created."""
    _fractions(cluster)
    cluster.sync.charges.protect(SINCE)
    annotations = {DEVICES: "1:900"} | ({UID: "uid-p"} if named else {})
    cluster.sync.pod(
        pod_object("p", node="a", requests=MOST, annotations=annotations, creationTimestamp=created)
    )
    assert (cluster.free() == [1000, 100]) is believed
    assert (
        sum(cluster.free()) == 1100
        and cluster.sync.charges.records.unprotected(cluster.sync.pods) == unprotected
    )
    cluster.sync.charges.protect(None)
    assert (
        cluster.free() == [1000, 100]
        and cluster.sync.charges.records.unprotected(cluster.sync.pods) == 1
    )


@pytest.mark.parametrize("order", ["pq", "qp"])
def test_a_guarded_record_comes_before_any_other(cluster, order) -> None:
    _fractions(cluster)
    cluster.sync.charges.protect(SINCE)
    told = {
        "p": pod_object("p", node="a", requests=MOST, creationTimestamp=AFTER,
                        annotations={DEVICES: "0:900", UID: "uid-p"}),
        "q": pod_object("q", node="a", requests=MOST, creationTimestamp=BEFORE,
                        annotations={DEVICES: "0:900"}),
    }  # fmt: skip
    for name in order:
        cluster.sync.pod(told[name])
    assert cluster.free() == [100, 100]
    assert cluster.devices("uid-p")[0].index == 0
    assert "other pods have" in cluster.sync.unreadable["Pod ns/q"]
    cluster.sync.pod_gone("uid-p")
    assert cluster.devices("uid-q")[0].index == 0 and not cluster.sync.unreadable


def test_pods_without_a_record_go_round_those_that_have_one(cluster) -> None:
    _fractions(cluster)
    cluster.sync.pod(pod_object("p", node="a", requests=MOST))
    assert cluster.free() == [100, 1000]
    cluster.sync.pod(pod_object("q", node="a", requests=MOST, annotations={DEVICES: "0:900"}))
    assert cluster.free() == [100, 100] and cluster.devices("uid-q")[0].index == 0


def test_a_pod_that_cannot_be_applied_is_known_and_charged(cluster, monkeypatch) -> None:
    """Whatever the fault is; telling of it again is a new attempt."""
    cluster.sync.node(node_object("a", gpus=2))
    asked = pod_object("p", node="a", requests=WHOLE)
    with monkeypatch.context() as patch:
        patch.setattr("scheduler.kube.facts.record_of", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            cluster.sync.pod(asked)
    assert cluster.free() == [0, 1000] and "Pod ns/p" in cluster.sync.unreadable
    cluster.sync.pod(asked)
    assert cluster.free() == [0, 1000] and not cluster.sync.unreadable
    cluster.sync.pod_gone("uid-p")
    assert cluster.free() == [1000, 1000]


@pytest.mark.parametrize(
    "requests",
    [
        {"nvidia.com/gpu": "1", "snugfit.io/gpu-milli": "1000"},
        {"snugfit.io/gpu-milli": "1500"},
        {"nvidia.com/gpu": str(10**12)},
        {"nvidia.com/gpu": "1", "amd.com/gpu": "1", "snugfit.io/gpu-milli": "5"},
        {"snugfit.io/gpu-milli": "1000", "snugfit.io/gpu-memory-mib": "5"},
    ],
)
def test_a_request_that_contradicts_itself_is_charged_in_full(cluster, requests) -> None:
    cluster.sync.node(node_object("a", gpus=2))
    cluster.sync.pod(pod_object("p", node="a", requests=requests))
    assert sum(cluster.free()) <= 1000 and "Pod ns/p" in cluster.sync.unreadable
    assert not cluster.sync.charges.nodes.uncertain
    cluster.sync.pod_gone("uid-p")
    assert cluster.free() == [1000, 1000]


def test_what_was_claimed_beyond_a_device_moves_where_another_pod_has_left(cluster) -> None:
    """Else the devices of that pod would look free, and the node's sum would be exceeded."""
    _fractions(cluster)
    whole = {"snugfit.io/gpu-milli": "1000"}
    for name in ("p", "q", "r"):
        cluster.sync.pod(pod_object(name, node="a", requests=whole))
    assert sum(cluster.free()) == -1000
    cluster.sync.pod_gone("uid-p")
    assert cluster.free() == [0, 0]
    cluster.sync.pod_gone("uid-q")
    assert sorted(cluster.free()) == [0, 1000]


# -- whole GPUs and fractions on one node ------------------------------------------------------


def _offers_both(cluster: Cluster, serves: str = "") -> None:
    labels = {"snugfit.io/serves": serves} if serves else {}
    offered = {"snugfit.io/gpu-milli": "2000"}
    cluster.sync.node(node_object("a", gpus=2, allocatable=offered, labels=labels))


def _verdict(cluster: Cluster, **request: Any) -> Reason:
    return cluster.engine.explain(pod("x", cpu=1, memory=1, **request), "a")


PLUGIN = {"count": 1, "resource": "nvidia.com/gpu"}


def test_a_node_that_offers_its_devices_twice_serves_one_way_at_a_time(cluster) -> None:
    """The kubelet picks the device of a whole GPU, and does not know of fractions."""
    _offers_both(cluster)
    assert _verdict(cluster, **PLUGIN) is _verdict(cluster, milli=500) is Reason.FITS
    cluster.sync.pod(pod_object("p", node="a", requests=HALF))
    assert _verdict(cluster, **PLUGIN) is Reason.GPUS_SERVED_OTHERWISE
    assert _verdict(cluster, milli=500) is _verdict(cluster, count=1) is Reason.FITS
    cluster.sync.pod_gone("uid-p")
    cluster.sync.pod(pod_object("q", node="a", requests=WHOLE))
    assert _verdict(cluster, **PLUGIN) is Reason.FITS
    assert _verdict(cluster, milli=500) is Reason.GPUS_SERVED_OTHERWISE
    assert _verdict(cluster, count=1) is Reason.GPUS_SERVED_OTHERWISE
    assert _verdict(cluster) is Reason.FITS
    cluster.sync.pod_gone("uid-q")
    assert _verdict(cluster, milli=500) is Reason.FITS


def test_a_hold_decides_as_well(cluster) -> None:
    _offers_both(cluster)
    cluster.engine.reserve_until(pod("held", milli=100), "a", 1e9)
    assert _verdict(cluster, **PLUGIN) is Reason.GPUS_SERVED_OTHERWISE
    cluster.engine.reservations.drop("held")
    assert _verdict(cluster, **PLUGIN) is Reason.FITS


def test_an_operator_may_say_which_way_a_node_serves(cluster) -> None:
    _offers_both(cluster, "whole")
    assert _verdict(cluster, **PLUGIN) is Reason.FITS
    assert _verdict(cluster, milli=500) is Reason.DEVICE_KIND_MISSING
    _offers_both(cluster, "fractions")
    assert _verdict(cluster, **PLUGIN) is Reason.DEVICE_KIND_MISSING
    assert _verdict(cluster, milli=500) is Reason.FITS
    _offers_both(cluster, "everything")
    assert "snugfit.io/serves" in cluster.sync.unreadable["Node a"]


def test_nodes_that_offer_one_way_are_not_concerned(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=2))
    cluster.sync.pod(pod_object("p", node="a", requests=HALF))
    assert _verdict(cluster, **PLUGIN) is Reason.FITS


# -- what is left of a node whose pods are charged anew ------------------------------------------


def test_a_binding_under_way_keeps_what_was_chosen_for_it(cluster) -> None:
    _fractions(cluster)
    cluster.sync.pod(pod_object("p", requests=MOST))
    placement = cluster.service.reserve(cluster.sync.pending["uid-p"], "a")
    record = f"{placement.devices[0].index}:900"
    cluster.sync.pod(pod_object("t", node="a", requests=MOST, annotations={DEVICES: record}))
    assert cluster.free() == [100, 100]
    cluster.sync.pod_gone("uid-t")
    cluster.sync.charges.bound_here(placement)
    annotations = {DEVICES: f"{placement.devices[0].index}:900", UID: "uid-p"}
    cluster.sync.pod(pod_object("p", node="a", requests=MOST, annotations=annotations))


def test_holds_live_on_where_pods_are_charged_anew(cluster) -> None:
    """Else whoever can create pods by hand takes the room of those who wait."""
    _fractions(cluster)
    for name in "tuv":
        cluster.sync.pod(pod_object(name, node="a", requests={"snugfit.io/gpu-milli": "600"}))
    cluster.engine.reserve_until(pod("held", milli=300), "a", 1e9)
    cluster.sync.pod(pod_object("cpu", node="a"))
    cluster.sync.pod_gone("uid-cpu")
    assert "held" in cluster.engine.reservations
    cluster.sync.pod_gone("uid-t")
    assert "held" in cluster.engine.reservations and sum(cluster.free()) == 500
    cluster.engine.reservations.drop("held")


def test_a_pod_that_cannot_be_charged_loses_no_other(cluster, monkeypatch) -> None:
    from scheduler.cluster import charges as module

    _fractions(cluster, 4)
    for name in "bcd":
        cluster.sync.pod(pod_object(name, node="a", requests=MOST))
    assert sum(cluster.free()) == 4000 - 2700
    running = module.running

    def faulty(engine: Any, request: Any, *rest: Any) -> Any:
        if request.name == "c":
            raise ZeroDivisionError
        return running(engine, request, *rest)

    taken = {DEVICES: f"{cluster.devices('uid-b')[0].index}:900"}
    with monkeypatch.context() as patch:
        patch.setattr(module, "running", faulty)
        with pytest.raises(ZeroDivisionError):
            cluster.sync.pod(pod_object("t", node="a", requests=MOST, annotations=taken))
    assert cluster.sync.charges.nodes.uncertain == {"a"}, "nobody knows which devices c has"
    assert set(cluster.engine.state.placements) == {"uid-b", "uid-c", "uid-d", "uid-t"}
    heal(cluster.engine, cluster.sync.charges, ["a"])
    assert sum(cluster.free()) == 4000 - 3600 and not cluster.sync.charges.nodes.uncertain


def test_an_answer_that_comes_after_the_pods_end_is_not_remembered(cluster) -> None:
    _fractions(cluster)
    cluster.sync.pod(pod_object("p", requests=MOST))
    placement = cluster.service.reserve(cluster.sync.pending["uid-p"], "a")
    cluster.sync.pod_gone("uid-p")
    cluster.sync.charges.bound_here(placement)
    assert not cluster.sync.charges.records._bound_here


def test_sick_devices_do_not_hide_more_pods_than_they_have_room_for(cluster) -> None:
    sick = REGISTER.replace("true:GPU-1", "false:GPU-1")
    node = {**NODES["hami"], "annotations": {"hami.io/node-nvidia-register": sick}}
    cluster.sync.node(node_object("a", **node))
    record = {"hami.io/vgpu-devices-allocated": "GPU-0,NVIDIA,32768,0:;"}
    for name in "tu":
        cluster.sync.pod(pod_object(name, node="a", requests=WHOLE, annotations=record))
    assert cluster.free()[1] == 0


# -- HAMi ----------------------------------------------------------------------------------------


def _hami(name: str, containers: list[Any], inits: Any = (), record: str = "") -> Any:
    told = {"hami.io/vgpu-devices-allocated": record} if record else {}
    spec: dict[str, Any] = {"containers": [], "initContainers": []}
    for number, limits in enumerate(containers):
        spec["containers"].append({"name": f"c{number}", "resources": {"limits": limits}})
    for number, (limits, sidecar) in enumerate(inits):
        container: dict[str, Any] = {"name": f"i{number}", "resources": {"limits": limits}}
        if sidecar:
            container["restartPolicy"] = "Always"
        spec["initContainers"].append(container)
    return pod_object(name, node="a", spec=spec, annotations=told)


ONE = {"nvidia.com/gpu": 1}
SMALL = {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 16384}


@pytest.mark.parametrize(
    ("containers", "inits", "record", "used"),
    [
        ([{"nvidia.com/gpu": 2}], [], "GPU-0,NVIDIA,32768,0:GPU-0,NVIDIA,32768,0:;", 2000),
        ([SMALL, SMALL, SMALL], [], ";".join(["GPU-0,NVIDIA,16384,0:"] * 3) + ";", 1500),
        ([SMALL], [(ONE, False)], "", 1000),
        ([SMALL], [(SMALL, True), (SMALL, False)], "", 1000),
        ([{}], [(ONE, True), (ONE, False)], "", 2000),
        ([{}], [(ONE, False), (ONE, True)], "", 1000),
    ],
)
def test_a_hami_pod_is_charged_as_its_containers_ask(
    cluster, containers, inits, record, used
) -> None:
    cluster.sync.node(node_object("a", **NODES["hami"]))
    cluster.sync.pod(_hami("p", containers, inits, record))
    assert sum(cluster.free()) == 2000 - used


def test_a_hami_pod_of_very_many_slots_costs_a_bounded_number_of_them(cluster) -> None:
    """And no device less for it."""
    many = [{"nvidia.com/gpu": 32, "nvidia.com/gpumem": 1}] * 500
    cluster.sync.node(node_object("a", **NODES["hami"]))
    asked = _hami("p", many)
    cluster.sync.pod(asked)
    (fact,) = cluster.sync.pods.values()
    assert len(fact.slots) <= 64 and sum(slot.memory_mib for slot in fact.slots) == 16_000
    assert 2000 - sum(cluster.free()) >= 16_000 * 1000 // 32768 - 64


def test_hamis_resources_mean_nothing_on_other_nodes(cluster) -> None:
    cluster.sync.node(node_object("a", **NODES["gpushare"]))
    cluster.sync.pod(_hami("p", [{"nvidia.com/gpu": 1, "nvidia.com/gpumem": 1}]))
    assert cluster.free() == [1000, 1000]
    cluster.sync.node(node_object("b", gpus=2))
    record = {"hami.io/vgpu-devices-allocated": "x"}
    for name, told in (("q", {}), ("r", record)):
        cluster.sync.pod(pod_object(name, node="b", requests=WHOLE, annotations=told))
    assert cluster.free("b") == [0, 0] and not cluster.sync.charges.protocols.ambiguous_nodes


@pytest.mark.parametrize(
    "resource", ["amd.com/gpu", "nvidia.com/mig-1g.5gb", "nvidia.com/gpu.shared"]
)
def test_devices_that_a_node_does_not_have_close_nothing(cluster, resource: str) -> None:
    _offers_both(cluster)
    cluster.sync.pod(pod_object("t", node="a", requests={resource: "1"}))
    assert cluster.free() == [1000, 1000]
    assert _verdict(cluster, milli=500) is _verdict(cluster, **PLUGIN) is Reason.FITS
