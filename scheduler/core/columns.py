"""Columns of the cluster's state: names, types, and what a pod or a node may count for."""

from __future__ import annotations

import numpy as np

from scheduler.core.model import MAX_MEMORY_BYTES, DeviceShare, GpuKind, GpuRequest, Serves

__all__ = [
    "AFFINITY_KINDS",
    "COLUMNS",
    "DeviceCode",
    "affinity_of",
    "counted",
    "counted_bytes",
    "counted_share",
]

AFFINITY_KINDS = 12
"""Columns of ``affinity``: fraction, 1..8 whole devices, more, MIG, time-sliced."""

_MOST = 1 << 40  # what anything counts for: four million pods of it on one row stay below 2^63


class DeviceCode:
    """What stands in ``device_code``; codes from ``MIG`` up name an entry of ``mig_types``."""

    ABSENT = -1
    PLAIN = 0
    UNHEALTHY = 1
    SHARED = 2
    MIG = 3


def affinity_of(gpu: GpuRequest) -> int:
    """Column of ``affinity`` for this kind of request, or -1 if it asks for no device."""
    match gpu.kind:
        case GpuKind.NONE:
            return -1
        case GpuKind.FRACTION:
            return 0
        case GpuKind.WHOLE:
            return min(gpu.count, 9)
        case GpuKind.MIG:
            return 10
        case GpuKind.SHARED:
            return 11


PER_NODE, PER_DEVICE, PER_KIND = range(3)

# (name, dtype, value of an empty row, axes)
COLUMNS: tuple[tuple[str, type[np.signedinteger], int, int], ...] = (
    ("cpu_alloc", np.int64, 0, PER_NODE),
    ("mem_alloc", np.int64, 0, PER_NODE),
    ("pods_alloc", np.int64, 0, PER_NODE),
    ("cpu_free", np.int64, -1, PER_NODE),
    ("mem_free", np.int64, -1, PER_NODE),
    ("pods_free", np.int64, -1, PER_NODE),
    ("gpu_used", np.int64, 0, PER_NODE),
    ("device_count", np.int16, 0, PER_NODE),
    ("product", np.int16, 0, PER_NODE),
    ("full_free", np.int16, 0, PER_NODE),
    ("most_free", np.int64, -1, PER_NODE),
    ("gpu_left", np.int32, 0, PER_NODE),
    ("make", np.int32, 0, PER_NODE),
    ("generation", np.int64, 0, PER_NODE),
    ("gpu_free", np.int64, -1, PER_DEVICE),
    ("device_mem_free", np.int64, 0, PER_DEVICE),
    ("device_mem", np.int64, 0, PER_DEVICE),
    ("slots_free", np.int64, 0, PER_DEVICE),
    ("device_code", np.int16, DeviceCode.ABSENT, PER_DEVICE),
    ("replicas", np.int16, 1, PER_DEVICE),
    ("affinity", np.int32, 0, PER_KIND),
    ("serves", np.int8, Serves.BOTH, PER_NODE),
    ("plugin_pods", np.int32, 0, PER_NODE),
    ("chosen_pods", np.int32, 0, PER_NODE),
)


def counted(amount: int) -> int:
    """What an amount counts for in a column. Whoever asks for more than fits anywhere fills up."""
    return min(max(int(amount), 0), _MOST)


def counted_bytes(amount: int) -> int:
    """The same of bytes of memory, of which a node may have more than a pod of anything else.

    65,000 pods of as much as the largest node has stay below 2^63 on one row; a kubelet starts a
    few hundred.
    """
    return min(max(int(amount), 0), MAX_MEMORY_BYTES)


def counted_share(share: DeviceShare) -> DeviceShare:
    """The same of a share; its slots are a mask or a count, which depends on the device."""
    if 0 <= share.milli <= _MOST and 0 <= share.memory_mib <= _MOST and type(share.index) is int:
        return share  # nearly always
    milli, memory = counted(share.milli), counted(share.memory_mib)
    return DeviceShare(int(share.index), milli, memory, int(share.slots))
