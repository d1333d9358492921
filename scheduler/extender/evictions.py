"""Victims that we named, and of whose end kube-scheduler may hear before we do.

kube-scheduler asks again as soon as its own watch tells it that the victims are gone. If ours is a
moment later, the node still looks full to us; and a pod that is refused the node which was emptied
for it has others evicted elsewhere. So there it is worth a wait, and if that does not help, an
error: after one kube-scheduler asks again later and evicts nobody.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.model import PodRequest, Reason
from scheduler.extender.preemption import curable

__all__ = ["Evictions", "Unheard", "catch_up"]

_LOOK_S = 0.004
_CATCH_UP_S = 0.25  # kube-scheduler stands still meanwhile
_UNKNOWN_FOR_S = 5.0

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Unheard:
    """Victims that were named for a pod and are still there as far as we know.

    Attributes
    ----------
    victims
        Their uids.
    certain
        kube-scheduler knows more than we: by its own way of counting, the node that it asks about
        would have no room with what we know to run there.
    since
        When just these were first found to be missed, in the same way.
    """

    victims: frozenset[str]
    certain: bool
    since: float

    def problem(self, now: float) -> str:
        """Why a refusal may be wrong still; empty from some time on: then it is what we know."""
        if not self.certain or now - self.since >= _UNKNOWN_FOR_S:
            return ""
        return f"not known yet here: the end of {len(self.victims)} victims of this pod; ask again"


def catch_up(look: Callable[[], tuple[Unheard | None, float]]) -> str:
    """Wait for news of victims, a moment per call and once for the same ones.

    Parameters
    ----------
    look
        What has not been heard of now, and the time.

    Returns
    -------
    str
        Why even after that a refusal may be wrong; else empty.
    """
    unheard, now = look()
    until = now + _CATCH_UP_S
    while unheard is not None and now < min(until, unheard.since + _CATCH_UP_S):
        time.sleep(_LOOK_S)
        unheard, now = look()
    return unheard.problem(now) if unheard is not None else ""


@dataclass(slots=True)
class _Named:
    by_node: Mapping[str, tuple[str, ...]]
    missed: dict[tuple[frozenset[str], bool], float] = field(default_factory=dict)


class Evictions:
    """Whom we named, by the pod that wants room. Used by one thread at a time.

    Parameters
    ----------
    most
        Pods remembered; the one that asked longest ago is forgotten first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: OrderedDict[str, _Named] = OrderedDict()

    def __len__(self) -> int:
        return len(self._named)

    def __contains__(self, uid: str) -> bool:
        return uid in self._named

    def name(self, uid: str, by_node: Mapping[str, Sequence[str]]) -> None:
        """These victims have been named for a pod, by node; kube-scheduler takes one of them."""
        self.drop(uid)
        kept = {node: tuple(victims) for node, victims in by_node.items() if victims}
        if not kept:
            return
        self._named[uid] = _Named(kept)
        if len(self._named) > self._most:
            self._named.popitem(last=False)

    def chosen(self, uid: str, node: str) -> None:
        """kube-scheduler has decided for one of the nodes: nobody is evicted on the others."""
        named = self._named.get(uid)
        if named is not None and node in named.by_node:
            named.by_node = {node: named.by_node[node]}

    def drop(self, uid: str) -> None:
        """The pod has found its place, or is gone."""
        self._named.pop(uid, None)

    def waited_for(self, engine: Engine, request: PodRequest) -> IntArray:
        """Rows where victims named for the pod are still there."""
        named = self._named.get(request.uid)
        if named is None:
            return np.zeros(0, dtype=np.int64)
        left = self._left(engine, named, named.by_node)
        return np.array([engine.state.row_of[node] for node in left], dtype=np.int64)

    def unheard(
        self, engine: Engine, request: PodRequest, rows: IntArray, now: float
    ) -> Unheard | None:
        """What we may not have heard yet of the nodes asked about; None if it makes no odds.

        Parameters
        ----------
        rows : (R,)
            Nodes that kube-scheduler takes for large enough.
        """
        named = self._named.get(request.uid)
        if named is None:
            return None
        asked = set(rows.tolist())
        nodes = [node for node in named.by_node if engine.state.row_of.get(node) in asked]
        left = self._left(engine, named, nodes)
        if not left:
            return None
        codes = engine.filter(request, rows)
        if (codes == Reason.FITS.code).any():
            return None
        at = np.isin(rows, [engine.state.row_of[node] for node in left])
        certain = bool(curable(engine, request, rows[at], codes[at]).any())
        missing = frozenset(uid for victims in left.values() for uid in victims)
        return Unheard(missing, certain, named.missed.setdefault((missing, certain), now))

    @staticmethod
    def _left(engine: Engine, named: _Named, nodes: Iterable[str]) -> dict[str, list[str]]:
        """Victims that are still there, by node."""
        placements = engine.state.placements
        left = {}
        for node in nodes:
            there = [
                uid
                for uid in named.by_node[node]
                if uid in placements and placements[uid].node == node
            ]
            if there and node in engine.state.row_of:
                left[node] = there
        return left
