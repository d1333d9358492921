"""Among plans of equal value and disruption, one that leaves the cluster in better shape.

Only pending pods that have a place are moved about, so that no objective before these can get
worse. In this order: soft node affinity is met; expensive device models are left alone; the
expected fragmentation for the workload profile is low (a free node for an 8-GPU job is worth more
than eight holes); few nodes are opened. Sums of costs by pod and node are lowered by the exact
model where the problem is small enough; everything by taking pods off and putting them back where
it is best.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.fragmentation import Fragmentation
from scheduler.core.model import GpuKind, Placement, Release
from scheduler.core.selection import selects
from scheduler.core.state import ClusterState
from scheduler.planner.axes import POD_SLOTS
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.problem import Objective
from scheduler.planner.window.window import Window

__all__ = ["Refiner"]

IntArray = NDArray[np.int64]
Merit = tuple[int, int, int, int]
"""Unmet preferences, cost of models, fragmentation, nodes in use: smaller is better."""

_EXACT_SIZE = 4_000
_EXACT_SHARE = 0.5
_MOST_SHARE = 0.15
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class _Costs:
    """Costs of one more pod of a kind on a row, (K, N)."""

    unmet: IntArray
    expensive: IntArray

    def of(self, kind: int, row: int) -> tuple[int, int]:
        return int(self.unmet[kind, row]), int(self.expensive[kind, row])


class Refiner:
    """Improves a layout whose levels and disruption are settled."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.instance = layout, layout.instance
        self._costs = _Costs(_unmet(self.instance), _expensive(self.instance))
        state = layout.state
        self._fragmentation = Fragmentation(state, self.instance.profile)
        self._engine = Engine(state, "fgd", profile=self.instance.profile)
        self._tight = Engine(state, "best-fit", profile=self.instance.profile)
        self._bounds: list[int | None] = [None, None]

    @staticmethod
    def worthwhile(instance: Instance) -> bool:
        """Whether plans of equal value can differ in anything that is looked at here."""
        pending = instance.problem.pending
        return bool(pending) and (
            any(pod.gpu.kind is not GpuKind.NONE for pod in pending)
            or bool(instance.problem.preferences)
            or not _in_use(instance.state).all()
        )

    def run(self, budget: Budget) -> None:
        """Improve until nothing helps or the budget is over."""
        before = self.layout.value()
        if self._costs.unmet.any() or self._costs.expensive.any():
            self._solve(budget)
        end = budget.spent + _MOST_SHARE * budget.limit
        order = random.Random(f"refine/{budget.seed}")  # noqa: S311 - reproducible
        for _ in range(_ROUNDS):
            pods = [placed.pod.uid for placed in self._pending() if self._alone(placed)]
            order.shuffle(pods)
            improved = False
            for uid in pods:
                if budget.over or budget.spent > end:
                    return
                budget.charge(0.0)
                improved |= self._put_better(uid)
            for row in self._opened():
                if budget.over or budget.spent > end:
                    return
                budget.charge(0.0)
                improved |= self._empty(row)
            if not improved:
                break
        assert self.layout.value() == before  # only placed pods were moved about

    # -- what is reported --------------------------------------------------------------------

    def objectives(self) -> tuple[Objective, ...]:
        """Values and bounds; costs that cannot arise are left out."""
        unmet, expensive, fragmentation, nodes = self._merit()
        found = []
        if self._costs.unmet.any():
            bound = max(self._least(self._costs.unmet), self._bounds[0] or 0)
            found.append(Objective("least weight of unmet node preferences", unmet, bound))
        if self._costs.expensive.any():
            bound = max(self._least(self._costs.expensive), self._bounds[1] or 0)
            found.append(Objective("cheapest device models, cost x milli-GPU", expensive, bound))
        free = int(self.layout.state.gpu_left.sum())
        bound_f = 0 if not free or not fragmentation else None
        found.append(Objective("least expected fragmentation, milli-GPU", fragmentation, bound_f))
        found.append(Objective("fewest nodes in use", nodes, self._least_nodes()))
        return tuple(found)

    def _merit(self) -> Merit:
        state = self.layout.state
        unmet = expensive = 0
        for placement in self._pending():
            kind = self.instance.kind_of[placement.pod.uid]
            one = self._costs.of(kind, state.row_of[placement.node])
            unmet, expensive = unmet + one[0], expensive + one[1]
        rows = np.arange(len(state))
        total = int(self._fragmentation.fragmentation(state, rows).sum())
        used = int(_in_use(state).sum())
        return unmet, expensive, total // self._fragmentation.total_weight, used

    def _least(self, table: IntArray) -> int:
        """Every plan with these tiers places so many pending pods, each at its least cost."""
        instance = self.instance
        if instance.problem.objective != "pods":
            return 0
        total = 0
        for priority in instance.priorities:
            placed = running = 0
            costs: list[int] = []
            for code, kind in enumerate(instance.kinds):
                if kind.priority != priority:
                    continue
                placed += self.layout.placed(code)
                count = len(instance.pods[code])
                if kind.disruption is not None:
                    running += count
                    continue
                rows = np.flatnonzero(instance.most[code] > 0)
                if len(rows):
                    costs += [int(table[code, rows].min())] * count
            total += sum(sorted(costs)[: max(0, placed - running)])
        return total

    def _least_nodes(self) -> int:
        """Nodes that cannot be emptied, and as many as the placed pods need by volume."""
        instance, state = self.instance, self.layout.state
        fixed = {
            placement.node
            for uid, placement in state.placements.items()
            if uid not in instance.kind_of
        }
        least = len(fixed)
        if instance.problem.objective != "pods":
            return least
        placed = sum(self.layout.placed(code) for code in range(len(instance.kinds)))
        for axis in instance.axes:
            if axis.name == POD_SLOTS:
                continue
            needs = sorted(
                int(axis.need[code]) for code, pods in enumerate(instance.pods) for _ in pods
            )
            volume = np.cumsum(np.sort(np.maximum(axis.room, 0))[::-1])
            least = max(least, int(np.searchsorted(volume, sum(needs[:placed]))) + bool(placed))
        return least

    # -- improving ---------------------------------------------------------------------------

    def _pending(self) -> Iterator[Placement]:
        """Placements of pending pods that may go elsewhere."""
        state, instance = self.layout.state, self.instance
        for pod in instance.problem.pending:
            placement = state.placements.get(pod.uid)
            if placement is not None:
                yield placement

    def _alone(self, placement: Placement) -> bool:
        """Whether no rule between pods is about this one, so that it may go wherever it fits."""
        return not self.instance.kinds[self.instance.kind_of[placement.pod.uid]].standing

    def _solve(self, budget: Budget) -> None:
        """Lower the sums of costs exactly, if the whole problem is small enough."""
        instance = self.instance
        if int((instance.most > 0).sum()) > _EXACT_SIZE or instance.problem.topology:
            return
        rows = np.flatnonzero(instance.most.any(axis=0)).tolist()
        offered = {kind: len(pods) for kind, pods in enumerate(self.layout.unplaced) if pods}
        if not rows or budget.over:
            return
        costs = [
            {(int(k), int(row)): int(table[k, row]) for k, row in np.argwhere(table > 0)}
            for table in (self._costs.unmet, self._costs.expensive)
        ]
        limit = min(_EXACT_SHARE * budget.left, _MOST_SHARE * budget.limit)
        self._bounds = Window(self.layout, rows, offered).cheapen(costs, budget, limit)

    def _put_better(self, uid: str) -> bool:
        """Take a pod off and put it where the merits of the rows concerned are best."""
        state = self.layout.state
        home = state.placements[uid]
        kind = self.instance.kind_of[uid]
        gang = self.instance.kinds[kind].gang
        if gang is not None and self.instance.problem.topology:
            return False  # it would have to stay within its domain
        here = state.row_of[home.node]
        base = {here: self._row_merit(here)}
        state.apply((Release(uid),))
        empty = self._row_merit(here)
        best, target = self._gain(self._cost(kind, here), base[here], empty), home
        for placement in self._candidates(home, kind):
            row = state.row_of[placement.node]
            before = self._row_merit(row)
            state.apply((placement,))
            gain = self._gain(self._cost(kind, row), self._row_merit(row), before)
            state.apply((Release(uid),))
            if gain < best:
                best, target = gain, placement
        state.apply((target,))
        return target is not home

    def _opened(self) -> list[int]:
        """Rows that host pending pods and nobody else, those with few pods first."""
        pending = {placement.pod.uid for placement in self._pending()}
        state = self.layout.state
        rows = {state.row_of[placement.node] for placement in self._pending()}
        hosted = {row: [placed.pod.uid for placed in state.pods_on(row)] for row in rows}
        ours = [
            row
            for row in rows
            if pending.issuperset(hosted[row]) and all(map(self._alone, state.pods_on(row)))
        ]
        return sorted(ours, key=lambda row: (len(hosted[row]), row))

    def _empty(self, row: int) -> bool:
        """Put all pods of a row that the plan opened on rows in use, if that is better in all."""
        state = self.layout.state
        homes = state.pods_on(row)
        if self.instance.problem.topology and any(home.pod.gang for home in homes):
            return False
        rest = _in_use(state)
        rest[row] = False
        before = self._merit_of(homes, {row})
        state.apply([Release(home.pod.uid) for home in homes])
        moved: list[Placement] = []
        untouched = {row: self._row_merit(row)}
        for home in homes:
            kind = self.instance.kind_of[home.pod.uid]
            among = np.flatnonzero(self.instance.admissible[kind] & rest)
            target = self._tight.best(home.pod, among) if len(among) else -1
            node = state.nodes[target] if target >= 0 else None
            if node is None:
                break
            untouched.setdefault(target, self._row_merit(target))
            placement = self._tight.choose(home.pod, node.name)
            state.apply((placement,))
            moved.append(placement)
        if len(moved) == len(homes):
            added = [(untouched[r][0], untouched[r][1]) for r in untouched if r != row]
            after = self._merit_of(moved, set(untouched))
            ours = (before[0], before[1], before[2] + sum(f for f, _ in added),
                    before[3] + sum(n for _, n in added))  # fmt: skip
            if after < ours:
                return True
        state.apply([*(Release(placed.pod.uid) for placed in moved), *homes])
        return False

    def _merit_of(self, placed: list[Placement], rows: set[int]) -> Merit:
        """What these pods cost where they are, and the merit of these rows."""
        state = self.layout.state
        costs = [
            self._costs.of(self.instance.kind_of[p.pod.uid], state.row_of[p.node]) for p in placed
        ]
        merits = [self._row_merit(row) for row in rows]
        return (
            sum(unmet for unmet, _ in costs),
            sum(expensive for _, expensive in costs),
            sum(fragmentation for fragmentation, _ in merits),
            sum(used for _, used in merits),
        )

    def _candidates(self, home: Placement, kind: int) -> Iterator[Placement]:
        """Where the pod could go: of the rows that cost least, what each engine likes best."""
        state, pod = self.layout.state, home.pod
        rows = np.flatnonzero(self.instance.admissible[kind])
        seen = set()
        costs = self._costs.unmet[kind, rows] * (1 << 40) + self._costs.expensive[kind, rows]
        used = _in_use(state)[rows]
        present = self._cost(kind, state.row_of[home.node])
        for level in sorted(set(costs.tolist())):
            if level > present[0] * (1 << 40) + present[1]:
                return
            for engine, among in (
                (self._engine, rows[costs == level]),
                (self._tight, rows[(costs == level) & used]),
            ):
                row = engine.best(pod, among) if len(among) else -1
                node = state.nodes[row] if row >= 0 else None
                if node is None or row in seen:
                    continue
                seen.add(row)
                yield engine.choose(pod, node.name)
            if seen:
                return

    def _cost(self, kind: int, row: int) -> tuple[int, int]:
        return self._costs.of(kind, row)

    def _row_merit(self, row: int) -> tuple[int, int]:
        """Fragmentation, in units of the profile, and whether the row is in use."""
        state = self.layout.state
        fragmentation = int(self._fragmentation.fragmentation(state, np.array([row]))[0])
        return fragmentation, int(_in_use(state)[row])

    @staticmethod
    def _gain(cost: tuple[int, int], after: tuple[int, int], before: tuple[int, int]) -> Merit:
        return (*cost, after[0] - before[0], after[1] - before[1])


def _in_use(state: ClusterState) -> NDArray[np.bool_]:
    """Rows that host any pod, (N,)."""
    return np.asarray(state.pods_free < state.pods_alloc)


def _unmet(instance: Instance) -> IntArray:
    """Weight of the preferences of a kind that a row does not meet, (K, N)."""
    table = np.zeros(instance.admissible.shape, dtype=np.int64)
    for code, kind in enumerate(instance.kinds):
        for wish, weight in kind.preferences:
            met = np.array(
                [node is not None and selects(wish, node) for node in instance.state.nodes],
                dtype=bool,
            )
            table[code] += np.where(met, 0, weight)
    return table


def _expensive(instance: Instance) -> IntArray:
    """Cost x milli-GPU of the devices that a pending kind takes on a row, (K, N)."""
    state, costs = instance.state, instance.problem.model_costs
    table = np.zeros(instance.admissible.shape, dtype=np.int64)
    if not costs:
        return table
    by_code = np.array([costs.get(product, 0) for _, product in state.products], dtype=np.int64)
    price = by_code[state.product] if len(by_code) else np.zeros(len(state), dtype=np.int64)
    for code, kind in enumerate(instance.kinds):
        if kind.disruption is None:
            table[code] = price * instance.gpu_milli(code)
    return table
