"""What a placement costs at the prices in force, and the fragmentation that it causes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import DEVICE_MILLI, GpuKind
from scheduler.core.policies.baselines import MAX_CPU_MILLI, MAX_GPU_MILLI
from scheduler.core.policies.fgd import fgd_gain, fragmentation_decrease, pick_device
from scheduler.core.policies.pwr import watts_added
from scheduler.core.price_tables import (
    EFFECTIVE_SCALE,
    PRICE_SCALE,
    Prices,
    gain_of_slots,
    node_effective,
)
from scheduler.core.price_weights import WEIGHT_SCALE
from scheduler.core.ranking import Candidates, Scored

__all__ = ["priced"]

IntArray = NDArray[np.int64]


def priced(candidates: Candidates) -> Scored:
    """What the placement costs at the prices in force, and the fragmentation it causes.

    It costs what the node's residual capacity loses in value, plus what the device loses by being
    split, plus what pods of several devices lose on this node, plus the power that it switches on,
    if that has a weight. Without prices it is ``fgd``.
    """
    prices = candidates.prices
    if prices is None:
        return pick_device(candidates, fgd_gain(candidates))
    state, rows, weights = candidates.state, candidates.rows, prices.weights
    code, cpu = prices.class_codes(state, rows), state.cpu_free[rows]
    devices = prices.effective_of(candidates.gpu)
    gpu = node_effective(state, rows, devices, prices.gains, sliced=prices.sliced)
    kind = candidates.shape.gpu.kind
    factor = weights.scaled["splitting"] * (PRICE_SCALE // EFFECTIVE_SCALE)
    row: IntArray | slice = slice(None)
    split: IntArray | int = 0
    if kind is GpuKind.FRACTION:
        # Only devices that can take it are looked up; on the others the cost is never read.
        row, device = np.nonzero(candidates.hosts)
        left_on = candidates.gpu[row, device] - candidates.need[0][row]
        lost = devices[row, device] - prices.effective_of(left_on)
        split = factor * lost
    else:
        lost = candidates.gpu_taken * EFFECTIVE_SCALE
        if kind is GpuKind.MIG and prices.gains is not None:
            lost = lost + gain_of_slots(state, rows, state.slots_free[rows], prices.gains)
            lost -= gain_of_slots(state, rows, candidates.slots_after, prices.gains)
            split = factor * lost
    # One look-up for all: nodes as they are, then what each choice would leave.
    values = prices.value(
        np.concatenate((code, code[row])),
        np.concatenate((cpu, candidates.cpu_left[row])),
        np.concatenate((gpu, gpu[row] - lost)),
    )
    cost = (values[: len(rows)][row] - values[len(rows) :]) * WEIGHT_SCALE + split
    if kind is GpuKind.FRACTION:
        by_device = np.zeros(devices.shape, dtype=np.int64)
        by_device[row, device] = cost
        cost = by_device
    else:
        cost = cost[:, None]
    if prices.charges_sets:
        cost += weights.scaled["contiguity"] * _sets_lost(candidates, prices, code, cpu)
    if weights.power:
        assert prices.switched_on is not None  # they are aligned before they are in force
        watts = watts_added(candidates, prices.switched_on, weights.watts.socket.switched_on)
        cost += weights.scaled["power"] * PRICE_SCALE * watts
    left = candidates.cpu_left * MAX_GPU_MILLI + candidates.gpu_left * MAX_CPU_MILLI
    left = left * weights.scaled["tightness"] // (MAX_CPU_MILLI * MAX_GPU_MILLI // PRICE_SCALE)
    total = candidates.fragmentation.total_weight
    gain = weights.scaled["fragmentation"] * fragmentation_decrease(candidates)
    charged = (cost + left[:, None]) * total // PRICE_SCALE
    return pick_device(candidates, (gain - charged) // WEIGHT_SCALE)


def _sets_lost(
    candidates: Candidates, prices: Prices, code: IntArray, cpu_free: IntArray
) -> IntArray:
    """Value of entirely free devices that a placement takes from pods of several; (R, 1 or D)."""
    state, rows, gpu = candidates.state, candidates.rows, candidates.shape.gpu
    cpu_left = candidates.cpu_left
    full = state.full_free[rows].astype(np.int64)
    if gpu.kind is GpuKind.FRACTION:
        cpu = np.array((cpu_free, cpu_left, cpu_left))
        devices = np.array((full, full, np.maximum(full - 1, 0)))
        before, kept, fewer = prices.set_value(code, cpu, devices)
        after = np.where(candidates.gpu == DEVICE_MILLI, fewer[:, None], kept[:, None])
        return np.asarray(before[:, None] - after)
    taken = gpu.count if gpu.kind is GpuKind.WHOLE else 0
    devices = np.array((full, full - taken))
    before, after = prices.set_value(code, np.array((cpu_free, cpu_left)), devices)
    return np.asarray(before - after)[:, None]
