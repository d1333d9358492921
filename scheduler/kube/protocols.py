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
Under HAMi ``nvidia.com/gpu`` counts slots on the node and devices on the pod; the register counts.

How far a record is believed, and what a pod is charged: :mod:`scheduler.kube.records`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import zip_longest
from math import ceil

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
from scheduler.kube.objects import Container, Metadata, NodeObject, NodeStatus, PodObject
from scheduler.kube.quantity import bounded, parse, whole

__all__ = [
    "HAMI_REGISTER",
    "OWN",
    "PROTOCOLS",
    "Claim",
    "Part",
    "Protocol",
    "Record",
    "Registered",
    "Slot",
    "abandoned_register",
    "ambiguity",
    "gpushare_annotations",
    "hami_slots",
    "indices_of",
    "protocol_of",
    "record_of",
    "registered",
    "who_picks",
]

OWN = "Snugfit"

HAMI_REGISTER = "hami.io/node-nvidia-register"
_HAMI_HANDSHAKES = ("hami.io/node-handshake", "hami.io/node-handshake-nvidia")
_HAMI_WAITING = ("Requesting", "Deleted")
_HAMI_INSTANCE = "["
HAMI_ALLOCATED = ("hami.io/vgpu-devices-allocated", "hami.io/vgpu-devices-to-allocate")
KAI_GROUP = "runai-gpu-group"
_LONGEST_REGISTER = 1 << 16
_GPUSHARE = "ALIYUN_COM_GPU_MEM_"
_MOST_INDEX = 1 << 10
_MOST_SLOTS = 1 << 16
_MOST_CLAIMS = 1 << 10
_SHOWN = 40
_PLUGIN = "the device plugin"


@dataclass(frozen=True, slots=True)
class Claim:
    """A pod's part of one device, as recorded.

    Parameters
    ----------
    device
        How the protocol names the device.
    memory_mib, cores_percent, milli
        What it may use of it; 0 is not stated.
    """

    device: str
    memory_mib: int = 0
    cores_percent: int = 0
    milli: int = 0

    @property
    def instance_of(self) -> str:
        """Beginning of the name, where it is that of an instance; empty if it is a device's."""
        name, bracket, _ = self.device.partition(_HAMI_INSTANCE)
        return name + bracket if bracket else ""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a container asks for of one device under HAMi.

    Parameters
    ----------
    memory_mib, memory_percent
        Device memory, the larger of both; all of it where neither is stated.
    cores
        Percent of the device's cores; 0 is not stated.
    """

    memory_mib: int = 0
    memory_percent: int = 0
    cores: int = 0

    def memory_of(self, size_mib: int) -> int:
        """MiB of a device of this size."""
        if self.whole:
            return size_mib
        return max(self.memory_mib, size_mib * self.memory_percent // 100)

    @property
    def whole(self) -> bool:
        """Whether it has all of the device's memory."""
        return not self.memory_mib and not self.memory_percent

    def larger(self, other: Slot) -> Slot:
        """As much as either asks for."""
        cores = max(self.cores, other.cores)
        if self.whole or other.whole:
            return Slot(cores=cores)
        memory = max(self.memory_mib, other.memory_mib)
        return Slot(memory, max(self.memory_percent, other.memory_percent), cores)

    def both(self, other: Slot) -> Slot:
        """As much as both together, as far as one device has it."""
        cores = min(100, self.cores + other.cores)
        if self.whole or other.whole:
            return Slot(cores=cores)
        percent = min(100, self.memory_percent + other.memory_percent)
        return Slot(self.memory_mib + other.memory_mib, percent, cores)

    def share(self, index: int, size_mib: int) -> DeviceShare:
        """What it takes of a device: the larger of its parts of memory and of cores."""
        memory = min(self.memory_of(size_mib), size_mib)
        part = memory * DEVICE_MILLI // size_mib if size_mib else DEVICE_MILLI
        cores = min(self.cores * DEVICE_MILLI // 100, DEVICE_MILLI)
        return DeviceShare(index, max(1, part, cores), memory)

    def request(self, size_mib: int) -> _Request:
        """The same as a request, for a device of this size that nobody names."""
        share = self.share(0, size_mib)
        if share.milli >= DEVICE_MILLI:
            return _Request(count=1)
        return _Request(milli=share.milli, memory_mib=share.memory_mib)


@dataclass(frozen=True, slots=True)
class Part:
    """What one container asks for, and what is recorded of it.

    Parameters
    ----------
    slots
        One per device that it asks for.
    claims
        Devices that were recorded for it.
    before, throughout
        Whether it runs before the containers of the pod and ends; whether it is a sidecar.
    """

    slots: tuple[Slot, ...]
    claims: tuple[Claim, ...]
    before: bool = False
    throughout: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What a pod's metadata say of its devices.

    Parameters
    ----------
    protocol
        Whose record it is.
    claims
        Parts of devices; none for a pod that reserves a device for KAI.
    pod_uid
        UID of the pod that it was made for, where it says so.
    problem
        Why it cannot be read; empty if it can.
    bound_here
        Whether this process has bound the pod, so that nobody has to be believed.
    parts
        The claims by container, where init containers have some that others may use after them.
    """

    protocol: str
    claims: tuple[Claim, ...] = ()
    pod_uid: str = ""
    problem: str = ""
    bound_here: bool = False
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Registered:
    """A device as a node's own protocol describes it.

    Parameters
    ----------
    name
        How the protocol calls it.
    device
        What it is.
    divided
        Whether the protocol divides it into MIG instances, which have names of their own.
    """

    name: str
    device: Device
    divided: bool = False


def indices_of(found: Sequence[Registered]) -> dict[str, int]:
    """Index of each device by the name that a claim may give it.

    A claim of an instance, ``uuid[1-0]``, is found by its beginning.
    """
    indices = {one.name: index for index, one in enumerate(found)}
    instances = {one.name + _HAMI_INSTANCE: i for i, one in enumerate(found) if one.divided}
    return indices | instances


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


# -- HAMi --------------------------------------------------------------------------------------


class _HamiDevice(msgspec.Struct):
    id: str = ""
    index: int = 0
    devmem: int = 0
    type: str = ""
    health: bool = False
    count: int = 0
    mode: str = ""


_hami_decoder = msgspec.json.Decoder(list[_HamiDevice])


def _hami_node(obj: NodeObject, names: ResourceNames) -> list[Registered] | None:
    """Devices of the register, unless nobody stands behind it any more.

    Its device plugin offers ``nvidia.com/gpu``, so many slots per device. A node that has none of
    them has no such plugin. One whose handshake nobody has answered has another plugin if what it
    offers cannot be slots of the register.
    """
    metadata = obj.metadata
    text = (metadata.annotations or {}).get(HAMI_REGISTER)
    if not text:
        return None
    path = f"node[{metadata.name}].status"
    status = obj.status or NodeStatus()
    resource = names.whole[0]
    slots, ever = (
        whole((stated or {}).get(resource, 0), f"{path}.{field}[{resource}]")
        for field, stated in (("allocatable", status.allocatable), ("capacity", status.capacity))
    )
    if slots <= 0 and ever <= 0:
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
        bounded(device.count, f"{field}.count", _MOST_SLOTS)
        bounded(device.devmem, f"{field}.devmem", MAX_DEVICE_MEMORY_MIB)
    if _unanswered(metadata) and slots not in _sums([device.count for device in found]):
        return None
    if len({device.index for device in found}) == len(found):  # older ones state no index
        found.sort(key=lambda device: device.index)
    product = _product(metadata, names)
    return [
        Registered(
            device.id,
            Device(
                product or device.type.removeprefix("NVIDIA-"),
                device.devmem,
                # Without slots the kubelet admits nobody until the plugin is back.
                healthy=device.health and slots > 0,
            ),
            divided=device.mode == "mig",
        )
        for device in found
    ]


def abandoned_register(obj: NodeObject, names: ResourceNames) -> bool:
    """Whether a node has a register of HAMi's behind which nobody stands any more.

    Raises
    ------
    InvalidInput
        The register cannot be read.
    """
    written = (obj.metadata.annotations or {}).get(HAMI_REGISTER)
    return bool(written) and _hami_node(obj, names) is None


def _unanswered(metadata: Metadata) -> bool:
    """Whether HAMi's scheduler waits for a sign of life, or has given the node up."""
    annotations = metadata.annotations or {}
    said = next((annotations[key] for key in _HAMI_HANDSHAKES if key in annotations), "")
    return said.startswith(_HAMI_WAITING)


def _sums(counts: list[int]) -> set[int]:
    """So many slots can be offered, whichever devices are sick; a register without counts: any."""
    sums = {0}
    for count in counts:
        sums |= {min(each + count, _MOST_SLOTS) for each in sums}
    return sums


def _hami_fields(fields: list[str], field: str) -> _HamiDevice:
    if len(fields) not in (7, 9):
        raise ValueError(f"{','.join(fields)[:80]!r} has {len(fields)} fields, not 7 or 9")
    index = bounded(fields[7], f"{field}.index", _MOST_INDEX) if len(fields) == 9 else 0
    memory = bounded(fields[2], f"{field}.devmem", MAX_DEVICE_MEMORY_MIB)
    count = bounded(fields[1], f"{field}.count", _MOST_SLOTS)
    mode = fields[8] if len(fields) == 9 else ""
    return _HamiDevice(fields[0], index, memory, fields[4], fields[6] == "true", count, mode)


def _hami_pod(pod: PodObject, names: ResourceNames) -> Record | None:
    annotations = pod.metadata.annotations or {}
    key = next((key for key in HAMI_ALLOCATED if annotations.get(key)), None)
    if key is None:
        return None
    field = f"metadata.annotations[{key}]"
    containers = annotations[key].split(";", _MOST_CLAIMS)
    by_container = [_hami_claims(text, field) for text in containers]
    claims = tuple(claim for each in by_container for claim in each)
    if len(claims) > _MOST_CLAIMS:
        raise InvalidInput(field, f"has {len(claims)} devices")
    if not containers[-1]:
        del by_container[-1]
    return Record("HAMi", claims, parts=_hami_parts(pod, by_container, names))


def _hami_claims(text: str, field: str) -> tuple[Claim, ...]:
    """Devices of one container; one that has none may be written as a device without a name."""
    claims = []
    for part in text.split(":", _MOST_CLAIMS):
        fields = part.split(",")
        if not part:
            continue
        if len(fields) < 4:
            raise InvalidInput(field, f"{part[:_SHOWN]!r} is no uuid,type,MiB,cores")
        memory = bounded(fields[2], field, MAX_DEVICE_MEMORY_MIB)
        cores = bounded(fields[3], field, 100)
        if fields[0]:
            claims.append(Claim(fields[0], memory, cores))
    return tuple(claims)


def _hami_parts(
    pod: PodObject, by_container: Sequence[tuple[Claim, ...]], names: ResourceNames
) -> tuple[Part, ...]:
    """Claims beside what each container asks for, if init containers ask for devices, too.

    HAMi lists init containers first. A record of another length does not say whose its claims are.
    """
    init = pod.spec.init_containers or ()
    containers = (*init, *(pod.spec.containers or ()))
    if not init or len(by_container) != len(containers):
        return ()
    parts = []
    for at, (container, claims) in enumerate(zip(containers, by_container, strict=True)):
        always = at < len(init) and container.restart_policy == "Always"
        before = at < len(init) and not always
        parts.append(Part(tuple(_container_slots(container, names)), claims, before, always))
    return tuple(parts) if any(part.before and part.slots for part in parts) else ()


def hami_slots(pod: PodObject, gpu: _Request, names: ResourceNames) -> tuple[Slot, ...]:
    """What a pod would have on a node of HAMi's, one slot per device.

    HAMi's ``nvidia.com/gpu`` counts devices, and the other resources hold for each of them. As in
    Kubernetes' own rule containers and sidecars add up, an ordinary init container runs beside the
    sidecars started before it, and the larger counts, slot by slot. More slots than a node may have
    devices are added up, several to one.
    """
    if not _by_plugin(gpu, names):
        return ()
    sidecars: list[Slot] = []
    most: list[Slot] = []
    for container in pod.spec.init_containers or ():
        own = _container_slots(container, names)
        if container.restart_policy == "Always":
            sidecars += own
        else:
            most = _larger(most, sidecars + own)
    running = [slot for c in pod.spec.containers or () for slot in _container_slots(c, names)]
    most = _larger(most, sidecars + running)
    return tuple(reduce(Slot.both, most[at::MAX_DEVICES]) for at in range(MAX_DEVICES)[: len(most)])


def _larger(left: list[Slot], right: list[Slot]) -> list[Slot]:
    """The larger of both, slot by slot, the largest first."""

    def size(slot: Slot) -> tuple[bool, int, int, int]:
        return slot.whole, slot.memory_mib, slot.memory_percent, slot.cores

    pairs = zip_longest(sorted(left, key=size, reverse=True), sorted(right, key=size, reverse=True))
    return [a.larger(b) if a and b else a or b for a, b in pairs]


def _container_slots(container: Container, names: ResourceNames) -> list[Slot]:
    resources = container.resources
    if resources is None:
        return []
    stated = {**(resources.limits or {}), **(resources.requests or {})}

    def asked(name: str, most: int) -> int:
        if name not in stated:
            return 0
        try:
            return min(max(0, ceil(parse(stated[name]))), most)
        except InvalidInput:  # not from an API server; as much as there may be
            return most

    count = asked(names.whole[0], MAX_DEVICES)
    memory = asked(names.hami_memory, MAX_DEVICE_MEMORY_MIB) * names.hami_unit_mib
    percent = asked(names.hami_percent, 100)
    if not memory and not percent:
        memory = names.hami_default_mib
    slot = Slot(memory, 0 if memory else percent, asked(names.hami_cores, 100))
    return [slot] * count


# -- KAI ---------------------------------------------------------------------------------------


def _kai_pod(pod: PodObject, names: ResourceNames) -> Record | None:
    """Whoever may write there reserves devices for KAI; a group on any other pod is a wish."""
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
    device = Device(_product(metadata, names), size)
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


# -- our own -----------------------------------------------------------------------------------


def _own_pod(pod: PodObject, names: ResourceNames) -> Record | None:
    annotations = pod.metadata.annotations or {}
    text = annotations.get(names.devices_annotation)
    if text is None:
        return None
    field = f"metadata.annotations[{names.devices_annotation}]"
    claims: dict[str, Claim] = {}
    for part in text.split(",", _MOST_CLAIMS):
        numbers = part.split(":", 4)
        if not 2 <= len(numbers) <= 4:
            raise InvalidInput(
                field, f"{part[:_SHOWN]!r} is no device share", "write index:milli:memory:slots"
            )
        index, milli = bounded(numbers[0], field, _MOST_INDEX), bounded(numbers[1], field, 1000)
        memory = bounded(numbers[2], field, MAX_DEVICE_MEMORY_MIB) if len(numbers) > 2 else 0
        if str(index) in claims:
            raise InvalidInput(field, "lists a device twice")
        claims[str(index)] = Claim(str(index), memory, milli=milli)
    return Record(OWN, tuple(claims.values()), annotations.get(names.uid_annotation, ""))


def _by_plugin(gpu: _Request, names: ResourceNames) -> bool:
    return gpu.kind is GpuKind.WHOLE and gpu.resource == names.whole[0]


def _no_node(_obj: NodeObject, _names: ResourceNames) -> list[Registered] | None:
    return None


PROTOCOLS = (
    Protocol("KAI", _by_plugin, _kai_pod, _no_node, lambda _names: ""),
    Protocol("HAMi", _by_plugin, _hami_pod, _hami_node, lambda names: names.whole[0]),
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
        _own_pod,
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
    if len(found) < 2 or found == sorted(("KAI", _PLUGIN)):
        return ""
    text = f"pods have their devices by {' and '.join(found)}"
    if _PLUGIN in found:
        text += "; the device plugin picks by itself and may pick a device that is shared"
    return text


def _product(metadata: Metadata, names: ResourceNames) -> str:
    labels = metadata.labels or {}
    return next((labels[key] for key in names.product_labels if labels.get(key)), "")
