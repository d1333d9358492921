"""How others share GPUs: one row per protocol, read so that what is free is true.

A row says what a node's devices are, and what a running pod has of them:

=========  =============================================  =========================================
protocol   the node's devices                             a pod's part of them
=========  =============================================  =========================================
HAMi       ``hami.io/node-nvidia-register``: UUID,        ``hami.io/vgpu-devices-allocated``:
           memory, model, health, index; JSON, or         ``uuid,type,MiB,cores:`` per device, a
           seven or nine fields per device; nothing       ``;`` after each container; no uuid is no
           once its device plugin is gone                 device, ``uuid[i-j]`` a MIG instance
KAI        those of the device plugin                     nothing of its own: a pod in KAI's
                                                          reservation namespace has the whole
                                                          device that its group shares
gpushare   ``aliyun.com/gpu-mem`` in all, on              ``ALIYUN_COM_GPU_MEM_IDX`` and ``_POD``
           ``aliyun.com/gpu-count`` equal devices
=========  =============================================  =========================================

Sources: HAMi, docs/develop/protocol.md and pkg/device/devices.go; KAI Scheduler, docs/gpu-sharing
and pkg/common/constants; gpushare-scheduler-extender, pkg/utils/pod.go, and its device plugin,
pkg/gpu/nvidia/podutils.go.

Only gpushare's is written, too: its device plugin takes the device from annotations of the pod, and
a Binding can carry them. HAMi and KAI have schedulers of their own, whose records are left alone.
How far a record is believed, and what a pod is charged: :mod:`scheduler.kube.sharing.records`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scheduler.core.errors import InvalidInput
from scheduler.core.model import (
    MAX_DEVICE_MEMORY_MIB,
    MAX_DEVICES,
    Device,
    GpuKind,
    Node,
    Placement,
)
from scheduler.core.model import GpuRequest as _Request
from scheduler.kube.device_annotation import OWN, recorded_devices
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.kube.quantity import bounded, whole
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.claims import Claim, Record, Registered, product_of
from scheduler.kube.sharing.foreign import UNREAD_SYSTEMS
from scheduler.kube.sharing.hami import by_plugin, hami_node, hami_pod

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "ambiguity",
    "gpushare_annotations",
    "protocol_of",
    "record_of",
    "registered",
    "who_picks",
]

KAI_GROUP = "runai-gpu-group"
_GPUSHARE = "ALIYUN_COM_GPU_MEM_"
_MOST_INDEX = 1 << 10
_PLUGIN = "the device plugin"


@dataclass(frozen=True, slots=True)
class Protocol:
    """One row.

    Parameters
    ----------
    name
        What it is called in messages.
    asked_for
        Whether a pod that asks for this has its devices by it.
    of_pod
        Such a pod's record, or None; :class:`InvalidInput` if there is one that cannot be read.
    of_node
        A node's devices in the order of their indices, or None; :class:`InvalidInput` likewise.
    resource
        Resource family of a node that is described this way.
    """

    name: str
    asked_for: Callable[[_Request, ResourceNames], bool]
    of_pod: Callable[[PodObject, ResourceNames], Record | None]
    of_node: Callable[[NodeObject, ResourceNames], list[Registered] | None]
    resource: Callable[[ResourceNames], str]


# -- KAI ---------------------------------------------------------------------------------------


def _kai_pod(pod: PodObject, names: ResourceNames) -> Record | None:
    """A pod there reserves devices for KAI; a group on any other pod is a wish."""
    if pod.metadata.namespace != names.kai_namespace:
        return None
    labels = pod.metadata.labels or {}
    grouped = any(key == KAI_GROUP or key.startswith(f"{KAI_GROUP}/") for key in labels)
    return Record("KAI") if grouped else None


# -- gpushare ----------------------------------------------------------------------------------


def _gpushare_node(obj: NodeObject, names: ResourceNames) -> list[Registered] | None:
    metadata = obj.metadata
    allocatable = (obj.status.allocatable if obj.status else None) or {}
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
    device = Device(product_of(metadata, names), size)
    return [Registered(str(index), device) for index in range(count)]


def _gpushare_pod(pod: PodObject, names: ResourceNames) -> Record | None:
    annotations = pod.metadata.annotations or {}
    index = annotations.get(f"{_GPUSHARE}IDX")
    if index is None:
        return None
    field = f"metadata.annotations[{_GPUSHARE}IDX]"
    device = bounded(index, field, _MOST_INDEX)
    field = f"metadata.annotations[{_GPUSHARE}POD]"
    amount = bounded(annotations.get(f"{_GPUSHARE}POD", ""), field, MAX_DEVICE_MEMORY_MIB)
    return Record("gpushare", (Claim(str(device), amount * names.share_unit_mib),))


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


def _no_node(_obj: NodeObject, _names: ResourceNames) -> list[Registered] | None:
    return None


PROTOCOLS = (
    Protocol("KAI", by_plugin, _kai_pod, _no_node, lambda _names: ""),
    Protocol("HAMi", by_plugin, hami_pod, hami_node, lambda names: names.whole[0]),
    Protocol(
        "gpushare",
        lambda gpu, names: gpu.resource == names.share_memory,
        _gpushare_pod,
        _gpushare_node,
        lambda names: names.share_memory,
    ),
    Protocol(
        OWN,
        lambda gpu, names: gpu.chosen_by_us and gpu.resource != names.share_memory,
        recorded_devices,
        _no_node,
        lambda _names: "",
    ),
)
"""In the order in which they are tried."""


def record_of(pod: PodObject, gpu: _Request, names: ResourceNames) -> Record | None:
    """The record that goes with what a pod asks for, or None; one with a problem if unreadable."""
    if gpu.kind is GpuKind.NONE or not (pod.metadata.annotations or pod.metadata.labels):
        return None
    for row in PROTOCOLS:
        if not row.asked_for(gpu, names):
            continue
        try:
            found = row.of_pod(pod, names)
        except InvalidInput as error:
            return Record(row.name, problem=str(error))
        if found is not None:
            return found
    return None


def registered(obj: NodeObject, names: ResourceNames) -> tuple[list[Registered], str] | None:
    """A node's devices and their resource family, where a foreign protocol describes them.

    Raises
    ------
    InvalidInput
        The description cannot be read.
    """
    for row in PROTOCOLS:
        found = row.of_node(obj, names)
        if found is not None:
            return found, row.resource(names)
    return None


def protocol_of(gpu: _Request, names: ResourceNames, record: Record | None = None) -> str:
    """By which protocol a pod has its devices; empty if it has none."""
    if record is not None and record.protocol in ("HAMi", "KAI"):
        return record.protocol
    if gpu.kind is GpuKind.NONE:
        return ""
    if gpu.chosen_by_us:
        return "gpushare" if gpu.resource == names.share_memory else names.milli
    return _PLUGIN


def who_picks(gpu: _Request, names: ResourceNames) -> str:
    """Who decides which of a node's devices the pod gets; empty if it gets none."""
    protocol = protocol_of(gpu, names)
    if protocol == _PLUGIN:
        return "the device plugin picks the devices, Snugfit counts them"
    return "Snugfit picks the device and records it on the pod" if protocol else ""


def ambiguity(protocols: Iterable[str]) -> str:
    """Why it is not clear which devices of a node are free; empty if it is.

    KAI reserves its devices through the device plugin, so that these two go together.
    """
    found = sorted(set(protocols))
    unread = [name for name in found if name in UNREAD_SYSTEMS]
    if unread:
        return (
            f"pods share devices by {' and '.join(unread)}, whose records are not read; as many "
            "devices as they may be on are withheld"
        )
    if len(found) < 2 or found == sorted(("KAI", _PLUGIN)):
        return ""
    text = f"pods have their devices by {' and '.join(found)}"
    if _PLUGIN in found:
        text += "; the device plugin picks by itself and may pick a device that is shared"
    return text
