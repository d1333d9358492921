"""Places for members that do not exist yet: off by default, and bounded by a share of the cluster.

Whoever states that a gang is large has stated it for nothing; what exists has been let in by a
quota. So such places count against what a namespace may hold for members to come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from scheduler.core.columns import DeviceCode
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import DEVICE_MILLI, PodRequest, Shape
from scheduler.core.state import ClusterState

__all__ = ["allows", "is_born", "stand_ins"]

_TO_COME = "to come "


def is_born(member: PodRequest) -> bool:
    """Whether this is a pod, and not what stands for one that does not exist."""
    return not member.uid.startswith(_TO_COME)


def stand_ins(
    spec: GangSpec, present: Iterable[PodRequest], like: PodRequest, count: int, serial: int
) -> list[PodRequest]:
    """What holds the places of so many members to come, numbered from ``serial``.

    They are taken to be as the workload object says of their roles, and like this one where it says
    nothing.
    """
    there = Counter(member.role for member in present)
    models: list[PodRequest] = []
    for role in spec.roles:
        lacking = 0 if role.later else max(0, role.replicas - there[role.name])
        models += [role.like or like] * min(lacking, count - len(models))
    models += [like] * (count - len(models))
    key = spec.key
    return [
        replace(model, uid=f"{_TO_COME}{serial + at} of {key.label}", name=f"{key.name}-to-come")
        for at, model in enumerate(models)
    ]


def allows(
    state: ClusterState, share: float, held: Iterable[Shape], more: Sequence[PodRequest]
) -> bool:
    """Whether a namespace that holds places of these shapes may have more.

    Parameters
    ----------
    state
        The cluster.
    share
        Of what it has, 0 to 1.
    held
        Shapes of the places that the namespace's gangs hold for members to come.
    more
        Who is to have a place.
    """
    shapes = [*held, *(member.shape for member in more)]
    devices = int((state.device_code >= DeviceCode.PLAIN).sum()) * DEVICE_MILLI
    for needs, has in (
        (_milli, devices),
        (_cpu, int(state.cpu_alloc.sum())),
        (_memory, int(state.mem_alloc.sum())),
    ):
        if sum(map(needs, shapes)) > share * has:
            return False
    return len(shapes) <= share * int(state.pods_alloc.sum(dtype="int64"))


def _milli(shape: Shape) -> int:
    gpu = shape.gpu
    instances = gpu.replicas + sum(count for _, count in gpu.mig)
    return gpu.requested_milli or DEVICE_MILLI * bool(gpu.memory_mib or instances)


def _cpu(shape: Shape) -> int:
    return shape.cpu_milli


def _memory(shape: Shape) -> int:
    return shape.memory_bytes
