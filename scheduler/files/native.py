"""Our own workload format: one JSON object of nodes and pods; docs/reference/workload-files.md.

Unknown keys are errors that name the nearest valid one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from scheduler.core.errors import InvalidInput, nearest
from scheduler.core.gangs.spec import GangSpec, minimum_of
from scheduler.core.mig import MigType
from scheduler.core.model import (
    DEVICE_MILLI,
    MAX_COUNTED,
    MAX_DEVICES,
    MAX_UNITS,
    Device,
    DeviceShare,
    GangKey,
    GpuKind,
    GpuRequest,
    Node,
    NodeSelection,
    PodRequest,
    Requirement,
    SelectorTerm,
    Serves,
    Taint,
    Toleration,
)
from scheduler.core.reading import read_bytes
from scheduler.core.selection import NOT_READY
from scheduler.files.workload import MOST_NODES, MOST_PODS, Arrival, BoundPod, Workload

__all__ = ["FORMAT", "encode", "read", "write"]

FORMAT = "snugfit/v1"

T = TypeVar("T")
Made = TypeVar("Made")

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
_Amount = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 51)]
_DeviceMemory = Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
_Devices = Annotated[int, msgspec.Meta(ge=0, le=MAX_DEVICES)]
_Units = Annotated[int, msgspec.Meta(ge=0, le=MAX_UNITS)]
_Parts = Annotated[int, msgspec.Meta(ge=0, le=MAX_DEVICES * DEVICE_MILLI)]
_Replicas = Annotated[int, msgspec.Meta(ge=1, le=MAX_UNITS)]
_Slot = Annotated[int, msgspec.Meta(ge=0, le=64)]
_Priority = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]
_Members = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e10)]
_Operator = Annotated[str, msgspec.Meta(pattern="^(In|NotIn|Exists|DoesNotExist|Gt|Lt)$")]
_Tolerating = Annotated[str, msgspec.Meta(pattern="^(|Equal|Exists|Gt|Lt)$")]
_Effect = Annotated[str, msgspec.Meta(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$")]
_AnyEffect = Annotated[str, msgspec.Meta(pattern="^(|NoSchedule|PreferNoSchedule|NoExecute)$")]
_Serving = Annotated[str, msgspec.Meta(pattern="^(both|one-at-a-time|whole|fractions)$")]
_Counted = Annotated[
    dict[_Name, Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]],
    msgspec.Meta(max_length=MAX_COUNTED),
]
_LONGEST_NUMBER = 10


class _Struct(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Wire shape of this format; unknown keys are refused."""


class _Gpu(_Struct):
    count: _Units = 0
    milli: _Parts = 0
    memory_mib: _DeviceMemory = 0
    mig: dict[str, _Parts] = {}
    replicas: _Parts = 0
    products: list[str] = []
    resource: str = ""
    also: Annotated[list[_Gpu], msgspec.Meta(max_length=MAX_DEVICES)] = []


class _Rule(_Struct):
    key: str
    operator: _Operator = "In"
    values: list[str] = []


class _Term(_Struct):
    expressions: list[_Rule] = []
    fields: list[_Rule] = []


class _Toleration(_Struct):
    key: str = ""
    operator: _Tolerating = "Equal"
    value: str = ""
    effect: _AnyEffect = ""


class _Pod(_Struct):
    name: _Name
    namespace: str = "default"
    uid: str = ""
    cpu_milli: _Amount = 0
    memory_bytes: _Bytes | None = None
    memory_mib: _Amount | None = None
    gpu: _Gpu = msgspec.field(default_factory=_Gpu)
    priority: _Priority = 0
    node_selector: dict[str, str] = {}
    node_affinity: list[_Term] = []
    tolerations: list[_Toleration] = []
    gang: str = ""
    gang_size: _Members = 1
    gang_system: str = "kubernetes"
    gang_stage: str = ""
    owner: str = ""
    at_s: _Seconds = 0.0
    duration_s: _Seconds | None = None
    node: str = ""
    devices: Annotated[list[str], msgspec.Meta(max_length=MAX_DEVICES)] | None = None
    counted: _Counted = {}


class _Device(_Struct):
    product: str = ""
    memory_mib: _DeviceMemory = 0
    uuid: str = ""
    healthy: bool = True
    mig: str = ""
    mig_layout: list[tuple[str, _Slot]] = []
    replicas: _Replicas = 1
    resource: str = ""
    units: bool = False
    shared: bool = False


class _Taint(_Struct):
    key: str
    value: str = ""
    effect: _Effect = "NoSchedule"


class _Node(_Struct):
    name: _Name
    cpu_milli: _Amount
    memory_bytes: _Bytes | None = None
    memory_mib: _Amount | None = None
    pods: _Amount = 110
    devices: list[_Device] = []
    gpus: _Devices = 0
    product: str = ""
    gpu_memory_mib: _DeviceMemory = 0
    labels: dict[str, str] = {}
    taints: list[_Taint] = []
    unschedulable: bool = False
    ready: bool = True
    resource: str = "nvidia.com/gpu"
    serves: _Serving = "both"
    counted: _Counted = {}
    by_dra: Annotated[list[_Name], msgspec.Meta(max_length=MAX_COUNTED)] = []
    offers: Annotated[list[_Name], msgspec.Meta(max_length=MAX_COUNTED)] = []


class _File(_Struct):
    format: str
    nodes: list[_Node] = []
    pods: list[_Pod] = []
    source: str = ""


class _Outline(msgspec.Struct):
    """How much there is, seen before any of it is built."""

    nodes: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MOST_NODES)] = []
    pods: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MOST_PODS)] = []


# Where a message points to -> the shape that is expected there, most specific first.
_PLACES: tuple[tuple[str, type[_Struct]], ...] = (
    (r"\$\.pods\[.*\]\.gpu", _Gpu),
    (r"\$\.pods\[.*\]\.node_affinity\[.*\]\.(expressions|fields)\[", _Rule),
    (r"\$\.pods\[.*\]\.node_affinity\[", _Term),
    (r"\$\.pods\[.*\]\.tolerations\[", _Toleration),
    (r"\$\.pods\[", _Pod),
    (r"\$\.nodes\[.*\]\.devices", _Device),
    (r"\$\.nodes\[.*\]\.taints", _Taint),
    (r"\$\.nodes\[", _Node),
)
_decoder = msgspec.json.Decoder(_File)
_outline = msgspec.json.Decoder(_Outline)


def read(path: Path) -> Workload:
    """Read a file; :class:`InvalidInput` names the file, the place and the remedy."""
    raw = read_bytes(path)
    try:
        _outline.decode(raw)
        content = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(path), str(error), _remedy(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(str(path), f"is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidInput(str(path), "is nested too deeply") from error
    if content.format != FORMAT:
        raise InvalidInput(f"{path}: format", f"is {content.format!r}", f"use {FORMAT!r}")
    nodes = _each(f"{path}: nodes", content.nodes, _node)
    requests = _each(f"{path}: pods", content.pods, _request)
    _all_different(f"{path}: nodes", "name", [node.name for node in nodes])
    _all_different(f"{path}: pods", "uid", [request.uid for request in requests])
    known = {node.name: node for node in nodes}
    arrivals, bound = [], []
    for pod, request in zip(content.pods, requests, strict=True):
        if pod.node:
            bound.append(_bound(path, pod, request, known.get(pod.node)))
        else:
            arrivals.append(Arrival(request, pod.at_s, pod.duration_s))
    gangs = _gangs(content.pods)
    return Workload(nodes, tuple(arrivals), tuple(bound), content.source or path.name, gangs)


def _gang(pod: _Pod) -> GangKey | None:
    if not pod.gang:
        return None
    return GangKey(pod.gang_system, pod.namespace, pod.gang, pod.gang_stage)


def _gangs(pods: Sequence[_Pod]) -> dict[GangKey, GangSpec]:
    """What the members state; where they disagree, the largest size counts."""
    sizes: dict[GangKey, int] = {}
    for pod in pods:
        key = _gang(pod)
        if key is not None:
            sizes[key] = max(pod.gang_size, sizes.get(key, 1))
    return {key: GangSpec(key, size) for key, size in sizes.items()}


def _each(where: str, items: Sequence[T], make: Callable[[T], Made]) -> tuple[Made, ...]:
    """What the items say; an error names the item."""
    made = []
    for index, item in enumerate(items):
        try:
            made.append(make(item))
        except InvalidInput as error:
            at = f"{where}[{index}]: {error.field}"
            raise InvalidInput(at, error.problem, error.remedy) from error
    return tuple(made)


def _all_different(where: str, field: str, values: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for index, value in enumerate(values):
        if value in seen:
            raise InvalidInput(
                f"{where}[{index}].{field}",
                f"{value!r} is that of {where.rpartition(' ')[2]}[{seen[value]}] too",
                f"give every one its own {field}",
            )
        seen[value] = index


def _remedy(message: str) -> str:
    unknown = re.search(r"unknown field `(\w+)`", message)
    if unknown is None:
        return "see docs/reference/workload-files.md"
    shape = next((s for place, s in _PLACES if re.search(place, message)), _File)
    return f"did you mean {nearest(unknown[1], shape.__struct_fields__)!r}?"


def _node(node: _Node) -> Node:
    devices = (
        tuple(
            Device(
                d.product,
                d.memory_mib,
                d.uuid,
                d.healthy,
                d.mig,
                tuple(d.mig_layout),
                d.replicas,
                d.resource,
                d.units,
                d.shared,
            )
            for d in node.devices
        )
        or (Device(node.product, node.gpu_memory_mib),) * node.gpus
    )
    for device in devices:
        if device.kind is GpuKind.MIG:
            MigType(device.mig, device.mig_layout)  # refuses what no device can be
    return Node(
        node.name,
        node.cpu_milli,
        _memory(node),
        node.pods,
        devices,
        node.labels,
        _taints(node),
        node.unschedulable,
        node.resource,
        Serves[_serving(node.serves)],
        node.counted,
        tuple(node.by_dra),
        tuple(node.offers),
    )


def _serving(word: str) -> str:
    """A word of the format as the name of its constant, and back."""
    return word.upper().replace("-", "_") if word.islower() else word.lower().replace("_", "-")


def _memory(item: _Node | _Pod, least: int | None = None) -> int:
    """Bytes of memory, which may be stated in MiB; ``least`` if neither is."""
    if item.memory_bytes is not None and item.memory_mib is not None:
        raise InvalidInput("memory_mib", "stands beside memory_bytes", "state one of them")
    if item.memory_bytes is not None:
        return item.memory_bytes
    if item.memory_mib is not None:
        return item.memory_mib << 20
    if least is None:
        raise InvalidInput("memory_bytes", "is missing", "state what is allocatable")
    return least


def _taints(node: _Node) -> tuple[Taint, ...]:
    """Taints; a node that is not ready has the one that the node lifecycle controller gives it."""
    stated = tuple(Taint(t.key, t.value, t.effect) for t in node.taints)
    if node.ready or any(taint.key == NOT_READY for taint in stated):
        return stated
    return (*stated, Taint(NOT_READY))


def _selection(pod: _Pod) -> NodeSelection:
    return NodeSelection(
        tuple(sorted(pod.node_selector.items())),
        tuple(SelectorTerm(_rules(t.expressions), _rules(t.fields)) for t in pod.node_affinity),
        tuple(Toleration(t.key, t.operator, t.value, t.effect) for t in pod.tolerations),
    )


def _rules(stated: list[_Rule]) -> tuple[Requirement, ...]:
    return tuple(Requirement(rule.key, rule.operator, tuple(rule.values)) for rule in stated)


def _request(pod: _Pod) -> PodRequest:
    return PodRequest(
        uid=pod.uid or f"{pod.namespace}/{pod.name}",
        namespace=pod.namespace,
        name=pod.name,
        cpu_milli=pod.cpu_milli,
        memory_bytes=_memory(pod, least=0),
        gpu=_gpu_request(pod.gpu),
        priority=pod.priority,
        selection=_selection(pod),
        gang=_gang(pod),
        owner=pod.owner,
        counted=tuple(pod.counted.items()),
    )


def _gpu_request(gpu: _Gpu) -> GpuRequest:
    return GpuRequest(
        gpu.count,
        gpu.milli,
        gpu.memory_mib,
        tuple(gpu.mig.items()),
        gpu.replicas,
        tuple(gpu.products),
        gpu.resource,
        also=tuple(_gpu_request(more) for more in gpu.also),
    )


def _bound(path: Path, pod: _Pod, request: PodRequest, node: Node | None) -> BoundPod:
    """A pod that runs; :class:`InvalidInput` if its node or a device of it is not there."""
    where = f"{path}: pods[{pod.name}]"
    shares = tuple(_share(f"{where}.devices", text) for text in pod.devices or ())
    if node is None:
        raise InvalidInput(f"{where}.node", f"{pod.node!r} is not listed", "list that node too")
    if pod.devices is None:
        return BoundPod(request, node.name)
    for share in shares:
        if share.index >= len(node.devices) or share.milli > DEVICE_MILLI:
            raise InvalidInput(
                f"{where}.devices",
                f"{share.index}:{share.milli} is not a part of a device of {node.name}",
                f"its devices are 0..{len(node.devices) - 1}, of {DEVICE_MILLI} each"
                if node.devices
                else "it has no device",
            )
    return BoundPod(request, node.name, shares)


def _share(where: str, text: str) -> DeviceShare:
    numbers = text.split(":")
    fitting = (n.isascii() and n.isdecimal() and len(n) <= _LONGEST_NUMBER for n in numbers)
    if not 2 <= len(numbers) <= 4 or not all(fitting):
        raise InvalidInput(where, f"{text!r}", "write index:milli:memory:slots")
    share = DeviceShare(*map(int, numbers))
    if share.memory_mib > 1 << 24 or share.slots > MAX_UNITS:
        raise InvalidInput(where, f"{text!r} is more than any device has")
    return share


def write(workload: Workload, path: Path) -> None:
    """Write a workload so that :func:`read` gives an equal one."""
    path.write_bytes(msgspec.json.format(encode(workload), indent=1) + b"\n")


def encode(workload: Workload) -> bytes:
    """A workload as one line of this format."""
    gangs = workload.gangs
    pods = [
        _pod_out(a.request, gangs, at_s=a.at_s, duration_s=a.duration_s) for a in workload.arrivals
    ]
    for bound in workload.bound:
        pod = _pod_out(bound.request, gangs)
        pod.node = bound.node
        if bound.devices is not None:
            pod.devices = [f"{s.index}:{s.milli}:{s.memory_mib}:{s.slots}" for s in bound.devices]
        pods.append(pod)
    nodes = [_node_out(node) for node in workload.nodes]
    return msgspec.json.encode(_File(format=FORMAT, nodes=nodes, pods=pods, source=workload.source))


def _pod_out(
    request: PodRequest,
    gangs: Mapping[GangKey, GangSpec],
    *,
    at_s: float = 0.0,
    duration_s: float | None = None,
) -> _Pod:
    gang = request.gang
    return _Pod(
        name=request.name,
        namespace=request.namespace,
        uid=request.uid,
        cpu_milli=request.cpu_milli,
        memory_bytes=request.memory_bytes,
        gpu=_gpu_out(request.gpu),
        priority=request.priority,
        node_selector=dict(request.selection.node_selector),
        node_affinity=[
            _Term(expressions=_rules_out(term.expressions), fields=_rules_out(term.fields))
            for term in request.selection.terms
        ],
        tolerations=[
            _Toleration(key=t.key, operator=t.operator, value=t.value, effect=t.effect)
            for t in request.selection.tolerations
        ],
        gang=gang.name if gang else "",
        gang_size=minimum_of(gangs, gang) if gang else 1,
        gang_system=gang.system if gang else "kubernetes",
        gang_stage=gang.stage if gang else "",
        owner=request.owner,
        at_s=at_s,
        duration_s=duration_s,
        counted=dict(request.counted),
    )


def _rules_out(rules: tuple[Requirement, ...]) -> list[_Rule]:
    return [_Rule(key=r.key, operator=r.operator, values=list(r.values)) for r in rules]


def _gpu_out(gpu: GpuRequest) -> _Gpu:
    return _Gpu(
        count=gpu.count,
        milli=gpu.milli,
        memory_mib=gpu.memory_mib,
        mig=dict(gpu.mig),
        replicas=gpu.replicas,
        products=list(gpu.products),
        resource=gpu.resource,
        also=[_gpu_out(more) for more in gpu.also],
    )


def _node_out(node: Node) -> _Node:
    return _Node(
        name=node.name,
        cpu_milli=node.cpu_milli,
        memory_bytes=node.memory_bytes,
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
                resource=d.resource,
                units=d.units,
                shared=d.shared,
            )
            for d in node.devices
        ],
        labels=dict(node.labels),
        taints=[_Taint(key=t.key, value=t.value, effect=t.effect) for t in node.taints],
        unschedulable=node.unschedulable,
        resource=node.resource,
        serves=_serving(node.serves.name),
        counted=dict(node.counted),
        by_dra=list(node.by_dra),
        offers=list(node.offers),
    )
