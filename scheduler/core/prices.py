"""What the free resources of a cluster are worth, as tables that a policy can charge.

Computed elsewhere, off the request path, by linear programming over the typical mix; here they are
plain integers. Prices of node classes keep scarce models and cpu-rich nodes for those who need
them; values of device remainders keep fractions that add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.feasibility import allowed_products
from scheduler.core.model import Shape
from scheduler.core.state import ClusterState

__all__ = ["PRICE_SCALE", "Prices"]

IntArray = NDArray[np.int64]

PRICE_SCALE = 1 << 16
"""Prices are in milli-GPU over this."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of one cluster at one time.

    Attributes
    ----------
    node_epoch
        Of the state they were made for; rows mean nothing in another one.
    generation
        Of that state.
    class_of : (N,) int64
        Node class of each row: nodes of equal capacity and model.
    products : (C,) int64
        Product code of each class.
    duals : (C, 3) int64
        Price of a milli-CPU, a MiB and a milli-GPU in each class.
    remainder : (1001,) int64
        Value of a device with so much milli-GPU free; it never falls.
    """

    node_epoch: int
    generation: int
    class_of: IntArray
    products: IntArray
    duals: IntArray
    remainder: IntArray

    def penalty(self, state: ClusterState, shape: Shape, rows: IntArray) -> IntArray:
        """How much dearer each row's class is for the shape than its cheapest one, (R,)."""
        need = np.array(
            [shape.cpu_milli, shape.memory_mib, shape.gpu.requested_milli], dtype=np.int64
        )
        cost = self.duals @ need
        allowed = allowed_products(state, shape.gpu)[self.products]
        if not shape.gpu.requested_milli or not allowed.any():
            allowed = np.ones(len(cost), dtype=bool)
        penalty: IntArray = cost[self.class_of[rows]] - cost[allowed].min()
        return np.maximum(penalty, 0)

    def cut(self, free: IntArray, need: IntArray) -> IntArray:
        """What a device loses in value when ``need`` of ``free`` is taken; same shapes."""
        before = np.clip(free, 0, len(self.remainder) - 1)
        after = np.clip(free - need, 0, len(self.remainder) - 1)
        return np.asarray(self.remainder[before] - self.remainder[after])
