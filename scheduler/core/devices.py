"""Which devices of a node a request takes.

A policy decides between the devices of a node only for a fraction (the one real choice). Whole
devices are the first free ones by index; MIG instances go where they destroy least capability;
time-sliced replicas fill the fullest device first. Scores and placements both come from the
functions of this module, so that what was scored is what gets placed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from scheduler.core.groups import asks_on, is_odd, odd_rows, views
from scheduler.core.mig import SLOT_MASKS, Packing, pack
from scheduler.core.mig_tables import packed
from scheduler.core.model import DEVICE_MILLI, DeviceShare, GpuKind, GpuRequest
from scheduler.core.state import ClusterState, DeviceCode

__all__ = [
    "fraction_need",
    "mig_codes",
    "mig_packing",
    "mig_shares",
    "replica_counts",
    "replica_shares",
    "shares_of",
    "slots_after",
]

IntArray = NDArray[np.int64]


def fraction_need(
    state: ClusterState, gpu: GpuRequest, rows: IntArray
) -> tuple[IntArray, IntArray]:
    """What a fraction takes of one device on each row.

    A bound that the request does not state follows pro rata from the other one, rounded down, so
    that shares which fit by what they state always fit together.

    Returns
    -------
    milli : (R,) int64
        Milli-GPU, at least 1.
    memory_mib : (R,) int64
        Device memory; 0 where the device's memory is unknown.
    """
    odd = odd_rows(state, gpu, rows)
    size = state.device_mem[rows, 0].astype(np.int64)
    for view in views(state, gpu, rows, odd) if odd is not None else ():
        size[view.at] = view.asks[0][0].device_mem[:, 0]
    if gpu.memory_mib and not gpu.milli:
        known = np.maximum(size, 1)
        milli = np.clip(gpu.memory_mib * DEVICE_MILLI // known, 1, DEVICE_MILLI)
        return np.where(size > 0, milli, DEVICE_MILLI), np.where(size > 0, gpu.memory_mib, 0)
    milli = np.full(len(rows), gpu.milli, dtype=np.int64)
    if gpu.memory_mib:
        return milli, np.where(size > 0, gpu.memory_mib, 0)
    return milli, size * gpu.milli // DEVICE_MILLI


def mig_packing(state: ClusterState, gpu: GpuRequest, row: int) -> Packing | None:
    """Slots for all MIG instances of the request on one row, or None if they do not fit."""
    types = state.mig_types_of(row)
    return pack(types, tuple(state.slots_free[row, : len(types)].tolist()), gpu.mig)


@lru_cache(maxsize=65_536)
def replica_counts(free: tuple[int, ...], wanted: int) -> tuple[tuple[int, int], ...] | None:
    """``(device, replicas)`` pairs that make up ``wanted``, the fullest device first, or None."""
    taken = []
    for index in sorted(range(len(free)), key=lambda index: (free[index], index)):
        count = min(wanted, free[index])
        if count > 0:
            taken.append((index, count))
            wanted -= count
        if not wanted:
            return tuple(sorted(taken))
    return None


def replica_shares(
    state: ClusterState, gpu: GpuRequest, row: int
) -> tuple[tuple[int, int], ...] | None:
    """``(device, replicas)`` pairs for a time-sliced request on one row, or None."""
    count = int(state.device_count[row])
    shared = state.device_code[row, :count] == DeviceCode.SHARED
    free = np.where(shared, state.slots_free[row, :count], 0)
    return replica_counts(tuple(free.tolist()), gpu.replicas)


def slots_after(
    state: ClusterState, gpu: GpuRequest, rows: IntArray
) -> tuple[NDArray[np.bool_], IntArray]:
    """What a request for MIG instances or replicas leaves on each row, as it would be placed there.

    Returns
    -------
    fits : (R,) bool
        Whether the row has enough left.
    after : (R, D) int64
        ``slots_free`` then; where it does not fit, as it is.
    """
    free = state.slots_free[rows]
    if gpu.kind is GpuKind.MIG:
        types = mig_codes(state, rows)
        fits, masks = packed(state.mig_types, types, free & (SLOT_MASKS - 1), gpu.mig)
        return fits, np.where(types >= 0, masks, free)
    left = np.where(state.device_code[rows] == DeviceCode.SHARED, np.maximum(free, 0), 0)
    fullest_first = np.argsort(left, axis=1, kind="stable")
    ordered = np.take_along_axis(left, fullest_first, axis=1)
    before = np.cumsum(ordered, axis=1) - ordered
    taken = np.minimum(np.maximum(gpu.replicas - before, 0), ordered)
    fits = left.sum(axis=1) >= gpu.replicas
    after = free.copy()
    np.put_along_axis(
        after, fullest_first, np.take_along_axis(free, fullest_first, axis=1) - taken, 1
    )
    return fits, np.where(fits[:, None], after, free)


def mig_codes(state: ClusterState, rows: IntArray | slice) -> IntArray:
    """Position in ``mig_types`` of each device of rows, (R, D); -1 if it is not partitioned."""
    codes = state.device_code[rows].astype(np.int64)
    return np.where(codes >= DeviceCode.MIG, codes - DeviceCode.MIG, -1)


def shares_of(
    state: ClusterState, gpu: GpuRequest, row: int, device: int
) -> tuple[DeviceShare, ...] | None:
    """The device shares of a placement, or None if the devices do not suffice.

    Parameters
    ----------
    state
        Where to place.
    gpu
        What to place.
    row
        Row of the node.
    device
        Device that the policy chose for a fraction; ignored otherwise.
    """
    if is_odd(state, gpu, row):
        found = [shares_of(seen, ask, 0, device) for seen, ask in asks_on(state, gpu, row)]
        complete = [shares for shares in found if shares is not None]
        return tuple(chain(*complete)) if len(complete) == len(found) else None
    match gpu.kind:
        case GpuKind.NONE:
            return ()
        case GpuKind.WHOLE:
            full = np.flatnonzero(state.gpu_free[row] == DEVICE_MILLI)[: gpu.count].tolist()
            if len(full) < gpu.count:
                return None
            memory = state.device_mem[row].tolist()
            return tuple(DeviceShare(index, DEVICE_MILLI, memory[index]) for index in full)
        case GpuKind.FRACTION:
            if device < 0:
                return None
            milli, memory_mib = fraction_need(state, gpu, np.array([row]))
            return (DeviceShare(device, int(milli[0]), int(memory_mib[0])),)
        case GpuKind.MIG:
            packing = mig_packing(state, gpu, row)
            return None if packing is None else mig_shares(state, row, packing.instances)
        case GpuKind.SHARED:
            shares = replica_shares(state, gpu, row)
            if shares is None:
                return None
            return tuple(
                DeviceShare(
                    index, replicas * DEVICE_MILLI // int(state.replicas[row, index]), 0, replicas
                )
                for index, replicas in shares
            )


def mig_shares(
    state: ClusterState, row: int, instances: Iterable[tuple[int, int]]
) -> tuple[DeviceShare, ...]:
    """The shares that ``(device, slot mask)`` pairs of one row add up to."""
    masks: dict[int, int] = {}
    for index, mask in instances:
        masks[index] = masks.get(index, 0) | mask
    shares = []
    for index, mask in sorted(masks.items()):
        mig = state.mig_types[int(state.device_code[row, index]) - DeviceCode.MIG]
        shares.append(DeviceShare(index, mig.milli(mask), 0, mask))
    return tuple(shares)
