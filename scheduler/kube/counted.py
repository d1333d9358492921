"""Counted resources of Node and Pod objects: what NodeResourcesFit adds up, devices apart.

Extended resources, hugepages, ephemeral storage and whatever else has a qualified name. Names that
stand for devices are understood as devices, on nodes and pods alike; those that an ecosystem uses
to say *how* a pod wants its devices are on no node, and kube-scheduler is told to ignore them.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from scheduler.core.errors import InvalidInput
from scheduler.core.model import MAX_COUNTED
from scheduler.kube.objects import Quantities
from scheduler.kube.quantity import units
from scheduler.kube.resource_names import ResourceNames

__all__ = ["counted_by", "counted_on", "is_counted"]

_MOST = 1 << 62
_NATIVE = ("ephemeral-storage", "hugepages-", "attachable-volumes-")


def is_counted(name: str, names: ResourceNames) -> bool:
    """Whether a resource is counted, and stands for no device."""
    if "/" in name:
        return not name.startswith("requests.") and not names.is_of_devices(name)
    return name.startswith(_NATIVE)


def counted_on(allocatable: Quantities, names: ResourceNames, path: str) -> dict[str, int]:
    """What a node offers; :class:`InvalidInput` if that cannot be read, or is very much."""
    found: dict[str, int] = {}
    for name, quantity in allocatable.items():
        if not is_counted(name, names):
            continue
        amount = units(quantity, f"{path}[{name}]")
        if amount < 0:
            raise InvalidInput(f"{path}[{name}]", f"is negative ({amount})")
        found[name] = min(amount, _MOST)
        if len(found) > MAX_COUNTED:
            raise InvalidInput(path, f"names more than {MAX_COUNTED} resources")
    return found


def counted_by(totals: Mapping[str, Fraction], names: ResourceNames) -> tuple[tuple[str, int], ...]:
    """What a pod asks for. Of very many names as many stay as a node may have: it fits nowhere."""
    found = sorted((n, v) for n, v in totals.items() if v and is_counted(n, names))
    return tuple((name, min(-(-value // 1), _MOST)) for name, value in found[: MAX_COUNTED + 1])
