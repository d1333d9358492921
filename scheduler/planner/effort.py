"""How long a plan may take: seconds in production, counted work where runs must repeat."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from scheduler.core.errors import InvalidInput

__all__ = ["CLOCKS", "Budget"]

CLOCKS = {"wall": time.monotonic, "cpu": time.process_time}
"""Clocks by name."""

# Work that is done outside the solver is charged at this many units per pod or window, so that a
# deterministic budget ends even if no solver call does anything.
_OVERHEAD = 0.002
_LEAST = 1e-3


class Solver(Protocol):
    """The part of a solver that a budget needs."""

    def stop_search(self) -> None:
        """End what another thread is solving; without effect if it solves nothing."""


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
    used
        Seconds that went before this budget was made, such as for reading the cluster. Nothing to
        a deterministic one, which counts work on the plan alone.
    """

    limit: float
    deterministic: bool = False
    workers: int = 2
    seed: int = 0
    clock: Callable[[], float] = time.monotonic
    used: float = 0.0
    _started: float = field(default=0.0, repr=False)
    _held_back: float = field(default=0.0, repr=False)
    _reserved: float = field(default=0.0, repr=False)
    _spent: float = field(default=0.0, repr=False)
    _solver: Solver | None = field(default=None, repr=False)
    _stopped: bool = field(default=False, repr=False)
    _parts: list[Budget] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.limit <= 0:
            raise InvalidInput("budget", f"is {self.limit} s", "use a number above 0")
        if self.workers < 1:
            raise InvalidInput("budget.workers", f"is {self.workers}", "use 1 or more")
        if self.deterministic:
            self.workers = 1
        self._started = self.clock() - (0.0 if self.deterministic else self.used)

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
        if self._stopped:
            return 0.0
        return max(0.0, self.limit - self._held_back - self._reserved - self.spent)

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self.left <= 0

    def hold_back(self, share: float) -> None:
        """Keep a share (0..1) of the whole for later; 0 gives it free again."""
        self._held_back = share * self.limit

    def reserve(self, seconds: float) -> None:
        """Keep so many seconds for what has to be done in any case; nothing if work is counted."""
        self._reserved = 0.0 if self.deterministic else seconds

    def charge(self, work: float) -> None:
        """Count deterministic work; without effect on a wall-clock budget."""
        self._spent += work + _OVERHEAD

    @property
    def stopped(self) -> bool:
        """Whether somebody has had enough."""
        return self._stopped

    def stop(self) -> None:
        """Leave nothing, and end what the solver is at; from any thread, as often as you like."""
        self._stopped = True
        if self._solver is not None:
            self._solver.stop_search()
        for part in self._parts:
            part.stop()

    def part(self, limit: float) -> Budget:
        """A budget of its own that begins now, and is stopped with this one."""
        part = Budget(max(limit, _LEAST), self.deterministic, self.workers, self.seed, self.clock)
        part._stopped = self._stopped
        self._parts.append(part)
        return part

    def lends(self, solver: Solver) -> None:
        """Note which solver works on the budget from now on, so that it can be stopped."""
        self._solver = solver
