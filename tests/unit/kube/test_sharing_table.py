"""Foreign protocols: manifests as they are found in clusters, and what is free beside them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.sync import Sync
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import DeviceShare, GpuRequest, Placement, Reason
from scheduler.core.state import ClusterState
from scheduler.files.load import load_workload
from scheduler.files.workload import place_bound
from scheduler.kube.nodes import node_of
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.table import (
    ambiguity,
    gpushare_annotations,
    who_picks,
)
from testbed.kube_objects import node_object, pod_json, pod_object
from tests.builders import pod
from tests.service import Service

NAMES = ResourceNames()
UUIDS = (
    "GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec",
    "GPU-0fc3eda5-e98b-a25b-5b0d-cf5c855d1448",
)
SEVEN = "".join(f"{uuid},10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,0,true:" for uuid in UUIDS)
NINE = (
    f"{UUIDS[1]},10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,0,true,1,hami-core:"
    f"{UUIDS[0]},10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,0,true,0,hami-core:"
)
JSON = msgspec.json.encode(
    [  # "index" is left out where it is 0
        {"id": UUIDS[1], "index": 1, "count": 10, "devmem": 32768, "devcore": 100,
         "type": "NVIDIA-Tesla V100-PCIE-32GB", "mode": "hami-core", "health": True},
        {"id": UUIDS[0], "count": 10, "devmem": 32768, "devcore": 100,
         "type": "NVIDIA-Tesla V100-PCIE-32GB", "mode": "hami-core", "health": True},
    ]
).decode()  # fmt: skip


class Cluster:
    """A sync and the verdicts that follow from it."""

    def __init__(self, names: ResourceNames | None = None) -> None:
        service = Service(Engine(ClusterState()), ExtenderConfig(), offline=False, names=names)
        self.sync: Sync = service.sync
        with service.exclusive() as engine:
            self.engine = engine

    def free(self, name: str = "a") -> list[int]:
        state = self.engine.state
        row = state.row(name)
        return state.gpu_free[row, : int(state.device_count[row])].tolist()

    def verdict(self, **request: Any) -> Reason:
        return self.engine.explain(pod("x", cpu=1, memory=1, **request), "a")


@pytest.fixture
def cluster() -> Any:
    made = Cluster()
    yield made
    differences = made.sync.charges.observed().differences(
        made.engine.state, frozenset(), frozenset()
    )
    assert differences == []


def _hami_node(register: str = NINE, **rest: Any) -> Any:
    """20 slots of nvidia.com/gpu on two devices."""
    annotations = {
        "hami.io/node-handshake-nvidia": "Reported_2024-01-23 04:30:04",
        "hami.io/node-nvidia-register": register,
    }
    return node_object("a", gpus=20, labels={"nvidia.com/gpu.product": ""},
                       annotations=annotations, **rest)  # fmt: skip


def _hami_pod(
    name: str,
    allocated: str,
    key: str = "hami.io/vgpu-devices-allocated",
    *asked: tuple[int, int],
) -> Any:
    """A pod whose containers ask for one device each, with so many MiB and percent of the cores."""
    containers = [
        {"name": f"c{at}", "resources": {"limits": {
            "nvidia.com/gpu": 1, "nvidia.com/gpumem": memory, "nvidia.com/gpucores": cores}}}
        for at, (memory, cores) in enumerate(asked or [(3000, 0)])
    ]  # fmt: skip
    annotations = {key: allocated, "hami.io/vgpu-node": "a", "hami.io/vgpu-time": "1705054796"}
    return pod_object(name, node="a", spec={"containers": containers}, annotations=annotations)


ALLOCATED = "hami.io/vgpu-devices-allocated"


@pytest.mark.parametrize("register", [SEVEN, NINE, JSON], ids=["seven", "nine", "json"])
def test_a_hami_node_has_the_devices_of_its_register_not_its_slots(register) -> None:
    node = node_of(_hami_node(register))
    assert len(node.devices) == 2 and node.devices[0].memory_mib == 32768
    assert node.product == "Tesla V100-PCIE-32GB" and node.resource == "nvidia.com/gpu"


@pytest.mark.parametrize("register", [SEVEN, NINE, JSON], ids=["seven", "nine", "json"])
def test_a_hami_allocation_counts_on_the_device_that_has_the_uuid(cluster, register) -> None:
    """Two containers of one pod on the second device: 3 and 5 GB of 32, and 30 % of the cores."""
    cluster.sync.node(_hami_node(register))
    allocated = f"{UUIDS[1]},NVIDIA,3000,0:;{UUIDS[1]},NVIDIA,5000,30:;"
    cluster.sync.pod(_hami_pod("p", allocated, ALLOCATED, (3000, 0), (5000, 30)))
    assert cluster.free() == [1000, 1000 - 91 - 300]
    assert cluster.engine.state.device_mem_free[0].tolist()[:2] == [32768, 24768]
    assert cluster.verdict(count=1) is Reason.FITS
    assert cluster.verdict(count=2) is Reason.INSUFFICIENT_DEVICES
    cluster.sync.pod_gone("uid-p")
    assert cluster.free() == [1000, 1000]


def test_a_hami_decision_counts_before_its_device_plugin_has_carried_it_out(cluster) -> None:
    cluster.sync.pod(_hami_pod("p", f"{UUIDS[0]},NVIDIA,32768,100:;",
                                 "hami.io/vgpu-devices-to-allocate", (32768, 100)))  # fmt: skip
    cluster.sync.node(_hami_node())
    assert cluster.free() == [0, 1000]


def test_a_hami_device_whose_uuid_is_gone_is_charged_to_one_that_nobody_names(cluster) -> None:
    """The others are known by their UUIDs, so that nobody else has to lose anything."""
    cluster.sync.node(_hami_node())
    cluster.sync.pod(_hami_pod("p", f"{UUIDS[1]},NVIDIA,3000,0:;"))
    replaced = NINE.replace(UUIDS[1], "GPU-another")
    cluster.sync.node(_hami_node(replaced))
    assert sorted(cluster.free()) == [909, 1000] and not cluster.sync.charges.nodes.uncertain
    assert "does not offer any more" in cluster.sync.unreadable["Pod ns/p"]
    cluster.sync.node(_hami_node(NINE))
    assert cluster.free() == [1000, 909] and not cluster.sync.unreadable


def test_hami_devices_that_change_places_keep_their_pods(cluster) -> None:
    cluster.sync.node(_hami_node())
    allocated = f"{UUIDS[1]},NVIDIA,32768,0:;"
    cluster.sync.pod(_hami_pod("p", allocated, ALLOCATED, (32768, 0)))
    assert cluster.free() == [1000, 0]
    swapped = NINE.replace("true,1,", "true,x,").replace("true,0,", "true,1,")
    cluster.sync.node(_hami_node(swapped.replace("true,x,", "true,0,")))
    assert cluster.free() == [0, 1000]


@pytest.mark.parametrize(
    "record",
    [
        "rubbish",
        f"{UUIDS[0]},NVIDIA",
        f"{UUIDS[0]},NVIDIA,x,0:;",
        f"{UUIDS[0]},NVIDIA,{'9' * 5000},0:;",
        f"{UUIDS[0]},NVIDIA,\u0663\u0660\u0660\u0660,0:;",
        f"{UUIDS[0]},NVIDIA,1,0:;",
        f"{UUIDS[0]},NVIDIA,1000000000000,0:;",
        "GPU-of-nobody,NVIDIA,3000,0:;",
        ";",
    ],
)
def test_a_hami_record_that_cannot_be_believed_costs_what_the_pod_asks_for(cluster, record) -> None:
    cluster.sync.node(_hami_node())
    cluster.sync.pod(_hami_pod("p", record))
    assert sorted(cluster.free()) == [909, 1000] and "Pod ns/p" in cluster.sync.unreadable
    assert not cluster.sync.charges.nodes.uncertain
    cluster.sync.pod_gone("uid-p")
    assert cluster.free() == [1000, 1000] and not cluster.sync.unreadable


def test_hami_gives_all_of_a_device_to_whoever_states_no_memory(cluster) -> None:
    """Unless HAMi is configured otherwise, and we with it."""
    cluster.sync.node(_hami_node())
    plain = {"nvidia.com/gpu": "1"}
    annotations = {ALLOCATED: f"{UUIDS[1]},NVIDIA,1,0:;"}
    cluster.sync.pod(pod_object("p", node="a", requests=plain, annotations=annotations))
    assert sorted(cluster.free()) == [0, 1000] and "Pod ns/p" in cluster.sync.unreadable
    annotations = {ALLOCATED: f"{UUIDS[1]},NVIDIA,32768,0:;"}
    cluster.sync.pod(pod_object("p", node="a", requests=plain, annotations=annotations))
    assert cluster.free() == [1000, 0] and not cluster.sync.unreadable
    default = Cluster(ResourceNames(hami_default_mib=8192))
    default.sync.node(_hami_node())
    annotations = {ALLOCATED: f"{UUIDS[1]},NVIDIA,8192,0:;"}
    default.sync.pod(pod_object("p", node="a", requests=plain, annotations=annotations))
    assert default.free() == [1000, 750]


def test_hami_in_percent_and_in_units(cluster) -> None:
    cluster.sync.node(_hami_node())
    requests = {"nvidia.com/gpu": "2", "nvidia.com/gpumem-percentage": "25"}
    record = {ALLOCATED: ":".join(f"{uuid},NVIDIA,8192,0" for uuid in UUIDS) + ":;"}
    cluster.sync.pod(pod_object("p", node="a", requests=requests, annotations=record))
    assert cluster.free() == [750, 750] and not cluster.sync.unreadable
    units = Cluster(ResourceNames(hami_unit_mib=1024))
    units.sync.node(_hami_node())
    units.sync.pod(_hami_pod("q", f"{UUIDS[0]},NVIDIA,16384,0:;", ALLOCATED, (16, 0)))
    assert units.free() == [500, 1000]


@pytest.mark.parametrize("register", ["[{", "GPU-x,1,2:", "GPU-x,1,many,100,T,0,true:"])
def test_a_hami_register_that_cannot_be_read_gives_nothing_away(cluster, register) -> None:
    cluster.sync.node(_hami_node(register))
    assert "Node a" in cluster.sync.unreadable and cluster.free() == []
    assert cluster.verdict() is Reason.FITS


# -- KAI ---------------------------------------------------------------------------------------

GROUP = "df7c0dd3-9795-443c-85b9-acbf49c8fb6b"
RESERVATION = {
    "namespace": "kai-resource-reservation",
    "requests": {"nvidia.com/gpu": "1"},
    "labels": {"app": "kai-resource-reservation", "runai-gpu-group": GROUP},
    "annotations": {"run.ai/reserve_for_gpu_index": "GPU-8983c66a-23df-e63b-4c2f-afcae9ec79b3"},
}
HALF = {
    "annotations": {"gpu-fraction": "0.5", "pod-group-name": "pg"},
    "labels": {"runai-gpu-group": GROUP, "kai.scheduler/queue": "test"},
    "spec": {"schedulerName": "kai-scheduler"},
}


def test_a_device_that_kai_shares_is_taken_whole_by_its_reservation(cluster) -> None:
    cluster.sync.node(node_object("a", gpus=2))
    cluster.sync.pod(pod_object("reservation", node="a", **RESERVATION))
    for name in ("p", "q"):
        cluster.sync.pod(pod_object(name, node="a", **HALF))
    assert cluster.free() == [0, 1000] and not cluster.sync.charges.nodes.uncertain
    assert cluster.sync.charges.protocols.ambiguous_nodes == {}
    cluster.sync.pod(pod_object("whole", node="a", requests={"nvidia.com/gpu": "1"}))
    assert cluster.free() == [0, 0]
    assert cluster.sync.charges.protocols.ambiguous_nodes == {}, (
        "both have theirs from the device plugin"
    )


def test_a_group_that_nobody_has_reserved_takes_nothing(cluster) -> None:
    """It is a wish on a pod that asks for no device."""
    cluster.sync.pod(pod_object("p", node="a", **HALF))
    cluster.sync.node(node_object("a", gpus=2))
    assert cluster.free() == [1000, 1000] and not cluster.sync.charges.nodes.uncertain
    cluster.sync.pod(pod_object("reservation", node="a", **RESERVATION))
    assert cluster.free() == [0, 1000]
    cluster.sync.pod_gone("uid-reservation")
    assert cluster.free() == [1000, 1000]


def test_a_group_on_a_pod_that_asks_for_a_device_frees_none(cluster) -> None:
    """Nor does a pod that looks like a reservation but stands in its owner's namespace."""
    cluster.sync.node(node_object("a", gpus=2))
    own = {**RESERVATION, "namespace": "tenant"}
    cluster.sync.pod(pod_object("self-made", node="a", **own))
    cluster.sync.pod(pod_object("p", node="a", requests={"nvidia.com/gpu": "1"}, **{
        key: HALF[key] for key in ("annotations", "labels")}))  # fmt: skip
    assert cluster.free() == [0, 0]


# -- gpushare ----------------------------------------------------------------------------------


def _share_node(total: str = "64", count: str = "2") -> Any:
    allocatable = {"aliyun.com/gpu-mem": total, "aliyun.com/gpu-count": count}
    return node_object("a", allocatable=allocatable, product="Tesla-V100")


def _share_pod(name: str, amount: int, index: str = "", **rest: Any) -> Any:
    annotations = {
        "ALIYUN_COM_GPU_MEM_IDX": index,
        "ALIYUN_COM_GPU_MEM_POD": str(amount),
        "ALIYUN_COM_GPU_MEM_DEV": "32",
        "ALIYUN_COM_GPU_MEM_ASSIGNED": "true",
        "ALIYUN_COM_GPU_MEM_ASSUME_TIME": "1700000000000000000",
    }
    limits = {"containers": [{"resources": {"limits": {"aliyun.com/gpu-mem": amount}}}]}
    return pod_object(name, node="a" if index else "", spec=limits,
                      annotations=annotations if index else {}, **rest)  # fmt: skip


def test_a_gpushare_node_has_equal_devices_and_its_pods_are_on_their_index(cluster) -> None:
    cluster.sync.node(_share_node())
    cluster.sync.pod(_share_pod("p", 8, "1"))
    state = cluster.engine.state
    assert state.device_mem_free[0].tolist()[:2] == [32 * 1024, 24 * 1024]
    assert cluster.free() == [1000, 750]
    cluster.sync.pod(_share_pod("q", 24))
    request = cluster.sync.pending["uid-q"]
    assert request.gpu == GpuRequest(memory_mib=24 * 1024, resource="aliyun.com/gpu-mem")
    assert cluster.engine.choose(request, "a").devices[0].index in (0, 1)
    assert cluster.verdict(memory_mib=33 * 1024, resource="aliyun.com/gpu-mem") is not Reason.FITS


def test_what_we_bind_is_what_gpushares_device_plugin_looks_for(cluster) -> None:
    cluster.sync.node(_share_node())
    cluster.sync.pod(_share_pod("q", 24))
    placement = cluster.engine.choose(cluster.sync.pending["uid-q"], "a")
    node = cluster.engine.state.nodes[0]
    index = str(placement.devices[0].index)
    assert gpushare_annotations(placement, node, NAMES, 1_700_000_000_000_000_000) == {
        "ALIYUN_COM_GPU_MEM_IDX": index,
        "ALIYUN_COM_GPU_MEM_POD": "24",
        "ALIYUN_COM_GPU_MEM_DEV": "32",
        "ALIYUN_COM_GPU_MEM_ASSIGNED": "false",
        "ALIYUN_COM_GPU_MEM_ASSUME_TIME": "1700000000000000000",
    }
    others = Placement(pod("x", milli=500), "a", (DeviceShare(0, 500),))
    assert gpushare_annotations(others, node, NAMES, 0) == {}


def test_a_gpushare_index_that_is_gone_is_charged_to_a_device_that_nobody_names(cluster) -> None:
    cluster.sync.node(_share_node())
    cluster.sync.pod(_share_pod("p", 8, "1"))
    cluster.sync.node(_share_node("32", "1"))
    assert cluster.free() == [750] and "Pod ns/p" in cluster.sync.unreadable


@pytest.mark.parametrize("index", ["-1", "q", "9" * 5000, "\u0661", "7", " 1", "1.0"])
def test_a_gpushare_index_that_is_none_costs_what_the_pod_asks_for(cluster, index) -> None:
    cluster.sync.node(_share_node())
    cluster.sync.pod(_share_pod("q", 8, index))
    assert sorted(cluster.free()) == [750, 1000] and "Pod ns/q" in cluster.sync.unreadable


@pytest.mark.parametrize("amount", ["1", "", "999999999", "9" * 5000])
def test_a_gpushare_amount_is_the_requests_and_not_the_records(cluster, amount) -> None:
    pod = _share_pod("q", 8, "1")
    pod.metadata.annotations["ALIYUN_COM_GPU_MEM_POD"] = amount
    cluster.sync.node(_share_node())
    cluster.sync.pod(pod)
    assert sorted(cluster.free()) == [750, 1000] and "Pod ns/q" in cluster.sync.unreadable


def test_gpushare_may_count_in_mebibytes() -> None:
    names = ResourceNames(share_unit_mib=1)
    assert [d.memory_mib for d in node_of(_share_node("65536"), names).devices] == [32768] * 2
    with pytest.raises(InvalidInput, match="gpu-count"):
        node_of(_share_node("65536", "0"), names)


def test_a_gpushare_binding_reaches_the_pod_over_the_api() -> None:
    """The same write that assigns the node carries both records."""
    from scheduler.cluster.bind_request import BindRequest
    from scheduler.cluster.binding import Binder
    from testbed.fake_api import PODS, serving

    with serving() as api:
        service = Service(Engine(ClusterState()), ExtenderConfig(), offline=False)
        sync = service.sync
        sync.node(_share_node())
        spec = {"containers": [{"resources": {"limits": {"aliyun.com/gpu-mem": 8}}}]}
        api.put(PODS, pod_json("p", spec=spec))
        binder = Binder(service.ledger, api.client(), deadline_s=5)
        assert binder.bind(BindRequest("p", "ns", "uid-p", "a")) == ""
        annotations = api.objects[PODS]["p"]["metadata"]["annotations"]
    assert annotations["ALIYUN_COM_GPU_MEM_ASSIGNED"] == "false"
    assert (
        annotations["snugfit.io/devices"] == f"{annotations['ALIYUN_COM_GPU_MEM_IDX']}:250:8192:0"
    )


# -- mixtures ----------------------------------------------------------------------------------


def test_protocols_that_do_not_know_of_each_other_are_reported(cluster) -> None:
    """The device plugin may hand out the very device that is shared."""
    cluster.sync.node(node_object("a", gpus=2, allocatable={"snugfit.io/gpu-milli": "2000"}))
    cluster.sync.pod(pod_object("p", node="a", requests={"nvidia.com/gpu": "1"}))
    assert cluster.sync.charges.protocols.ambiguous_nodes == {}
    cluster.sync.pod(pod_object("q", node="a", requests={"snugfit.io/gpu-milli": "300"}))
    (why,) = cluster.sync.charges.protocols.ambiguous_nodes.values()
    assert "snugfit.io/gpu-milli and the device plugin" in why and "picks by itself" in why
    cluster.sync.pod_gone("uid-p")
    assert cluster.sync.charges.protocols.ambiguous_nodes == {}


def test_a_plain_pod_on_a_hami_node_is_reported(cluster) -> None:
    cluster.sync.node(_hami_node())
    cluster.sync.pod(_hami_pod("p", f"{UUIDS[0]},NVIDIA,3000,0:;"))
    cluster.sync.pod(pod_object("q", node="a", requests={"nvidia.com/gpu": "1"}))
    assert list(cluster.sync.charges.protocols.ambiguous_nodes) == ["a"]


def test_it_is_said_who_picks_a_device() -> None:
    plugin = GpuRequest(count=1, resource="nvidia.com/gpu")
    assert who_picks(plugin, NAMES).startswith("the device plugin picks")
    assert who_picks(GpuRequest(replicas=1), NAMES).startswith("the device plugin picks")
    assert who_picks(GpuRequest(milli=5), NAMES).startswith("Snugfit picks")
    assert who_picks(GpuRequest(count=1), NAMES).startswith("Snugfit picks")
    assert who_picks(GpuRequest(), NAMES) == ""
    assert ambiguity(["KAI", "the device plugin"]) == "" and ambiguity(["KAI", "HAMi"])


# -- dumps -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "pods", "free"),
    [
        (
            _hami_node(),
            [_hami_pod("p", f"{UUIDS[1]},NVIDIA,5000,30:;", ALLOCATED, (5000, 30))],
            [1000, 700],
        ),
        (
            _hami_node(),
            [_hami_pod("p", f"{UUIDS[1]},NVIDIA,32768,0:;", ALLOCATED, (32768, 0))],
            [1000, 0],
        ),
        (_hami_node(), [_hami_pod("p", "GPU-gone,NVIDIA,3000,0:;")], [909, 1000]),
        (
            node_object("a", gpus=2),
            [pod_object("p", node="a", **HALF), pod_object("r", node="a", **RESERVATION)],
            [0, 1000],
        ),
        (node_object("a", gpus=2), [pod_object("p", node="a", **HALF)], [1000, 1000]),
        (
            node_object("a", gpus=2),
            [
                pod_object("p", node="a", **HALF),
                pod_object("whole", node="a", requests={"nvidia.com/gpu": "1"}),
            ],
            [0, 1000],
        ),
    ],
    ids=["hami", "hami memory", "hami, device gone", "kai", "kai alone", "kai and a whole device"],
)
def test_a_dump_is_understood_like_a_live_cluster(cluster, tmp_path, node, pods, free) -> None:
    """Free devices by index."""
    path = tmp_path / "dump.json"
    items = [{"kind": kind} | msgspec.to_builtins(obj)
             for kind, obj in [("Node", node), *(("Pod", one) for one in pods)]]  # fmt: skip
    path.write_bytes(msgspec.json.encode({"kind": "List", "items": items}))
    workload = load_workload(path)
    engine = Engine(ClusterState(workload.nodes))
    place_bound(engine, workload)
    cluster.sync.node(node)
    for one in pods:
        cluster.sync.pod(one)
    live = cluster.engine.state.placements
    for uid, placement in engine.state.placements.items():
        assert placement.devices == live[uid].devices
    for count in (1, 2):
        asked = pod("x", cpu=1, memory=1, count=count)
        verdict = engine.explain(asked, "a")
        assert verdict is cluster.engine.explain(asked, "a")
        assert (verdict is Reason.FITS) == (free.count(1000) >= count)
    assert engine.state.gpu_free[0, :2].tolist() == free == cluster.free()
