"""How long a plan may take: seconds in production, counted work where runs must repeat."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler.core.errors import InvalidInput

__all__ = ["CLOCKS", "Budget"]

CLOCKS = {"wall": time.monotonic, "cpu": time.process_time}
"""Clocks by name."""

# Work that is done outside the solver is charged at this many units per pod or window, so that a
# deterministic budget ends even if no solver call does anything.
_OVERHEAD = 0.002


@dataclass
class Budget:
    """A budget that is running.

    Parameters
    ----------
    limit
        Seconds, or units of deterministic work (about seconds of one slow core).
    deterministic
        Count the solver's deterministic time instead of looking at a clock. The same problem, seed
        and limit then give the same plan on every machine.
    workers
        Threads of the solver; a deterministic budget uses one whatever is asked for.
    seed
        Decides which windows are looked at.
    clock
        Seconds; only its differences matter. ``time.process_time`` counts what this process has
        been given by a machine that does other work as well.
    """

    limit: float
    deterministic: bool = False
    workers: int = 2
    seed: int = 0
    clock: Callable[[], float] = time.monotonic
    _started: float = field(default=0.0, repr=False)
    _held_back: float = field(default=0.0, repr=False)
    _spent: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        if self.limit <= 0:
            raise InvalidInput("budget", f"is {self.limit} s", "use a number above 0")
        if self.workers < 1:
            raise InvalidInput("budget.workers", f"is {self.workers}", "use 1 or more")
        if self.deterministic:
            self.workers = 1
        self._started = self.clock()

    @property
    def shared(self) -> bool:
        """Whether processor time is counted, of which the wall clock says little."""
        return self.clock is time.process_time

    @property
    def spent(self) -> float:
        """What has been used so far."""
        return self._spent if self.deterministic else self.clock() - self._started

    @property
    def left(self) -> float:
        """What is left, at least 0."""
        return max(0.0, self.limit - self._held_back - self.spent)

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self.left <= 0

    def hold_back(self, share: float) -> None:
        """Keep a share (0..1) of the whole for later; 0 gives it free again."""
        self._held_back = share * self.limit

    def charge(self, work: float) -> None:
        """Count deterministic work; without effect on a wall-clock budget."""
        self._spent += work + _OVERHEAD
