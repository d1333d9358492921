"""How partitioned devices will be cut, and what their free slots are worth then.

The flow runs over masks of free slots: an instance leads from a mask to what it leaves. Its duals
say what a device with these slots free is worth to the workload profile: seven slots in which no
large instance fits any more are worth less than seven that it fits into.

Replicas of time-sliced devices need no flow. A request may take them from several devices, so that
no remainder is lost.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from scheduler.core.mig import SLOT_MASKS, MigType
from scheduler.core.model import DEVICE_MILLI, GpuKind, GpuRequest
from scheduler.core.price_tables import EFFECTIVE_SCALE
from scheduler.core.state import ClusterState, DeviceCode
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.pricing.linear import Program

__all__ = ["least_taken", "requested_milli", "slot_values"]

IntArray = NDArray[np.int64]


def requested_milli(state: ClusterState, gpu: GpuRequest) -> int:
    """Milli-GPU that a request stands for on this cluster's devices, 0 if no device can serve it.

    Where that differs by device (instances, replicas, device memory), on those where it is least.
    """
    match gpu.kind:
        case GpuKind.MIG:
            found = [
                sum(count * mig.milli(mig.placements(name)[0]) for name, count in gpu.mig)
                for mig in state.mig_types
                if all(mig.placements(name) for name, _ in gpu.mig)
            ]
            return min(found, default=0)
        case GpuKind.SHARED:
            most = int(state.replicas[state.device_code == DeviceCode.SHARED].max(initial=0))
            return gpu.replicas * DEVICE_MILLI // most if most else 0
        case GpuKind.FRACTION if not gpu.milli:
            most = int(state.device_mem.max(initial=0))
            return min(DEVICE_MILLI, max(1, gpu.memory_mib * DEVICE_MILLI // most)) if most else 0
        case _:
            return gpu.requested_milli


def slot_values(
    state: ClusterState, profile: WorkloadProfile, scale: float
) -> dict[MigType, IntArray] | None:
    """Effective milli-GPU of partitioned devices by their mask of free slots.

    Parameters
    ----------
    state
        Its devices are what is there.
    profile, scale
        Demand: so many times the weight of each shape.

    Returns
    -------
    dict of (SLOT_MASKS,) int64
        Over ``EFFECTIVE_SCALE``, for each type of partition; empty where nobody asks for
        instances. None if the programme has no optimum.
    """
    demand: dict[str, float] = {}
    for shape in profile.all_shapes:
        for instance, count in shape.gpu.mig:
            demand[instance] = demand.get(instance, 0.0) + shape.weight * scale * count
    profiles = sorted(demand)
    flows = {
        mig: _reachable(mig, profiles, supply)
        for code, mig in enumerate(state.mig_types)
        if (supply := _supply(state, DeviceCode.MIG + code))
        and any(mig.placements(name) for name in profiles)
    }
    if not flows:
        return {}
    at = {
        (mig, mask): n
        for n, (mig, mask) in enumerate(
            (mig, mask) for mig, masks in flows.items() for mask in masks
        )
    }
    wanted = {name: len(at) + n for n, name in enumerate(profiles)}
    supplies = [float(flows[mig][mask]) for mig, mask in at]
    program = Program([*supplies, *(demand[name] for name in profiles)])
    for (mig, mask), row in at.items():
        for name in profiles:
            for need in mig.placements(name):
                if mask & need == need:
                    taken = (([row], 1.0), ([at[mig, mask & ~need]], -1.0), ([wanted[name]], 1.0))
                    program.columns(float(mig.milli(need)), taken)
    solved = program.solve()
    if solved is None:
        return None
    duals = np.maximum(solved[1], 0.0)
    prices = {name: float(duals[row]) for name, row in wanted.items()}
    return {mig: _values(mig, prices) for mig in flows}


def least_taken(slots: Mapping[MigType, IntArray], profile: str) -> int:
    """Effective milli-GPU (over ``EFFECTIVE_SCALE``) of an instance where it takes least."""
    masks = np.arange(SLOT_MASKS)
    least = [
        int((effective[fits] - effective[fits & ~need]).min())
        for mig, effective in slots.items()
        for need in mig.placements(profile)
        if len(fits := masks[(masks & need == need) & (masks & ~mig.full_mask == 0)])
    ]
    return max(0, min(least, default=0))


def _supply(state: ClusterState, code: int) -> dict[int, int]:
    """Devices of one type by their mask of free slots."""
    masks = state.slots_free[state.device_code == code] & (SLOT_MASKS - 1)
    found, counts = np.unique(masks, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _reachable(mig: MigType, profiles: list[str], supply: dict[int, int]) -> dict[int, int]:
    """Masks that devices have or can come to have, with how many have each, ascending."""
    found = dict(supply)
    todo = list(supply)
    while todo:
        mask = todo.pop()
        for name in profiles:
            for need in mig.placements(name):
                if mask & need == need and mask & ~need not in found:
                    found[mask & ~need] = 0
                    todo.append(mask & ~need)
    return dict(sorted(found.items()))


def _values(mig: MigType, prices: Mapping[str, float]) -> IntArray:
    """What each mask is worth, an entirely free device being worth itself.

    An instance is worth its slots less what one more of it in the demand would add.
    """
    gains = [
        (need, mig.milli(need) - price)
        for name, price in prices.items()
        for need in mig.placements(name)
        if mig.milli(need) > price
    ]
    values = np.zeros(SLOT_MASKS)
    for mask in range(SLOT_MASKS):  # what an instance leaves is a smaller number
        fitting = [gain + values[mask & ~need] for need, gain in gains if mask & need == need]
        values[mask] = max(fitting, default=0.0)
    whole = mig.milli(mig.full_mask)
    own = np.array([mig.milli(mask) for mask in range(SLOT_MASKS)], dtype=np.int64)
    if not values[mig.full_mask] > 0:  # instances are not scarce: slots are worth what they are
        return own * EFFECTIVE_SCALE
    shares = values / values[mig.full_mask]
    made: IntArray = np.round(shares * whole * EFFECTIVE_SCALE).astype(np.int64)
    return made
