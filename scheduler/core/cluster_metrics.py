"""Cluster-wide figures: allocation, fragmentation, and what strands free GPUs.

Fragmentation is FGD's F summed over nodes: the milli-GPU that a pod drawn from the workload profile
is expected to find unusable. Stranding splits the same quantity by the first thing that stands in
the way of the shape: its model, its cpu, its memory, or the shape of what is free on the devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.core.devices import fraction_need, mig_codes
from scheduler.core.feasibility import suited
from scheduler.core.groups import odd_rows, views
from scheduler.core.mig import SLOT_MASKS
from scheduler.core.mig_tables import tables_of
from scheduler.core.model import DEVICE_MILLI, GpuKind
from scheduler.core.power import PowerModel
from scheduler.core.state import ClusterState, DeviceCode
from scheduler.core.workload_profile import TypicalShape, WorkloadProfile

__all__ = ["CAUSES", "ClusterMetrics", "ProductMetrics", "cluster_metrics", "overfull_rows"]

CAUSES = ("model", "cpu", "memory", "shape")
"""Why free GPUs cannot be used, in the order in which they are blamed."""


@dataclass(frozen=True, slots=True)
class ProductMetrics:
    """Figures of one device model, in milli-GPU."""

    capacity_milli: int
    allocated_milli: int
    fragmentation_milli: float


@dataclass(frozen=True, slots=True)
class ClusterMetrics:
    """Figures of the whole cluster, in milli-GPU.

    ``free_milli`` counts devices that can be handed out only, so that it may be less than
    capacity minus allocation. ``fragmentation_milli`` is the part of it that the typical pod that
    asks for a GPU cannot use; ``stranded_milli`` is the same split by cause. ``power_watts`` is
    what nodes draw by :class:`PowerModel`. ``overfull_nodes`` counts those of
    :func:`overfull_rows`.
    """

    nodes: int
    pods: int
    capacity_milli: int
    allocated_milli: int
    free_milli: int
    fragmentation_milli: float
    stranded_milli: Mapping[str, float]
    by_product: Mapping[str, ProductMetrics]
    power_watts: int
    overfull_nodes: int

    @property
    def allocation(self) -> float:
        """Share of the capacity that is allocated, 0..1; 0 without devices."""
        return self.allocated_milli / self.capacity_milli if self.capacity_milli else 0.0


def cluster_metrics(
    state: ClusterState, profile: WorkloadProfile | None = None, power: PowerModel | None = None
) -> ClusterMetrics:
    """Measure a state for a workload profile; cost is rows x devices x shapes of the profile.

    Without a profile (or with one that asks for no GPU) nothing counts as fragmented. Without a
    power model boards draw what is commonly known of them.
    """
    shapes = [s for s in (profile.shapes if profile else ()) if s.gpu.kind is not GpuKind.NONE]
    capacity = state.device_count.astype(np.int64) * DEVICE_MILLI
    wasted = np.zeros((len(CAUSES), len(state)))
    total = sum(shape.weight for shape in shapes)
    for shape in shapes:
        _blame(state, shape, shape.weight / total, wasted)
    fragmented = wasted.sum(axis=0)
    by_product: dict[str, ProductMetrics] = {}
    for code, (_, product) in enumerate(state.products):
        rows = state.product == code
        if capacity[rows].any():
            name = product or "unknown"
            before = by_product.get(name, ProductMetrics(0, 0, 0.0))
            by_product[name] = ProductMetrics(
                before.capacity_milli + int(capacity[rows].sum()),
                before.allocated_milli + int(state.gpu_used[rows].sum()),
                before.fragmentation_milli + float(fragmented[rows].sum()),
            )
    return ClusterMetrics(
        nodes=sum(node is not None for node in state.nodes),
        pods=len(state.placements),
        capacity_milli=int(capacity.sum()),
        allocated_milli=int(state.gpu_used.sum()),
        free_milli=int(state.gpu_left.sum()),
        fragmentation_milli=float(fragmented.sum()),
        stranded_milli={c: float(wasted[i].sum()) for i, c in enumerate(CAUSES)},
        by_product=by_product,
        power_watts=int((power or PowerModel()).drawn(state).sum()),
        overfull_nodes=int(overfull_rows(state).sum()),
    )


def overfull_rows(state: ClusterState) -> NDArray[np.bool_]:
    """(N,) whether pods have more of a node, or of one device of it, than there is.

    Counted resources, too; milli-GPU and memory of a device, replicas, and MIG slots that two pods
    claim.
    """
    full = (state.cpu_free < 0) | (state.mem_free < 0) | (state.pods_free < 0)
    full &= state.pods_alloc > 0  # an empty row has nothing left either
    full |= state.counted.overdrawn(len(state))
    code = state.device_code
    devices = (code == DeviceCode.PLAIN) & (state.gpu_free < 0)
    devices |= (code == DeviceCode.PLAIN) & (state.device_mem > 0) & (state.device_mem_free < 0)
    devices |= (code == DeviceCode.SHARED) & (state.slots_free < 0)
    found: NDArray[np.bool_] = full | devices.any(axis=1)
    partitioned = (code >= DeviceCode.MIG).any(axis=1)
    if (partitioned & ~found).any():
        found |= partitioned & _slots_claimed_twice(state)
    return found


def _slots_claimed_twice(state: ClusterState) -> NDArray[np.bool_]:
    """(N,) whether two pods of a row claim one slot of a partitioned device."""
    found = np.zeros(len(state), dtype=bool)
    taken: dict[tuple[int, int], int] = {}
    partitioned = (state.device_code >= DeviceCode.MIG).tolist()
    row_of = state.row_of
    for placement in state.placements.values():
        for share in placement.devices or ():
            row = row_of[placement.node]
            if 0 <= share.index < len(partitioned[row]) and partitioned[row][share.index]:
                before = taken.get((row, share.index), 0)
                found[row] |= bool(before & share.slots)
                taken[row, share.index] = before | share.slots
    return found


def _blame(
    state: ClusterState, shape: TypicalShape, weight: float, wasted: NDArray[np.float64]
) -> None:
    """Add what this shape cannot use on each row to the cause that stands in its way."""
    left = state.gpu_left.astype(np.float64)
    usable = _usable_milli(state, shape)
    open_rows = np.ones(len(state), dtype=bool)
    blocked = (
        ~suited(state.products, shape.gpu)[state.product] & (state.make == 0),
        state.cpu_free < shape.cpu_milli,
        state.mem_free < shape.memory_bytes,
    )
    for cause, rows in enumerate(blocked):
        hit = open_rows & rows
        wasted[cause, hit] += weight * left[hit]
        open_rows &= ~rows
    wasted[CAUSES.index("shape"), open_rows] += weight * (left - usable)[open_rows]


def _usable_milli(state: ClusterState, shape: TypicalShape) -> NDArray[np.float64]:
    """(N,) milli-GPU on devices that could take a part of this shape, were nothing else short."""
    usable = _usable_of_all(state, shape)
    every = np.arange(len(state))
    odd = odd_rows(state, shape.gpu, every)
    for view in views(state, shape.gpu, every, odd) if odd is not None else ():
        parts = [_usable_of_all(seen, replace(shape, gpu=gpu)) for seen, gpu in view.asks]
        usable[view.at] = np.min(parts, axis=0)
    return usable


def _usable_of_all(state: ClusterState, shape: TypicalShape) -> NDArray[np.float64]:
    gpu, rows = shape.gpu, np.arange(len(state))
    free = np.maximum(state.gpu_free, 0).astype(np.float64)
    match gpu.kind:
        case GpuKind.FRACTION:
            need = fraction_need(state, gpu, rows)[0][:, None]
            usable: NDArray[np.float64] = np.where(free >= need, free, 0).sum(axis=1)
            return usable
        case GpuKind.WHOLE:
            full = state.full_free.astype(np.float64)
            return np.where(full >= gpu.count, full * DEVICE_MILLI, 0)
        case GpuKind.SHARED:
            there = state.device_code == DeviceCode.SHARED
            slots = np.where(there, np.maximum(state.slots_free, 0), 0)
            milli = (slots * DEVICE_MILLI // state.replicas).sum(axis=1)
            return np.where(slots.sum(axis=1) >= gpu.replicas, milli, 0).astype(np.float64)
        case _:
            return _usable_mig(state, shape)


def _usable_mig(state: ClusterState, shape: TypicalShape) -> NDArray[np.float64]:
    usable = np.zeros(len(state), dtype=np.int64)
    types, masks = mig_codes(state, slice(None)), state.slots_free & (SLOT_MASKS - 1)
    for profile, instances in shape.gpu.mig:
        tables = tables_of(state.mig_types, profile)
        if tables is not None:
            counts = tables.counts[types, masks]
            milli = (counts * tables.each[types]).sum(axis=1)
            usable += np.where(counts.sum(axis=1) >= instances, milli, 0)
    return usable.astype(np.float64)
