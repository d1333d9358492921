"""Our own workload format: one JSON object with nodes and pods. See FORMAT.md.

Unknown keys are errors that name the nearest valid one.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from scheduler.core.errors import InvalidInput, nearest
from scheduler.core.model import Device, DeviceShare, GangKey, GpuRequest, Node, PodRequest, Taint
from scheduler.simulator.workload import Arrival, BoundPod, Workload

__all__ = ["FORMAT", "read", "write"]

FORMAT = "snugfit/v1"


class _Struct(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Wire shape of this format; unknown keys are refused."""


class _Gpu(_Struct):
    count: int = 0
    milli: int = 0
    memory_mib: int = 0
    mig: dict[str, int] = {}
    replicas: int = 0
    products: list[str] = []
    resource: str = ""


class _Pod(_Struct):
    name: str
    namespace: str = "default"
    uid: str = ""
    cpu_milli: int = 0
    memory_mib: int = 0
    gpu: _Gpu = msgspec.field(default_factory=_Gpu)
    priority: int = 0
    gang: str = ""
    gang_size: int = 1
    owner: str = ""
    at_s: float = 0.0
    duration_s: float | None = None
    node: str = ""
    devices: list[str] | None = None


class _Device(_Struct):
    product: str = ""
    memory_mib: int = 0
    uuid: str = ""
    healthy: bool = True
    mig: str = ""
    mig_layout: list[tuple[str, int]] = []
    replicas: int = 1


class _Taint(_Struct):
    key: str
    value: str = ""
    effect: str = "NoSchedule"


class _Node(_Struct):
    name: str
    cpu_milli: int
    memory_mib: int
    pods: int = 110
    devices: list[_Device] = []
    gpus: int = 0
    product: str = ""
    gpu_memory_mib: int = 0
    labels: dict[str, str] = {}
    taints: list[_Taint] = []
    unschedulable: bool = False
    ready: bool = True
    resource: str = "nvidia.com/gpu"


class _File(_Struct):
    format: str
    nodes: list[_Node] = []
    pods: list[_Pod] = []
    source: str = ""


# Where a message points to -> the shape that is expected there, most specific first.
_PLACES: tuple[tuple[str, type[_Struct]], ...] = (
    (r"\$\.pods\[.*\]\.gpu", _Gpu),
    (r"\$\.pods\[", _Pod),
    (r"\$\.nodes\[.*\]\.devices", _Device),
    (r"\$\.nodes\[.*\]\.taints", _Taint),
    (r"\$\.nodes\[", _Node),
)
_decoder = msgspec.json.Decoder(_File)


def read(path: Path) -> Workload:
    """Read a file; :class:`InvalidInput` names the file, the place and the remedy."""
    try:
        content = _decoder.decode(path.read_bytes())
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be read: {error}") from error
    except msgspec.ValidationError as error:
        raise InvalidInput(str(path), str(error), _remedy(str(error))) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(str(path), f"is no JSON: {error}") from error
    if content.format != FORMAT:
        raise InvalidInput(f"{path}: format", f"is {content.format!r}", f"use {FORMAT!r}")
    nodes = tuple(_node(node) for node in content.nodes)
    arrivals, bound = [], []
    for pod in content.pods:
        request = _request(pod)
        if pod.node:
            bound.append(BoundPod(request, pod.node, _shares(path, pod)))
        else:
            arrivals.append(Arrival(request, pod.at_s, pod.duration_s))
    return Workload(nodes, tuple(arrivals), tuple(bound), content.source or path.name)


def _remedy(message: str) -> str:
    unknown = re.search(r"unknown field `(\w+)`", message)
    if unknown is None:
        return "see FORMAT.md"
    shape = next((s for place, s in _PLACES if re.search(place, message)), _File)
    return f"did you mean {nearest(unknown[1], shape.__struct_fields__)!r}?"


def _node(node: _Node) -> Node:
    devices = (
        tuple(
            Device(
                d.product, d.memory_mib, d.uuid, d.healthy, d.mig, tuple(d.mig_layout), d.replicas
            )
            for d in node.devices
        )
        or (Device(node.product, node.gpu_memory_mib),) * node.gpus
    )
    return Node(
        node.name,
        node.cpu_milli,
        node.memory_mib,
        node.pods,
        devices,
        node.labels,
        tuple(Taint(t.key, t.value, t.effect) for t in node.taints),
        node.unschedulable,
        node.ready,
        node.resource,
    )


def _request(pod: _Pod) -> PodRequest:
    gpu = pod.gpu
    return PodRequest(
        uid=pod.uid or f"{pod.namespace}/{pod.name}",
        namespace=pod.namespace,
        name=pod.name,
        cpu_milli=pod.cpu_milli,
        memory_mib=pod.memory_mib,
        gpu=GpuRequest(
            gpu.count,
            gpu.milli,
            gpu.memory_mib,
            tuple(gpu.mig.items()),
            gpu.replicas,
            tuple(gpu.products),
            gpu.resource,
        ),
        priority=pod.priority,
        gang=GangKey(pod.namespace, pod.gang, pod.gang_size) if pod.gang else None,
        owner=pod.owner,
    )


def _shares(path: Path, pod: _Pod) -> tuple[DeviceShare, ...] | None:
    if pod.devices is None:
        return None
    shares = []
    for text in pod.devices:
        numbers = text.split(":")
        if not 2 <= len(numbers) <= 4 or not all(number.isdecimal() for number in numbers):
            raise InvalidInput(
                f"{path}: pods[{pod.name}].devices", f"{text!r}", "write index:milli:memory:slots"
            )
        shares.append(DeviceShare(*map(int, numbers)))
    return tuple(shares)


def write(workload: Workload, path: Path) -> None:
    """Write a workload so that :func:`read` gives an equal one."""
    pods = [_pod_out(a.request, at_s=a.at_s, duration_s=a.duration_s) for a in workload.arrivals]
    for bound in workload.bound:
        pod = _pod_out(bound.request)
        pod.node = bound.node
        if bound.devices is not None:
            pod.devices = [f"{s.index}:{s.milli}:{s.memory_mib}:{s.slots}" for s in bound.devices]
        pods.append(pod)
    nodes = [_node_out(node) for node in workload.nodes]
    content = _File(format=FORMAT, nodes=nodes, pods=pods, source=workload.source)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def _pod_out(request: PodRequest, *, at_s: float = 0.0, duration_s: float | None = None) -> _Pod:
    gpu = request.gpu
    return _Pod(
        name=request.name,
        namespace=request.namespace,
        uid=request.uid,
        cpu_milli=request.cpu_milli,
        memory_mib=request.memory_mib,
        gpu=_Gpu(
            count=gpu.count,
            milli=gpu.milli,
            memory_mib=gpu.memory_mib,
            mig=dict(gpu.mig),
            replicas=gpu.replicas,
            products=list(gpu.products),
            resource=gpu.resource,
        ),
        priority=request.priority,
        gang=request.gang.name if request.gang else "",
        gang_size=request.gang.min_count if request.gang else 1,
        owner=request.owner,
        at_s=at_s,
        duration_s=duration_s,
    )


def _node_out(node: Node) -> _Node:
    return _Node(
        name=node.name,
        cpu_milli=node.cpu_milli,
        memory_mib=node.memory_mib,
        pods=node.pods,
        devices=[
            _Device(
                product=d.product,
                memory_mib=d.memory_mib,
                uuid=d.uuid,
                healthy=d.healthy,
                mig=d.mig,
                mig_layout=list(d.mig_layout),
                replicas=d.replicas,
            )
            for d in node.devices
        ],
        labels=dict(node.labels),
        taints=[_Taint(key=t.key, value=t.value, effect=t.effect) for t in node.taints],
        unschedulable=node.unschedulable,
        ready=node.ready,
        resource=node.resource,
    )
