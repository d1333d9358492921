"""Dual prices of a cluster for its typical mix: two small linear programmes.

*Classes*: which shapes should run on which nodes, capacities of alike nodes pooled? The duals say
what a milli-CPU, a MiB and a milli-GPU of each class are worth to the pods that will come.
*Remainders*: how will devices be cut? An arc flow over the free amount of a device; the duals
say what a device with so much left is worth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp

from scheduler.core.mix import TypicalMix
from scheduler.core.model import DEVICE_MILLI, GpuKind
from scheduler.core.prices import PRICE_SCALE, Prices
from scheduler.core.state import ClusterState

__all__ = ["prices"]

IntArray = NDArray[np.int64]

_STEP = 10
_CPU_VALUE = 0.05  # of a milli-CPU of a pod without GPU, in milli-GPU


def prices(state: ClusterState, mix: TypicalMix) -> Prices | None:
    """Prices for a state and a mix, or None if they cannot be computed (no mix, no optimum).

    The demand of each shape is the mix scaled to the milli-GPU that are free now.
    """
    wanted = sum(shape.weight * shape.gpu.requested_milli for shape in mix.shapes)
    free = int(np.maximum(state.gpu_left, 0).sum())
    if not wanted or not free or not len(state):
        return None
    scale = free / wanted
    class_of, members = _classes(state)
    duals = _class_duals(state, mix, members, scale)
    remainder = _remainder_values(state, mix, scale)
    if duals is None or remainder is None:
        return None
    products = np.array([int(state.product[rows[0]]) for rows in members], dtype=np.int64)
    return Prices(state.node_epoch, state.generation_now, class_of, products, duals, remainder)


def _classes(state: ClusterState) -> tuple[IntArray, list[IntArray]]:
    """Class of each row, and the rows of each class: equal capacity and model."""
    keys = np.stack((state.cpu_alloc, state.mem_alloc, state.device_count, state.product), axis=1)
    _, class_of = np.unique(keys, axis=0, return_inverse=True)
    flat: IntArray = class_of.reshape(-1).astype(np.int64)
    return flat, [np.flatnonzero(flat == code) for code in range(int(flat.max()) + 1)]


def _class_duals(
    state: ClusterState, mix: TypicalMix, members: list[IntArray], scale: float
) -> IntArray | None:
    solver = pywraplp.Solver.CreateSolver("GLOP")
    assert solver is not None  # GLOP is part of every OR-Tools build
    infinity = solver.infinity()
    columns = (state.cpu_free, state.mem_free, state.gpu_left)
    capacity = [
        [
            solver.Constraint(-infinity, float(np.maximum(column[rows], 0).sum()))
            for column in columns
        ]
        for rows in members
    ]
    objective = solver.Objective()
    objective.SetMaximization()
    for shape in mix.shapes:
        gpu = shape.gpu
        demand = solver.Constraint(-infinity, shape.weight * scale)
        need = (shape.cpu_milli, shape.memory_mib, gpu.requested_milli)
        worth = float(gpu.requested_milli or _CPU_VALUE * shape.cpu_milli)
        for code, rows in enumerate(members):
            resource, product = state.products[int(state.product[rows[0]])]
            wrong = (gpu.products and product not in gpu.products) or (
                gpu.resource and resource != gpu.resource
            )
            large = gpu.count > int(state.device_count[rows[0]])
            if gpu.requested_milli and (wrong or large or not state.device_count[rows[0]]):
                continue
            column = solver.NumVar(0.0, infinity, "")
            objective.SetCoefficient(column, worth)
            demand.SetCoefficient(column, 1.0)
            for constraint, amount in zip(capacity[code], need, strict=True):
                if amount:
                    constraint.SetCoefficient(column, float(amount))
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        return None
    return np.array(
        [[max(0, round(c.dual_value() * PRICE_SCALE)) for c in row] for row in capacity],
        dtype=np.int64,
    )


def _remainder_values(state: ClusterState, mix: TypicalMix, scale: float) -> IntArray | None:
    """Value of a device by its free milli-GPU, for every amount from 0 to 1000."""
    demand: dict[int, float] = {}
    for shape in mix.shapes:
        gpu = shape.gpu
        if gpu.kind is GpuKind.FRACTION and gpu.milli:
            size = -(-gpu.milli // _STEP)
            demand[size] = demand.get(size, 0.0) + shape.weight * scale
        elif gpu.kind is GpuKind.WHOLE:
            full = DEVICE_MILLI // _STEP
            demand[full] = demand.get(full, 0.0) + shape.weight * scale * gpu.count
    supply = np.bincount(state.gpu_free[state.gpu_free >= 0] // _STEP, minlength=101)
    solver = pywraplp.Solver.CreateSolver("GLOP")
    assert solver is not None  # GLOP is part of every OR-Tools build
    infinity = solver.infinity()
    # What leaves a remainder is no more than what is there: supply and what larger ones leave.
    balance = [solver.Constraint(-infinity, float(count)) for count in supply.tolist()]
    objective = solver.Objective()
    objective.SetMaximization()
    for size, amount in sorted(demand.items()):
        limit = solver.Constraint(-infinity, amount)
        for left in range(size, len(balance)):
            flow = solver.NumVar(0.0, infinity, "")
            objective.SetCoefficient(flow, float(size * _STEP))
            limit.SetCoefficient(flow, 1.0)
            balance[left].SetCoefficient(flow, 1.0)
            balance[left - size].SetCoefficient(flow, -1.0)
    for left in range(1, len(balance)):  # a device is also worth what less of it is worth
        waste = solver.NumVar(0.0, infinity, "")
        balance[left].SetCoefficient(waste, 1.0)
        balance[left - 1].SetCoefficient(waste, -1.0)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        return None
    values = np.array([max(0, round(b.dual_value() * PRICE_SCALE)) for b in balance])
    values = np.maximum.accumulate(values - values[0]).clip(0)
    return np.asarray(values[np.arange(DEVICE_MILLI + 1) // _STEP], dtype=np.int64)
