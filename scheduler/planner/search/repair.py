"""Repair: a pod is put where it does not fit, then moves and swaps make it fit.

Where nodes are full to the brim, no chain of one or two moves helps and windows of a few rows see
too little. Here capacity may be exceeded for a while: a tabu search takes the moves and swaps that
reduce the excess most, over all rows at once, until nothing exceeds. The same search
reduces disruption: a disturbed pod goes back to where it ran, and fewer others make room.
"""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from scheduler.planner.effort import Budget
from scheduler.planner.layout import Layout
from scheduler.planner.search.moves import is_simple, needs_of_simple, relocate
from scheduler.planner.search.tabu import PENDING, Tabu, TabuItems

__all__ = ["Repair"]

IntArray = NDArray[np.int64]

_STEPS = 400
_NEAR = 8
_WEIGHTS_INSERTING = (0.0, 0.0, 0.002, 0.01)
_WEIGHTS_UNDISTURBING = (0.004, 0.01, 0.02)


class Repair:
    """Tabu search over simple pods of a layout; pods under budgets or rules between pods stay.

    Each success is written into the layout at once and makes it better.
    """

    def __init__(self, layout: Layout, budget: Budget) -> None:
        self.layout, self.budget = layout, budget
        self._random = random.Random(f"repair/{budget.seed}")  # noqa: S311 - reproducible
        instance = self.instance = layout.instance
        self._usable = [
            is_simple(instance, code) and not kind.budgets and instance.unbound(code)
            for code, kind in enumerate(instance.kinds)
        ]
        self._uids = [uid for uid, kind in instance.kind_of.items() if self._usable[kind]]
        self._pods = {pod.uid: pod for pods in instance.pods for pod in pods}
        self._needs = needs_of_simple(instance)
        self._axes = self._binding()
        self._items = self._make_items()
        self._types = self._interchangeable()
        self._tabu = Tabu(self._items, budget, self._random)

    def usable(self, kind: int) -> bool:
        """Whether it knows how to place a kind."""
        return self._usable[kind]

    def insert(self, kind: int) -> bool:
        """Try to place one more pod of a kind, keeping every other level of the objective."""
        if not self._usable[kind]:
            return False
        self._read()
        tabu = self._tabu
        waiting = np.flatnonzero((tabu.row < 0) & (self._items.kind == kind))
        rows = np.flatnonzero(self.instance.simple[kind] & self._open)
        if not len(waiting) or not len(rows):
            return False
        pod = int(waiting[0])
        near = rows[np.argsort(tabu.excess_with(pod, rows), kind="stable")[:_NEAR]]
        tabu.put(pod, int(self._random.choice(near.tolist())))
        tabu.disruption_weight = self._random.choice(_WEIGHTS_INSERTING)
        return tabu.run({pod}, _STEPS) and self._apply()

    def undisturb(self) -> bool:
        """Try to put a disturbed pod back to where it ran, with less disruption in all."""
        self._read()
        tabu, home = self._tabu, self._items.home
        away = np.flatnonzero((home >= 0) & (tabu.row >= 0) & (tabu.row != home))
        if not len(away):
            return False
        pod = int(self._random.choice(away.tolist()))
        if not self._open[home[pod]]:
            return False
        tabu.put(pod, int(home[pod]))
        tabu.disruption_weight = self._random.choice(_WEIGHTS_UNDISTURBING)
        return tabu.run({pod}, _STEPS // 4) and self._apply()

    # -- columns -----------------------------------------------------------------------------

    def _binding(self) -> IntArray:
        """Axes, the last of which are devices, of which some row has less than all need."""
        instance = self.instance
        pods = np.array([len(pods) for pods in instance.pods], dtype=np.int64)
        total = pods @ self._needs
        rooms = (*(axis.room for axis in instance.axes), instance.base.whole)
        return np.array(
            [axis for axis, room in enumerate(rooms) if len(room) and total[axis] > room.min()],
            dtype=np.int64,
        )

    def _make_items(self) -> TabuItems:
        instance, state = self.instance, self.layout.state
        codes = [instance.kind_of[uid] for uid in self._uids]
        kinds = [instance.kinds[code] for code in codes]
        costs = [kind.disruption for kind in kinds]
        origins = [instance.origin.get(uid) for uid in self._uids]
        gains = [tuple(int(level.weights[code]) for level in instance.levels) for code in codes]
        worths = {gain: number for number, gain in enumerate(sorted(set(gains)))}
        scale = np.array([*(axis.scale for axis in instance.axes), 8], dtype=np.float64)
        return TabuItems(
            self._needs[np.array(codes, dtype=np.int64)][:, self._axes].astype(np.float64),
            np.array(codes, dtype=np.int64),
            instance.simple,
            1.0 / np.maximum(scale, 1.0)[self._axes],
            np.array([worths[gain] for gain in gains], dtype=np.int64),
            np.array([state.row_of[o.node] if o else PENDING for o in origins], dtype=np.int64),
            np.array([c.move if c else 0 for c in costs], dtype=np.float64),
            np.array(
                [0 if c is None else np.inf if c.evict is None else c.evict for c in costs],
                dtype=np.float64,
            ),
        )

    def _interchangeable(self) -> dict[object, list[int]]:
        """Pods that may stand for each other, running or pending, by what they ask for."""
        types: dict[object, list[int]] = {}
        for index, code in enumerate(self._items.kind.tolist()):
            kind = self.instance.kinds[code]
            key = (kind.shape, kind.selection, kind.priority, kind.candidates, kind.standing)
            types.setdefault(key, []).append(index)
        return types

    def _read(self) -> None:
        state = self.layout.state
        columns: list[NDArray[np.signedinteger]] = [a.free(state) for a in self.instance.axes]
        columns.append(state.full_free)
        # Integers this small are exact in floats.
        free = np.stack(columns, axis=1).astype(np.float64)
        # Rows that are over-full already are none of our business.
        self._open: NDArray[np.bool_] = np.asarray((free >= 0).all(axis=1))
        self._tabu.load(self._present(), free[:, self._axes], self._open)

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
        layout.exchange([pod.uid for pod, _ in targets], undo, back=True)
        return False

    def _named(self) -> dict[str, int]:
        """A row for each pod: of pods that may stand for each other, as many as can stay home."""
        rows: dict[str, int] = {}
        for pods in self._types.values():
            slots = [int(self._tabu.row[pod]) for pod in pods]
            left = list(pods)
            for wish in (self._items.home, self._present()):
                for pod in list(left):
                    if int(wish[pod]) in slots:
                        slots.remove(int(wish[pod]))
                        left.remove(pod)
                        rows[self._uids[pod]] = int(wish[pod])
            # Those that run already are not left without a place if a pending one can be.
            left.sort(key=lambda pod: -self._items.evict_cost[pod])
            slots.sort(reverse=True)
            rows.update({self._uids[p]: s for p, s in zip(left, slots, strict=True)})
        return rows

    def _present(self) -> IntArray:
        state = self.layout.state
        return np.array(
            [state.row_of[state.placements[uid].node] if uid in state.placements else -1
             for uid in self._uids], dtype=np.int64)  # fmt: skip
