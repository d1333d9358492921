"""Why a placement would take more of a row than is left."""

from __future__ import annotations

from scheduler.core.columns import DeviceCode
from scheduler.core.model import DeviceShare, Placement, PodRequest
from scheduler.core.plural import plural
from scheduler.core.rows import Rows

__all__ = ["misfit", "share_misfit"]


def misfit(state: Rows, row: int, placement: Placement, *, devices_only: bool = False) -> str:
    """Why a placement would over-commit the row, or its devices; empty if it would not."""
    problem = "" if devices_only else _counted_misfit(state, row, placement.pod)
    return problem or _devices_misfit(state, row, placement)


def _counted_misfit(state: Rows, row: int, pod: PodRequest) -> str:
    if 0 < pod.cpu_milli > state.cpu_free[row]:
        return f"{pod.cpu_milli} milli-CPU requested, {state.cpu_free[row]} free"
    if 0 < pod.memory_bytes > state.mem_free[row]:
        return f"{pod.memory_bytes} bytes of memory requested, {state.mem_free[row]} free"
    if state.pods_free[row] < 1:
        return "no pod slot is free"
    return state.counted.misfit(pod.counted, row)


def _devices_misfit(state: Rows, row: int, placement: Placement) -> str:
    if placement.devices and state.otherwise_served(row, placement.pod.gpu):
        return "its devices are handed out in another way"
    seen: set[int] = set()
    for share in placement.devices:
        problem = share_misfit(state, row, share)
        if problem:
            return problem
        if share.index in seen:
            return f"device {share.index} is listed twice"
        seen.add(share.index)
    return ""


def share_misfit(state: Rows, row: int, share: DeviceShare) -> str:
    """Why the row's device has not that much left; empty if it has."""
    index = share.index
    if not 0 <= index < state.device_count[row]:
        return f"device {index} does not exist"
    code = int(state.device_code[row, index])
    if code == DeviceCode.UNHEALTHY:
        return f"device {index} is unhealthy"
    if code == DeviceCode.PLAIN:
        if share.slots or state.gpu_free[row, index] < share.milli:
            return f"device {index} has {state.gpu_free[row, index]} milli-GPU free"
        if state.device_mem[row, index] and state.device_mem_free[row, index] < share.memory_mib:
            return f"device {index} has {state.device_mem_free[row, index]} MiB free"
    elif code == DeviceCode.SHARED:
        if not 0 < share.slots <= state.slots_free[row, index]:
            replicas = plural(int(state.slots_free[row, index]), "replica")
            return f"device {index} has {replicas} free"
    elif not share.slots or share.slots & ~int(state.slots_free[row, index]):
        return f"device {index} has not all of these MIG slots free"
    return ""
