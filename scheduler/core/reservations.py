"""Tentative placements: counted like any other until a time, in the driver's clock.

What ends next is on a heap, so that looking for what is over costs nothing where nothing is.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from scheduler.core.errors import UnknownPod
from scheduler.core.model import Placement, Release
from scheduler.core.state import ClusterState

__all__ = ["Reservation", "Reservations"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """A tentative placement, until a time."""

    placement: Placement
    until: float


class Reservations(Mapping[str, Reservation]):
    """Reservations by pod uid.

    Parameters
    ----------
    state
        Where they are placed.
    """

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._kept: dict[str, Reservation] = {}
        self._ends: list[tuple[float, int, str]] = []  # those replaced or dropped included
        self._over: dict[str, None] = {}  # past their time, the first to end first
        self._serial = 0

    def __getitem__(self, uid: str) -> Reservation:
        return self._kept[uid]

    def __contains__(self, uid: object) -> bool:
        return uid in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def ends(self) -> float:
        """A time by which :meth:`expire` has nothing to do; ``inf`` if nothing ends by itself."""
        while self._ends:
            until, _, uid = self._ends[0]
            held = self._kept.get(uid)
            if held is not None and held.until == until:
                break
            heapq.heappop(self._ends)
        if self._over:
            return -math.inf
        return self._ends[0][0] if self._ends else math.inf

    def put(self, placement: Placement, until: float) -> None:
        """Note that the state holds this placement until a time, instead of an older one."""
        uid = placement.pod.uid
        self._kept[uid] = Reservation(placement, until)
        self._over.pop(uid, None)
        if until == math.inf:
            return
        self._serial += 1
        heapq.heappush(self._ends, (until, self._serial, uid))
        if len(self._ends) > 64 + 4 * len(self._kept):
            self._ends = [(each.until, 0, uid) for uid, each in self._kept.items()
                          if each.until < math.inf and uid not in self._over]  # fmt: skip
            heapq.heapify(self._ends)

    def settle(self, uid: str) -> None:
        """Note that the pod is placed for good, or gone: its reservation is none any more."""
        self._kept.pop(uid, None)
        self._over.pop(uid, None)

    def drop(self, uid: str) -> None:
        """Take a reservation back; :class:`UnknownPod` if there is none."""
        if uid not in self._kept:
            raise UnknownPod(uid)
        self.settle(uid)
        if uid in self._state.placements:  # else its node was removed, and the reservation with it
            self._state.apply((Release(uid),))

    def end(self, uid: str) -> None:
        """Have a reservation expire as soon as may be; :class:`UnknownPod` if there is none."""
        held = self._kept.get(uid)
        if held is None:
            raise UnknownPod(uid)
        self.put(held.placement, -math.inf)

    def expire(
        self, now: float, *, spare: Callable[[str], bool] | None = None, most: int | None = None
    ) -> int:
        """Drop every reservation whose time has passed, but those to be spared; returns how many.

        With ``most`` at most so many of them, the first to end first.
        """
        while self._ends and self._ends[0][0] <= now:
            until, _, uid = heapq.heappop(self._ends)
            held = self._kept.get(uid)
            if held is not None and held.until == until:
                self._over[uid] = None
        if not self._over:
            return 0
        over = [uid for uid in self._over if self._kept[uid].until <= now]
        if spare is not None:
            over = [uid for uid in over if not spare(uid)]
        over = over[:most]
        for uid in over:
            self.drop(uid)
        return len(over)
