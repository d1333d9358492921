"""A Node object -> what it can give.

How its GPUs are understood, first match wins:

0. A foreign protocol that describes its devices: :mod:`scheduler.kube.protocols`.
1. ``nvidia.com/mig-*``: partitioned devices whose fixed instances realise the advertised counts.
2. ``nvidia.com/gpu.shared``, or a replicas label above 1: time-sliced devices.
3. ``snugfit.io/gpu-milli``: plain devices, one per 1000.
4. a whole-device resource: plain devices. Capacity beyond allocatable counts as unhealthy.
"""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.core.errors import InvalidInput
from scheduler.core.mig import GEOMETRIES, geometry_for, layout_for
from scheduler.core.model import DEVICE_MILLI, Device, Node, Taint
from scheduler.kube.names import ResourceNames
from scheduler.kube.objects import NodeObject, Quantities
from scheduler.kube.protocols import registered
from scheduler.kube.quantity import mebibytes, milli, whole

__all__ = ["node_of"]


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
    conditions = (obj.status.conditions if obj.status else None) or []
    ready = next((c.status == "True" for c in conditions if c.type == "Ready"), True)
    return Node(
        name=name,
        cpu_milli=milli(allocatable.get("cpu", 0), f"{path}.cpu", up=False),
        memory_mib=mebibytes(allocatable.get("memory", 0), f"{path}.memory", up=False),
        pods=whole(allocatable.get("pods", 110), f"{path}.pods"),
        devices=devices,
        labels=labels,
        taints=tuple(
            Taint(t.key, t.value or "", t.effect)
            for t in (obj.spec.taints if obj.spec else None) or ()
        ),
        unschedulable=bool(obj.spec and obj.spec.unschedulable),
        ready=ready,
        resource=resource,
    )


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

    def count(self, resource: str) -> int:
        found = whole(self._allocatable.get(resource, 0), f"{self.path}[{resource}]")
        if found < 0:
            raise InvalidInput(f"{self.path}[{resource}]", f"is negative ({found})")
        return found

    def missing(self, resource: str) -> int:
        """Devices that the node has but does not offer."""
        has = whole(self._capacity.get(resource, 0), f"{self.path}[{resource}]")
        return max(0, has - self.count(resource))

    def label(self, key: str, default: int) -> int:
        text = self.labels.get(key, "")
        return int(text) if text.isdecimal() else default

    @property
    def product(self) -> str:
        """Device model, without what feature discovery appends for sharing and MIG."""
        for key in self.names.product_labels:
            if key in self.labels:
                return self.labels[key].removesuffix("-SHARED").split("-MIG-")[0]
        return ""

    @property
    def mig(self) -> dict[str, int]:
        prefix = self.names.mig_prefix
        found: dict[str, int] = {}
        for resource in self._allocatable:
            if resource.startswith(prefix) and self.count(resource):
                profile = resource[len(prefix) :].replace(".me", "+me")
                found[profile] = self.count(resource)
        return found


def _devices(advert: _Advert) -> tuple[tuple[Device, ...], str]:
    names = advert.names
    resource = next((r for r in names.whole if advert.count(r)), names.whole[0])
    memory = advert.label(names.memory_label, 0)
    if advert.mig:
        return _partitioned(advert, memory), resource
    replicas = advert.label(names.replicas_label, 1)
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
        return (device,) * (count // replicas), resource
    count, missing = advert.count(resource), advert.missing(resource)
    if advert.count(names.milli):
        count, rest = divmod(advert.count(names.milli), DEVICE_MILLI)
        if rest:
            raise InvalidInput(
                f"{advert.path}[{names.milli}]", "is no multiple of 1000", "advertise whole devices"
            )
        missing = 0
    healthy, sick = (Device(advert.product, memory, healthy=ok) for ok in (True, False))
    return (healthy,) * count + (sick,) * missing, resource


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
            f"no known device has the MIG profiles {', '.join(sorted(counts))}",
            "check the product label",
        )
    devices = []
    while any(counts.values()):
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
