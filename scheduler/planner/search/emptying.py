"""Room for large pods: rows are emptied as far as need be, those first that it costs least.

What it costs to make room on one row does not depend on the others: which of its pods have to
leave. Rows are taken in the order of that cost; those that leave fill holes as exactly as they can,
and rather on rows that would be expensive to empty. The search finds exceptions to it later.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import PodRequest
from scheduler.planner.effort import Budget
from scheduler.planner.layout import Layout
from scheduler.planner.search.moves import is_simple, needs_of_simple, relocate

__all__ = ["Emptying"]

IntArray = NDArray[np.int64]

_NEVER = 1 << 40


@dataclass(frozen=True, slots=True)
class _Way:
    """What has to leave a row so that a kind has room: moves cost so much, so many devices go."""

    cost: int
    devices: int
    row: int
    leaving: tuple[str, ...]

    @property
    def key(self) -> tuple[int, int, int]:
        return self.cost, self.devices, self.row


class Emptying:
    """Places unplaced pods of a layout that ask for entire devices, by moving others.

    Each success is applied to the layout at once and makes it better: nobody loses a place.

    Attributes
    ----------
    failed : set of int
        Kinds of which a pod found no way.
    """

    def __init__(self, layout: Layout, budget: Budget) -> None:
        self._layout, self._budget = layout, budget
        self.failed: set[int] = set()
        instance = self._instance = layout.instance
        kinds = range(len(instance.kinds))
        self._simple = [is_simple(instance, k) and instance.unbound(k) for k in kinds]
        self._need = needs_of_simple(instance)
        self._free = np.stack(self._columns(), axis=1).astype(np.int64)
        self._there: dict[int, dict[str, int]] = defaultdict(dict)
        for uid, kind in instance.kind_of.items():
            placed = layout.state.placements.get(uid)
            if placed is not None and self._simple[kind]:
                self._there[layout.state.row_of[placed.node]][uid] = kind
        self._emptying_cost = np.zeros(len(layout.state), dtype=np.int64)
        self._claimed = np.zeros(len(layout.state), dtype=bool)

    def run(self, kinds: list[int]) -> int:
        """Make room for the unplaced pods of these kinds; returns for how many it was made."""
        placed = 0
        for kind in kinds:
            if not self._simple[kind] or not self._need[kind, -1]:
                continue
            placed += self._serve(kind)
        return placed

    def _columns(self) -> tuple[NDArray[np.signedinteger], ...]:
        state = self._layout.state
        return (*(axis.free(state) for axis in self._instance.axes), state.full_free)

    def _serve(self, kind: int) -> int:
        pods = list(self._layout.unplaced[kind].values())
        if not pods:
            return 0
        ways = self._ways(kind)
        placed = 0
        for pod in pods:
            while ways and not self._budget.over:
                _, way = heapq.heappop(ways)
                now = self._way(kind, way.row)  # others may have come there, or left
                if now is None:
                    continue
                if now.key > way.key and ways and now.key > ways[0][0]:
                    heapq.heappush(ways, (now.key, now))
                    continue
                if self._carry_out(pod, kind, now):
                    placed += 1
                    again = self._way(kind, way.row)
                    if again is not None:
                        heapq.heappush(ways, (again.key, again))
                    break
            else:
                self.failed.add(kind)
                return placed
        return placed

    def _ways(self, kind: int) -> list[tuple[tuple[int, int, int], _Way]]:
        """The cheapest way on each row, as a heap; what each costs is remembered."""
        self._emptying_cost[:] = _NEVER
        ways = []
        for row in np.flatnonzero(self._instance.simple[kind]).tolist():
            way = self._way(kind, row)
            if way is not None:
                self._emptying_cost[row] = way.cost
                ways.append((way.key, way))
        heapq.heapify(ways)
        return ways

    # -- one row -----------------------------------------------------------------------------

    def _way(self, kind: int, row: int) -> _Way | None:
        """What has to leave a row for one pod of a kind, at least cost; None if that is no help."""
        lacks = self._need[kind] - self._free[row]
        if (lacks <= 0).all():
            return _Way(0, 0, row, ())
        pods = [
            (self._cost(uid, code), code, uid) for uid, code in self._there.get(row, {}).items()
        ]
        pods = [one for one in pods if one[0] < _NEVER]
        if not pods or (sum(self._need[code] for _, code, _ in pods) < lacks).any():
            return None
        chosen = self._fewest(pods, max(0, int(lacks[-1])))
        gone = sum((self._need[code] for _, code, _ in chosen), np.zeros_like(lacks))
        # Devices are what lacks most of the time; for anything else one more leaves at a time.
        for one in sorted(set(pods) - set(chosen), key=lambda one: (one[0], one[2])):
            if (gone >= lacks).all():
                break
            if (self._need[one[1]][gone < lacks] > 0).any():
                chosen.append(one)
                gone = gone + self._need[one[1]]
        if (gone < lacks).any():
            return None
        chosen.sort(key=lambda one: (-int(self._need[one[1], -1]), one[2]))
        cost = sum(one[0] for one in chosen)
        return _Way(cost, int(gone[-1]), row, tuple(uid for _, _, uid in chosen))

    def _fewest(self, pods: list[tuple[int, int, str]], wanted: int) -> list[tuple[int, int, str]]:
        """Pods with so many devices at least, at least cost, then with as few as that allows."""
        best: dict[int, tuple[int, int, list[tuple[int, int, str]]]] = {0: (0, 0, [])}
        for one in sorted(pods, key=lambda one: one[2]):
            devices = int(self._need[one[1], -1])
            if not devices:
                continue
            for have, (cost, total, chosen) in list(best.items()):
                if have >= wanted:
                    continue
                key = min(wanted, have + devices)
                other = (cost + one[0], total + devices, [*chosen, one])
                if key not in best or other[:2] < best[key][:2]:
                    best[key] = other
        return list(best[wanted][2]) if wanted in best else []

    def _cost(self, uid: str, kind: int) -> int:
        """What moving a pod adds to the disruption; ``_NEVER`` if a budget forbids it."""
        costs = self._instance.kinds[kind].disruption
        if costs is None or self._layout.moved(uid):
            return 0
        budgets = self._instance.problem.budgets
        for number in self._instance.kinds[kind].budgets:
            if self._layout.disturbed(number) >= budgets[number].allowed:
                return _NEVER
        return costs.move

    # -- carrying out ------------------------------------------------------------------------

    def _carry_out(self, pod: PodRequest, kind: int, way: _Way) -> bool:
        """Move those that have to leave to where they fill holes, and put the pod there."""
        targets = self._targets(way)
        if targets is None or not self._within_budgets(way):
            return False
        placements = self._layout.state.placements
        moves = [(placements[uid].pod, row) for uid, row in targets.items()]
        if relocate(self._layout, [(pod, way.row), *moves]) is None:
            return False
        for uid, row in targets.items():
            self._there[row][uid] = self._there[way.row].pop(uid)
            # A pod that has come there makes it more expensive to empty, at whatever cost it came.
            self._emptying_cost[row] = min(_NEVER, self._emptying_cost[row] + 1)
        self._there[way.row][pod.uid] = kind
        rows = sorted({way.row, *targets.values()})
        self._free[rows] = np.stack([column[rows] for column in self._columns()], axis=1)
        self._claimed[way.row] = True
        return True

    def _within_budgets(self, way: _Way) -> bool:
        asked: Counter[int] = Counter()
        for uid in way.leaving:
            if not self._layout.moved(uid):
                asked.update(self._instance.kinds[self._instance.kind_of[uid]].budgets)
        budgets = self._instance.problem.budgets
        return all(
            self._layout.disturbed(number) + count <= budgets[number].allowed
            for number, count in asked.items()
        )

    def _targets(self, way: _Way) -> dict[str, int] | None:
        """A row for each that leaves, large ones first; None if one of them finds none."""
        taken: dict[int, IntArray] = {}
        targets: dict[str, int] = {}
        for uid in way.leaving:
            kind = self._there[way.row][uid]
            need = self._need[kind]
            open_rows = self._instance.simple[kind] & ~self._claimed
            open_rows[way.row] = False
            for row, gone in taken.items():
                open_rows[row] &= bool((self._free[row] - gone >= need).all())
            rows = np.flatnonzero(open_rows & (self._free >= need).all(axis=1))
            if not len(rows):
                return None
            left = self._free[rows, -1] - need[-1]
            for at, row in enumerate(rows.tolist()):
                if row in taken:
                    left[at] -= taken[row][-1]
            best = int(rows[np.lexsort((rows, -self._emptying_cost[rows], left))[0]])
            targets[uid] = best
            taken[best] = taken.get(best, np.zeros_like(need)) + need
        return targets
