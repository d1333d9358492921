"""Instant packings of vector bins: a portfolio of heuristics, and bins emptied one by one.

The heuristics are of the kinds that the literature compares: items one by one in decreasing order
into the first or the best bin (item-centric), and bins one by one with the item that matches what
is left of them best (bin-centric), each under several weightings of the dimensions. Then the
emptiest bin is dissolved into the others and a tabu search makes it fit, until that fails.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.planner.bounds.bin_patterns import Bin, Pattern
from scheduler.planner.effort import Budget
from scheduler.planner.search.tabu import PENDING, Tabu, TabuItems

__all__ = ["Eliminator", "Portfolio"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Match = Callable[[FloatArray, FloatArray], FloatArray]
"""How well items (n, d) suit the room (d,) of a bin; larger is better."""

_HEURISTIC_WORK = 0.01
_STEPS = 600


def _dot(share: FloatArray, room: FloatArray) -> FloatArray:
    return np.asarray(share @ room)


def _cosine(share: FloatArray, room: FloatArray) -> FloatArray:
    return np.asarray(share @ room / (1e-9 + np.sqrt((share * share).sum(axis=1))))


def _nearest(share: FloatArray, room: FloatArray) -> FloatArray:
    left = room - share
    return np.asarray(-(left * left).sum(axis=1))


def _largest(share: FloatArray, room: FloatArray) -> FloatArray:
    return np.asarray((share / (room + 0.05)).sum(axis=1))


@dataclass
class Portfolio:
    """Heuristics for one instance, cheap and strong ones first.

    Parameters
    ----------
    content
        Bin and items.
    random
        Draws weightings once the fixed ones are used up.
    """

    content: Bin
    random: random.Random

    def packings(self, tries: int) -> Iterator[list[Pattern]]:
        """Packings of all items, one per heuristic.

        Parameters
        ----------
        tries
            How many random weightings follow the fixed ones.
        """
        share, demand = self.content.share, self.content.demand
        dimensions = share.shape[1]
        average = (share * demand[:, None]).sum(axis=0)
        average = average / (average.sum() or 1.0)
        fixed = [average, np.ones(dimensions), np.exp(average), 1.0 / (0.05 + average)]
        for match in (_dot, _nearest, _cosine, _largest):
            for weight in fixed[:2]:
                yield self.bin_by_bin(weight, match)
        for weight in fixed:
            for best in (False, True):
                yield self._item_by_item(weight, best=best)
        for weight in fixed[2:]:
            for match in (_dot, _nearest):
                yield self.bin_by_bin(weight, match)
        for number in range(tries):
            weight = np.array([self.random.random() ** 2 for _ in range(dimensions)])
            match = (_dot, _nearest, _cosine, _largest)[number % 4]
            yield self.bin_by_bin(weight, match)

    def bin_by_bin(
        self, weight: FloatArray, match: Match = _dot, demand: IntArray | None = None
    ) -> list[Pattern]:
        """Fill bins one after another with the items that match what is left of them best."""
        content = self.content
        left = (content.demand if demand is None else demand).copy()
        scaled = content.share * np.sqrt(weight)
        full = np.sqrt(weight) / content.capacity
        patterns = []
        while left.any():
            room = content.capacity.copy()
            pattern = np.zeros(len(left), dtype=np.int64)
            items = np.flatnonzero(left > 0)
            while True:
                items = items[(content.sizes[items] <= room).all(axis=1) & (left[items] > 0)]
                if not len(items):
                    break
                item = int(items[match(scaled[items], room * full).argmax()])
                pattern[item] += 1
                left[item] -= 1
                room -= content.sizes[item]
            patterns.append(tuple(pattern.tolist()))
        return patterns

    def _item_by_item(self, weight: FloatArray, *, best: bool) -> list[Pattern]:
        """Items by decreasing weighted size into the first, or the tightest, bin that has room."""
        content = self.content
        order = np.argsort(-(content.share @ weight), kind="stable")
        units = np.repeat(order, content.demand[order]).tolist()
        room = np.tile(content.capacity, (len(units), 1))
        bins = np.zeros((len(units), len(content.demand)), dtype=np.int64)
        used = 0
        full = weight / content.capacity
        for item in units:
            fits = np.flatnonzero((room[:used] >= content.sizes[item]).all(axis=1))
            if not len(fits):
                target, used = used, used + 1
            elif best:
                target = int(fits[(room[fits] @ full).argmin()])
            else:
                target = int(fits[0])
            room[target] -= content.sizes[item]
            bins[target, item] += 1
        return [tuple(pattern) for pattern in bins[:used].tolist()]


class Eliminator:
    """Dissolves bins of a packing."""

    def __init__(self, content: Bin, budget: Budget, seed: random.Random) -> None:
        self._content, self._budget, self._random = content, budget, seed
        self._items = np.repeat(np.arange(len(content.demand)), content.demand)
        count = len(self._items)
        self._tabu_items = TabuItems(
            content.sizes[self._items].astype(np.float64),
            np.zeros(count, dtype=np.int64),
            np.ones((1, max(1, count)), dtype=bool),
            1.0 / np.maximum(content.capacity, 1).astype(np.float64),
            np.zeros(count, dtype=np.int64),
            np.full(count, PENDING, dtype=np.int64),
            np.zeros(count),
            np.zeros(count),
        )

    def one_less(self, patterns: Sequence[Pattern]) -> list[Pattern] | None:
        """The same items in one bin less, or None if that was not found.

        The bin that is dissolved is one of the emptiest.
        """
        table = np.array(patterns, dtype=np.int64)
        if len(table) < 2:
            return None
        fill = (table @ self._content.share).mean(axis=1)
        victim = int(np.argsort(fill, kind="stable")[self._random.randrange(min(4, len(table)))])
        table = np.concatenate((np.delete(table, victim, axis=0), table[victim : victim + 1]))
        bins = len(table) - 1
        row = self._rows(table)
        free = self._content.capacity - table[:bins] @ self._content.sizes
        loose = np.flatnonzero(row == bins)
        row[loose] = -1
        items = self._tabu_items
        allowed = np.ones((1, bins), dtype=bool)
        tabu = Tabu(
            TabuItems(items.need, items.kind, allowed, items.weight, items.worth, items.home,
                      items.move_cost, items.evict_cost),
            self._budget, self._random,
        )  # fmt: skip
        tabu.load(row, free.astype(np.float64), np.ones(bins, dtype=bool))
        every = np.arange(bins)
        for item in loose.tolist():
            tabu.put(item, int(tabu.excess_with(item, every).argmin()))
        if not tabu.run(set(), _STEPS) or (tabu.row < 0).any():
            return None
        packed = np.zeros((bins, table.shape[1]), dtype=np.int64)
        np.add.at(packed, (tabu.row, self._items), 1)
        return [tuple(pattern) for pattern in packed.tolist() if any(pattern)]

    def _rows(self, table: IntArray) -> IntArray:
        """Bin of each unit, from counts per bin and item."""
        row = np.zeros(len(self._items), dtype=np.int64)
        position = 0
        for item in range(table.shape[1]):
            bins = np.repeat(np.arange(len(table)), table[:, item])
            row[position : position + len(bins)] = bins
            position += len(bins)
        return row
