"""The queue of kube-scheduler in simulated time: what happens next, and who is tried when."""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from enum import IntEnum

from scheduler.core.model import GangKey, PodRequest
from scheduler.files.workload import Arrival

__all__ = ["Event", "Pending", "Queue", "backoff_s"]

INITIAL_BACKOFF_S = 1.0
MAX_BACKOFF_S = 10.0


class Event(IntEnum):
    """Kinds in the order in which events of one instant happen: room is made before it is used."""

    DEPARTURE = 0
    EXPIRY = 1
    ARRIVAL = 2
    RETRY = 3
    LOOK = 4
    PLAN = 5


@dataclass(slots=True)
class Pending:
    """A pod that is not placed yet."""

    arrival: Arrival
    serial: int
    attempts: int = 0
    tried_s: float = 0.0
    retry_s: float = float("inf")

    @property
    def request(self) -> PodRequest:
        """What it asks for."""
        return self.arrival.request


def backoff_s(attempts: int) -> float:
    """Seconds that a pod has to wait after so many failed attempts (>= 1), as kube-scheduler's."""
    return min(MAX_BACKOFF_S, INITIAL_BACKOFF_S * 2.0 ** min(attempts - 1, 30))


class Queue:
    """Events to come, and the pool of pods that were refused.

    Parameters
    ----------
    pods
        All that arrive, by serial.

    Attributes
    ----------
    pool : dict of int to Pending
        Refused pods by serial, the one that was refused first before the others.
    """

    def __init__(self, pods: list[Pending]) -> None:
        self.pool: dict[int, Pending] = {}
        self._members: dict[GangKey, set[int]] = defaultdict(set)  # of gangs, in the pool
        self._heap = [(pod.arrival.at_s, int(Event.ARRIVAL), pod.serial) for pod in pods]
        heapq.heapify(self._heap)

    def __bool__(self) -> bool:
        return bool(self._heap)

    @property
    def next_s(self) -> float:
        """When something happens next."""
        return self._heap[0][0]

    def put(self, at: float, event: Event, serial: int = -1) -> None:
        """Something will happen."""
        heapq.heappush(self._heap, (at, int(event), serial))

    def take(self, now: float) -> tuple[Event, int] | None:
        """What happens next at this instant, and to which pod; None if nothing more does."""
        if not self._heap or self._heap[0][0] != now:
            return None
        _, event, serial = heapq.heappop(self._heap)
        return Event(event), serial

    def wait(self, pod: Pending, now: float) -> None:
        """The pod was refused: it goes to the pool."""
        pod.tried_s = now
        pod.attempts = max(1, pod.attempts)
        pod.retry_s = float("inf")
        self.pool[pod.serial] = pod
        if pod.request.gang:
            self._members[pod.request.gang].add(pod.serial)

    def leave(self, pod: Pending) -> None:
        """The pod is placed."""
        self.pool.pop(pod.serial, None)
        if pod.request.gang:
            self._members[pod.request.gang].discard(pod.serial)

    def wake(self, now: float) -> list[Pending]:
        """Waiting pods whose backoff is over; the others get a retry at its end."""
        ready = []
        for pod in self.pool.values():
            retry = pod.tried_s + backoff_s(pod.attempts)
            if retry <= now:
                ready.append(pod)
            elif retry < pod.retry_s:
                self._retry(pod, retry)
        return ready

    def ask_again(self, pod: Pending, now: float) -> None:
        """Try a waiting pod again, as soon as its backoff is over."""
        self._retry(pod, max(now, pod.tried_s + backoff_s(pod.attempts)))

    def ask_members(self, key: GangKey, now: float) -> None:
        """Try the waiting members of a gang again."""
        for serial in self._members[key]:
            self.ask_again(self.pool[serial], now)

    def _retry(self, pod: Pending, at: float) -> None:
        if at < pod.retry_s:
            pod.retry_s = at
            self.put(at, Event.RETRY, pod.serial)
