"""Whether the columns are what nodes and placements say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scheduler.core.columns import COLUMNS
from scheduler.core.rows import Rows

__all__ = ["differences"]


def differences(state: Rows, recount: Rows) -> Iterator[str]:
    """In what a state differs from its recount, in words; their rows are the same."""
    for column, _, _, _ in COLUMNS:
        if column == "generation":
            continue
        mine, theirs = getattr(state, column), getattr(recount, column)
        for row in np.unique(np.argwhere(mine != theirs)[:, 0]).tolist():
            node = state.nodes[row]
            name = node.name if node else f"empty row {row}"
            yield f"{name}: {column} is {mine[row]}, a recount says {theirs[row]}"
    for row in np.flatnonzero(~state.counted.same_rows(recount.counted, len(state))).tolist():
        yield f"row {row}: counted resources differ from a recount"
    for row in range(len(state)):
        if {p.pod.uid for p in state.pods_on(row)} != {p.pod.uid for p in recount.pods_on(row)}:
            yield f"row {row}: holds other pods than a recount"
