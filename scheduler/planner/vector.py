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

from scheduler.core.errors import InvalidInput, SolverFault
from scheduler.planner.budget import Budget
from scheduler.planner.window import solver_for

__all__ = ["VectorInstance", "VectorPlan", "pack_bins"]

IntArray = NDArray[np.int64]
Pattern = tuple[int, ...]
"""Count of each item in one bin."""

_SCALE = 1_000_000
_GREEDY_TRIES = 24
_WINDOW_LIMIT = 0.3
_MOST_ITEMS = 60
_BEAM = 1500
_COLUMNS = 120
_PER_ITEM = 6
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
        self._random = random.Random(f"bins/{self.budget.seed}")  # noqa: S311 - reproducible
        # Sizes as shares of a bin; what the heuristics look at.
        self._share = self.instance.sizes / self.instance.capacity

    @property
    def _finished(self) -> bool:
        return self.budget.over or len(self.best) <= self.bound

    def run(self) -> None:
        demand = self.instance.demand
        volume = (self.instance.sizes * demand[:, None]).sum(axis=0)
        self.bound = int(-(-volume // self.instance.capacity).max(initial=0))
        self._greedy()
        if self._finished:
            return
        self._generate()
        rounds = 0
        while not self._finished and rounds < 3:
            before = len(self.best)
            self._dive()
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
        dimensions = self._share.shape[1]
        average = (self._share * self.instance.demand[:, None]).sum(axis=0)
        weights = [np.ones(dimensions), average / average.sum() if average.sum() else average]
        weights += [
            np.array([self._random.random() ** 2 for _ in range(dimensions)])
            for _ in range(_GREEDY_TRIES)
        ]
        for weight in weights:
            if self.best and (self.budget.over or len(self.best) == self.bound):
                return
            self._keep(self._bin_by_bin(weight))
            self.budget.charge(0.01)

    def _bin_by_bin(
        self, weight: NDArray[np.float64], demand: IntArray | None = None
    ) -> list[Pattern]:
        """Fill bins one after another with the items that match what is left of them best."""
        left = (self.instance.demand if demand is None else demand).copy()
        patterns = []
        while left.any():
            room = self.instance.capacity.copy()
            pattern = np.zeros(len(left), dtype=np.int64)
            while True:
                fits = (left > 0) & (self.instance.sizes <= room).all(axis=1)
                if not fits.any():
                    break
                match = self._share @ (weight * room / self.instance.capacity)
                item = int(np.where(fits, match, -1.0).argmax())
                pattern[item] += 1
                left[item] -= 1
                room -= self.instance.sizes[item]
            patterns.append(tuple(pattern.tolist()))
        return patterns

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
            found = self._price_quickly(prices)
            if not found:
                missing, most = self._price_exactly(prices, end)
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
                found = self._price_quickly(prices)
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
            patterns += self._bin_by_bin(np.ones(len(self.instance.capacity)), left)
        self._keep(patterns)

    def _price_quickly(self, prices: IntArray) -> list[Pattern]:
        """Patterns worth more than a bin, by beam search over growing patterns.

        Items are added in one order, so that no pattern is met twice; of each length the most
        promising patterns survive: worth so far, and what their room could still be worth.
        """
        order = np.argsort(-prices / (1e-9 + self._share.mean(axis=1)), kind="stable")
        order = order[prices[order] > 0]
        sizes, worth = self.instance.sizes[order], prices[order]
        demand = self.instance.demand[order]
        rate = float(worth.sum()) / max(1e-9, float(self._share[order].mean(axis=1).sum()))
        capacity = self.instance.capacity
        members = np.arange(len(order))[:, None]
        room, value = capacity - sizes, worth.copy()
        ends: list[tuple[IntArray, IntArray]] = []
        while len(members):
            ends.append((value, members))
            hope = value + rate * (room / capacity).min(axis=1)
            keep = np.argsort(-hope, kind="stable")[:_BEAM]
            members, room, value = members[keep], room[keep], value[keep]
            last = members[:, -1]
            fits = np.arange(len(order))[None, :] >= last[:, None]
            for axis in range(len(capacity)):
                fits &= sizes[None, :, axis] <= room[:, None, axis]
            again = (members == last[:, None]).sum(axis=1) >= demand[last]
            fits[np.flatnonzero(again), last[again]] = False
            states, added = np.nonzero(fits)
            members = np.concatenate((members[states], added[:, None]), axis=1)
            room, value = room[states] - sizes[added], value[states] + worth[added]
        return self._choose(order, ends)

    def _choose(self, order: IntArray, ends: Sequence[tuple[IntArray, IntArray]]) -> list[Pattern]:
        """The best of these patterns, few with the same item, so that prices move everywhere."""
        ranked: list[tuple[int, tuple[int, ...]]] = []
        for value, members in ends:
            better = np.flatnonzero(value > _SCALE + _SCALE // 1000)
            best = better[np.argsort(-value[better], kind="stable")[:_COLUMNS]]
            ranked += [(int(value[i]), tuple(members[i].tolist())) for i in best.tolist()]
        ranked.sort(key=lambda pair: (-pair[0], pair[1]))
        seen = np.zeros(len(order), dtype=np.int64)
        found: list[Pattern] = []
        for _, chosen in ranked:
            if len(found) >= _COLUMNS or max(seen[list(chosen)]) >= _PER_ITEM:
                continue
            pattern = [0] * len(self.instance.demand)
            for position in chosen:
                pattern[int(order[position])] += 1
            if tuple(pattern) not in self.columns:
                found.append(tuple(pattern))
                seen[list(set(chosen))] += 1
        return found

    def _price_exactly(self, prices: IntArray, end: float) -> tuple[Pattern | None, int | None]:
        """The most valuable pattern, and an upper bound on the value of any."""
        model = cp_model.CpModel()
        priced = np.flatnonzero(prices).tolist()
        amount = {i: model.new_int_var(0, int(self.instance.demand[i]), "") for i in priced}
        for axis, capacity in enumerate(self.instance.capacity.tolist()):
            sizes = self.instance.sizes[:, axis].tolist()
            model.add(sum(sizes[i] * amount[i] for i in priced if sizes[i]) <= capacity)
        model.maximize(sum(int(prices[i]) * amount[i] for i in priced))
        left = end - self.budget.spent
        if left <= 0:
            return None, None
        solver = solver_for(self.budget, left)
        status = solver.solve(model)
        self.budget.charge(solver.response_proto.deterministic_time)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None, None
        pattern = [0] * len(prices)
        for item in priced:
            pattern[item] = solver.value(amount[item])
        return tuple(pattern), int(solver.best_objective_bound + 0.5)

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
