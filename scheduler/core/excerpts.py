"""Some rows of the cluster's state as a state of their own, to be looked at or changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.core.journal import Journal
from scheduler.core.state import ClusterState

__all__ = ["excerpt"]


def excerpt(state: ClusterState, rows: NDArray[np.int64]) -> ClusterState:
    """A state of these rows alone, (R,), in this order; its columns are copies.

    It names neither nodes nor placements, so that nothing can be placed there. Codes of models and
    of MIG types are those of ``state``.
    """
    copy = ClusterState.__new__(ClusterState)
    copy._frozen = False
    copy._size = len(rows)
    copy._stored = {name: column[: len(state)][rows] for name, column in state._stored.items()}
    copy.nodes = [state.nodes[row] for row in rows.tolist()]
    copy._row_of, copy._empty_rows = {}, []
    copy._placements, copy._placements_lent = {}, False
    copy._pods_on = state._pods_on.of(rows.tolist())
    copy._adopt_vocabulary(state)
    copy.counted.offered, copy.counted.free = state.counted.offered[rows], state.counted.free[rows]
    copy.generation_now, copy.node_epoch = state.generation_now, state.node_epoch
    copy._journal = Journal()
    copy._expose()
    return copy
