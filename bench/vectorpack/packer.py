"""Vector bin packing: the fewest equal bins for items with several sizes, and a proof.

Column generation: a master problem chooses patterns (multisets of items that fill one bin), a
pricing problem looks for a pattern that its dual prices say is missing. Prices are rounded to
integers and the best pattern's value is bounded by the solver, so that Farley's bound is exact
arithmetic. Patterns are then combined into an integer packing, which windows of a few bins improve.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp
from ortools.sat.python import cp_model

from bench.vectorpack.best_pattern import best_pattern
from bench.vectorpack.heuristics import Eliminator, Portfolio
from scheduler.core.errors import InvalidInput, SolverFault
from scheduler.planner.bounds.bin_patterns import Bin, Pattern
from scheduler.planner.effort import Budget
from scheduler.planner.window.window import solver_for

__all__ = ["VectorInstance", "VectorPlan", "pack_bins"]

IntArray = NDArray[np.int64]
_SCALE = 1_000_000
_GREEDY_TRIES = 24
_HEURISTIC_WORK = 0.01
_WINDOW_LIMIT = 0.3
_MOST_ITEMS = 60
_ELIMINATIONS = 12
_DIVE_PRICINGS = 2


@dataclass(frozen=True, slots=True)
class VectorInstance:
    """Items for equal bins.

    Parameters
    ----------
    capacity : (d,) int64
    sizes : (n, d) int64
    demand : (n,) int64
        Copies of each item.
    """

    capacity: IntArray
    sizes: IntArray
    demand: IntArray

    def __post_init__(self) -> None:
        if (self.sizes > self.capacity).any():
            item = int(np.argwhere((self.sizes > self.capacity).any(axis=1))[0, 0])
            raise InvalidInput(f"items[{item}]", "is larger than a bin")
        if (self.sizes < 0).any() or (self.demand < 0).any() or (self.capacity <= 0).any():
            raise InvalidInput("items", "have negative sizes or demands, or a bin has no capacity")


@dataclass(frozen=True, slots=True)
class VectorPlan:
    """A packing: patterns, one per bin, with a proved lower bound on the number of bins."""

    patterns: tuple[Pattern, ...]
    bound: int
    seconds: float

    @property
    def bins(self) -> int:
        """Bins used."""
        return len(self.patterns)

    @property
    def status(self) -> str:
        """``PROVED`` if bins and bound meet, else ``FEASIBLE``."""
        return "PROVED" if self.bins == self.bound else "FEASIBLE"


def pack_bins(instance: VectorInstance, budget: Budget) -> VectorPlan:
    """Pack all items into as few bins as the budget allows; the packing is checked."""
    started = time.perf_counter()
    packer = _Packer(instance, budget)
    packer.run()
    _check(instance, packer.best)
    return VectorPlan(tuple(packer.best), packer.bound, time.perf_counter() - started)


def _check(instance: VectorInstance, patterns: Sequence[Pattern]) -> None:
    table = np.array(patterns, dtype=np.int64).reshape(-1, len(instance.demand))
    if (table.sum(axis=0) != instance.demand).any():
        raise SolverFault("a packing holds other items than the instance")
    if (table @ instance.sizes > instance.capacity).any():
        raise SolverFault("a packing over-fills a bin")


class _Master:
    """The master problem: fewest patterns that cover the demand, fractions allowed."""

    def __init__(self, demand: IntArray, columns: Sequence[Pattern]) -> None:
        solver = pywraplp.Solver.CreateSolver("GLOP")
        assert solver is not None  # GLOP is part of every OR-Tools build
        self._solver = solver
        self._rows = [solver.Constraint(float(d), solver.infinity()) for d in demand]
        self._columns: list[tuple[Pattern, pywraplp.Variable]] = []
        solver.Objective().SetMinimization()
        for pattern in columns:
            self.add(pattern)

    def add(self, pattern: Pattern) -> None:
        """One more pattern to choose from."""
        column = self._solver.NumVar(0.0, self._solver.infinity(), "")
        self._solver.Objective().SetCoefficient(column, 1.0)
        for item, count in enumerate(pattern):
            if count:
                self._rows[item].SetCoefficient(column, float(count))
        self._columns.append((pattern, column))

    def demand(self, demand: IntArray) -> None:
        """Cover this much from now on."""
        for row, amount in zip(self._rows, demand.tolist(), strict=True):
            row.SetLb(float(amount))

    def prices(self) -> IntArray | None:
        """Integer price of each item, in units of a bin over ``_SCALE``; None if unsolved."""
        if self._solver.Solve() != pywraplp.Solver.OPTIMAL:
            return None
        return np.array([max(0, round(row.dual_value() * _SCALE)) for row in self._rows])

    def values(self) -> dict[Pattern, float] | None:
        """How often each pattern is used, fractions included; None if unsolved."""
        if self._solver.Solve() != pywraplp.Solver.OPTIMAL:
            return None
        return {p: x for p, column in self._columns if (x := column.solution_value()) > 1e-6}


@dataclass
class _Packer:
    instance: VectorInstance
    budget: Budget
    best: list[Pattern] = field(default_factory=list)
    bound: int = 0
    columns: dict[Pattern, None] = field(default_factory=dict)
    master: _Master = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(f"bins/{self.budget.seed}")
        demand = self.instance.demand
        self._bin = Bin(self.instance.capacity, self.instance.sizes, demand)
        self._share = self._bin.share
        self._portfolio = Portfolio(self._bin, self._random)
        self._eliminator = Eliminator(self._bin, self.budget, self._random)

    @property
    def _finished(self) -> bool:
        return self.budget.over or len(self.best) <= self.bound

    def run(self) -> None:
        demand = self.instance.demand
        volume = (self.instance.sizes * demand[:, None]).sum(axis=0)
        self.bound = int((-(-volume // self.instance.capacity)).max(initial=0))
        self._greedy()
        if self._finished:
            return
        self._generate()
        rounds = 0
        while not self._finished and rounds < 3:
            before = len(self.best)
            self._dive()
            self._eliminate(self.budget.left / 4)
            self._combine()
            self._windows()
            rounds = 0 if len(self.best) < before else rounds + 1

    def _keep(self, patterns: list[Pattern]) -> None:
        for pattern in patterns:
            self.columns.setdefault(pattern)
        if not self.best or len(patterns) < len(self.best):
            self.best = patterns

    # -- heuristics --------------------------------------------------------------------------

    def _greedy(self) -> None:
        """The portfolio, for a quarter of the budget, then bins dissolved for another one."""
        end = self.budget.spent + self.budget.left / 4
        for patterns in self._portfolio.packings(_GREEDY_TRIES):
            self._keep(patterns)
            self.budget.charge(_HEURISTIC_WORK)
            if self._finished or self.budget.spent > end:
                break
        self._eliminate(self.budget.left / 4)

    def _eliminate(self, limit: float) -> None:
        """Dissolve bins of the best packing until that has failed a few times in a row."""
        end = self.budget.spent + limit
        failures = 0
        while failures < _ELIMINATIONS and self.budget.spent < end and not self._finished:
            packed = self._eliminator.one_less(self.best)
            failures = failures + 1 if packed is None else 0
            if packed is not None:
                self._keep(packed)

    # -- column generation -------------------------------------------------------------------

    def _generate(self) -> None:
        """Columns and the bound, for half of what is left of the budget."""
        end = self.budget.spent + self.budget.left / 2
        self.master = _Master(self.instance.demand, list(self.columns))
        while self.budget.spent < end and not self._finished:
            prices = self.master.prices()
            if prices is None:
                return
            self.budget.charge(0.005)
            found = self._bin.good(prices, _SCALE + _SCALE // 1000, self.columns)
            if not found:
                missing, most = best_pattern(
                    self._bin, prices, self.budget, end - self.budget.spent
                )
                if most is not None and most > 0:
                    worth = int((prices * self.instance.demand).sum())
                    self.bound = max(self.bound, -(-worth // max(most, _SCALE)))
                    if most <= _SCALE + len(prices):
                        return  # nothing is missing but for rounding
                if missing is None or missing in self.columns:
                    return
                found = [missing]
            self._add(found)

    def _add(self, patterns: Sequence[Pattern]) -> None:
        for pattern in patterns:
            if pattern not in self.columns:
                self.columns[pattern] = None
                self.master.add(pattern)

    def _dive(self) -> None:
        """Round the master's solution bin by bin, with new columns for what is left each time."""
        left = self.instance.demand.copy()
        patterns: list[Pattern] = []
        while left.any():
            self.master.demand(left)
            for _ in range(_DIVE_PRICINGS):
                prices = self.master.prices()
                if prices is None or self.budget.over:
                    break
                self.budget.charge(0.005)
                found = self._bin.good(prices, _SCALE + _SCALE // 1000, self.columns)
                self._add(found)
                if not found:
                    break
            values = None if self.budget.over else self.master.values()
            if not values:
                break
            most = max(values.values())
            sure = [p for p, x in values.items() if x >= min(0.9, most)]
            near = [p for p, x in values.items() if x >= most - 0.1]
            for pattern in sure if most >= 0.9 else [self._random.choice(near)]:
                taken = np.minimum(np.array(pattern), left)
                if taken.sum() == sum(pattern):
                    left -= taken
                    patterns.append(pattern)
                elif not patterns or most < 0.9:
                    left -= taken
                    patterns.append(tuple(taken.tolist()))
        self.master.demand(self.instance.demand)
        if left.any():
            weight = np.ones(len(self.instance.capacity))
            patterns += self._portfolio.bin_by_bin(weight, demand=left)
        self._keep(patterns)

    # -- integer packings --------------------------------------------------------------------

    def _combine(self) -> None:
        """The best packing that the known patterns allow; items in excess are dropped."""
        model = cp_model.CpModel()
        columns = list(self.columns)
        demand = self.instance.demand.tolist()
        chosen = [model.new_int_var(0, max(demand), "") for _ in columns]
        covering: list[list[cp_model.LinearExpr | int]] = [[] for _ in demand]
        for column, var in zip(columns, chosen, strict=True):
            for item, count in enumerate(column):
                if count:
                    covering[item].append(count * var)
        for item, terms in enumerate(covering):
            model.add(sum(terms) >= demand[item])
        model.add(sum(chosen) >= self.bound)
        model.minimize(sum(chosen))
        used: dict[Pattern, int] = {}
        for pattern in self.best:
            used[pattern] = used.get(pattern, 0) + 1
        for column, var in zip(columns, chosen, strict=True):
            model.add_hint(var, used.get(column, 0))
        solver = solver_for(self.budget, self.budget.left / 2)
        status = solver.solve(model)
        self.budget.charge(solver.response_proto.deterministic_time)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return
        left = self.instance.demand.copy()
        patterns = []
        for column, var in zip(columns, chosen, strict=True):
            for _ in range(solver.value(var)):
                taken = np.minimum(np.array(column), left)
                left -= taken
                if taken.any():
                    patterns.append(tuple(taken.tolist()))
        self._keep(patterns)

    def _windows(self) -> None:
        """Take a few bins and try to do with one less; windows widen while that fails."""
        failures, width = 0, 3
        while not self._finished and failures < 30:
            picked = self._pick(width)
            packed = self._repack([self.best[index] for index in picked])
            if packed is None:
                failures += 1
                width = 3 + failures // 4
                continue
            kept = [p for index, p in enumerate(self.best) if index not in set(picked)]
            improved = len(packed) < len(picked)
            self.best = kept + packed
            for pattern in packed:
                self.columns.setdefault(pattern)
            failures = 0 if improved else failures + 1

    def _pick(self, width: int) -> list[int]:
        """Bins with room left, and others at random, with few enough items for one window."""
        fill = (np.array(self.best) @ self._share).mean(axis=1)
        noisy = fill + np.array([0.15 * self._random.random() for _ in self.best])
        order = np.argsort(noisy, kind="stable").tolist()
        half = order[: max(1, width // 2)]
        rest = order[len(half) :]
        picked: list[int] = half + self._random.sample(rest, min(len(rest), width - len(half)))
        while len(picked) > 2 and sum(sum(self.best[i]) for i in picked) > _MOST_ITEMS:
            picked.pop()
        return picked

    def _repack(self, patterns: Sequence[Pattern]) -> list[Pattern] | None:
        """The items of these bins in one bin less, or None."""
        amounts = np.array(patterns).sum(axis=0)
        items = np.flatnonzero(amounts).tolist()
        bins = len(patterns) - 1
        volume = (self._share * amounts[:, None]).sum(axis=0).max()
        if bins < 1 or volume > bins:
            return None
        model = cp_model.CpModel()
        into = {
            (item, b): model.new_int_var(0, int(amounts[item]), "")
            for item in items
            for b in range(bins)
        }
        for item in items:
            model.add(sum(into[item, b] for b in range(bins)) == int(amounts[item]))
        for b in range(bins):
            for axis, capacity in enumerate(self.instance.capacity.tolist()):
                sizes = self.instance.sizes[:, axis].tolist()
                model.add(sum(sizes[i] * into[i, b] for i in items if sizes[i]) <= capacity)
        solver = solver_for(self.budget, min(_WINDOW_LIMIT, self.budget.left))
        status = solver.solve(model)
        self.budget.charge(solver.response_proto.deterministic_time)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None
        made = []
        for b in range(bins):
            pattern = [0] * len(amounts)
            for item in items:
                pattern[item] = solver.value(into[item, b])
            made.append(tuple(pattern))
        return made
