"""Columns of the cluster's state: names, types, and what a pod or a node may count for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import MAX_MEMORY_BYTES, DeviceShare, GpuKind, GpuRequest, Serves

__all__ = [
    "AFFINITY_KINDS",
    "COLUMNS",
    "Columns",
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
    """What an amount counts for in a column: no more than fits anywhere."""
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


class Columns:
    """The columns of a state, a row per node.

    Attributes
    ----------
    cpu_alloc, mem_alloc, pods_alloc : (N,) int64
        Allocatable milli-CPU, bytes, pods.
    cpu_free, mem_free, pods_free : (N,) int64
        What is left; negative where a node is over-full, -1 on an empty row.
    gpu_used, gpu_left : (N,) int64, int32
        Milli-GPU taken by pods, and milli-GPU left on devices that can be handed out.
    device_count : (N,) int16
        Devices, healthy or not.
    product : (N,) int16
        Code of ``(resource, product)`` in ``products``; 0 for a node without devices.
    full_free, most_free : (N,) int16, int64
        Plain devices that are entirely free; milli-GPU free on the emptiest plain one (-1: none).
    gpu_free : (N, D) int64
        Milli-GPU left per plain device; -1 if absent, unhealthy, MIG or time-sliced. Facts may
        over-fill a device many times, hence no smaller type.
    device_mem, device_mem_free : (N, D) int64
        Device memory in MiB, 0 if unknown.
    slots_free : (N, D) int64
        Free MIG slots as a bit mask, or free replicas of a time-sliced device.
    device_code : (N, D) int16
        See :class:`DeviceCode`.
    replicas : (N, D) int16
        Replicas of a time-sliced device, else 1.
    affinity : (N, AFFINITY_KINDS) int32
        Pods on the row by kind of GPU request, see :func:`affinity_of`.
    serves : (N,) int8
        See :class:`scheduler.core.model.Serves`.
    make : (N,) int32
        Code of what is odd about the row's devices, see :mod:`scheduler.core.makes`; 0 if nothing.
    plugin_pods, chosen_pods : (N,) int32
        Pods that have devices from the device plugin, and pods whose devices were chosen here.
    generation : (N,) int64
        Stamp of the last change to the row.
    counted : CountedColumns
        Counted resources, offered and left.
    """

    cpu_alloc: NDArray[np.int64]
    mem_alloc: NDArray[np.int64]
    pods_alloc: NDArray[np.int64]
    cpu_free: NDArray[np.int64]
    mem_free: NDArray[np.int64]
    pods_free: NDArray[np.int64]
    gpu_used: NDArray[np.int64]
    device_count: NDArray[np.int16]
    product: NDArray[np.int16]
    full_free: NDArray[np.int16]
    most_free: NDArray[np.int64]
    gpu_left: NDArray[np.int32]
    make: NDArray[np.int32]
    generation: NDArray[np.int64]
    gpu_free: NDArray[np.int64]
    device_mem_free: NDArray[np.int64]
    device_mem: NDArray[np.int64]
    slots_free: NDArray[np.int64]
    device_code: NDArray[np.int16]
    replicas: NDArray[np.int16]
    affinity: NDArray[np.int32]
    serves: NDArray[np.int8]
    plugin_pods: NDArray[np.int32]
    chosen_pods: NDArray[np.int32]

    def __init__(self, rows: int = 0, devices: int = 1) -> None:
        self._size = 0
        self._stored: dict[str, NDArray[np.signedinteger]] = {}
        self._allocate(rows, devices)

    def __len__(self) -> int:
        """Number of rows, empty ones included."""
        return self._size

    def _allocate(self, rows: int, devices: int) -> None:
        for name, dtype, empty, axes in COLUMNS:
            shape = ((rows,), (rows, devices), (rows, AFFINITY_KINDS))[axes]
            grown = np.full(shape, empty, dtype=dtype)
            old = self._stored.get(name)
            if old is not None:
                grown[tuple(slice(0, length) for length in old.shape)] = old
            self._stored[name] = grown
        self._expose()

    def _grow(self, rows: int, devices: int) -> None:
        have_rows, have_devices = self._stored["gpu_free"].shape
        if rows > have_rows or devices > have_devices:
            # Doubling keeps a cluster that grows node by node linear in time.
            more = have_rows if rows <= have_rows else max(rows, 2 * have_rows)
            self._allocate(more, max(devices, have_devices))

    def _expose(self) -> None:
        """Publish the live part of the stored columns as attributes (views, not copies)."""
        for name, column in self._stored.items():
            setattr(self, name, column[: self._size])
