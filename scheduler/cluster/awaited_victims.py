"""Victims that we named, and of whose end kube-scheduler may hear before we do.

kube-scheduler asks again as soon as its own watch tells it that the victims are gone. If ours is a
moment later, the node still looks full to us; and a pod that is refused the node which was emptied
for it has others evicted elsewhere. What it knows cannot be told from its question: it is the same
before the last victim has gone and after. So the API is asked about the victims that are left. Its
answer is newer than any watch, and a refusal then is right for sure. Where it does not answer there
is a wait for the watch, and if that does not help, an error: after one kube-scheduler asks again
later and evicts nobody.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster.preemption import curable
from scheduler.core.engine import Engine
from scheduler.core.errors import KubeApiError
from scheduler.core.model import PodRequest, Reason

__all__ = ["Evictions", "Unheard", "catch_up"]

_LOOK_S = 0.004
_CATCH_UP_S = 0.25  # kube-scheduler stands still meanwhile
_UNKNOWN_FOR_S = 5.0
_MOST_VICTIMS = 200_000  # named for all pods together
_MOST_ASKED_ABOUT = 16

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Unheard:
    """Victims that were named for a pod and are still there as far as we know.

    Attributes
    ----------
    victims
        The pods, by uid.
    certain
        kube-scheduler knows more than we: by its own way of counting, the node that it asks about
        would have no room with what we know to run there.
    since
        When just these were first found to be missed, in the same way.
    """

    victims: Mapping[str, PodRequest]
    certain: bool
    since: float

    def problem(self, now: float) -> str:
        """Why a refusal may be wrong still; empty from some time on: then it is what we know."""
        if not self.certain or now - self.since >= _UNKNOWN_FOR_S:
            return ""
        return f"not known yet here: the end of {len(self.victims)} victims of this pod; ask again"


Look = Callable[[], tuple[Unheard | None, float]]
Ask = Callable[[PodRequest, float], object]


def catch_up(look: Look, ask: Ask | None = None) -> str:
    """Have news of victims: ask the API or, for want of one, wait; a moment per call at most.

    Parameters
    ----------
    look
        What has not been heard of now, and the time.
    ask
        Asks the API whether a pod has ended, within so many seconds, and makes it known. Raises
        :class:`KubeApiError` where it does not say: then nobody could be bound either.

    Returns
    -------
    str
        Why even after that a refusal may be wrong; else empty.
    """
    unheard, now = look()
    if unheard is None:
        return ""
    until = now + _CATCH_UP_S
    if ask is not None and len(unheard.victims) <= _MOST_ASKED_ABOUT:
        answered = _ask_about(unheard.victims, ask, look, until)
        unheard, now = look()
        if unheard is None:
            return ""
        if not answered:
            return Unheard(unheard.victims, certain=True, since=now).problem(now)
        if not unheard.certain:
            return ""  # they are still there, for kube-scheduler too
    while unheard is not None and now < min(until, unheard.since + _CATCH_UP_S):
        time.sleep(_LOOK_S)
        unheard, now = look()
    return unheard.problem(now) if unheard is not None else ""


def _ask_about(victims: Mapping[str, PodRequest], ask: Ask, look: Look, until: float) -> bool:
    """Whether the API has said of all of them what became of them, or it makes no odds by now."""
    for pod in victims.values():
        unheard, now = look()
        if unheard is None or pod.uid not in unheard.victims:
            continue
        if now >= until:
            return False
        try:
            ask(pod, until - now)
        except KubeApiError:
            return False
    return True


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
        self._victims = 0

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
        self._victims += _count(kept)
        while len(self._named) > self._most or (
            self._victims > _MOST_VICTIMS and len(self._named) > 1
        ):
            self.drop(next(iter(self._named)))

    def chosen(self, uid: str, node: str) -> None:
        """kube-scheduler has decided for one of the nodes: nobody is evicted on the others."""
        named = self._named.get(uid)
        if named is not None and node in named.by_node:
            self._victims -= _count(named.by_node)
            named.by_node = {node: named.by_node[node]}
            self._victims += _count(named.by_node)

    def drop(self, uid: str) -> None:
        """The pod has found its place, or is gone."""
        named = self._named.pop(uid, None)
        if named is not None:
            self._victims -= _count(named.by_node)

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
        codes = engine.filter(request, rows, passed=True)
        if (codes == Reason.FITS.code).any():
            return None
        at = np.isin(rows, [engine.state.row_of[node] for node in left])
        certain = bool(curable(engine, request, rows[at], codes[at]).any())
        placements = engine.state.placements
        missing = {uid: placements[uid].pod for victims in left.values() for uid in victims}
        since = named.missed.setdefault((frozenset(missing), certain), now)
        return Unheard(missing, certain, since)

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


def _count(by_node: Mapping[str, Sequence[str]]) -> int:
    return sum(map(len, by_node.values()))
