"""The node that others take last, for the pod that waits longest for several devices.

A pod of eight devices waits while pods of one come and go: whenever one device gets free, somebody
takes it before seven others are. Keeping a node for it would let devices stand idle that others
wait for. So nobody is refused anything: the node nearest to having room is the last choice of all
others, as long as they fit elsewhere. Where nobody leaves, nothing gets free: drivers do not let
anybody wait there (:attr:`.Turnover.renews`).
"""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine, Spared
from scheduler.core.model import PodRequest

__all__ = ["Sparing"]

IntArray = NDArray[np.int64]

_FEWEST_DEVICES = 2  # one device is free as soon as anybody leaves
_MOST = 10_000
_MOST_TRIED = 16


class Sparing:
    """Knows who waits, and tells the engine which node to spare. Used by one thread at a time.

    Parameters
    ----------
    engine
        Its policy decides whether anything is spared: policies that stand for other schedulers
        do nothing of the kind.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[str, tuple[PodRequest, float]] = {}

    def waits(self, request: PodRequest, now: float, rows: IntArray | None = None) -> None:
        """A pod fits nowhere now; to be repeated as often as it asks in vain.

        Parameters
        ----------
        request
            The pod. Others than those of several devices, and members of gangs, are not waited for.
        now
            The driver's time.
        rows : (R,) int64, optional
            Where it may run by its own rules; they are looked at if left out. Not kept: whoever is
            spared a node that is of no use to it says so when it asks again.
        """
        uid, gang = request.uid, request.gang
        if (
            not self._engine.policy.spares
            or request.gpu.count < _FEWEST_DEVICES
            or (gang is not None and gang.min_count > 1)
            or (uid not in self._waiting and len(self._waiting) >= _MOST)
        ):
            return
        self._waiting[uid] = (request, now)  # who is known keeps the place in the queue
        spared = self._engine.spared
        if spared is None:
            self._spare_for(request, rows)
        elif spared.request.uid == uid:
            row = self._engine.state.row_of.get(spared.node, -1)
            if row not in self._possible(request, rows) and not self._spare_for(request, rows):
                self._next(but=uid)

    def gone(self, uid: str) -> None:
        """A pod has a node for good, or has ended."""
        spared = self._engine.spared
        if self._waiting.pop(uid, None) and spared is not None and spared.request.uid == uid:
            self._next()

    def forget(self, before: float) -> None:
        """Drop the pod that a node is spared for if it has not asked since this time."""
        spared = self._engine.spared
        if spared is not None and self._waiting[spared.request.uid][1] < before:
            self.gone(spared.request.uid)

    def _possible(self, request: PodRequest, rows: IntArray | None) -> IntArray:
        if rows is None:
            return np.flatnonzero(self._engine.possible(request, selection=True))
        return rows[self._engine.possible(request)[rows]]

    def _next(self, but: str = "") -> None:
        """Spare a node for the first who waits and could run somewhere.

        Who could run nowhere is tried again when it asks; not all of them here.
        """
        self._engine.spared = None
        for request, _ in islice(self._waiting.values(), _MOST_TRIED):
            if request.uid != but and self._spare_for(request, None):
                return

    def _spare_for(self, request: PodRequest, rows: IntArray | None) -> bool:
        state = self._engine.state
        found = self._possible(request, rows)
        if not len(found):
            return False
        free = state.full_free[found]
        left = np.maximum(state.gpu_free[found], 0).sum(axis=1)
        pods = state.pods_alloc[found] - state.pods_free[found]
        nearest = np.lexsort((found, pods, -left, -free))[0]
        node = state.nodes[int(found[nearest])]
        assert node is not None  # an empty row can host nothing
        self._engine.spared = Spared(node.name, request)
        return True
