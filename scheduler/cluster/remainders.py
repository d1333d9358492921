"""What is left of a gang on other nodes once kube-scheduler has begun to evict it on one.

A preempt answer names pods of one node. The gang's members elsewhere run on for nothing: whoever
started them has to end them, as most controllers do once a member fails, or we evict them, if that
is allowed (``evict_gangs``). Never before kube-scheduler has decided for the node and one of those
that were named there is on its way out; until then it may still take another node, or none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scheduler.core.model import PodRequest

__all__ = ["Remainder", "Remainders"]

_MOST_DUE = 20_000
_TRIED_FOR_S = 600.0


@dataclass(slots=True)
class Remainder:
    """Members on other nodes, and those named on this one; whether one of these is going."""

    others: tuple[PodRequest, ...]
    named: frozenset[str]
    going: bool = False


class Remainders:
    """Remainders of gangs by the pod that room is made for. Used by one thread at a time.

    Parameters
    ----------
    most
        Pods remembered; the one that asked longest ago is forgotten first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: OrderedDict[str, dict[str, Remainder]] = OrderedDict()
        self._chosen: dict[str, str] = {}
        self._by_victim: dict[str, set[str]] = {}
        self._due: OrderedDict[str, tuple[PodRequest, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of)

    def name(self, uid: str, by_node: Mapping[str, Remainder]) -> None:
        """For this pod these have been named, by node; kube-scheduler takes one of the nodes."""
        self.drop(uid)
        if not by_node:
            return
        self._of[uid] = dict(by_node)
        for remainder in by_node.values():
            for victim in remainder.named:
                self._by_victim.setdefault(victim, set()).add(uid)
        if len(self._of) > self._most:
            self.drop(next(iter(self._of)))

    def chosen(self, uid: str, node: str, now: float) -> None:
        """kube-scheduler has decided for a node."""
        if uid in self._of:
            self._chosen[uid] = node
            self._look(uid, now)

    def goes(self, victim: str, now: float) -> None:
        """A pod is being deleted, or is gone."""
        for uid in list(self._by_victim.get(victim, ())):
            for remainder in self._of[uid].values():
                remainder.going |= victim in remainder.named
            self._look(uid, now)

    def drop(self, uid: str) -> None:
        """The pod has found its place, or is gone, and nothing more begins for its sake."""
        self._chosen.pop(uid, None)
        for remainder in self._of.pop(uid, {}).values():
            for victim in remainder.named:
                self._by_victim[victim].discard(uid)
                if not self._by_victim[victim]:
                    del self._by_victim[victim]

    def due(self, now: float) -> list[PodRequest]:
        """Who is to be evicted now."""
        for uid in [uid for uid, (_, since) in self._due.items() if now - since >= _TRIED_FOR_S]:
            del self._due[uid]  # its budget has not allowed it for so long: it stays
        return [pod for pod, _ in self._due.values()]

    def done(self, uid: str) -> None:
        """It is evicted, or gone by itself."""
        self._due.pop(uid, None)

    def _look(self, uid: str, now: float) -> None:
        remainder = self._of[uid].get(self._chosen.get(uid, ""))
        if remainder is None or not remainder.going:
            return
        self._add(remainder.others, now)
        self.drop(uid)

    def _add(self, pods: Iterable[PodRequest], now: float) -> None:
        for pod in pods:
            if len(self._due) < _MOST_DUE:
                self._due.setdefault(pod.uid, (pod, now))
