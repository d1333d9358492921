"""The most valuable contents of one bin: quickly by beam search, exactly by enumeration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp

__all__ = ["Bin", "Pattern"]

IntArray = NDArray[np.int64]
Pattern = tuple[int, ...]
"""Count of each item in one bin."""

_BEAM = 1500
_COLUMNS = 120
_PER_ITEM = 6
_MOST_PARTIAL = 50_000


class Bin:
    """One bin and the items that may go into it.

    Parameters
    ----------
    capacity : (d,) int64
    sizes : (n, d) int64
    demand : (n,) int64
        Most copies of each item.
    """

    def __init__(self, capacity: IntArray, sizes: IntArray, demand: IntArray) -> None:
        self.capacity, self.sizes, self.demand = capacity, sizes, demand
        # Sizes as shares of a bin; what the heuristics look at.
        self.share = sizes / np.maximum(capacity, 1)

    def good(
        self, prices: IntArray, threshold: int, known: Collection[Pattern], beam: int = _BEAM
    ) -> list[Pattern]:
        """Unknown patterns worth more than a threshold, by beam search over growing patterns.

        Items are added in one order, so that no pattern is met twice; of each length the most
        promising patterns survive: worth so far, and what their room could still be worth.
        """
        order = np.argsort(-prices / (1e-9 + self.share.mean(axis=1)), kind="stable")
        order = order[(prices[order] > 0) & (self.demand[order] > 0)]
        order = order[(self.sizes[order] <= self.capacity).all(axis=1)]
        sizes, worth = self.sizes[order], prices[order]
        demand = self.demand[order]
        rate = float(worth.sum()) / max(1e-9, float(self.share[order].mean(axis=1).sum()))
        capacity = self.capacity
        whole = np.maximum(capacity, 1)
        members = np.arange(len(order))[:, None]
        room, value = capacity - sizes, worth.copy()
        ends: list[tuple[IntArray, IntArray]] = []
        while len(members):
            ends.append((value, members))
            hope = value + rate * (room / whole).min(axis=1)
            keep = np.argsort(-hope, kind="stable")[:beam]
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
        return self._choose(order, ends, threshold, known)

    def _choose(
        self,
        order: IntArray,
        ends: Sequence[tuple[IntArray, IntArray]],
        threshold: int,
        known: Collection[Pattern],
    ) -> list[Pattern]:
        """The best of these patterns, few with the same item, so that prices move everywhere."""
        ranked: list[tuple[int, tuple[int, ...]]] = []
        for value, members in ends:
            better = np.flatnonzero(value > threshold)
            best = better[np.argsort(-value[better], kind="stable")[:_COLUMNS]]
            ranked += [(int(value[i]), tuple(members[i].tolist())) for i in best.tolist()]
        ranked.sort(key=lambda pair: (-pair[0], pair[1]))
        seen = np.zeros(len(order), dtype=np.int64)
        found: list[Pattern] = []
        for _, chosen in ranked:
            if len(found) >= _COLUMNS or max(seen[list(chosen)]) >= _PER_ITEM:
                continue
            pattern = [0] * len(self.demand)
            for position in chosen:
                pattern[int(order[position])] += 1
            if tuple(pattern) not in known:
                found.append(tuple(pattern))
                seen[list(set(chosen))] += 1
        return found

    def exact(
        self,
        prices: IntArray,
        threshold: int,
        known: Collection[Pattern],
        over: Callable[[], bool],
    ) -> tuple[list[Pattern], int, bool]:
        """Unknown patterns worth more than a threshold, and a bound on the worth of any pattern.

        Item after item is decided for all partial patterns at once. A partial pattern is dropped
        when not even its Lagrangian bound (its worth, its room at the dual prices of capacity, and
        what the items still to come gain at these) exceeds the threshold. Integers throughout.

        Parameters
        ----------
        prices : (n,) int64
            What one copy of each item is worth; none is taken at 0 or less.
        threshold
            Patterns worth this or less are of no interest.
        known
            Patterns that are known already.
        over
            Asked now and then whether to give up.

        Returns
        -------
        patterns : list of tuple
            Some of those above the threshold; empty if there is none but known ones.
        bound : int
            No pattern is worth more. Not above the threshold if no pattern is and all were seen.
        complete : bool
            Whether all partial patterns could be looked at.
        """
        usable = (prices > 0) & (self.demand > 0) & (self.sizes <= self.capacity).all(axis=1)
        items = np.flatnonzero(usable)
        total = int((prices[items] * self.demand[items]).sum())
        shift = min(20, 56 - total.bit_length())
        if not len(items) or total <= threshold or shift < 0:
            return [], total, True
        duals = self._duals(items, prices, 1 << shift)
        worth = prices[items] << shift
        gain = worth - self.sizes[items] @ duals
        order = np.argsort(-np.abs(gain), kind="stable")
        items, worth, gain = items[order], worth[order], gain[order]
        copies = self.demand[items]
        rest = np.append(np.cumsum((np.maximum(gain, 0) * copies)[::-1])[::-1], 0)
        made = self._enumerate(items, (worth, duals, rest), threshold << shift, over)
        if made is None:
            return [], total, False
        steps, value, dropped = made
        bound = -(-max(dropped, int(value.max(initial=0))) >> shift)
        found = self._traced(items, steps, np.where(value > threshold << shift, value, -1), known)
        return found, bound, dropped == threshold << shift

    def _duals(self, items: IntArray, prices: IntArray, scale: int) -> IntArray:
        """Integer prices of the capacities, from the linear relaxation; any would be valid."""
        solver = pywraplp.Solver.CreateSolver("GLOP")
        assert solver is not None  # GLOP is part of every OR-Tools build
        rows = [solver.Constraint(-solver.infinity(), 1.0) for _ in self.capacity]
        for item in items.tolist():
            column = solver.NumVar(0.0, float(self.demand[item]), "")
            solver.Objective().SetCoefficient(column, float(prices[item]))
            for axis, share in enumerate(self.share[item].tolist()):
                if share:
                    rows[axis].SetCoefficient(column, share)
        solver.Objective().SetMaximization()
        if solver.Solve() != pywraplp.Solver.OPTIMAL:
            return np.zeros(len(rows), dtype=np.int64)
        values = [max(0.0, row.dual_value()) * scale for row in rows]
        units = np.maximum(self.capacity, 1).tolist()
        return np.array([round(v / unit) for v, unit in zip(values, units, strict=True)])

    def _enumerate(
        self,
        items: IntArray,
        bounding: tuple[IntArray, IntArray, IntArray],
        threshold: int,
        over: Callable[[], bool],
    ) -> tuple[list[tuple[IntArray, IntArray]], IntArray, int] | None:
        """Steps to trace patterns back by, their worth, and the best hope that was dropped."""
        worth, duals, rest = bounding
        room, value = self.capacity[None, :].copy(), np.zeros(1, dtype=np.int64)
        steps: list[tuple[IntArray, IntArray]] = []
        dropped = threshold
        for step, item in enumerate(items.tolist()):
            if over():
                return None
            size = self.sizes[item]
            parents, counts = np.arange(len(value)), np.zeros(len(value), dtype=np.int64)
            last = parents
            for copy in range(1, int(self.demand[item]) + 1):
                last = last[(room[last] >= copy * size).all(axis=1)]
                if not len(last):
                    break
                parents = np.append(parents, last)
                counts = np.append(counts, np.full(len(last), copy))
            room = room[parents] - counts[:, None] * size
            value = value[parents] + counts * worth[step]
            hope = value + room @ duals + rest[step + 1]
            keep = np.flatnonzero(hope > threshold)
            if len(keep) > _MOST_PARTIAL:
                order = np.argsort(-hope[keep], kind="stable")
                dropped = max(dropped, int(hope[keep[order[_MOST_PARTIAL]]]))
                keep = np.sort(keep[order[:_MOST_PARTIAL]])
            room, value = room[keep], value[keep]
            steps.append((parents[keep], counts[keep]))
            if not len(keep):
                break
        return steps, value, dropped

    def _traced(
        self,
        items: IntArray,
        steps: Sequence[tuple[IntArray, IntArray]],
        value: IntArray,
        known: Collection[Pattern],
    ) -> list[Pattern]:
        """The best unknown ones of patterns whose value is not negative, few with the same item."""
        seen = np.zeros(len(self.demand), dtype=np.int64)
        found: list[Pattern] = []
        for end in np.argsort(-value, kind="stable")[: 20 * _COLUMNS].tolist():
            if value[end] < 0:
                break
            pattern, state = [0] * len(self.demand), end
            for item, (parents, counts) in zip(
                reversed(items[: len(steps)].tolist()), reversed(steps), strict=True
            ):
                pattern[item] = int(counts[state])
                state = int(parents[state])
            chosen = np.flatnonzero(pattern)
            if tuple(pattern) in known or seen[chosen].max(initial=0) >= _PER_ITEM:
                continue
            seen[chosen] += 1
            found.append(tuple(pattern))
            if len(found) >= _COLUMNS:
                break
        return found
