"""What nodes have to advertise so that kube-scheduler counts fractions of GPUs.

kube-scheduler and the kubelet admit a pod that asks for ``snugfit.io/gpu-milli`` only where the
node's status lists it. No device plugin stands behind it: it is written once per node, and again
when a node has been created anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from scheduler.core.errors import InvalidInput
from scheduler.core.model import DEVICE_MILLI, MAX_DEVICE_MEMORY_MIB, MAX_DEVICES, GpuKind
from scheduler.kube.advertised import Advert as Offer
from scheduler.kube.advertised import devices_of
from scheduler.kube.objects import NodeObject
from scheduler.kube.quantity import bounded, parse, units
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.foreign import unread
from scheduler.kube.sharing.table import registered

__all__ = ["Action", "Advert", "adverts", "withdrawals"]

COUNT_LABEL = "nvidia.com/gpu.count"


class Action(StrEnum):
    """What has to be done with a node."""

    SET = "set"
    KEEP = "keep"
    REMOVE = "remove"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Advert:
    """One node.

    Parameters
    ----------
    node
        Its name.
    action
        SET and REMOVE come with a patch, KEEP is right already, SKIP cannot be.
    gpus
        Devices found.
    patch
        JSON patch of the node's status.
    note
        Why it is skipped, or what to mind.
    """

    node: str
    action: Action
    gpus: int = 0
    patch: tuple[dict[str, Any], ...] = ()
    note: str = ""


def adverts(nodes: Iterable[NodeObject], names: ResourceNames | None = None) -> list[Advert]:
    """What to write on each node: 1000 milli per device, and MiB of all where that is known."""
    names = names or ResourceNames()
    return [_advert(node, names) for node in nodes]


def withdrawals(nodes: Iterable[NodeObject], names: ResourceNames | None = None) -> list[Advert]:
    """The way back: remove what :func:`adverts` has written."""
    names = names or ResourceNames()
    found = []
    for node in nodes:
        patch = tuple(
            {"op": "remove", "path": f"/status/{part}/{_escaped(resource)}"}
            for part, stated in _parts(node)
            for resource in (names.milli, names.memory)
            if resource in stated
        )
        action = Action.REMOVE if patch else Action.KEEP
        found.append(Advert(node.metadata.name, action, patch=patch))
    return found


def _advert(node: NodeObject, names: ResourceNames) -> Advert:
    name = node.metadata.name
    try:
        gpus, note = _gpus(node, names)
        memory = _stated(node, names.memory_label, MAX_DEVICE_MEMORY_MIB)
    except InvalidInput as error:
        return Advert(name, Action.SKIP, note=str(error))
    if not gpus:
        return Advert(name, Action.SKIP, note=note)
    wanted = {names.milli: str(gpus * DEVICE_MILLI)}
    if memory:
        wanted[names.memory] = str(gpus * memory)
    patch: list[dict[str, Any]] = []
    for part, stated in _parts(node):
        missing = {
            resource: value
            for resource, value in wanted.items()
            if not _states(stated.get(resource), value)
        }
        if missing and not stated:
            patch.append({"op": "add", "path": f"/status/{part}", "value": missing})
            continue
        patch += [
            {"op": "add", "path": f"/status/{part}/{_escaped(resource)}", "value": value}
            for resource, value in missing.items()
        ]
    return Advert(name, Action.SET if patch else Action.KEEP, gpus, tuple(patch), note)


def _gpus(node: NodeObject, names: ResourceNames) -> tuple[int, str]:
    """Devices of a node, and a remark; none if fractions make no sense there."""
    if registered(node, names) is not None:
        return 0, "another system describes its devices and shares them"
    status, labels = node.status, node.metadata.labels or {}
    path = f"node[{node.metadata.name}].status.allocatable"
    offered, capacity = (
        {n: q for n, q in stated.items() if n not in (names.milli, names.memory)}
        for stated in ((status.allocatable if status else None) or {},
                       (status.capacity if status else None) or {})
    )  # fmt: skip
    if system := unread(name for name, amount in offered.items() if units(amount, path)):
        return 0, f"{system} shares its devices"
    advert = Offer(path, offered, capacity, labels, names)
    devices, own = devices_of(advert)
    if devices and not any(device.healthy for device in devices):
        return 0, "none of its devices is in service"
    there = [device for device in devices if device.healthy]
    resources = sorted({device.resource or own for device in there})
    if any(device.kind is GpuKind.MIG or device.mig for device in there):
        return 0, "its devices are partitioned by MIG"
    if any(device.kind is not GpuKind.WHOLE for device in there):
        name = resources[0]
        traced = advert.physical or advert.replicas(name) or advert.devices_stated(name)
        if len(there) == 1 and there[0].units and not traced:
            return (
                0,
                f"its {name} are not devices, and no label says how many devices they are parts of",
            )
        return 0, "its devices are time-sliced by the device plugin, or partitioned"
    if len(resources) > 1:
        return 0, f"it offers {' and '.join(resources)}: which are these devices?"
    if there and resources[0] in _MAY_BE_SHARES and not advert.devices_stated(resources[0]):
        return 0, f"its {resources[0]} may be shares of fewer devices: no label says how many"
    if there:
        return len(there), (
            f"the device plugin hands out {resources[0]} by itself: let pods of this node ask for "
            f"{names.milli} only, whole devices too"
        )
    if advert.single:  # the label counts instances
        return 0, "its devices are partitioned by MIG"
    if labelled := _stated(node, COUNT_LABEL, MAX_DEVICES):
        return labelled, ""
    return 0, "no GPU: neither a whole-device resource nor the label " + COUNT_LABEL


_MAY_BE_SHARES = ("gpu.intel.com/i915", "gpu.intel.com/xe")
"""Their device plugin offers each device as often as it was told to, and says so nowhere."""


def _stated(node: NodeObject, label: str, most: int) -> int:
    """A number that a label states; 0 without it."""
    text = (node.metadata.labels or {}).get(label, "")
    return (
        bounded(text, f"node[{node.metadata.name}].metadata.labels[{label}]", most) if text else 0
    )


def _parts(node: NodeObject) -> list[tuple[str, dict[str, Any]]]:
    status = node.status
    return [
        ("capacity", (status.capacity if status else None) or {}),
        ("allocatable", (status.allocatable if status else None) or {}),
    ]


def _states(written: object, value: str) -> bool:
    """Whether a quantity says that already; the API server writes 8000 as 8k."""
    try:
        return written is not None and parse(str(written)) == int(value)
    except InvalidInput:
        return False


def _escaped(resource: str) -> str:
    """A name inside a JSON pointer."""
    return resource.replace("~", "~0").replace("/", "~1")
