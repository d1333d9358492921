"""Carries out a set of moves on a layout: devices are chosen here, for simple pods alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import DEVICE_MILLI, DeviceShare, GpuKind, Placement, PodRequest
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout

__all__ = ["is_simple", "needs_of_simple", "relocate"]

IntArray = NDArray[np.int64]

_SIMPLE = (GpuKind.NONE, GpuKind.WHOLE)


def is_simple(instance: Instance, kind: int) -> bool:
    """Whether columns alone say where a kind fits: no gang, no fraction, no partition."""
    described = instance.kinds[kind]
    gpu = described.shape.gpu
    return described.gang is None and gpu.kind in _SIMPLE and not gpu.also


def needs_of_simple(instance: Instance) -> IntArray:
    """What a pod of each kind takes of each axis of the instance, and of whole devices; (K, A)."""
    whole = np.array([kind.shape.gpu.count for kind in instance.kinds], dtype=np.int64)
    return np.stack([*(axis.need for axis in instance.axes), whole], axis=1)


def relocate(
    layout: Layout, targets: Sequence[tuple[PodRequest, int]], out: Sequence[str] = ()
) -> list[Placement] | None:
    """Put these simple pods on these rows and take others off, all at once.

    A pod that returns to where it ran gets its own devices back if they are free.

    Parameters
    ----------
    layout
        Written to if everything fits.
    targets
        Pods and their new rows; each may be placed elsewhere or not at all at present.
    out
        Placed pods that lose their place.

    Returns
    -------
    list of Placement or None
        The new placements; None, and nothing changed, if they do not fit.
    """
    state = layout.state
    leaving = [pod.uid for pod, _ in targets if pod.uid in state.placements] + list(out)
    free: dict[int, list[int]] = {}
    for _, row in targets:
        if row not in free:
            free[row] = np.flatnonzero(state.gpu_free[row] == DEVICE_MILLI).tolist()
    for uid in leaving:
        placement = state.placements[uid]
        row = state.row_of[placement.node]
        if row in free:
            free[row] += [share.index for share in placement.devices]
    placements = []
    for pod, row in targets:
        node = state.node(row)
        origin = layout.instance.origin.get(pod.uid)
        devices = sorted(free[row])
        if origin is not None and origin.node == node.name:
            home = [share.index for share in origin.devices]
            if set(home) <= set(devices):
                devices = home + [index for index in devices if index not in home]
        if len(devices) < pod.gpu.count:
            return None
        chosen = sorted(devices[: pod.gpu.count])
        free[row] = [index for index in free[row] if index not in chosen]
        memory = state.device_mem[row].tolist()
        shares = tuple(DeviceShare(index, DEVICE_MILLI, memory[index]) for index in chosen)
        placements.append(Placement(pod, node.name, shares))
    return placements if layout.exchange(leaving, placements) else None
