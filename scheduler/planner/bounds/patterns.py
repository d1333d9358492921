"""A stronger upper bound than pooled capacity: what whole nodes can really hold, class by class.

Rows that are alike without the pods in play form a class. A master problem mixes patterns (contents
of one row) so that a level is maximised, the levels before it keep what they have, and no pod is
used twice; its duals price the pods, and the pricing problem asks what the best row is worth at
these prices. Any prices give a bound (Lagrange): the price of all pods, and for each row the worth
of its best contents. Prices are rounded to integers and the bound is computed in integers, so that
nothing depends on the linear solver's word. Gangs, disruption and what happens inside a device
beyond dual feasible functions are relaxed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp

from scheduler.core.model import DEVICE_MILLI, GpuKind
from scheduler.planner.bounds.bin_patterns import Bin, Pattern
from scheduler.planner.bounds.relaxation import alike
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance, Level
from scheduler.planner.layout import Layout

__all__ = ["PatternBound"]

IntArray = NDArray[np.int64]

_SCALE = 1_000_000
_MOST_CLASSES = 40
_MOST_TYPES = 600
_BEAM = 600
_ROUND_WORK = 0.01
_HIGHEST = 10**12
_PATIENCE = 4
_MOST_PER_ROW = 6


@dataclass
class _Class:
    """Rows that are alike, and what one of them can hold."""

    rows: IntArray
    bin: Bin
    patterns: dict[Pattern, None] = field(default_factory=dict)


class _Master:
    """Which patterns to use how often, fractions allowed."""

    def __init__(
        self, supply: Sequence[int], classes: Sequence[_Class], weights: IntArray,
        achieved: Sequence[tuple[IntArray, int]],
    ) -> None:  # fmt: skip
        self._supply, self._classes = supply, classes
        self._weights, self._achieved = weights, achieved
        self._columns: list[tuple[int, Pattern]] = []
        self._build()

    def _build(self) -> None:
        solver = pywraplp.Solver.CreateSolver("GLOP")
        assert solver is not None  # GLOP is part of every OR-Tools build
        self._solver = solver
        minus = -solver.infinity()
        self._pods = [solver.Constraint(minus, float(count)) for count in self._supply]
        self._rows = [solver.Constraint(minus, float(len(c.rows))) for c in self._classes]
        self._levels = [solver.Constraint(float(v), solver.infinity()) for _, v in self._achieved]
        solver.Objective().SetMaximization()
        for position, pattern in self._columns:
            self._column(position, pattern)

    def add(self, position: int, pattern: Pattern) -> None:
        """One more pattern for a class."""
        self._columns.append((position, pattern))
        self._column(position, pattern)

    def _column(self, position: int, pattern: Pattern) -> None:
        column = self._solver.NumVar(0.0, self._solver.infinity(), "")
        counts = np.array(pattern, dtype=np.int64)
        self._solver.Objective().SetCoefficient(column, float(self._weights @ counts))
        self._rows[position].SetCoefficient(column, 1.0)
        for item in np.flatnonzero(counts).tolist():
            self._pods[item].SetCoefficient(column, float(pattern[item]))
        for row, (weights, _) in zip(self._levels, self._achieved, strict=True):
            row.SetCoefficient(column, float(weights @ counts))

    def prices(self) -> tuple[IntArray, list[int]] | None:
        """Integer duals of the pods and of the achieved levels, over ``_SCALE``."""
        if self._solver.Solve() != pywraplp.Solver.OPTIMAL:
            self._build()  # a warm start sometimes fails for numerical reasons; a cold one rarely
            if self._solver.Solve() != pywraplp.Solver.OPTIMAL:
                return None
        # Whatever the duals are, cut to what integers hold, the bound they give is valid.
        pods = [min(_HIGHEST, max(0, round(r.dual_value() * _SCALE))) for r in self._pods]
        levels = [min(_HIGHEST, max(0, round(-r.dual_value() * _SCALE))) for r in self._levels]
        return np.array(pods, dtype=np.int64), levels


class PatternBound:
    """Bounds levels of a problem by column generation.

    Attributes
    ----------
    rounds : int
        How often prices were made.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.rounds = 0
        # Running and pending pods of one shape are the same to a bound on what is placed.
        types: dict[object, int] = {}
        self._type_of: list[int] = []
        for kind in instance.kinds:
            key = (kind.shape, kind.selection, kind.priority, kind.candidates)
            self._type_of.append(types.setdefault(key, len(types)))
        self._first = [self._type_of.index(code) for code in range(len(types))]
        self._supply = np.bincount(
            self._type_of, [len(pods) for pods in instance.pods], len(types)
        ).astype(np.int64)
        # A type's pods may be of several kinds, each with a limit of its own.
        self._most = np.zeros((len(types), instance.most.shape[1]), dtype=np.int64)
        np.add.at(self._most, self._type_of, instance.most)
        self._classes = self._make_classes()

    def worthwhile(self, layout: Layout) -> bool:
        """Whether this may prove more than pooled capacity does, in reasonable time.

        Where rows hold many pods without devices, next to nothing is left over in any row.
        """
        if not self._classes or len(self._first) > _MOST_TYPES:
            return False
        rows = sum(len(entry.rows) for entry in self._classes)
        placed = sum(layout.placed(kind) for kind in range(len(self.instance.kinds)))
        return placed <= _MOST_PER_ROW * rows or bool(self.instance.base.milli.any())

    def bound(
        self,
        layout: Layout,
        index: int,
        bound: int,
        budget: Budget,
        limit: float,
    ) -> int:
        """Most that a level can reach if those before it reach what they have in a layout.

        Parameters
        ----------
        layout
            Its rows are the first patterns; its levels are kept.
        index
            Which level.
        bound
            What is known already; nothing more is done once no better one can come out.
        budget
            Charged with the work done.
        limit
            Most of the budget that this may take. The bound is the best that was found by then.

        Returns
        -------
        int
            At most the bound that was known.
        """
        end = budget.spent + min(limit, budget.left)
        levels, value = self.instance.levels, layout.value()
        weights = self._weights(levels[index])
        achieved = [(self._weights(lv), v) for lv, v in zip(levels[:index], value, strict=False)]
        master = _Master(self._supply.tolist(), self._classes, weights, achieved)
        for position, entry in enumerate(self._classes):
            for pattern in [*entry.patterns, *self._present(layout, entry)]:
                entry.patterns.setdefault(pattern)
            for pattern in entry.patterns:
                master.add(position, pattern)
        unit = int(np.gcd.reduce(weights[weights > 0])) if weights.any() else 1
        best, incomplete = bound, 0
        while budget.spent < end and best > value[index]:
            made = master.prices()
            if made is None:
                return best
            self.rounds += 1
            budget.charge(_ROUND_WORK)
            pods, duals = made
            worth = weights * _SCALE - pods
            for (level, _), dual in zip(achieved, duals, strict=True):
                worth = worth + level * dual
            fixed = int(pods @ self._supply)
            fixed -= sum(d * v for d, (_, v) in zip(duals, achieved, strict=True))
            known = [self._known(entry, worth) for entry in self._classes]
            reached = fixed + sum(
                most * len(entry.rows) for most, entry in zip(known, self._classes, strict=True)
            )
            # No better bound than this can come of these prices; how much the rows may be worth
            # more without spoiling it is slack for the pricing.
            target = max(value[index], reached // _SCALE // unit * unit)
            if target >= best:
                return best
            slack = (target + unit) * _SCALE - 1 - reached
            slack //= max(1, sum(len(entry.rows) for entry in self._classes))
            if self._quick(master, worth, known):
                continue
            total, found, complete = fixed, False, True
            for position, (entry, most) in enumerate(zip(self._classes, known, strict=True)):
                patterns, bounded, all_seen = entry.bin.exact(
                    worth, most + slack, entry.patterns, lambda: budget.spent >= end
                )
                total += max(0, bounded) * len(entry.rows)
                complete &= all_seen
                for pattern in patterns:
                    entry.patterns[pattern] = None
                    master.add(position, pattern)
                    found = True
            best = min(best, total // _SCALE // unit * unit)
            incomplete += not complete
            if not found or incomplete >= _PATIENCE:
                return best
        return best

    # -- pricing -----------------------------------------------------------------------------

    def _known(self, entry: _Class, worth: IntArray) -> int:
        """What the best known pattern of a class is worth, at least 0."""
        table = np.array(list(entry.patterns), dtype=np.int64).reshape(-1, len(worth))
        return int((table @ worth).max(initial=0))

    def _quick(self, master: _Master, worth: IntArray, known: Sequence[int]) -> bool:
        """Add patterns that are worth more than they cost, if a look at few finds any."""
        any_found = False
        for position, (entry, most) in enumerate(zip(self._classes, known, strict=True)):
            threshold = most + _SCALE // 1000
            for pattern in entry.bin.good(worth, threshold, entry.patterns, _BEAM):
                entry.patterns[pattern] = None
                master.add(position, pattern)
                any_found = True
        return any_found

    # -- the problem in these terms ----------------------------------------------------------

    def _weights(self, level: Level) -> IntArray:
        return level.weights[self._first].astype(np.int64)

    def _present(self, layout: Layout, entry: _Class) -> list[Pattern]:
        """What the rows of a class hold in a layout."""
        patterns = []
        for row in entry.rows.tolist():
            pattern = [0] * len(self._first)
            for placement in layout.in_play(row):
                pattern[self._type_of[self.instance.kind_of[placement.pod.uid]]] += 1
            patterns.append(tuple(pattern))
        return patterns

    def _make_classes(self) -> list[_Class]:
        instance, state, base = self.instance, self.instance.state, self.instance.base
        rows = np.flatnonzero(instance.most.any(axis=0))
        if not len(rows):
            return []
        columns = [
            state.make[rows, None],
            *(axis.room[rows, None] for axis in instance.axes),
            np.sort(base.milli[rows], axis=1), np.sort(base.memory[rows], axis=1),
            base.slots[rows], base.replicas[rows, None], state.device_code[rows],
            state.device_mem[rows], self._most[:, rows].T,
        ]  # fmt: skip
        table = np.concatenate([np.asarray(column, dtype=np.int64) for column in columns], axis=1)
        codes = alike(table)
        if int(codes.max()) >= _MOST_CLASSES:
            return []
        return [
            self._class(rows[codes == code].astype(np.int64))
            for code in range(int(codes.max()) + 1)
        ]

    def _class(self, rows: IntArray) -> _Class:
        instance, row = self.instance, int(rows[0])
        axes: list[tuple[int, Mapping[int, int]]] = [
            *(
                (int(axis.room[row]), dict(enumerate(axis.need[self._first].tolist())))
                for axis in instance.axes
            ),
            *self._device_axes(row),
        ]
        sizes = np.zeros((len(self._first), len(axes)), dtype=np.int64)
        for axis, (_, needs) in enumerate(axes):
            for item, need in needs.items():
                sizes[item, axis] = need
        capacity = np.array([max(0, room) for room, _ in axes], dtype=np.int64)
        most = self._most[:, row]
        return _Class(rows, Bin(capacity, sizes, np.minimum(most, self._supply)))

    def _device_axes(self, row: int) -> list[tuple[int, Mapping[int, int]]]:
        """Devices: their milli-GPU, and how often each size of piece can be cut from them.

        For any m, floor(x / m) is superadditive: what is cut from one device sums to no more
        under it than the device itself.
        """
        instance, base = self.instance, self.instance.base
        if instance.odd[row]:
            return self._unit_axes(row)
        milli: dict[int, int] = {}
        replicas: dict[int, int] = {}
        whole: dict[int, int] = {}
        for item, kind in enumerate(self._first):
            gpu = instance.kinds[kind].shape.gpu
            if gpu.kind is GpuKind.WHOLE:
                whole[item] = gpu.count
                milli[item] = gpu.count * DEVICE_MILLI
            elif gpu.kind is GpuKind.FRACTION:
                milli[item] = instance.fraction(kind, row)[0]
            elif gpu.kind is GpuKind.SHARED:
                replicas[item] = gpu.replicas
        free = np.maximum(base.milli[row], 0)
        axes: list[tuple[int, Mapping[int, int]]] = []
        if milli:
            axes.append((int(free.sum()), milli))
        steps = {size for size in milli.values() if size <= DEVICE_MILLI}
        for step in sorted(steps | ({DEVICE_MILLI} if whole else set())):
            need = {
                item: whole[item] * (DEVICE_MILLI // step) if item in whole else amount // step
                for item, amount in milli.items()
            }
            axes.append((int((free // step).sum()), need))
        if replicas:
            axes.append((int(base.replicas[row]), replicas))
        return axes

    def _unit_axes(self, row: int) -> list[tuple[int, Mapping[int, int]]]:
        """Units of an odd row by resource, and what fractions could take at most."""
        instance = self.instance
        needs: dict[str, dict[int, int]] = {}
        milli: dict[int, int] = {}
        for item, kind in enumerate(self._first):
            gpu = instance.kinds[kind].shape.gpu
            for ask in (gpu, *gpu.also):
                if ask.kind is GpuKind.WHOLE:
                    needs.setdefault(ask.resource, {})[item] = ask.count
            if gpu.kind is GpuKind.FRACTION:
                milli[item] = instance.fraction(kind, row)[0]
        axes: list[tuple[int, Mapping[int, int]]] = [
            (int(instance.unit_room(resource)[row]), need) for resource, need in needs.items()
        ]
        if milli:
            axes.append((int(np.maximum(instance.base.milli[row], 0).sum()), milli))
        return axes
