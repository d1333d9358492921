"""Planned nodes of single pods."""

from __future__ import annotations

import numpy as np

from scheduler.core.engine import Engine
from scheduler.core.model import PodRequest, Reason

__all__ = ["Pins"]

_FITS = Reason.FITS.code


class Pins:
    """Nodes by pod, for some time.

    Parameters
    ----------
    engine
        Says whether a pod fits.
    ttl_s
        How long a pin lives.
    """

    def __init__(self, engine: Engine, ttl_s: float) -> None:
        self._engine, self._ttl_s = engine, ttl_s
        self._pins: dict[str, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._pins)

    def put(self, request: PodRequest, node: str, now: float, generation: int) -> bool:
        """Plan a pod on a node; False if it does not fit there.

        Nothing has to be checked on a row that has not changed since the plan's generation.
        """
        if not (self._unchanged(node, generation) or self._fits(request, node)):
            return False
        self._pins[request.uid] = (node, now + self._ttl_s)
        return True

    def row(self, uid: str, now: float) -> int:
        """Row of the pod's node, or -1."""
        pin = self._pins.get(uid)
        if pin is None:
            return -1
        node, until = pin
        if until <= now:
            del self._pins[uid]
            return -1
        return self._engine.state.row_of.get(node, -1)

    def drop(self, uid: str) -> None:
        """The pod is placed, or is gone."""
        self._pins.pop(uid, None)

    def _unchanged(self, node: str, generation: int) -> bool:
        state = self._engine.state
        row = state.row_of.get(node, -1)
        return row >= 0 and int(state.generation[row]) <= generation

    def _fits(self, request: PodRequest, node: str) -> bool:
        row = self._engine.state.row_of.get(node, -1)
        return row >= 0 and int(self._engine.filter(request, np.array([row]))[0]) == _FITS
