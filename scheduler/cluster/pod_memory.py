"""What is remembered of pods beside the state: which were asked about, which wait, since when."""

from __future__ import annotations

from scheduler.cluster.recent import Recent
from scheduler.core.model import PodRequest

__all__ = ["PodMemory", "Waiting"]

_AGE_S = 600.0


class PodMemory:
    """Memory of pods. Bounded in number, however many are asked about.

    Parameters
    ----------
    most
        Pods remembered; the one that asked longest ago is forgotten first.

    Attributes
    ----------
    settled : int
        Pods placed for good or gone, since the start.
    assumed : dict of str to float
        Pods bound by us that the watch has not confirmed yet, by uid, with the time by which it
        should have.
    """

    def __init__(self, most: int) -> None:
        self.settled = 0
        self.assumed: dict[str, float] = {}
        self._asked: Recent[str, PodRequest] = Recent(most)
        self._shortened: Recent[str, str] = Recent(most)
        self._waiting = Waiting(most)

    def __contains__(self, uid: object) -> bool:
        return uid in self._asked

    def sizes(self) -> tuple[int, ...]:
        """How many pods each part remembers."""
        return len(self._asked), len(self._shortened), len(self._waiting)

    def asked(self, uid: str) -> PodRequest | None:
        """What a pod asked for when it asked last."""
        return self._asked.get(uid)

    def record(self, request: PodRequest) -> bool:
        """A pod asks; True if it does so for the first time."""
        new = request.uid not in self._asked
        self._asked.put(request.uid, request)
        return new

    def shortened(self, uid: str) -> bool:
        """Whether the pod has been told some of the nodes that fit and not all of them."""
        return uid in self._shortened

    def record_shortened(self, uid: str) -> None:
        """The pod is told some of the nodes that fit."""
        self._shortened.put(uid, uid)

    def record_waiting(self, request: PodRequest, now: float) -> None:
        """The pod has asked, or has lost its place: it waits."""
        self._waiting.asks(request, now)

    def waiting(self, now: float) -> tuple[PodRequest, ...]:
        """Pods that asked lately and have no place, in the order in which they came."""
        return self._waiting.pods(now)

    def record_settled(self, uid: str) -> None:
        """The pod has been placed, or is gone; it waits no more."""
        self._waiting.drop(uid)
        self.settled += 1

    def forget(self, uid: str) -> None:
        """The pod never asks again."""
        self._asked.drop(uid)
        self._shortened.drop(uid)


class Waiting:
    """Pods that asked lately. Bounded in number, whether anybody looks or not.

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
