"""How others share GPUs: one row per protocol, read so that what is free is true.

A row says what a node's devices are, and what a running pod has of them:

=========  =============================================  =========================================
protocol   the node's devices                             a pod's part of them
=========  =============================================  =========================================
HAMi       ``hami.io/node-nvidia-register``: UUID,        ``hami.io/vgpu-devices-allocated``:
           memory, model, health, index; JSON, or         ``uuid,type,MiB,cores:`` per device, a
           seven or nine fields per device                ``;`` after each container
KAI        those of the device plugin                     ``gpu-fraction`` or ``gpu-memory``, and
                                                          label ``runai-gpu-group``; a reservation
                                                          pod of that group has the whole device
gpushare   ``aliyun.com/gpu-mem`` in all, on              ``ALIYUN_COM_GPU_MEM_IDX`` and ``_POD``
           ``aliyun.com/gpu-count`` equal devices
=========  =============================================  =========================================

Sources: HAMi, docs/develop/protocol.md and pkg/device/devices.go; KAI Scheduler, docs/gpu-sharing
and pkg/common/constants; gpushare-scheduler-extender, pkg/utils/pod.go, and its device plugin,
pkg/gpu/nvidia/podutils.go.

Only gpushare's is written, too: its device plugin takes the device from annotations of the pod, and
a Binding can carry them. HAMi and KAI have schedulers of their own, whose records are left alone.
Under HAMi ``nvidia.com/gpu`` counts slots on the node and devices on the pod; the register counts.

What names a device that the node does not have is unknown occupancy, never free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.model import (
    DEVICE_MILLI,
    MAX_DEVICE_MEMORY_MIB,
    MAX_DEVICES,
    Device,
    DeviceShare,
    GpuKind,
    Node,
    Placement,
)
from scheduler.core.model import GpuRequest as _Request
from scheduler.kube.names import ResourceNames
from scheduler.kube.objects import Metadata, NodeObject, PodObject, Quantities
from scheduler.kube.quantity import bounded, whole

__all__ = [
    "PROTOCOLS",
    "Claim",
    "Protocol",
    "Record",
    "Registered",
    "ambiguity",
    "gpushare_annotations",
    "protocol_of",
    "record_of",
    "registered",
    "resolve",
    "who_picks",
]

HAMI_REGISTER = "hami.io/node-nvidia-register"
HAMI_ALLOCATED = ("hami.io/vgpu-devices-allocated", "hami.io/vgpu-devices-to-allocate")
KAI_GROUP = "runai-gpu-group"
KAI_RESERVES = "run.ai/reserve_for_gpu_index"
KAI_SHARES = ("gpu-fraction", "gpu-memory")
_LONGEST_REGISTER = 1 << 16
_MOST_INDEX = 1 << 10
_GPUSHARE = "ALIYUN_COM_GPU_MEM_"
_PLUGIN = "the device plugin"


@dataclass(frozen=True, slots=True)
class Claim:
    """A pod's part of one device, as recorded.

    Parameters
    ----------
    device
        How the protocol names the device.
    memory_mib, cores_percent
        What it may use of it; 0 is not stated.
    """

    device: str
    memory_mib: int = 0
    cores_percent: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """What a pod's metadata say of its devices.

    Parameters
    ----------
    protocol
        Whose record it is.
    claims
        Parts of devices.
    groups
        Shared devices by the names that KAI gives them; somebody else has reserved them.
    reserves
        Whether this pod is the one that reserves them.
    """

    protocol: str
    claims: tuple[Claim, ...] = ()
    groups: tuple[str, ...] = ()
    reserves: bool = False


@dataclass(frozen=True, slots=True)
class Registered:
    """A device as a node's own protocol describes it."""

    name: str
    device: Device


@dataclass(frozen=True, slots=True)
class Protocol:
    """One row.

    Parameters
    ----------
    name
        What it is called in messages.
    of_pod
        A pod's record, or None; :class:`InvalidInput` if there is one that cannot be read.
    of_node
        A node's devices in the order of their indices, or None; :class:`InvalidInput` likewise.
    resource
        Resource family of a node that is described this way.
    """

    name: str
    of_pod: Callable[[PodObject, ResourceNames], Record | None]
    of_node: Callable[[Metadata, Quantities, ResourceNames], list[Registered] | None]
    resource: Callable[[ResourceNames], str]


# -- HAMi --------------------------------------------------------------------------------------


class _HamiDevice(msgspec.Struct):
    id: str = ""
    index: int = 0
    devmem: int = 0
    type: str = ""
    health: bool = False


_hami_decoder = msgspec.json.Decoder(list[_HamiDevice])


def _hami_node(
    metadata: Metadata, _allocatable: Quantities, names: ResourceNames
) -> list[Registered] | None:
    text = (metadata.annotations or {}).get(HAMI_REGISTER)
    if not text:
        return None
    field = f"metadata.annotations[{HAMI_REGISTER}]"
    if len(text) > _LONGEST_REGISTER:
        raise InvalidInput(field, f"has {len(text)} characters")
    try:
        if text.lstrip().startswith("["):
            found = _hami_decoder.decode(text)
        else:
            found = [_hami_fields(part.split(","), field) for part in text.split(":") if part]
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidInput(field, str(error)) from error
    if len(found) > MAX_DEVICES:
        raise InvalidInput(field, f"has {len(found)} devices", f"at most {MAX_DEVICES} are usable")
    if len({device.id for device in found}) < len(found):
        raise InvalidInput(field, "has two devices of one UUID")
    for device in found:
        bounded(device.index, f"{field}.index", _MOST_INDEX)
        bounded(device.devmem, f"{field}.devmem", MAX_DEVICE_MEMORY_MIB)
    if len({device.index for device in found}) == len(found):  # older ones state no index
        found.sort(key=lambda device: device.index)
    product = _product(metadata, names)
    return [
        Registered(
            device.id,
            Device(
                product or device.type.removeprefix("NVIDIA-"), device.devmem, healthy=device.health
            ),
        )
        for device in found
    ]


def _hami_fields(fields: list[str], field: str) -> _HamiDevice:
    if len(fields) not in (7, 9):
        raise ValueError(f"{','.join(fields)[:80]!r} has {len(fields)} fields, not 7 or 9")
    index = bounded(fields[7], f"{field}.index", _MOST_INDEX) if len(fields) == 9 else 0
    memory = bounded(fields[2], f"{field}.devmem", MAX_DEVICE_MEMORY_MIB)
    return _HamiDevice(fields[0], index, memory, fields[4], fields[6] == "true")


def _hami_pod(pod: PodObject, _names: ResourceNames) -> Record | None:
    annotations = pod.metadata.annotations or {}
    key = next((key for key in HAMI_ALLOCATED if annotations.get(key)), None)
    if key is None:
        return None
    claims = []
    for part in annotations[key].replace(";", ":").split(":"):
        fields = part.split(",")
        if not part:
            continue
        if len(fields) < 4 or not (fields[2].isdecimal() and fields[3].isdecimal()):
            raise InvalidInput(
                f"metadata.annotations[{key}]", f"{part!r} is no uuid,type,MiB,cores"
            )
        claims.append(Claim(fields[0], int(fields[2]), int(fields[3])))
    return Record("HAMi", tuple(claims))


# -- KAI ---------------------------------------------------------------------------------------


def _kai_pod(pod: PodObject, _names: ResourceNames) -> Record | None:
    annotations, labels = pod.metadata.annotations or {}, pod.metadata.labels or {}
    groups = [labels[KAI_GROUP]] if labels.get(KAI_GROUP) else []
    groups += [
        key.removeprefix(f"{KAI_GROUP}/") for key in labels if key.startswith(f"{KAI_GROUP}/")
    ]
    if groups and KAI_RESERVES in annotations:
        return Record("KAI", groups=tuple(groups), reserves=True)
    if any(annotations.get(key) for key in KAI_SHARES):
        return Record("KAI", groups=tuple(groups))
    return None


# -- gpushare ----------------------------------------------------------------------------------


def _gpushare_node(
    metadata: Metadata, allocatable: Quantities, names: ResourceNames
) -> list[Registered] | None:
    path = f"node[{metadata.name}].status.allocatable"
    total = whole(allocatable.get(names.share_memory, 0), f"{path}[{names.share_memory}]")
    if not total:
        return None
    if not 0 < total <= MAX_DEVICES * MAX_DEVICE_MEMORY_MIB:
        raise InvalidInput(
            f"{path}[{names.share_memory}]", "is negative, or more than any node has"
        )
    count = whole(allocatable.get(names.share_count, 0), f"{path}[{names.share_count}]")
    if not 0 < count <= min(total, MAX_DEVICES):
        raise InvalidInput(
            f"{path}[{names.share_count}]",
            f"is not within 1..{MAX_DEVICES}, or more than {names.share_memory} ({total})",
        )
    size = total // count * names.share_unit_mib
    device = Device(_product(metadata, names), size)
    return [Registered(str(index), device) for index in range(count)]


def _gpushare_pod(pod: PodObject, names: ResourceNames) -> Record | None:
    annotations = pod.metadata.annotations or {}
    index = annotations.get(f"{_GPUSHARE}IDX")
    if index is None:
        return None
    amount = annotations.get(f"{_GPUSHARE}POD", "")
    if not (index.isdecimal() and amount.isdecimal() and len(amount) < 10):
        raise InvalidInput(
            f"metadata.annotations[{_GPUSHARE}IDX]", f"{index!r} with {amount!r} is no device"
        )
    return Record("gpushare", (Claim(str(int(index)), int(amount) * names.share_unit_mib),))


def gpushare_annotations(
    placement: Placement, node: Node, names: ResourceNames, now_ns: int
) -> dict[str, str]:
    """What gpushare's device plugin looks for on a pod that was just bound; else nothing.

    It takes the pod with the oldest ``ASSUME_TIME`` whose memory is what the kubelet asks for, and
    sets ``ASSIGNED`` itself.

    Parameters
    ----------
    placement
        With exactly one device, if it is of this protocol.
    node
        Where it is.
    names
        Resource names.
    now_ns
        Nanoseconds since the epoch.
    """
    gpu = placement.pod.gpu
    if gpu.resource != names.share_memory:
        return {}
    (share,) = placement.devices
    unit = names.share_unit_mib
    return {
        f"{_GPUSHARE}IDX": str(share.index),
        f"{_GPUSHARE}POD": str(gpu.memory_mib // unit),
        f"{_GPUSHARE}DEV": str(node.devices[share.index].memory_mib // unit),
        f"{_GPUSHARE}ASSIGNED": "false",
        f"{_GPUSHARE}ASSUME_TIME": str(now_ns),
    }


PROTOCOLS = (
    Protocol("HAMi", _hami_pod, _hami_node, lambda names: names.whole[0]),
    Protocol("KAI", _kai_pod, lambda _metadata, _allocatable, _names: None, lambda _names: ""),
    Protocol("gpushare", _gpushare_pod, _gpushare_node, lambda names: names.share_memory),
)
"""In the order in which they are tried."""


def record_of(pod: PodObject, names: ResourceNames) -> Record | None:
    """What a foreign protocol has recorded on a pod, or None.

    Raises
    ------
    InvalidInput
        There is a record and it cannot be read: what the pod has is unknown.
    """
    if not pod.metadata.annotations and not pod.metadata.labels:
        return None
    return next((found for row in PROTOCOLS if (found := row.of_pod(pod, names)) is not None), None)


def registered(obj: NodeObject, names: ResourceNames) -> tuple[list[Registered], str] | None:
    """A node's devices and their resource family, where a foreign protocol describes them.

    Raises
    ------
    InvalidInput
        The description cannot be read.
    """
    allocatable = (obj.status.allocatable if obj.status else None) or {}
    for row in PROTOCOLS:
        found = row.of_node(obj.metadata, allocatable, names)
        if found is not None:
            return found, row.resource(names)
    return None


def resolve(
    claims: Iterable[Claim], node: Node, index_of: Mapping[str, int]
) -> tuple[DeviceShare, ...] | None:
    """Device shares of a pod, or None if a device is not there (any more).

    Parameters
    ----------
    claims
        What is recorded.
    node
        Where the pod is.
    index_of
        Index of each device by the name that the protocol gives it.
    """
    shares: dict[int, DeviceShare] = {}
    for claim in claims:
        index = index_of.get(claim.device, -1)
        if not 0 <= index < len(node.devices):
            return None
        size = node.devices[index].memory_mib
        of_memory = claim.memory_mib * DEVICE_MILLI // size if size else 0
        milli = max(1, of_memory, claim.cores_percent * DEVICE_MILLI // 100)
        if not claim.memory_mib and not claim.cores_percent:
            milli = DEVICE_MILLI
        before = shares.get(index, DeviceShare(index, 0))
        shares[index] = DeviceShare(
            index,
            min(DEVICE_MILLI, before.milli + milli),
            before.memory_mib + claim.memory_mib if size else 0,
        )
    return tuple(shares[index] for index in sorted(shares))


def protocol_of(gpu: _Request, record: Record | None, names: ResourceNames) -> str:
    """By which protocol a pod has its devices; empty if it has none."""
    if record is not None:
        return record.protocol
    match gpu.kind:
        case GpuKind.NONE:
            return ""
        case GpuKind.FRACTION | GpuKind.WHOLE if gpu.resource in ("", names.share_memory):
            return "gpushare" if gpu.resource else names.milli
        case _:
            return _PLUGIN


def who_picks(gpu: _Request, names: ResourceNames) -> str:
    """Who decides which of a node's devices the pod gets; empty if it gets none."""
    protocol = protocol_of(gpu, None, names)
    if protocol == _PLUGIN:
        return "the device plugin picks the devices, Snugfit counts them"
    return "Snugfit picks the device and records it on the pod" if protocol else ""


def ambiguity(protocols: Iterable[str]) -> str:
    """Why it is not clear which devices of a node are free; empty if it is.

    KAI reserves its devices through the device plugin, so that these two go together.
    """
    found = sorted(set(protocols))
    if len(found) < 2 or found == sorted(("KAI", _PLUGIN)):
        return ""
    text = f"pods have their devices by {' and '.join(found)}"
    if _PLUGIN in found:
        text += "; the device plugin picks by itself and may pick a device that is shared"
    return text


def _product(metadata: Metadata, names: ResourceNames) -> str:
    labels = metadata.labels or {}
    return next((labels[key] for key in names.product_labels if labels.get(key)), "")
