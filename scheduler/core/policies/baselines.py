"""Published baselines and the scorings of kube-scheduler.

They keep their published arithmetic, integer truncation included, so that their figures can be
compared with the papers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import DEVICE_MILLI, GpuKind
from scheduler.core.ranking import Candidates, Scored, best_fit_device, first_fit_device, hashed
from scheduler.core.state import affinity_of

__all__ = [
    "MAX_CPU_MILLI",
    "MAX_GPU_MILLI",
    "best_fit",
    "dot_product",
    "first_fit",
    "gpu_clustering",
    "gpu_packing",
    "kube_default",
    "most_allocated",
    "random",
    "requested_to_capacity",
]

IntArray = NDArray[np.int64]

# Normalisation constants of the FGD artifact: the largest node of the trace.
MAX_CPU_MILLI = 128_000
MAX_GPU_MILLI = 8_000


def random(candidates: Candidates) -> Scored:
    """Uniform over nodes, and over the devices that host a fraction."""
    nodes, salt = candidates.identities, candidates.salt
    if candidates.shape.gpu.kind is not GpuKind.FRACTION:
        return Scored(hashed(nodes, salt), np.full(len(nodes), -1, dtype=np.int64))
    width = candidates.gpu.shape[1]
    keys = nodes[:, None] * width + np.arange(width)
    draw = hashed(keys.ravel(), salt + 1).reshape(keys.shape)
    devices = np.where(candidates.hosts, draw, -1).argmax(axis=1)
    return Scored(hashed(nodes, salt), devices)


def first_fit(candidates: Candidates) -> Scored:
    """The first node, and its first device that hosts a fraction."""
    return Scored(np.zeros(len(candidates.rows), np.int64), first_fit_device(candidates))


def best_fit(candidates: Candidates) -> Scored:
    """100 minus the normalised sum of cpu and GPU left, truncated to an integer."""
    scale = 2 * MAX_CPU_MILLI * MAX_GPU_MILLI
    left = candidates.cpu_left * MAX_GPU_MILLI + candidates.gpu_left * MAX_CPU_MILLI
    return Scored((100 * (scale - left)) // scale, best_fit_device(candidates))


def dot_product(candidates: Candidates) -> Scored:
    """100 x (1 - mean of free x request per dimension, both normalised), truncated."""
    state, rows = candidates.state, candidates.rows
    cpu = (state.cpu_free[rows] / MAX_CPU_MILLI) * (candidates.shape.cpu_milli / MAX_CPU_MILLI)
    gpu = (state.gpu_left[rows] / MAX_GPU_MILLI) * (candidates.gpu_taken / MAX_GPU_MILLI)
    scores = (100 * (1 - (cpu + gpu) / 2)).astype(np.int64)
    return Scored(scores, best_fit_device(candidates))


def gpu_packing(candidates: Candidates) -> Scored:
    """Prefer used devices, then free devices on used nodes, then idle nodes."""
    state, rows = candidates.state, candidates.rows
    devices = best_fit_device(candidates)
    gpu = candidates.shape.gpu
    if gpu.kind is GpuKind.NONE:
        return Scored(np.zeros(len(rows), np.int64), devices)
    full = state.full_free[rows].astype(np.int64)
    idle = full == state.device_count[rows]
    if gpu.kind is GpuKind.FRACTION:
        chosen = candidates.gpu[np.arange(len(rows)), devices]
        on_used = np.maximum(100 - chosen * 100 // DEVICE_MILLI // 10, 50)
        scores = np.where(chosen == DEVICE_MILLI, 49, on_used)
    else:
        scores = np.full(len(rows), max(50 - gpu.count, 33), dtype=np.int64)
    return Scored(np.where(idle, np.maximum(33 - full, full), scores), devices)


def gpu_clustering(candidates: Candidates) -> Scored:
    """Prefer nodes that run the same kind of request already, the fuller the better."""
    state, rows = candidates.state, candidates.rows
    devices = best_fit_device(candidates)
    kind = affinity_of(candidates.shape.gpu)
    if kind < 0:
        return Scored(np.zeros(len(rows), np.int64), devices)
    present = state.affinity[rows] > 0
    kinds = present.sum(axis=1)
    fullness = 25 * (MAX_GPU_MILLI - state.gpu_left[rows].astype(np.int64)) // MAX_GPU_MILLI
    tier = np.where(present[:, kind], np.where(kinds == 1, 75, 50), np.where(kinds == 0, 25, 0))
    return Scored(tier + fullness, devices)


def _used_percent(allocatable: IntArray, left: IntArray) -> IntArray:
    return np.where(allocatable > 0, (allocatable - left) * 100 // np.maximum(allocatable, 1), 0)


def _utilisation(candidates: Candidates) -> tuple[IntArray, IntArray, IntArray]:
    """Percent of cpu, memory and GPU in use after the placement, each (R,)."""
    state, rows = candidates.state, candidates.rows
    capacity = state.device_count[rows].astype(np.int64) * DEVICE_MILLI
    return (
        _used_percent(state.cpu_alloc[rows], candidates.cpu_left),
        _used_percent(state.mem_alloc[rows], candidates.memory_left),
        _used_percent(capacity, candidates.gpu_left),
    )


def kube_default(candidates: Candidates) -> Scored:
    """NodeResourcesFit LeastAllocated plus NodeResourcesBalancedAllocation, weight 1 each."""
    state, rows = candidates.state, candidates.rows
    cpu, memory = np.maximum(state.cpu_alloc[rows], 1), np.maximum(state.mem_alloc[rows], 1)
    least = (candidates.cpu_left * 100 // cpu + candidates.memory_left * 100 // memory) // 2
    # The standard deviation of two numbers is half their distance.
    spread = np.abs(candidates.cpu_left / cpu - candidates.memory_left / memory) / 2
    return Scored(least + ((1 - spread) * 100).astype(np.int64), first_fit_device(candidates))


def most_allocated(candidates: Candidates) -> Scored:
    """Mean percent of cpu, memory and GPU in use after the placement."""
    cpu, memory, gpu = _utilisation(candidates)
    has_gpu = candidates.state.device_count[candidates.rows] > 0
    return Scored(
        np.where(has_gpu, (cpu + memory + gpu) // 3, (cpu + memory) // 2),
        best_fit_device(candidates),
    )


def requested_to_capacity(candidates: Candidates) -> Scored:
    """Shape 0 to 0, 100 to 10, as packing clusters set it: GPU weighs 5, cpu and memory 1 each."""
    cpu, memory, gpu = _utilisation(candidates)
    has_gpu = candidates.state.device_count[candidates.rows] > 0
    return Scored(
        np.where(has_gpu, (cpu + memory + 5 * gpu) // 7, (cpu + memory) // 2),
        best_fit_device(candidates),
    )
