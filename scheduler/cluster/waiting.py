"""Pods that have asked and are not bound: who, and when last."""

from __future__ import annotations

from scheduler.core.model import PodRequest

__all__ = ["Waiting"]

_AGE_S = 600.0


class Waiting:
    """Whoever asked lately. Bounded in number, whether anybody looks or not.

    Parameters
    ----------
    most
        Pods remembered; who came first is forgotten first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._asked: dict[str, tuple[PodRequest, float]] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def asks(self, request: PodRequest, now: float) -> None:
        """A pod has asked, for the first time or again."""
        self._asked[request.uid] = (request, now)
        if len(self._asked) > self._most:
            del self._asked[next(iter(self._asked))]

    def drop(self, uid: str) -> None:
        """The pod is bound or gone."""
        self._asked.pop(uid, None)

    def pods(self, now: float) -> tuple[PodRequest, ...]:
        """Those who asked lately, in the order in which they came; the others are forgotten."""
        for uid, (_, asked) in list(self._asked.items()):
            if asked + _AGE_S <= now:
                del self._asked[uid]
        return tuple(request for request, _ in self._asked.values())
