"""What a node's residual capacity is worth: a knapsack over cpu and GPU by dynamic programming.

The value of a node with so much left is the most that any multiset of pods that fits together is
worth at given prices per pod: the pricing problem of column generation, answered for every
residual capacity at once. Devices are pooled by what they are effectively worth; cpu is not pooled
over nodes, which is what linear programmes over sums do not see.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scheduler.core.price_tables import WORTH_SHAPE

__all__ = ["Item", "residual_values"]

IntArray = NDArray[np.int64]

Item = tuple[int, int, int]
"""Rows and columns that a pod takes, and its price."""


def residual_values(items: Sequence[Item]) -> IntArray:
    """Most that pods are worth which fit together, by rows and columns left.

    Parameters
    ----------
    items
        Kinds of pods, each available without limit: the limits are in their prices.

    Returns
    -------
    (rows, columns) int64
        Never falls along either axis.
    """
    worth = np.zeros(WORTH_SHAPE, dtype=np.int64)
    rows, columns = WORTH_SHAPE
    for down, right, price in _undominated(items):
        most = min((rows - 1) // down if down else rows, (columns - 1) // right if right else rows)
        copies = 1
        # Taking 1, 2, 4, ... more of a kind in turn reaches every number of it.
        while copies <= most:
            a, b = copies * down, copies * right
            with_them = worth[: rows - a, : columns - b] + copies * price
            np.maximum(worth[a:, b:], with_them, out=worth[a:, b:])
            copies *= 2
    return worth


def _undominated(items: Sequence[Item]) -> list[Item]:
    """Items that no other one replaces: as small in both directions and worth as much."""
    kept: list[Item] = []
    for item in sorted(set(items), key=lambda item: (-item[2], item[0], item[1])):
        down, right, price = item
        if price <= 0 or not (down or right):
            continue
        if not any(other[0] <= down and other[1] <= right for other in kept):
            kept.append(item)
    return kept
