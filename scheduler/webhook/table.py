"""Who is connected to a listener, and who has to leave when there is no room."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

__all__ = ["Place", "Table"]


class Place(Protocol):
    """What the table has to know of a connection."""

    accepted: bool
    busy: bool
    overdue: bool
    deadline: float

    @property
    def begun(self) -> bool:
        """Whether a request of it has begun to arrive, or its answer has not left."""

    @property
    def held(self) -> int:
        """Bytes of a body that is not whole yet."""

    def shut(self) -> None:
        """Ask it to leave."""


class Table:
    """Connections of a listener, oldest first. Callable from any thread.

    Parameters
    ----------
    places
        So many may stay. As many and a half are there for a moment, while some leave.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._held: dict[Place, None] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def begun(self) -> int:
        """Requests that have begun to arrive, or are being answered."""
        with self._lock:
            return sum(each.begun for each in self._held)

    def add(self, connection: Place) -> None:
        """Give it a place."""
        with self._lock:
            self._held[connection] = None

    def remove(self, connection: Place) -> None:
        """It has ended."""
        with self._lock:
            self._held.pop(connection, None)

    def has_room(self) -> bool:
        """Whether another one may come; somebody is asked to leave if it takes the last place."""
        over = len(self._held) - self._places
        return over < 0 or (over <= self._places // 2 and self.make_room())

    def make_room(self) -> bool:
        """Ask one to leave, first of all who was never served a verb; whether there is one."""
        with self._lock:
            waiting = [each for each in self._held if not (each.busy or each.overdue)]
            if not waiting:
                return False
            _first_stranger(waiting, lambda: min(waiting, key=lambda each: each.deadline)).shut()
        return True

    def relieve(self, most: int, uncounted: int) -> None:
        """Keep what half-received bodies hold within ``most`` bytes.

        Those of up to ``uncounted`` bytes are no burden.
        """
        with self._lock:
            holders = [each for each in self._held if each.held > uncounted]
            if sum(each.held for each in holders) <= most:
                return
            waiting = [each for each in holders if not (each.busy or each.overdue)]
            if waiting:
                _first_stranger(waiting, lambda: waiting[0]).shut()

    def shut(self, *, begun: bool) -> None:
        """Ask everybody to leave whose request is not being answered.

        Parameters
        ----------
        begun
            Also those whose request has begun to arrive, or whose answer has not left.
        """
        with self._lock:
            for each in self._held:
                if not (each.busy or each.overdue) and (begun or not each.begun):
                    each.shut()


def _first_stranger(waiting: Iterable[Place], otherwise: Callable[[], Place]) -> Place:
    return next((each for each in waiting if not each.accepted), None) or otherwise()
