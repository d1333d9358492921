"""What HAMi writes on nodes and pods, in the forms that its versions have."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.sync import Sync
from scheduler.core.engine import Engine
from scheduler.core.model import Reason
from scheduler.core.selection import admits
from scheduler.core.state import ClusterState
from scheduler.kube.installation import State, node_reports
from scheduler.kube.nodes import node_of
from scheduler.kube.pod_requests import pod_request
from testbed.kube_objects import node_object, pod_object
from tests.depth import examples
from tests.service import Service

ALLOCATED = "hami.io/vgpu-devices-allocated"
REGISTER = "hami.io/node-nvidia-register"
SIZE = 40_000
NONE = ",,0,0:;"
GPU = "nvidia.com/gpu"


def _register(
    mode: str = "hami-core", *, count: int = 10, sick: int = 0, text: bool = False
) -> str:
    devices = [
        {"id": f"GPU-{at}", "index": at, "count": count, "devmem": SIZE, "devcore": 100,
         "type": "A100", "mode": mode, "health": at >= sick}
        for at in range(2)
    ]  # fmt: skip
    if not text:
        return msgspec.json.encode(devices).decode()
    return "".join(
        f"GPU-{at},10,{SIZE},100,A100,0,{str(at >= sick).lower()},{at},{mode}:" for at in range(2)
    )


def _node(register: str = "", slots: int = 20, handshake: str = "", **rest: Any) -> Any:
    told = {REGISTER: register or _register()}
    if handshake:
        told["hami.io/node-handshake"] = handshake
    return node_object("a", gpus=slots, annotations=told, **rest)


def _container(name: str, memory: int, *, always: bool = False, gpus: int = 1) -> dict[str, Any]:
    asked = {"nvidia.com/gpu": str(gpus), "nvidia.com/gpumem": str(memory)} if memory else {}
    made: dict[str, Any] = {"name": name, "resources": {"limits": asked}}
    return made | ({"restartPolicy": "Always"} if always else {})


def _pod(record: str, *memory: int, init: tuple[dict[str, Any], ...] = ()) -> Any:
    main = [_container(f"c{at}", each) for at, each in enumerate(memory)]
    spec = {"containers": main, **({"initContainers": list(init)} if init else {})}
    return pod_object("p", node="a", spec=spec, annotations={ALLOCATED: record})


class Seen:
    """What is left on the node, and what was said about the pod."""

    def __init__(self, node: Any, *pods: Any) -> None:
        service = Service(Engine(ClusterState()), ExtenderConfig(), offline=False)
        self.sync: Sync = service.sync
        self.sync.node(node)
        for pod in pods:
            self.sync.pod(pod)
        with service.exclusive() as engine:
            self.state = engine.state

    def free_mib(self) -> list[int]:
        row = self.state.row("a")
        return self.state.device_mem_free[row, : int(self.state.device_count[row])].tolist()

    def free_milli(self) -> list[int]:
        row = self.state.row("a")
        return self.state.gpu_free[row, : int(self.state.device_count[row])].tolist()

    @property
    def problem(self) -> str:
        return self.sync.unreadable.get("Pod ns/p", "")


def _seen(node: Any, pod: Any) -> Seen:
    seen = Seen(node, pod)
    assert not seen.sync.charges.nodes.uncertain
    return seen


@pytest.mark.parametrize(
    "record",
    [
        f"{NONE}GPU-0,NVIDIA,1000,0:;{NONE}",
        f"{NONE}{NONE}GPU-0,NVIDIA,1000,0:;",
        "GPU-0,NVIDIA,1000,0:;;",
        ";GPU-0,NVIDIA,1000,0:;;",
        "GPU-0,NVIDIA,1000,0:,,0,0:;",
        "GPU-0,NVIDIA,1000,0",
    ],
)
def test_containers_without_a_device_have_none(record: str) -> None:
    seen = _seen(_node(), _pod(record, 0, 1000, 0))
    assert seen.free_mib() == [SIZE - 1000, SIZE] and not seen.problem


def test_slots_without_a_device_are_no_devices() -> None:
    seen = _seen(_node(), _pod(NONE * 3, 1000))
    assert sum(seen.free_mib()) == 2 * SIZE - 1000 and "something else" in seen.problem


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("slot", ["[0-0]", "[1-2]", "[12-7]"])
def test_a_mig_instance_takes_what_its_profile_has(slot: str, *, text: bool) -> None:
    node = _node(_register("mig", text=text))
    seen = _seen(node, _pod(f"GPU-1{slot},NVIDIA,9856,0:;", 8000))
    assert seen.free_mib() == [SIZE, SIZE - 9856] and not seen.problem


def test_an_instance_may_have_the_name_of_its_device_and_cores_beside() -> None:
    """As newer versions write it; its profile has 28 of 100 cores, more than its memory is."""
    seen = _seen(_node(_register("mig")), _pod("GPU-1,NVIDIA,9856,28:;", 8000))
    assert seen.free_mib() == [SIZE, SIZE - 9856] and not seen.problem
    assert seen.free_milli() == [1000, 720]


def test_two_instances_of_one_device_add_up() -> None:
    record = "GPU-0[1-0],NVIDIA,9856,0:;GPU-0[1-1],NVIDIA,4864,0:;"
    seen = _seen(_node(_register("mig")), _pod(record, 8000, 4000))
    assert seen.free_mib() == [SIZE - 9856 - 4864, SIZE] and not seen.problem


@pytest.mark.parametrize(
    ("mode", "claim"),
    [
        ("mig", "GPU-0[1-0],NVIDIA,7999,0:;"),  # less than is asked for
        ("mig", f"GPU-0[1-0],NVIDIA,{SIZE + 1},0:;"),  # more than there is
        ("hami-core", "GPU-0,NVIDIA,9856,0:;"),
        ("hami-core", "GPU-0[1-0],NVIDIA,9856,0:;"),  # of a device that is not divided
        ("mps", "GPU-0[1-0],NVIDIA,8000,0:;"),
        ("mig", "GPU-7[1-0],NVIDIA,9856,0:;"),
    ],
)
def test_an_instance_that_cannot_be_costs_what_the_pod_asks_for(mode: str, claim: str) -> None:
    seen = _seen(_node(_register(mode)), _pod(claim, 8000))
    assert sum(seen.free_mib()) == 2 * SIZE - 8000 and seen.problem


# -- init containers ---------------------------------------------------------------------------


def test_init_containers_count_by_the_largest_per_device() -> None:
    init = (_container("i0", 3000), _container("i1", 8000))
    same = "GPU-0,NVIDIA,3000,0:;GPU-0,NVIDIA,8000,0:;GPU-0,NVIDIA,1000,0:;"
    seen = _seen(_node(), _pod(same, 1000, init=init))
    assert seen.free_mib() == [SIZE - 8000, SIZE] and not seen.problem


def test_a_device_that_only_the_containers_use_is_theirs_from_the_start() -> None:
    record = "GPU-0,NVIDIA,8000,0:;GPU-1,NVIDIA,1000,0:;GPU-1,NVIDIA,500,0:;"
    seen = _seen(_node(), _pod(record, 1000, 500, init=(_container("i", 8000),)))
    assert seen.free_mib() == [SIZE - 8000, SIZE - 1500] and not seen.problem


def test_sidecars_run_beside_all_that_come_after_them() -> None:
    init = (
        _container("first", 6000),
        _container("sidecar", 2000, always=True),
        _container("second", 5000),
    )
    record = "".join(f"GPU-0,NVIDIA,{memory},0:;" for memory in (6000, 2000, 5000, 1000))
    seen = _seen(_node(), _pod(record, 1000, init=init))
    assert seen.free_mib() == [SIZE - 7000, SIZE] and not seen.problem


def test_init_containers_without_a_device_change_nothing() -> None:
    record = f"{NONE}GPU-1,NVIDIA,1000,0:;"
    seen = _seen(_node(), _pod(record, 1000, init=(_container("i", 0),)))
    assert seen.free_mib() == [SIZE, SIZE - 1000] and not seen.problem


def test_what_a_record_leaves_out_of_init_containers_is_charged_all_the_same() -> None:
    """Older versions recorded the others alone."""
    seen = _seen(_node(), _pod("GPU-1,NVIDIA,1000,0:;", 1000, init=(_container("i", 8000),)))
    assert sum(seen.free_mib()) == 2 * SIZE - 8000 and seen.problem


def test_containers_that_together_have_more_than_a_device_are_not_believed() -> None:
    record = "GPU-0,NVIDIA,1000,0:;" + "GPU-0,NVIDIA,30000,0:;" * 2
    seen = _seen(_node(), _pod(record, 30_000, 30_000, init=(_container("i", 1000),)))
    assert seen.free_mib() == [SIZE - 30_000] * 2 and seen.problem


_MEMORY = st.sampled_from([0, 0, 500, 1000, 3000])
_ENTRY = st.builds(
    "{}{},NVIDIA,{},0:".format,
    st.sampled_from(["GPU-0", "GPU-1", "GPU-1", "GPU-9", ""]),
    st.sampled_from(["", "", "[0-1]", "["]),
    st.sampled_from([0, 500, 999, 1000, 3000, 9000]),
)


@given(
    init=st.lists(st.tuples(_MEMORY, st.booleans()), max_size=3),
    main=st.lists(_MEMORY, min_size=1, max_size=3),
    entries=st.lists(st.lists(_ENTRY, max_size=2).map("".join), max_size=6),
    honest=st.booleans(),
    mode=st.sampled_from(["hami-core", "mig"]),
)
@settings(max_examples=examples(60, 600), deadline=None)
def test_whatever_is_recorded_a_pod_costs_what_it_asks_for(
    init, main, entries, *, honest: bool, mode: str
) -> None:
    before = tuple(
        _container(f"i{at}", memory, always=always) for at, (memory, always) in enumerate(init)
    )
    every = [memory for memory, _ in init] + main
    if honest:
        entries = [f"GPU-{at % 2},NVIDIA,{m},0:" if m else "" for at, m in enumerate(every)]
    pod = _pod("".join(f"{entry};" for entry in entries) or ";", *main, init=before)
    seen = _seen(_node(_register(mode)), pod)
    used = 2 * SIZE - sum(seen.free_mib())
    sidecars, at_once = 0, [0]
    for memory, always in init:
        at_once.append(sidecars + memory)
        sidecars += memory if always else 0
    assert used >= max(*at_once, sidecars + sum(main))
    if mode == "hami-core":
        assert used <= sum(every)
    if honest:
        assert not seen.problem


# -- registers that nobody stands behind -------------------------------------------------------

LONG_AGO = "2025-06-01 10:00:00"


@pytest.mark.parametrize("handshake", ["", f"Requesting_{LONG_AGO}", f"Reported {LONG_AGO}"])
def test_without_slots_a_register_has_no_devices(handshake: str) -> None:
    assert node_of(_node(slots=0, handshake=handshake)).devices == ()


@pytest.mark.parametrize("slots", [0, 8, 20])
def test_a_register_that_is_passed_over_is_named(slots: int) -> None:
    (report,) = node_reports([_node(slots=slots, handshake=f"Deleted_{LONG_AGO}")])
    assert ("register" in report.remark) is (slots != 20)


@pytest.mark.parametrize("handshake", [f"Requesting_{LONG_AGO}", f"Deleted_{LONG_AGO}"])
def test_the_device_plugin_of_somebody_else_counts(handshake: str) -> None:
    """Eight GPUs are no slots of two devices of ten each."""
    node = node_of(_node(slots=8, handshake=handshake))
    assert len(node.devices) == 8 and node.devices[0].memory_mib != SIZE


@pytest.mark.parametrize(
    ("labels", "devices"),
    [
        ({"nvidia.com/gpu.count": "8"}, 8),
        ({"nvidia.com/gpu.count": "4", "nvidia.com/gpu.replicas": "2"}, 4),
        ({"nvidia.com/gpu.count": "2"}, 2),  # slots, while the register is written anew
        ({}, 2),
    ],
)
def test_devices_that_have_been_counted_are_no_slots(labels: dict[str, str], devices: int) -> None:
    node = _node(slots=8, handshake=f"Reported {LONG_AGO}", labels=labels)
    assert len(node_of(node).devices) == devices


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    ("slots", "sick", "handshake"),
    [
        (20, 0, f"Requesting_{LONG_AGO}"),
        (10, 1, f"Requesting_{LONG_AGO}"),
        (20, 0, f"Reported {LONG_AGO}"),
        (20, 0, ""),
        (8, 0, ""),
    ],
)
def test_a_register_with_its_slots_is_alive(
    slots: int, sick: int, handshake: str, *, text: bool
) -> None:
    register = _register(sick=sick, text=text)
    node = node_of(_node(register, slots, handshake))
    assert [d.memory_mib for d in node.devices] == [SIZE, SIZE]
    assert [d.healthy for d in node.devices] == [sick == 0, True]


@pytest.mark.parametrize("slots", [-1, 1, 65_537, 10**9])
def test_offers_that_cannot_be_slots_show_no_device_of_the_register(slots: int) -> None:
    register = _register().replace('"count":10', '"count":65536')
    node = _node(register, 0, f"Requesting_{LONG_AGO}")
    assert node.status is not None
    node.status.capacity = node.status.allocatable = {"nvidia.com/gpu": str(slots)}
    assert SIZE not in Seen(node).free_mib()


def test_while_the_device_plugin_is_away_its_devices_take_nobody_and_keep_their_pods() -> None:
    away = _node()
    assert away.status is not None and away.status.allocatable is not None
    away.status.allocatable["nvidia.com/gpu"] = "0"
    assert [d.healthy for d in node_of(away).devices] == [False, False]
    seen = Seen(_node(), _pod("GPU-1,NVIDIA,1000,0:;", 1000))
    seen.sync.node(away)
    seen.sync.node(_node())
    assert seen.free_mib() == [SIZE, SIZE - 1000] and not seen.problem


def test_what_else_a_node_offers_after_hami_has_gone_counts() -> None:
    node = _node(slots=0, handshake=f"Requesting_{LONG_AGO}")
    assert node.status is not None
    for part in (node.status.allocatable, node.status.capacity):
        assert part is not None
        part["snugfit.io/gpu-milli"] = "4k"
    assert len(node_of(node).devices) == 4


def test_devices_of_other_vendors_beside_a_register_are_asked_for_by_their_own_names() -> None:
    beside = _node(allocatable={"amd.com/gpu": "2"})
    pod = pod_object("r", node="a", phase="Running", requests={"amd.com/gpu": "1"})
    seen = Seen(beside, pod, _pod("GPU-1,NVIDIA,1000,0:;", 1000))
    node = node_of(beside)
    assert [d.resource for d in node.devices] == ["", "", "amd.com/gpu", "amd.com/gpu"]
    assert [d.product for d in node.devices] == ["A100", "A100", "", ""]
    assert seen.free_mib()[:2] == [SIZE, SIZE - 1000] and not seen.problem


def test_a_node_of_hami_is_asked_by_the_names_that_it_offers() -> None:
    node = node_of(_node(allocatable={"amd.com/gpu": "1"}))
    fits = {
        name: admits(node, pod_request(pod_object("p", requests={name: "1"})))
        for name in ("nvidia.com/gpu", "amd.com/gpu", "snugfit.io/gpu-milli")
    }
    assert [reason is Reason.FITS for reason in fits.values()] == [True, True, False]


@pytest.mark.parametrize(("beside", "several"), [("gpu.intel.com/xe", False), (GPU, True)])
def test_what_is_counted_by_its_own_name_is_no_second_way_to_the_same_devices(
    beside: str, *, several: bool
) -> None:
    shares = {"aliyun.com/gpu-mem": "30", "aliyun.com/gpu-count": "2", beside: "2"}
    (report,) = node_reports([node_object("a", allocatable=shares)])
    assert ("several ways" in report.remark) is several


# -- registers that contradict themselves, or the node -----------------------------------------


def _refused(node: Any, why: str) -> None:
    """No device is given out, and the node is named, live and by doctor."""
    seen = Seen(node)
    assert why in seen.sync.unreadable["Node a"]
    assert seen.free_mib() == []
    (report,) = node_reports([node])
    assert report.state is State.FAILED and why in report.remark


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("index", [0, 1, 5])
def test_two_devices_of_one_index_are_not_understood(index: int, *, text: bool) -> None:
    register = _register(text=text)
    for at in range(2):
        old, new = (
            (f",{at},hami-core", f",{index},hami-core")
            if text
            else (f'"index":{at}', f'"index":{index}')
        )
        register = register.replace(old, new, 1) if at != index else register
    _refused(_node(register), "has two devices of one index")


def test_two_devices_of_one_uuid_are_not_understood() -> None:
    _refused(_node(_register().replace("GPU-1", "GPU-0")), "has two devices of one UUID")


def test_an_index_of_zero_may_be_left_out_and_older_registers_state_none() -> None:
    left_out = _register().replace('"index":0,', "")
    assert len(node_of(_node(left_out)).devices) == 2
    older = "".join(f"GPU-{at},10,{SIZE},100,A100,0,true:" for at in range(2))
    assert len(node_of(_node(older)).devices) == 2


MIG = {"nvidia.com/mig-3g.20gb": "2", "nvidia.com/mig-1g.5gb": "1"}


@pytest.mark.parametrize(
    ("mode", "labels"),
    [
        ("hami-core", {}),
        ("mig", {}),
        ("hami-core", {"nvidia.com/gpu.count": "2"}),
        ("hami-core", {"nvidia.com/gpu.count": "3"}),  # these instances are not of one device
    ],
)
def test_instances_beside_a_register_may_be_of_its_devices(
    mode: str, labels: dict[str, str]
) -> None:
    offered = {GPU: "20", **MIG}
    _refused(_node(_register(mode), labels=labels, allocatable=offered), "may be the same")


@pytest.mark.parametrize("count", [0, 4])
def test_instances_of_other_devices_leave_those_of_the_register_alone(count: int) -> None:
    """A label counts enough devices for both; or no instance is offered any more."""
    offered = {GPU: "20", **(MIG if count else dict.fromkeys(MIG, "0"))}
    labels = {"nvidia.com/gpu.count": str(count)} if count else {}
    node = node_of(_node(allocatable=offered, labels=labels))
    assert [d.memory_mib for d in node.devices] == [SIZE, SIZE]
