"""Devices that are shared by systems whose records we do not read.

Such a system is seen by a *resource* of it that a node offers and a pod asks for: the node really
has it, and kube-scheduler has counted it. An annotation alone says nothing, as tenants write those.
Which devices these pods have is not known; so many of the node's are withheld as they may be on,
each pod on devices of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from scheduler.core.model import GpuRequest, Node, PodRequest
from scheduler.kube.objects import PodObject
from scheduler.kube.resource_names import ResourceNames

__all__ = ["awaited_scheduler", "foreign_share", "sharing_resources", "system_of", "unread"]

_READ = (
    ("aliyun.com/gpu-", "gpushare"),
    ("nvidia.com/gpumem", "HAMi"),
    ("nvidia.com/gpucores", "HAMi"),
)
_UNREAD = (
    ("alibabacloud.com/gpu-", "open-gpu-share"),
    ("elasticgpu.io/", "Elastic GPU"),
    ("koordinator.sh/gpu", "Koordinator"),
    ("nvidia.com/vgpu-", "vgpu-manager"),
    ("nvidia.com/vgpu", "HAMi by a name of its own"),
    ("tencent.com/vcuda-", "gpu-manager"),
    ("volcano.sh/gpu-", "Volcano"),
    ("volcano.sh/vgpu-", "Volcano"),
)
_NUMBERS = ("number", "count", "num", "shared", "pgpu", "vgpu")
"""Last words of resources that count devices, each of which is another one."""

_KAI_WISHES = frozenset({"gpu-fraction", "gpu-memory", "gpu-fraction-num-devices"})
_PASS_OVER = ("", "default-scheduler", "snugfit")

UNREAD_SYSTEMS = frozenset(system for _, system in _UNREAD)


def system_of(resource: str) -> str:
    """The sharing system that a resource belongs to; empty if it is of none."""
    return next((name for prefix, name in (*_READ, *_UNREAD) if resource.startswith(prefix)), "")


def sharing_resources(offered: Iterable[str]) -> list[str]:
    """Those resources that belong to a sharing system, sorted."""
    return sorted(resource for resource in offered if system_of(resource))


def unread(resources: Iterable[str]) -> str:
    """The first system among these resources whose records are not read; empty if there is none."""
    found = (system_of(resource) for resource in sorted(resources))
    return next((system for system in found if system in UNREAD_SYSTEMS), "")


def awaited_scheduler(pod: PodObject, names: ResourceNames) -> str:
    """The sharing system whose own scheduler alone can place a pod; empty if there is none.

    What a pod asks KAI for stands in annotations, which any other scheduler passes over, so that
    they count only where another one is to place it. HAMi's resources are offered by no node.
    """
    spec, annotations = pod.spec, pod.metadata.annotations or {}
    if not _KAI_WISHES.isdisjoint(annotations) and (spec.scheduler_name or "") not in _PASS_OVER:
        return "KAI Scheduler"
    wishes = (names.hami_memory, names.hami_percent, names.hami_cores)
    for container in (*(spec.containers or ()), *(spec.init_containers or ())):
        asked = container.resources
        for stated in (asked.requests, asked.limits) if asked else ():
            if any(str((stated or {}).get(name, 0)) != "0" for name in wishes):
                return "HAMi"
    return ""


def unread_offers(node: Node) -> dict[str, int]:
    """What a node offers of systems whose records are not read."""
    return {n: amount for n, amount in node.counted.items() if system_of(n) in UNREAD_SYSTEMS}


def foreign_share(request: PodRequest, node: Node) -> tuple[str, tuple[GpuRequest, ...]]:
    """What a pod has of a node's devices by such a system.

    Returns
    -------
    system
        Its name; empty if the pod has nothing by any.
    withheld
        Devices to charge it for; none where the node has no devices that we know.
    """
    asked = {
        name: amount
        for name, amount in request.counted
        if system_of(name) in UNREAD_SYSTEMS and node.counted.get(name)
    }
    if not asked:
        return "", ()
    count = _devices(asked, node.counted, len(node.devices))
    return unread(asked), (GpuRequest(count=count),) if count else ()


def _devices(asked: Mapping[str, int], offered: Mapping[str, int], there: int) -> int:
    """Devices that so much may be on: by number, else by the share of all that the node offers."""
    most = 0
    for name, amount in asked.items():
        numbered = re.split(r"[-./]", name)[-1] in _NUMBERS
        most = max(most, amount if numbered else -(-amount * there // offered[name]))
    return min(most, there)
