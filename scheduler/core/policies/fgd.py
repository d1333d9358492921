"""Fragmentation gradient descent (Weng et al., USENIX ATC'23), as published and exact."""

from __future__ import annotations

from math import ceil, log

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import DEVICE_MILLI, GpuKind
from scheduler.core.policies.baselines import MAX_CPU_MILLI, MAX_GPU_MILLI
from scheduler.core.ranking import Candidates, Scored

__all__ = ["fgd", "fgd_gain", "fgd_published", "fragmentation_decrease", "pick_device"]

IntArray = NDArray[np.int64]


def fragmentation_decrease(candidates: Candidates) -> IntArray:
    """How much the placement lowers F(n), times the total weight of the profile.

    Returns
    -------
    (R, D) for a fraction, per device that may take it; (R, 1) otherwise.
    """
    state, rows, tables = candidates.state, candidates.rows, candidates.fragmentation
    product, cpu_free = state.product[rows], state.cpu_free[rows]
    before, after = tables.base(product, cpu_free), tables.base(product, candidates.cpu_left)
    gpu, kind = candidates.gpu, candidates.shape.gpu.kind
    full = state.full_free[rows].astype(np.int64)
    devices_after = tables.device_usable(after, gpu)
    usable = devices_after.sum(axis=1) - tables.device_usable(before, gpu).sum(axis=1)
    usable -= tables.node_usable(before, full)
    if tables.has_slot_shapes:
        slots = state.slots_free[rows].astype(np.int64)
        usable -= tables.slot_usable(state, rows, before, slots)
        left = candidates.slots_after if kind in (GpuKind.MIG, GpuKind.SHARED) else slots
        usable += tables.slot_usable(state, rows, after, left)
    if kind is GpuKind.FRACTION:
        need = candidates.need[0][:, None]
        changed = tables.device_usable(after, gpu - need) - devices_after
        whole = tables.node_usable(after, full)
        fewer = tables.node_usable(after, np.maximum(full - 1, 0))
        several = np.where(gpu == DEVICE_MILLI, fewer[:, None], whole[:, None])
        return np.asarray(usable[:, None] + changed + several + need * tables.total_weight)
    taken = candidates.gpu_taken
    if kind is GpuKind.WHOLE:
        count = candidates.shape.gpu.count
        entire = np.full((len(rows), 1), DEVICE_MILLI, dtype=np.int64)
        usable -= count * tables.device_usable(after, entire)[:, 0]
        full = full - count
    usable += tables.node_usable(after, full)
    return np.asarray(usable + taken * tables.total_weight)[:, None]


def pick_device(candidates: Candidates, gain: IntArray) -> Scored:
    """The best device of each row by ``gain`` (R, D), first index on ties."""
    if candidates.shape.gpu.kind is not GpuKind.FRACTION:
        return Scored(gain[:, 0], np.full(len(candidates.rows), -1, dtype=np.int64))
    rows = np.arange(len(candidates.rows))
    devices = np.where(candidates.hosts, gain, np.iinfo(np.int64).min).argmax(axis=1)
    return Scored(gain[rows, devices], devices)


_LOGITS = np.array([1000 * log(score / (100 - score)) for score in range(1, 100)])


def fgd_published(candidates: Candidates) -> Scored:
    """``int(100 x sigmoid((F before - F after) / 1000))``, as steps instead of exp()."""
    decrease = fragmentation_decrease(candidates)
    # Rounding the steps up to integers keeps the comparison exact and independent of libm.
    steps = np.array([ceil(step * candidates.fragmentation.total_weight) for step in _LOGITS])
    return pick_device(candidates, np.searchsorted(steps, decrease, side="right"))


def fgd_gain(candidates: Candidates) -> IntArray:
    """Exact decrease of F(n), less a small charge for what the placement leaves over.

    In units of 1000 milli-GPU the charge is 0.05 x (cpu left / 128 cores + GPU left / 8 devices).
    Without it the exact score spreads pods over nodes whose fragmentation differs by crumbs.
    """
    charge = candidates.cpu_left * MAX_GPU_MILLI + candidates.gpu_left * MAX_CPU_MILLI
    charge = charge * candidates.fragmentation.total_weight // (MAX_CPU_MILLI * MAX_GPU_MILLI // 50)
    return np.asarray(fragmentation_decrease(candidates) - charge[:, None])


def fgd(candidates: Candidates) -> Scored:
    """The exact decrease of fragmentation, on the best device of each node."""
    return pick_device(candidates, fgd_gain(candidates))
