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
from scheduler.core.model import DEVICE_MILLI, MAX_DEVICE_MEMORY_MIB, MAX_DEVICES
from scheduler.kube.names import ResourceNames
from scheduler.kube.objects import NodeObject
from scheduler.kube.quantity import bounded, parse, whole

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
    allocatable = (node.status.allocatable if node.status else None) or {}
    labels = node.metadata.labels or {}
    path = f"node[{node.metadata.name}].status.allocatable"
    offered = {
        r: count
        for r in (*names.whole, names.shared)
        if (count := whole(allocatable.get(r, 0), f"{path}[{r}]"))
    }
    if any(r.startswith(names.mig_prefix) and str(q) != "0" for r, q in allocatable.items()):
        return 0, "its devices are partitioned by MIG"
    if names.shared in offered or labels.get(names.replicas_label, "1") not in ("0", "1", ""):
        return 0, "its devices are time-sliced by the device plugin"
    if len(offered) > 1:
        return 0, f"it offers {' and '.join(sorted(offered))}: which are these devices?"
    if offered:
        ((resource, count),) = offered.items()
        return count, (
            f"the device plugin hands out {resource} by itself: let pods of this node ask for "
            f"{names.milli} only, whole devices too"
        )
    if labelled := _stated(node, COUNT_LABEL, MAX_DEVICES):
        return labelled, ""
    return 0, "no GPU: neither a whole-device resource nor the label " + COUNT_LABEL


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
