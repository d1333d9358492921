"""HAMi: what its device plugin writes on nodes, and its scheduler on pods.

Sources: docs/develop/protocol.md, pkg/device/devices.go and pkg/device/initContainer.go of HAMi.

Under HAMi ``nvidia.com/gpu`` counts slots on the node and devices on the pod; the register counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import zip_longest
from math import ceil

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.model import MAX_DEVICE_MEMORY_MIB, MAX_DEVICES, Device, GpuKind
from scheduler.core.model import GpuRequest as _Request
from scheduler.kube.objects import Container, Metadata, NodeObject, NodeStatus, PodObject, PodSpec
from scheduler.kube.quantity import bounded, parse, whole
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.claims import Claim, Part, Record, Registered, Slot, product_of

__all__ = [
    "HAMI_REGISTER",
    "abandoned_register",
    "by_plugin",
    "hami_node",
    "hami_pod",
    "hami_slots",
]

HAMI_REGISTER = "hami.io/node-nvidia-register"
_ALLOCATED = ("hami.io/vgpu-devices-allocated", "hami.io/vgpu-devices-to-allocate")
_HANDSHAKES = ("hami.io/node-handshake", "hami.io/node-handshake-nvidia")
_WAITING = ("Requesting", "Deleted")
_LONGEST_REGISTER = 1 << 16
_MOST_INDEX = 1 << 10
_MOST_SLOTS = 1 << 16
_MOST_CLAIMS = 1 << 10
_SHOWN = 40


class _HamiDevice(msgspec.Struct):
    id: str = ""
    index: int | None = None
    devmem: int = 0
    type: str = ""
    health: bool = False
    count: int = 0
    mode: str = ""


_hami_decoder = msgspec.json.Decoder(list[_HamiDevice])


def hami_node(obj: NodeObject, names: ResourceNames) -> list[Registered] | None:
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
        bounded(device.index or 0, f"{field}.index", _MOST_INDEX)
        bounded(device.count, f"{field}.count", _MOST_SLOTS)
        bounded(device.devmem, f"{field}.devmem", MAX_DEVICE_MEMORY_MIB)
    if not _offered_by([device.count for device in found], slots) and (
        _unanswered(metadata) or _whole_devices(metadata, max(slots, ever), names)
    ):
        return None
    if any(device.index is not None for device in found):  # older ones state none; 0 is left out
        indices = [device.index or 0 for device in found]
        if len(set(indices)) < len(found):
            raise InvalidInput(field, "has two devices of one index", "have HAMi write it anew")
        found.sort(key=lambda device: device.index or 0)
    product = product_of(metadata, names)
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
    return bool(written) and hami_node(obj, names) is None


def _unanswered(metadata: Metadata) -> bool:
    """Whether HAMi's scheduler waits for a sign of life, or has given the node up."""
    annotations = metadata.annotations or {}
    said = next((annotations[key] for key in _HANDSHAKES if key in annotations), "")
    return said.startswith(_WAITING)


def _whole_devices(metadata: Metadata, offered: int, names: ResourceNames) -> bool:
    """Whether feature discovery counts as many devices as are offered, or shares one from them."""
    labels = metadata.labels or {}
    field = f"node[{metadata.name}].metadata.labels"
    if not labels.get(names.count_label):
        return False
    devices, shares = (
        bounded(labels.get(key) or "1", f"{field}[{key}]", _MOST_SLOTS)
        for key in (names.count_label, names.replicas_label)
    )
    return devices * max(1, shares) == offered


def _offered_by(counts: list[int], slots: int) -> bool:
    """Whether so many slots can be those of some of the devices, the others being sick."""
    if not 0 <= slots <= sum(counts):
        return False
    reachable = 1  # bit n: n slots
    for count in counts:
        reachable |= reachable << count
    return bool(reachable >> slots & 1)


def _hami_fields(fields: list[str], field: str) -> _HamiDevice:
    if len(fields) not in (7, 9):
        raise ValueError(f"{','.join(fields)[:80]!r} has {len(fields)} fields, not 7 or 9")
    index = bounded(fields[7], f"{field}.index", _MOST_INDEX) if len(fields) == 9 else None
    memory = bounded(fields[2], f"{field}.devmem", MAX_DEVICE_MEMORY_MIB)
    count = bounded(fields[1], f"{field}.count", _MOST_SLOTS)
    mode = fields[8] if len(fields) == 9 else ""
    return _HamiDevice(fields[0], index, memory, fields[4], fields[6] == "true", count, mode)


def hami_pod(pod: PodObject, names: ResourceNames) -> Record | None:
    """Devices that HAMi's scheduler has chosen for a pod, or None if it has not.

    Raises
    ------
    InvalidInput
        The record cannot be read.
    """
    annotations = pod.metadata.annotations or {}
    key = next((key for key in _ALLOCATED if annotations.get(key)), None)
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
            raise InvalidInput(field, f"{part[:_SHOWN]!r} is not of the form uuid,type,MiB,cores")
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


def hami_slots(spec: PodSpec, gpu: _Request, names: ResourceNames) -> tuple[Slot, ...]:
    """What a pod would have on a node of HAMi's, one slot per device.

    HAMi's ``nvidia.com/gpu`` counts devices, and the other resources hold for each of them. As in
    Kubernetes' own rule containers and sidecars add up, an ordinary init container runs beside the
    sidecars started before it, and the larger counts, slot by slot. More slots than a node may have
    devices are added up, several to one.
    """
    if not by_plugin(gpu, names):
        return ()
    sidecars: list[Slot] = []
    most: list[Slot] = []
    for container in spec.init_containers or ():
        own = _container_slots(container, names)
        if container.restart_policy == "Always":
            sidecars += own
        else:
            most = _larger(most, sidecars + own)
    running = [slot for c in spec.containers or () for slot in _container_slots(c, names)]
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


def by_plugin(gpu: _Request, names: ResourceNames) -> bool:
    """Whether a request is one of the device plugin's resource, which HAMi takes over."""
    return gpu.kind is GpuKind.WHOLE and gpu.resource == names.whole[0]
