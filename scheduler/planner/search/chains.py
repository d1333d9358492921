"""Ejection chains: room for a pod by moving one or two others, found by arithmetic on columns.

Much faster than a window and good where slack is left; windows take over where it is not. Covers
pods that take cpu, memory, pod slots and whole devices; fractions and partitions are left to the
windows, which know what happens inside a device.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import Placement, PodRequest
from scheduler.planner.effort import Budget
from scheduler.planner.layout import Layout
from scheduler.planner.search.moves import is_simple, needs_of_simple, relocate

__all__ = ["Chains"]

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_PAIRS = 40_000
_BLOCKS = 10
_TRIED = 32
_KINDS = 100


class Chains:
    """Places unplaced pods of a layout by short chains of moves.

    Each success is applied to the layout at once and makes it better: the pod's tier gains, no
    other one loses.

    Attributes
    ----------
    failed : set of int
        Kinds for which no chain was found.
    """

    def __init__(self, layout: Layout, budget: Budget) -> None:
        self.layout, self.budget = layout, budget
        self.failed: set[int] = set()
        instance = layout.instance
        self.instance = instance
        kinds = range(len(instance.kinds))
        self._simple = np.array([is_simple(instance, k) for k in kinds], dtype=bool)
        self._need = needs_of_simple(instance)
        # Dividing by these makes what is left of different resources comparable.
        self._scale = np.array([*(axis.scale for axis in instance.axes), 8], dtype=np.float64)
        self._anywhere = np.ones(len(layout.state), dtype=bool)
        self._read()

    def run(self, kinds: list[int]) -> int:
        """Try to place the unplaced pods of these kinds; returns how many were."""
        placed = 0
        for kind in kinds:
            if not self._simple[kind]:
                continue
            for pod in list(self.layout.unplaced[kind].values()):
                if self.budget.over:
                    return placed
                self.budget.charge(0.0)
                if not self._insert(pod, kind):
                    self.failed.add(kind)
                    break  # the next of its kind is as large
                placed += 1
        return placed

    # -- columns -----------------------------------------------------------------------------

    def _read(self) -> None:
        """Columns of rows and of the pods that could be moved."""
        layout, instance, state = self.layout, self.instance, self.layout.state
        self._free = np.stack(self._columns(), axis=1).astype(np.int64)
        pods, rows, kinds, fresh = [], [], [], []
        spent = [
            layout.disturbed(position) >= budget.allowed
            for position, budget in enumerate(instance.problem.budgets)
        ]
        for uid, kind in instance.kind_of.items():
            placement = state.placements.get(uid)
            if placement is None or not self._simple[kind]:
                continue
            disturbs = uid in instance.origin and not layout.moved(uid)
            if disturbs and any(spent[b] for b in instance.kinds[kind].budgets):
                continue
            pods.append(placement.pod)
            rows.append(state.row_of[placement.node])
            kinds.append(kind)
            fresh.append(disturbs)
        self._pods: list[PodRequest] = pods
        self._position = {pod.uid: position for position, pod in enumerate(pods)}
        self._row = np.array(rows, dtype=np.int64)
        self._kind = np.array(kinds, dtype=np.int64)
        self._disturbs = np.array(fresh, dtype=bool)

    def _columns(self) -> tuple[NDArray[np.signedinteger], ...]:
        state = self.layout.state
        return (*(axis.free(state) for axis in self.instance.axes), state.full_free)

    def _fits(self, kind: int) -> BoolArray:
        """Rows that could take one more pod of a kind, (N,)."""
        fits: BoolArray = (self._free >= self._need[kind]).all(axis=1)
        admissible: BoolArray = self.instance.simple[kind]
        return fits & admissible & self._let_in(kind)

    def _room(self, kind: int, pod: PodRequest) -> BoolArray:
        """Rows that could take a pod of a kind if it left its own, (N,)."""
        fits = (self._free >= self._need[kind]).all(axis=1) & self.instance.simple[kind]
        return self.layout.open_elsewhere(pod, fits)

    def _let_in(self, kind: int) -> BoolArray:
        """Rows that rules between pods leave open to one more pod of a kind, (N,)."""
        return self.layout.open(self.instance.pods[kind][0], self._anywhere)

    def _tightest(self, kind: int, rows: IntArray) -> int:
        """The row among these with least left after taking a pod of the kind."""
        left = ((self._free[rows] - self._need[kind]) / self._scale).sum(axis=1)
        return int(rows[left.argmin()])

    # -- chains ------------------------------------------------------------------------------

    def _insert(self, pod: PodRequest, kind: int) -> bool:
        rows = np.flatnonzero(self._fits(kind))
        if len(rows):
            return self._carry_out([(pod, self._tightest(kind, rows))])
        if not len(self._row):
            return False
        return any(self._carry_out([(pod, row), *moves]) for row, moves in self._ways(kind))

    def _ways(self, kind: int) -> Iterator[tuple[int, list[tuple[PodRequest, int]]]]:
        """Rows for a pod of the kind, with the moves that make room there, cheap ones first."""
        need = self._need[kind]
        after = self._free[self._row] + self._need[self._kind]
        helps = (after >= need).all(axis=1) & self.instance.simple[kind, self._row]
        helpers = np.flatnonzero(helps)
        waste = ((after[helpers] - need) / self._scale).sum(axis=1)
        shut = ~self._let_in(kind)[self._row[helpers]]
        helpers = helpers[np.lexsort((waste, self._disturbs[helpers], shut))]
        yield from self._moves(helpers)
        yield from self._swaps(kind, helpers)

    def _moves(self, helpers: IntArray) -> Iterator[tuple[int, list[tuple[PodRequest, int]]]]:
        """One pod goes to another row that has room for it."""
        seen: dict[int, IntArray] = {}
        tried = 0
        roomy = (self._need[self._kind[helpers]] <= self._free.max(axis=0)).all(axis=1)
        helpers = helpers[roomy]
        for helper in helpers.tolist():
            kind, row = int(self._kind[helper]), int(self._row[helper])
            bound = not self.instance.unbound(kind)  # the room for it depends on where it was
            if kind not in seen or bound:
                if len(seen) >= _KINDS:
                    return
                seen[kind] = np.flatnonzero(
                    self._room(kind, self._pods[helper]) if bound else self._fits(kind)
                )
            rows = seen[kind][seen[kind] != row]
            if len(rows):
                yield row, [(self._pods[helper], self._tightest(kind, rows))]
                tried += 1
                if tried >= _TRIED:
                    return

    def _swaps(
        self, kind: int, helpers: IntArray
    ) -> Iterator[tuple[int, list[tuple[PodRequest, int]]]]:
        """A pod trades places with a smaller one of another row."""
        # In blocks, so that an early find does not pay for all pairs.
        block = max(1, _PAIRS // max(1, len(self._row)))
        for start in range(0, min(len(helpers), _BLOCKS * block), block):
            yield from self._trades(kind, helpers[start : start + block])

    def _trades(
        self, kind: int, helpers: IntArray
    ) -> Iterator[tuple[int, list[tuple[PodRequest, int]]]]:
        need = self._need[kind]
        big = self._need[self._kind[helpers]]
        room = self._free[self._row[helpers]] + big - need  # what the trade may bring in
        small = self._need[self._kind]
        fits = np.ones((len(helpers), len(self._row)), dtype=bool)
        there = self._free[self._row] + small
        for axis in range(self._need.shape[1]):
            fits &= small[None, :, axis] <= room[:, None, axis]
            fits &= there[None, :, axis] >= big[:, None, axis]
        fits &= self._row[helpers][:, None] != self._row[None, :]
        admissible = self.instance.simple
        fits &= admissible[self._kind[helpers]][:, self._row]
        fits &= admissible[self._kind][:, self._row[helpers]].T
        pairs = np.argwhere(fits)
        if not len(pairs):
            return
        cost = self._disturbs[helpers[pairs[:, 0]]].astype(int) + self._disturbs[pairs[:, 1]]
        left = (room[pairs[:, 0]] - small[pairs[:, 1]]) / self._scale
        for index in np.lexsort((left.sum(axis=1), cost))[:_TRIED].tolist():
            helper, other = int(helpers[pairs[index, 0]]), int(pairs[index, 1])
            row, second = int(self._row[helper]), int(self._row[other])
            yield row, [(self._pods[helper], second), (self._pods[other], row)]

    # -- applying ----------------------------------------------------------------------------

    def _carry_out(self, targets: list[tuple[PodRequest, int]]) -> bool:
        """Move these pods to these rows, if the result is better than before."""
        layout, state = self.layout, self.layout.state
        before = [state.placements[pod.uid] for pod, _ in targets if pod.uid in state.placements]
        # Nobody loses a place and one pod gains one, so that this can only be better.
        placements = relocate(layout, targets)
        if placements is None:
            return False
        if self.instance.problem.budgets:
            self._read()
        else:
            self._update(placements, {state.row_of[placement.node] for placement in before})
        return True

    def _update(self, placements: list[Placement], left: set[int]) -> None:
        """Bring the columns up to date after a chain; reading all anew would cost far more."""
        state = self.layout.state
        rows = sorted(left | {state.row_of[placement.node] for placement in placements})
        self._free[rows] = np.stack([column[rows] for column in self._columns()], axis=1)
        for placement in placements:
            uid, row = placement.pod.uid, state.row_of[placement.node]
            disturbs = uid in self.instance.origin and not self.layout.moved(uid)
            position = self._position.get(uid)
            if position is None:
                self._position[uid] = len(self._pods)
                self._pods.append(placement.pod)
                self._row = np.append(self._row, row)
                self._kind = np.append(self._kind, self.instance.kind_of[uid])
                self._disturbs = np.append(self._disturbs, disturbs)
            else:
                self._row[position], self._disturbs[position] = row, disturbs
