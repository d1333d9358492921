"""Repair: a pod is put where it does not fit, then moves and swaps make it fit.

Where nodes are full to the brim, no chain of one or two moves helps and windows of a few rows see
too little. Here capacity may be exceeded for a while: a tabu search takes the moves and swaps that
reduce the excess most, over all rows at once, until nothing exceeds. The same search calms a
layout: a disturbed pod goes back to where it ran, and the rest makes room with fewer moves.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.planner.budget import Budget
from scheduler.planner.layout import Layout
from scheduler.planner.relocate import is_simple, relocate

__all__ = ["Repair"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_STEPS = 400
_STEP_WORK = 0.0002
_TENURE = (4, 12)
_MOST_PAIRS = 60_000
_NEVER = np.inf
_PENDING = -2


@dataclass(frozen=True, slots=True)
class _Step:
    """One move or swap: this pod goes to that row (-1: none), the other takes its place."""

    change: float
    pod: int
    row: int
    other: int = -1


class Repair:
    """Tabu search over simple pods of a layout; pods under a disruption budget stay.

    Each success is written into the layout at once and makes it better.
    """

    def __init__(self, layout: Layout, budget: Budget) -> None:
        self.layout, self.budget = layout, budget
        self._random = random.Random(f"repair/{budget.seed}")  # noqa: S311 - reproducible
        instance = self.instance = layout.instance
        shapes = [kind.shape for kind in instance.kinds]
        needs = [[s.cpu_milli, s.memory_mib, 1, s.gpu.count] for s in shapes]
        self._usable = [
            is_simple(instance, code) and not kind.budgets
            for code, kind in enumerate(instance.kinds)
        ]
        state = layout.state
        self._uids = [uid for uid, kind in instance.kind_of.items() if self._usable[kind]]
        self._kind = np.array([instance.kind_of[uid] for uid in self._uids], dtype=np.int64)
        self._pods = {p.uid: p for pods in instance.pods for p in pods}
        need = np.array(needs, dtype=np.float64).reshape(-1, 4)[self._kind]
        self._axes = self._binding(need)
        self._need = need[:, self._axes]
        weights = [tuple(int(lv.weights[k]) for lv in instance.levels) for k in range(len(shapes))]
        codes = {value: code for code, value in enumerate(sorted(set(weights)))}
        self._worth = np.array([codes[weights[k]] for k in self._kind.tolist()], dtype=np.int64)
        costs = [instance.kinds[k].disruption for k in self._kind.tolist()]
        self._move_cost = np.array([c.move if c else 0 for c in costs], dtype=np.float64)
        self._evict_cost = np.array(
            [0 if c is None else _NEVER if c.evict is None else c.evict for c in costs],
            dtype=np.float64,
        )
        origins = [instance.origin.get(uid) for uid in self._uids]
        self._home = np.array([state.row_of[o.node] if o else _PENDING for o in origins], dtype=np.int64)
        self._types = self._interchangeable()
        scale = [state.cpu_alloc.max(initial=1), state.mem_alloc.max(initial=1),
                 state.pods_alloc.max(initial=1), 8]  # fmt: skip
        self._weight = 1.0 / np.maximum(np.array(scale, dtype=np.float64), 1.0)[self._axes]
        self._row = np.zeros(0, dtype=np.int64)
        self._cost = np.zeros(0)
        self._calm = 0.0

    def usable(self, kind: int) -> bool:
        """Whether it knows how to place a kind."""
        return self._usable[kind]

    def insert(self, kind: int) -> bool:
        """Try to place one more pod of a kind, keeping every other level of the objective."""
        if not self._usable[kind]:
            return False
        self._read()
        waiting = np.flatnonzero((self._row < 0) & (self._kind == kind))
        rows = np.flatnonzero(self.instance.admissible[kind])
        if not len(waiting) or not len(rows):
            return False
        pod = int(waiting[0])
        excess = self._excess(self._free[rows] - self._need[pod])
        near = rows[np.argsort(excess, kind="stable")[:8]]
        self._put(pod, int(self._random.choice(near.tolist())))
        self._calm = self._random.choice((0.0, 0.0, 0.002, 0.01))
        return self._search({pod}) and self._apply()

    def calm(self) -> bool:
        """Try to put a disturbed pod back to where it ran, with less disruption in all."""
        self._read()
        away = np.flatnonzero((self._home >= 0) & (self._row != self._home))
        if not len(away):
            return False
        pod = int(self._random.choice(away.tolist()))
        if self._row[pod] < 0:
            return False
        self._put(pod, int(self._home[pod]))
        self._calm = self._random.choice((0.004, 0.01, 0.02))
        return self._search({pod}, _STEPS // 4) and self._apply()

    # -- columns -----------------------------------------------------------------------------

    def _binding(self, need: FloatArray) -> IntArray:
        """Axes (cpu, memory, pod slots, devices) of which some row has less than all need."""
        base = self.instance.base
        rooms = (base.cpu, base.mem, base.pods, base.whole)
        total = need.sum(axis=0)
        return np.array(
            [axis for axis, room in enumerate(rooms) if total[axis] > room.min(initial=0)],
            dtype=np.int64,
        )

    def _interchangeable(self) -> dict[object, list[int]]:
        """Pods that may stand for each other, running or pending, by what they ask for."""
        types: dict[object, list[int]] = {}
        for index, code in enumerate(self._kind.tolist()):
            kind = self.instance.kinds[code]
            key = (kind.shape, kind.selection, kind.priority, kind.candidates)
            types.setdefault(key, []).append(index)
        return types

    def _read(self) -> None:
        state = self.layout.state
        rows = [
            state.row_of[state.placements[uid].node] if uid in state.placements else -1
            for uid in self._uids
        ]
        self._row = np.array(rows, dtype=np.int64)
        columns = (state.cpu_free, state.mem_free, state.pods_free, state.full_free)
        # Integers this small are exact in floats.
        free = np.stack(columns, axis=1).astype(np.float64)
        # Rows that are over-full already are none of our business.
        self._open = (free >= 0).all(axis=1)
        self._free = free[:, self._axes]
        self._cost = self._disturbance(np.arange(len(rows)), self._row)

    def _excess(self, free: FloatArray) -> FloatArray:
        excess: FloatArray = np.zeros(free.shape[:-1])
        for axis, weight in enumerate(self._weight.tolist()):
            excess -= weight * np.minimum(free[..., axis], 0.0)
        return excess

    def _put(self, pod: int, row: int) -> None:
        before = int(self._row[pod])
        if before >= 0:
            self._free[before] += self._need[pod]
        if row >= 0:
            self._free[row] -= self._need[pod]
        self._row[pod] = row
        if row == self._home[pod] or self._home[pod] == _PENDING:
            self._cost[pod] = 0.0
        else:
            self._cost[pod] = self._evict_cost[pod] if row < 0 else self._move_cost[pod]

    def _disturbance(self, pods: IntArray, rows: IntArray | int) -> FloatArray:
        """What it costs that these pods are on these rows (broadcast)."""
        home = self._home[pods]
        at = np.where(np.asarray(rows) < 0, self._evict_cost[pods], self._move_cost[pods])
        return np.where((home == rows) | (home == _PENDING), 0.0, at)

    def _moved(self, pods: IntArray, rows: IntArray) -> FloatArray:
        """What disturbance changes if each of these pods goes to each of these rows."""
        at = np.where(
            self._home[pods][:, None] == rows[None, :], 0.0, self._move_cost[pods][:, None]
        )
        return np.asarray(at - self._cost[pods][:, None])

    # -- search ------------------------------------------------------------------------------

    def _search(self, fixed: set[int], most: int = _STEPS) -> bool:
        """Moves and swaps until no row exceeds its capacity; False if that takes too long."""
        until = np.zeros(len(self._uids), dtype=np.int64)
        until[list(fixed)] = most + 1
        best = _NEVER
        steps = 0
        while steps < most and not self.budget.over:
            excess = self._excess(self._free)
            excess[~self._open] = 0.0
            over = np.flatnonzero(excess > 0)
            if not len(over):
                break
            total = float(excess.sum())
            best = min(best, total)
            row = int(self._random.choice(over.tolist()))
            step = self._best_step(row, excess, until <= steps, best - total)
            steps += 1
            if step is None:
                continue
            self._carry_out(step, row, until, steps)
        self.budget.charge(steps * _STEP_WORK)
        return bool((self._free[self._open] >= 0).all())

    def _carry_out(self, step: _Step, row: int, until: IntArray, now: int) -> None:
        self._put(step.pod, step.row)
        until[step.pod] = now + self._random.randint(*_TENURE)
        if step.other >= 0:
            self._put(step.other, row)
            until[step.other] = now + self._random.randint(*_TENURE)

    def _best_step(
        self, row: int, excess: FloatArray, loose: BoolArray, aspired: float
    ) -> _Step | None:
        """What reduces the total excess most by taking a pod off this row."""
        members = np.flatnonzero((self._row == row) & loose)
        if not len(members):
            return None
        left = self._free[row] + self._need[members]
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
        after = self._free[None, :, :] - self._need[members][:, None, :]
        change = (self._excess(left) - excess[row])[:, None] + self._excess(after) - excess[None, :]
        if self._calm:
            change += self._calm * self._moved(members, np.arange(len(self._free)))
        allowed = self.instance.admissible[self._kind[members]] & self._open
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
        others = np.flatnonzero((self._row >= 0) & (self._row != row) & loose)
        others = self._sample(others, len(members))
        if not len(others):
            return None
        rows = self._row[others]
        need = self._need[others]
        here = self._excess(left[:, None, :] - need[None, :, :]) - excess[row]
        after = (self._free[rows] + need)[None, :, :] - self._need[members][:, None, :]
        change = here + self._excess(after) - excess[rows][None, :]
        if self._calm:
            back = self._disturbance(others, row) - self._cost[others]
            change += self._calm * (self._moved(members, rows) + back[None, :])
        admissible = self.instance.admissible
        allowed = admissible[self._kind[members]][:, rows] & self._open[rows]
        allowed &= admissible[self._kind[others], row][None, :]
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
        others = np.flatnonzero((self._row < 0) & loose)
        others = self._sample(others, len(members))
        if not len(others):
            return None
        change = self._excess(left[:, None, :] - self._need[others][None, :, :]) - excess[row]
        if self._calm:
            change += self._calm * (
                (self._evict_cost[members] - self._cost[members])[:, None]
                + (self._disturbance(others, row) - self._cost[others])[None, :]
            )
        allowed = self._worth[members][:, None] == self._worth[others][None, :]
        allowed &= self.instance.admissible[self._kind[others], row][None, :]
        allowed &= (self._evict_cost[members] < _NEVER)[:, None]
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
        return np.array(sorted(self._random.sample(pods.tolist(), most)), dtype=np.int64)

    # -- applying ----------------------------------------------------------------------------

    def _apply(self) -> bool:
        """Write the found rows into the layout, if that makes it better."""
        layout, state = self.layout, self.layout.state
        before = layout.value()
        targets, out = [], []
        for uid, row in self._named().items():
            placed = state.placements.get(uid)
            now = state.row_of[placed.node] if placed else -1
            if row == now:
                continue
            if row < 0:
                out.append(uid)
            else:
                targets.append((self._pods[uid], row))
        undo = [
            state.placements[uid]
            for uid in [*out, *(pod.uid for pod, _ in targets)]
            if uid in state.placements
        ]
        if relocate(layout, targets, out) is None:
            return False
        if layout.value() > before:
            return True
        layout.exchange([pod.uid for pod, _ in targets], undo)
        return False

    def _named(self) -> dict[str, int]:
        """A row for each pod: of pods that may stand for each other, as many as can stay home."""
        rows: dict[str, int] = {}
        for pods in self._types.values():
            slots = [int(self._row[pod]) for pod in pods]
            left = list(pods)
            for wish in (self._home, self._present()):
                for pod in list(left):
                    if int(wish[pod]) in slots:
                        slots.remove(int(wish[pod]))
                        left.remove(pod)
                        rows[self._uids[pod]] = int(wish[pod])
            # Those that run already are not left without a place if a pending one can be.
            left.sort(key=lambda pod: -self._evict_cost[pod])
            slots.sort(reverse=True)
            rows.update({self._uids[p]: s for p, s in zip(left, slots, strict=True)})
        return rows

    def _present(self) -> IntArray:
        state = self.layout.state
        return np.array(
            [state.row_of[state.placements[uid].node] if uid in state.placements else -1
             for uid in self._uids], dtype=np.int64)  # fmt: skip
