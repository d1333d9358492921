"""Chores: what has to be looked after from time to time, each by itself.

A chore that fails is logged and counted, and comes again; the others never notice.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Chore", "Housekeeping", "Patience", "RepeatLimit"]

log = logging.getLogger(__name__)

_TURN_S = 1.0
_MOST_REMEMBERED = 10_000
_LONGEST_TEXT = 300


@dataclass
class Chore:
    """Something to do.

    Parameters
    ----------
    name
        In logs and metrics.
    act
        Does it.
    every_s
        Seconds between two turns; 0 each turn.
    spread
        Adds up to this share of ``every_s``, so that replicas do not act in step.
    """

    name: str
    act: Callable[[], object]
    every_s: float = 0.0
    spread: float = 0.0
    due: float = 0.0


class Housekeeping:
    """Does chores in turn until it is stopped.

    Parameters
    ----------
    name
        Of the thread.
    chores
        What to do; each for the first time after its ``every_s``.
    ready
        Whether there is anything to look after yet.
    stop
        Ends it.
    faults
        Counts failures, by chore.
    """

    def __init__(
        self,
        name: str,
        chores: Sequence[Chore],
        *,
        ready: Callable[[], bool],
        stop: threading.Event,
        faults: Counter[str],
    ) -> None:
        self._chores, self._ready, self._stop, self._faults = chores, ready, stop, faults
        self._reported = RepeatLimit(every_s=60.0)
        self._jitter = random.Random()  # noqa: S311 - spreads work, decides nothing
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        for chore in self._chores:
            self._put_off(chore)
        while not self._stop.wait(_TURN_S):
            if self._ready():
                self.turn()

    def turn(self) -> None:
        """Every chore that is due."""
        for chore in self._chores:
            if time.monotonic() < chore.due or self._stop.is_set():
                continue
            self._put_off(chore)
            try:
                chore.act()
            except Exception as error:  # noqa: BLE001 - the others have to have their turn
                self.failed(chore.name, error)

    def failed(self, name: str, error: Exception) -> None:
        """A chore, or one object within it, could not be dealt with."""
        self._faults[name] += 1
        if self._reported.now((name, type(error))):
            log.error("%s failed: %s", name, str(error)[:_LONGEST_TEXT], exc_info=error)

    def _put_off(self, chore: Chore) -> None:
        wait = chore.every_s * (1.0 + chore.spread * self._jitter.random())
        chore.due = time.monotonic() + wait


class RepeatLimit:
    """Says what to log: each thing once in a while, however often it happens.

    Parameters
    ----------
    every_s
        Seconds between two lines about the same thing.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._reported: OrderedDict[object, float] = OrderedDict()

    def now(self, what: object) -> bool:
        """Whether this is to be logged."""
        now = time.monotonic()
        if now - self._reported.get(what, -self._every_s) < self._every_s:
            return False
        self._reported.pop(what, None)
        self._reported[what] = now
        if len(self._reported) > _MOST_REMEMBERED:
            self._reported.popitem(last=False)
        return True


class Patience:
    """Growing waits, with jitter, for things that failed; forgotten once they succeed.

    Parameters
    ----------
    first_s, most_s
        First and longest wait.
    """

    def __init__(self, first_s: float = 1.0, most_s: float = 60.0) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._until: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._jitter = random.Random()  # noqa: S311 - spreads retries, decides nothing

    def waits(self, what: str) -> bool:
        """Whether it is not its turn yet."""
        _, until = self._until.get(what, (0, 0.0))
        return time.monotonic() < until

    def failed(self, what: str) -> None:
        """It failed once more."""
        times, _ = self._until.pop(what, (0, 0.0))
        wait = min(self._most_s, self._first_s * 2 ** min(times, 16))
        self._until[what] = (times + 1, time.monotonic() + wait * self._jitter.uniform(0.5, 1.0))
        if len(self._until) > _MOST_REMEMBERED:
            self._until.popitem(last=False)

    def succeeded(self, what: str) -> None:
        """It did not fail this time."""
        self._until.pop(what, None)
