"""A Node object -> what it can give.

Its devices are those that a foreign protocol describes (:mod:`scheduler.kube.sharing.table`), or
else those that stand behind what it advertises (:mod:`scheduler.kube.advertised`).

Every number is bounded when it is read, before anything of its size is made: a kubelet or a device
plugin that says nonsense costs its own node its devices, and nobody else anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.model import (
    MAX_TAINTS,
    Device,
    Node,
    Serves,
    Taint,
)
from scheduler.core.plural import plural
from scheduler.kube.advertised import Advert, devices_of
from scheduler.kube.counted import counted_on, is_counted
from scheduler.kube.objects import NodeObject, NodeStatus, Quantities
from scheduler.kube.quantity import milli, units, whole
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.claims import Registered
from scheduler.kube.sharing.table import registered

__all__ = ["described_node", "node_of", "without_devices"]

_NATIVE = ("cpu", "memory", "pods")


def node_of(obj: NodeObject, names: ResourceNames | None = None) -> Node:
    """The node as the engine sees it.

    Raises
    ------
    InvalidInput
        A quantity cannot be read, or the advertised GPUs cannot exist. Names the field.
    """
    names = names or ResourceNames()
    return described_node(obj, names, registered(obj, names))


def described_node(
    obj: NodeObject, names: ResourceNames, foreign: tuple[list[Registered], str] | None
) -> Node:
    """As :func:`node_of`, of a node that a foreign protocol describes like this, or none does."""
    name = obj.metadata.name
    allocatable = (obj.status.allocatable if obj.status else None) or {}
    capacity = (obj.status.capacity if obj.status else None) or {}
    labels = obj.metadata.labels or {}
    path = f"node[{name}].status.allocatable"
    if foreign is not None:
        devices, resource = tuple(one.device for one in foreign[0]), foreign[1]
        _refuse_instances(path, len(devices), allocatable, labels, names)
        devices += _of_other_vendors(path, allocatable, capacity, labels, names)
    else:
        devices, resource = devices_of(Advert(path, allocatable, capacity, labels, names))
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
        offers=_offers(path, allocatable, names),
        serves=_serves(path, allocatable, labels, names) if foreign is None else Serves.BOTH,
    )


def _refuse_instances(
    path: str,
    described: int,
    allocatable: Quantities,
    labels: Mapping[str, str],
    names: ResourceNames,
) -> None:
    """Refuse MIG instances beside devices that another protocol describes and hands out.

    They may be instances of these very devices, unless a label counts enough devices for both.
    """
    offered = {n: q for n, q in allocatable.items() if n.startswith(names.mig_prefix)}
    if not any(units(quantity, f"{path}[{name}]") for name, quantity in offered.items()):
        return
    counts = (names.count_label, names.cloud_count_label)
    there = Advert(path, {}, {}, labels, names).physical
    uncounted = {key: value for key, value in labels.items() if key not in counts}
    instances, _ = devices_of(Advert(path, offered, {}, uncounted, names))
    if described + len(instances) > there:
        raise InvalidInput(
            path,
            f"offers {', '.join(sorted(offered))} beside {plural(described, 'device')} that "
            "another device plugin describes, which may be the same",
            "have each GPU of the node offered by one of the two",
        )


def _of_other_vendors(
    path: str,
    allocatable: Quantities,
    capacity: Quantities,
    labels: Mapping[str, str],
    names: ResourceNames,
) -> tuple[Device, ...]:
    """Devices beside those that a foreign protocol describes, which are of the first vendor."""
    first = names.whole[0].partition("/")[0] + "/"
    offered, there = (
        {n: q for n, q in stated.items() if names.counts_units(n) and not n.startswith(first)}
        for stated in (allocatable, capacity)
    )
    if not offered:
        return ()
    vendors = tuple(name.partition("/")[0] + "/" for name in offered)
    foreign = [n for n in names.product_labels if not n.startswith(vendors)]
    own_labels = {key: value for key, value in labels.items() if key not in foreign}
    devices, own = devices_of(Advert(path, offered, there, own_labels, names))
    return tuple(replace(device, resource=device.resource or own) for device in devices)


def _offers(path: str, allocatable: Quantities, names: ResourceNames) -> tuple[str, ...]:
    """Names of devices of which some are offered; kubelets go on listing those that have left."""
    listed = sorted(filter(names.stands_for_devices, allocatable))
    return tuple(name for name in listed if units(allocatable[name], f"{path}[{name}]"))


def _serves(
    path: str, allocatable: Quantities, labels: Mapping[str, str], names: ResourceNames
) -> Serves:
    """Who may have devices that are offered both whole and in parts."""
    advert = Advert(path, allocatable, {}, labels, names)
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
