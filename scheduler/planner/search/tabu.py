"""Tabu search over overfull rows: moves and swaps that reduce the excess most, until none is left.

Where rows are full to the brim no single move helps. Here capacity may be exceeded for a while; all
moves and swaps of the pods of one overfull row are weighed at once, by column arithmetic. Shared by
the repair of plans and by the packing of bins.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.planner.effort import Budget

__all__ = ["PENDING", "Tabu", "TabuItems"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

PENDING = -2
_STEP_WORK = 0.0005
_TENURE = (4, 12)
_MOST_PAIRS = 20_000
_NEVER = np.inf


@dataclass(frozen=True, slots=True)
class TabuItems:
    """What is moved about; P items, K kinds, N rows, A axes.

    Attributes
    ----------
    need : (P, A) float64
        Whole numbers; they are exact in floats.
    kind : (P,) int64
    admissible : (K, N) bool
    weight : (A,) float64
        What exceeding an axis by one unit weighs.
    worth : (P,) int64
        Items of equal worth may replace each other outside of all rows.
    home : (P,) int64
        Row where an item disturbs nobody, or ``PENDING`` if it never does.
    move_cost, evict_cost : (P,) float64
        Disturbance on another row, and on none; infinite if that is forbidden.
    """

    need: FloatArray
    kind: IntArray
    admissible: BoolArray
    weight: FloatArray
    worth: IntArray
    home: IntArray
    move_cost: FloatArray
    evict_cost: FloatArray


@dataclass(frozen=True, slots=True)
class _Step:
    """One move or swap: this item goes to that row (-1: none), the other takes its place."""

    change: float
    item: int
    row: int
    other: int = -1


@dataclass
class Tabu:
    """The search; :meth:`load` first, then :meth:`put` something, then :meth:`run`.

    Attributes
    ----------
    row : (P,) int64
        Row of each item, or -1.
    disruption_weight : float
        What a unit of disturbance weighs against excess.
    """

    items: TabuItems
    budget: Budget
    random: random.Random
    disruption_weight: float = 0.0
    row: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def load(self, row: IntArray, free: FloatArray, usable: BoolArray) -> None:
        """Begin here.

        Parameters
        ----------
        row : (P,) int64
            Row of each item, or -1.
        free : (N, A) float64
            What rows have left with these items on them.
        usable : (N,) bool
            Rows that may change.
        """
        self.row, self._free, self._usable = row, free, usable
        self._cost = self._disturbance(np.arange(len(row)), row)

    def put(self, item: int, row: int) -> None:
        """Put an item on a row, or on none (-1), whether it fits or not."""
        before = int(self.row[item])
        if before >= 0:
            self._free[before] += self.items.need[item]
        if row >= 0:
            self._free[row] -= self.items.need[item]
        self.row[item] = row
        if row == self.items.home[item] or self.items.home[item] == PENDING:
            self._cost[item] = 0.0
        else:
            costs = self.items.evict_cost if row < 0 else self.items.move_cost
            self._cost[item] = costs[item]

    def excess_with(self, item: int, rows: IntArray) -> FloatArray:
        """By how much each of these rows would be overfull with an item."""
        return self._excess(self._free[rows] - self.items.need[item])

    def run(self, fixed: set[int], most: int) -> bool:
        """Move and swap until no row is overfull; False if that takes too long.

        Parameters
        ----------
        fixed
            Items that stay where they are.
        most
            Most steps.
        """
        until = np.zeros(len(self.row), dtype=np.int64)
        until[list(fixed)] = most + 1
        steps = 0
        while steps < most and not self.budget.over:
            excess = self._excess(self._free)
            excess[~self._usable] = 0.0
            over = np.flatnonzero(excess > 0)
            if not len(over):
                break
            row = int(self.random.choice(over.tolist()))
            step = self._best_step(row, excess, until <= steps)
            steps += 1
            if step is not None:
                self._carry_out(step, row, until, steps)
        self.budget.charge(steps * _STEP_WORK)
        return bool((self._free[self._usable] >= 0).all())

    def _excess(self, free: FloatArray) -> FloatArray:
        excess: FloatArray = np.zeros(free.shape[:-1])
        for axis, weight in enumerate(self.items.weight.tolist()):
            excess -= weight * np.minimum(free[..., axis], 0.0)
        return excess

    def _disturbance(self, pods: IntArray, rows: IntArray | int) -> FloatArray:
        """What it costs that these pods are on these rows (broadcast)."""
        home = self.items.home[pods]
        at = np.where(np.asarray(rows) < 0, self.items.evict_cost[pods], self.items.move_cost[pods])
        return np.where((home == rows) | (home == PENDING), 0.0, at)

    def _moved(self, pods: IntArray, rows: IntArray) -> FloatArray:
        """What disturbance changes if each of these pods goes to each of these rows."""
        at = np.where(
            self.items.home[pods][:, None] == rows[None, :],
            0.0,
            self.items.move_cost[pods][:, None],
        )
        return np.asarray(at - self._cost[pods][:, None])

    def _carry_out(self, step: _Step, row: int, until: IntArray, now: int) -> None:
        self.put(step.item, step.row)
        until[step.item] = now + self.random.randint(*_TENURE)
        if step.other >= 0:
            self.put(step.other, row)
            until[step.other] = now + self.random.randint(*_TENURE)

    def _best_step(self, row: int, excess: FloatArray, loose: BoolArray) -> _Step | None:
        """What reduces the total excess most by taking a pod off this row."""
        members = np.flatnonzero((self.row == row) & loose)
        if not len(members):
            return None
        left = self._free[row] + self.items.need[members]
        found = [
            self._best_move(row, members, left, excess),
            self._best_swap(row, members, left, excess, loose),
            self._best_exchange(row, members, left, excess, loose),
        ]
        steps = [step for step in found if step is not None]
        return min(steps, key=lambda step: step.change, default=None)

    def _best_move(
        self, row: int, members: IntArray, left: FloatArray, excess: FloatArray
    ) -> _Step | None:
        after = self._free[None, :, :] - self.items.need[members][:, None, :]
        change = (self._excess(left) - excess[row])[:, None] + self._excess(after) - excess[None, :]
        if self.disruption_weight:
            change += self.disruption_weight * self._moved(members, np.arange(len(self._free)))
        allowed = self.items.admissible[self.items.kind[members]] & self._usable
        allowed[:, row] = False
        change = np.where(allowed, change, _NEVER)
        pod, target = np.unravel_index(int(change.argmin()), change.shape)
        least = float(change[pod, target])
        return None if least == _NEVER else _Step(least, int(members[pod]), int(target))

    def _best_swap(
        self,
        row: int,
        members: IntArray,
        left: FloatArray,
        excess: FloatArray,
        loose: BoolArray,
    ) -> _Step | None:
        """With a pod of another row."""
        others = np.flatnonzero((self.row >= 0) & (self.row != row) & loose)
        others = self._sample(others, len(members))
        if not len(others):
            return None
        rows = self.row[others]
        need = self.items.need[others]
        here = self._excess(left[:, None, :] - need[None, :, :]) - excess[row]
        after = (self._free[rows] + need)[None, :, :] - self.items.need[members][:, None, :]
        change = here + self._excess(after) - excess[rows][None, :]
        if self.disruption_weight:
            back = self._disturbance(others, row) - self._cost[others]
            change += self.disruption_weight * (self._moved(members, rows) + back[None, :])
        admissible = self.items.admissible
        allowed = admissible[self.items.kind[members]][:, rows] & self._usable[rows]
        allowed &= admissible[self.items.kind[others], row][None, :]
        change = np.where(allowed, change, _NEVER)
        pod, other = np.unravel_index(int(change.argmin()), change.shape)
        least = float(change[pod, other])
        if least == _NEVER:
            return None
        return _Step(least, int(members[pod]), int(rows[other]), int(others[other]))

    def _best_exchange(
        self,
        row: int,
        members: IntArray,
        left: FloatArray,
        excess: FloatArray,
        loose: BoolArray,
    ) -> _Step | None:
        """With a pod that has no row and is worth as much."""
        others = np.flatnonzero((self.row < 0) & loose)
        others = self._sample(others, len(members))
        if not len(others):
            return None
        change = self._excess(left[:, None, :] - self.items.need[others][None, :, :]) - excess[row]
        if self.disruption_weight:
            change += self.disruption_weight * (
                (self.items.evict_cost[members] - self._cost[members])[:, None]
                + (self._disturbance(others, row) - self._cost[others])[None, :]
            )
        allowed = self.items.worth[members][:, None] == self.items.worth[others][None, :]
        allowed &= self.items.admissible[self.items.kind[others], row][None, :]
        allowed &= (self.items.evict_cost[members] < _NEVER)[:, None]
        change = np.where(allowed, change, _NEVER)
        pod, other = np.unravel_index(int(change.argmin()), change.shape)
        least = float(change[pod, other])
        if least == _NEVER:
            return None
        return _Step(least, int(members[pod]), -1, int(others[other]))

    def _sample(self, pods: IntArray, against: int) -> IntArray:
        """So many of these pods that all pairs can be looked at in one go."""
        most = max(1, _MOST_PAIRS // max(1, against))
        if len(pods) <= most:
            return pods
        return np.array(sorted(self.random.sample(pods.tolist(), most)), dtype=np.int64)
