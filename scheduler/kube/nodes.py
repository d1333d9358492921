"""A Node object -> what it can give.

How its GPUs are understood, first match wins:

0. A foreign protocol that describes its devices: :mod:`scheduler.kube.protocols`.
1. ``nvidia.com/mig-*``: partitioned devices whose fixed instances realise the advertised counts.
2. ``nvidia.com/gpu.shared``, or a replicas label above 1: time-sliced devices.
3. ``snugfit.io/gpu-milli``: plain devices, one per 1000.
4. a whole-device resource: plain devices. Capacity beyond allocatable counts as unhealthy.

Every number is bounded when it is read, before anything of its size is made: a kubelet or a device
plugin that says nonsense costs its own node its devices, and nobody else anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.mig import GEOMETRIES, geometry_for, layout_for
from scheduler.core.model import (
    DEVICE_MILLI,
    MAX_DEVICE_MEMORY_MIB,
    MAX_DEVICES,
    MAX_TAINTS,
    Device,
    Node,
    Serves,
    Taint,
)
from scheduler.kube.counted import counted_on, is_counted
from scheduler.kube.names import ResourceNames, plain_product
from scheduler.kube.objects import NodeObject, NodeStatus, Quantities
from scheduler.kube.protocols import registered
from scheduler.kube.quantity import bounded, milli, units, whole

__all__ = ["node_of", "without_devices"]

_MOST_PARTS = MAX_DEVICES * DEVICE_MILLI
"""Replicas, milli-GPU or instances that the devices of one node may be divided into."""
_NAMED = 8
_NATIVE = ("cpu", "memory", "pods")


def node_of(obj: NodeObject, names: ResourceNames | None = None) -> Node:
    """The node as the engine sees it.

    Raises
    ------
    InvalidInput
        A quantity cannot be read, or the advertised GPUs cannot exist. Names the field.
    """
    names = names or ResourceNames()
    name = obj.metadata.name
    allocatable = (obj.status.allocatable if obj.status else None) or {}
    capacity = (obj.status.capacity if obj.status else None) or {}
    labels = obj.metadata.labels or {}
    path = f"node[{name}].status.allocatable"
    foreign = registered(obj, names)
    if foreign is not None:
        devices, resource = tuple(one.device for one in foreign[0]), foreign[1]
    else:
        devices, resource = _devices(_Advert(path, allocatable, capacity, labels, names))
    taints = (obj.spec.taints if obj.spec else None) or []
    return Node(
        name=name,
        cpu_milli=milli(allocatable.get("cpu", 0), f"{path}.cpu"),
        memory_bytes=units(allocatable.get("memory", 0), f"{path}.memory"),
        pods=whole(allocatable.get("pods", 0), f"{path}.pods"),
        devices=devices,
        labels=labels,
        # One more than are allowed is enough to be refused.
        taints=tuple(Taint(t.key, t.value or "", t.effect) for t in taints[: MAX_TAINTS + 1]),
        unschedulable=bool(obj.spec and obj.spec.unschedulable),
        resource=resource,
        counted=counted_on(allocatable, names, path),
        serves=_serves(path, allocatable, labels, names) if foreign is None else Serves.BOTH,
    )


def _serves(
    path: str, allocatable: Quantities, labels: Mapping[str, str], names: ResourceNames
) -> Serves:
    """Who may have devices that are offered both whole and in parts."""
    advert = _Advert(path, allocatable, {}, labels, names)
    if not advert.count(names.milli) or not any(advert.count(r) for r in names.whole):
        return Serves.BOTH
    stated = labels.get(names.serves_label, "")
    if stated not in _SERVES:
        raise InvalidInput(
            f"label {names.serves_label}", f"is {stated[:40]!r}", "write whole or fractions"
        )
    return _SERVES[stated]


_SERVES = {"": Serves.ONE_AT_A_TIME, "whole": Serves.WHOLE, "fractions": Serves.FRACTIONS}


def without_devices(obj: NodeObject, names: ResourceNames) -> Node:
    """A node whose devices cannot be understood: it has none to give."""
    allocatable = (obj.status.allocatable if obj.status else None) or {}
    metadata = msgspec.structs.replace(obj.metadata, annotations=None)
    plain = {n: value for n, value in allocatable.items() if n in _NATIVE or is_counted(n, names)}
    native = {n: value for n, value in allocatable.items() if n in _NATIVE}
    for offered in (plain, native):
        status = NodeStatus(allocatable=offered)
        with suppress(InvalidInput):
            return node_of(NodeObject(metadata=metadata, spec=obj.spec, status=status), names)
    return Node(obj.metadata.name, 0, 0, 0)


class _Advert:
    """What a node advertises about its devices."""

    def __init__(
        self,
        path: str,
        allocatable: Quantities,
        capacity: Quantities,
        labels: Mapping[str, str],
        names: ResourceNames,
    ) -> None:
        self.path = path
        self.names = names
        self.labels = labels
        self._allocatable = allocatable
        self._capacity = capacity

    def count(self, resource: str, most: int = _MOST_PARTS) -> int:
        return self._bounded(self._allocatable, resource, most)

    def missing(self, resource: str) -> int:
        """Devices that the node has but does not offer."""
        return max(0, self._bounded(self._capacity, resource) - self.count(resource))

    def _bounded(self, stated: Quantities, resource: str, most: int = _MOST_PARTS) -> int:
        field = f"{self.path}[{resource}]"
        found = whole(stated.get(resource, 0), field)
        if found < 0:
            raise InvalidInput(field, f"is negative ({found})")
        if found > most:
            raise InvalidInput(field, f"is more than any node has ({most})")
        return found

    def label(self, key: str, default: int, most: int) -> int:
        """A number that a label states; nonsense is named, and no reason to guess."""
        text = self.labels.get(key, "")
        return bounded(text, f"{self.path}.metadata.labels[{key}]", most) if text else default

    @property
    def empty(self) -> bool:
        """Whether there is no sign of a device."""
        names = self.names
        resources = (*names.whole, names.shared, names.milli)
        return not self.mig and not any(self.count(r) or self.missing(r) for r in resources)

    @property
    def product(self) -> str:
        """Device model, without what feature discovery appends for sharing and MIG."""
        for key in self.names.product_labels:
            if key in self.labels:
                return plain_product(self.labels[key])
        return ""

    @property
    def mig(self) -> dict[str, int]:
        prefix = self.names.mig_prefix
        found: dict[str, int] = {}
        for resource in self._allocatable:
            if resource.startswith(prefix) and (count := self.count(resource)):
                found[resource[len(prefix) :].replace(".me", "+me")] = count
        return found


def _devices(advert: _Advert) -> tuple[tuple[Device, ...], str]:
    names = advert.names
    resource = next((r for r in names.whole if advert.count(r)), names.whole[0])
    if advert.empty:
        return (), resource
    memory = advert.label(names.memory_label, 0, MAX_DEVICE_MEMORY_MIB)
    if advert.mig:
        return _partitioned(advert, memory), resource
    replicas = advert.label(names.replicas_label, 1, DEVICE_MILLI)
    shared = advert.count(names.shared)
    if shared or replicas > 1:
        count = shared or advert.count(resource)
        replicas = max(2, replicas)
        if count % replicas:
            raise InvalidInput(
                f"{advert.path}[{names.shared if shared else resource}]",
                f"{count} replicas are not {replicas} per device",
                f"check the label {names.replicas_label}",
            )
        device = Device(advert.product, memory, replicas=replicas)
        return (device,) * _few(advert, count // replicas), resource
    count, missing = advert.count(resource), advert.missing(resource)
    if advert.count(names.milli):
        count, rest = divmod(advert.count(names.milli), DEVICE_MILLI)
        if rest:
            raise InvalidInput(
                f"{advert.path}[{names.milli}]", "is no multiple of 1000", "advertise whole devices"
            )
        missing = 0
    _few(advert, count + missing)
    healthy, sick = (Device(advert.product, memory, healthy=ok) for ok in (True, False))
    return (healthy,) * count + (sick,) * missing, resource


def _few(advert: _Advert, devices: int) -> int:
    """A number of devices that one node can have."""
    if devices > MAX_DEVICES:
        raise InvalidInput(
            advert.path, f"has {devices} devices", f"at most {MAX_DEVICES} are supported"
        )
    return devices


def _partitioned(advert: _Advert, memory: int) -> tuple[Device, ...]:
    """Devices whose fixed instances add up to the advertised counts, filled one after another."""
    counts = advert.mig
    size = memory * 8 if 0 < memory < 20_000 else memory  # per instance under strategy "single"
    geometry = geometry_for(advert.product, size) or next(
        (g.name for g in GEOMETRIES.values() if all(g.profile(p) for p in counts)), ""
    )
    known = GEOMETRIES.get(geometry)
    if known is None or not all(known.profile(profile) for profile in counts):
        raise InvalidInput(
            advert.path,
            f"no known device has the MIG profiles {', '.join(sorted(counts)[:_NAMED])}",
            "check the product label",
        )
    devices: list[Device] = []
    while any(counts.values()):
        _few(advert, len(devices) + 1)
        layout = _largest_layout(geometry, counts)
        for profile, _ in layout:
            counts[profile] -= 1
        devices.append(Device(advert.product, 0, mig=geometry, mig_layout=layout))
    return tuple(devices)


def _largest_layout(geometry: str, counts: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """As many of the wanted instances as one device can have, largest first."""
    chosen: dict[str, int] = {}
    layout: tuple[tuple[str, int], ...] = ()
    for profile in GEOMETRIES[geometry].profiles:
        while chosen.get(profile.name, 0) < counts.get(profile.name, 0):
            more = chosen | {profile.name: chosen.get(profile.name, 0) + 1}
            found = layout_for(geometry, more)
            if found is None:
                break
            chosen, layout = more, found
    return layout
