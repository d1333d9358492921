"""The search: chains, repair and windows over the incumbent; the whole problem where it is small.

A window is a few rows and the unplaced pods; everything in it is decided again exactly. Windows
grow while they fail and shrink when they succeed. What a window finds is written into the layout
only if it is better, so the incumbent is never lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.planner.bounds.least_disruption import least_disruption, prove_disruption
from scheduler.planner.bounds.patterns import PatternBound
from scheduler.planner.bounds.relaxation import Relaxation
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Level
from scheduler.planner.layout import Layout, Value
from scheduler.planner.search.chains import Chains
from scheduler.planner.search.emptying import Emptying
from scheduler.planner.search.greedy import gang_missing
from scheduler.planner.search.ordered import Ordered
from scheduler.planner.search.repair import Repair
from scheduler.planner.window.window import Window

__all__ = ["Search"]

IntArray = NDArray[np.int64]

_WHOLE_PROBLEM = 20_000
_TINY_PROBLEM = 60
_ROUNDS = 4
_NARROW, _WIDE = 2, 16
_WINDOW_LIMIT = 0.15
_PATIENCE = 24
_OFFERED = 64
_REPAIR_SHARES = (0.2, 0.5)
_REPAIR_FAILURES = 40
_CALM_SHARE = 0.4
_CALM_FAILURES = 80
_BOUND_SHARE = 0.3


@dataclass
class Search:
    """Improves a layout within a budget and keeps score of what is proved.

    Attributes
    ----------
    layout
        The incumbent.
    bounds : list of int
        Per level, a proved upper bound for the values of the levels before it.
    disruption_bound : int
        Least disruption for the values of all levels, as far as proved.
    tried : set of int
        Kinds for which room was looked for beyond what is free until nothing more was found; none
        if the budget was over before.
    windows, improved : int
        How many windows were solved, and how many of them helped.
    """

    layout: Layout
    budget: Budget
    bounds: list[int] = field(default_factory=list)
    disruption_bound: int = 0
    windows: int = 0
    improved: int = 0
    whole_solves: int = 0
    emptied: int = 0
    chained: int = 0
    repaired: int = 0
    undisturbed: int = 0
    attempts: int = 0
    tried: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.instance = self.layout.instance
        self._random = random.Random(f"windows/{self.budget.seed}")  # noqa: S311 - reproducible
        self._relaxation = Relaxation(self.instance)
        self._ordered = Ordered(self.layout, self._relaxation) if self.instance.in_order else None
        self._patterns = PatternBound(self.instance)
        self._repair = Repair(self.layout, self.budget)
        self._strengthened: Value | None = None
        self._target: int | None = None
        self.refresh_bounds()

    # -- what is known -----------------------------------------------------------------------

    def refresh_bounds(self) -> None:
        """Bound every level, given what the levels before it have reached.

        A bound stays valid when levels before its own reach more.
        """
        value = self.layout.value()
        achieved: list[tuple[Level, int]] = []
        known, self.bounds = self.bounds, []
        for index, (level, reached) in enumerate(zip(self.instance.levels, value, strict=False)):
            if level.queue:
                self.bounds.append(self._bound_of_queue(level, reached, known))
                continue
            exact = self._ordered is not None and self.bounds[-1] == value[index - 1]
            bound = self._relaxation.bound(level, achieved) if level.reported else reached
            bound = reached if exact else bound
            if level.reported and known:
                bound = min(bound, known[index])
            self.bounds.append(max(reached, bound))
            if self._ordered is None or exact:
                achieved.append((level, reached))
        self._bounded_at = value[:-1]
        if self._ordered is None or self.levels_met:
            least = least_disruption(self.instance, self._counted(value))
            self.disruption_bound = min(-value[-1], least)

    def _bound_of_queue(self, level: Level, reached: int, known: list[int]) -> int:
        """Bound of how a tier is served in order; of lower tiers once the higher ones are met."""
        assert self._ordered is not None
        index = len(self.bounds)
        met = list(self.layout.value()[:index]) == self.bounds
        bound = self._ordered.bound(level.tier, reached) if met else 0
        return max(reached, min(bound, known[index]) if known else bound)

    def _counted(self, value: Value) -> Value:
        """Pods by tier, where these are what every plan as good has; else the value as it is."""
        if self._ordered is None:
            return value
        levels = zip(self.instance.levels, value, strict=False)
        return (*(reached for level, reached in levels if level.reported), value[-1])

    @property
    def levels_met(self) -> bool:
        """Whether every level meets its bound."""
        return list(self.layout.value()[:-1]) == self.bounds

    @property
    def proved(self) -> bool:
        """Whether nothing better exists."""
        return self.levels_met and self.layout.disruption() == self.disruption_bound

    def scope(self) -> Iterator[str]:
        """What was not looked at, in plain words."""
        if self._whole_size() > _WHOLE_PROBLEM and not self.proved:
            rows = int(self.instance.most.any(axis=0).sum())
            yield (
                f"{rows} nodes are too many to be modelled at once: the search looked at chains of "
                f"moves over all of them and decided exactly about at most {_WIDE} at a time"
            )
        topology = self.instance.problem.topology
        if topology and any(self.instance.kinds[k].gang for k, _ in self._waiting()):
            yield "gangs that wait were tried domain by domain, not searched for room by moving"

    def _waiting(self) -> list[tuple[int, int]]:
        """Kinds with unplaced pods, and how many."""
        return [(kind, len(pods)) for kind, pods in enumerate(self.layout.unplaced) if pods]

    # -- running -----------------------------------------------------------------------------

    def run(self) -> None:
        """Search until everything is proved, nothing more is found, or the budget is over."""
        self._run_chains()
        whole = self._whole_size()
        if whole <= _TINY_PROBLEM:
            self._solve_whole(1.0)
        idle = 0
        while not self._finished and idle < _ROUNDS:
            before = self.layout.value()
            for share in _REPAIR_SHARES:
                self._run_repair(share)
                self._strengthen_bounds()
            self._run_undisturb()
            if not self._finished:
                self._run_windows()
            if not self._finished and self.levels_met:
                self._prove_disruption()
            if not self._finished and whole <= _WHOLE_PROBLEM:
                self._solve_whole(0.5)
            idle = 0 if self.layout.value() > before else idle + 1
        if self.budget.over:
            self.tried.clear()

    @property
    def _finished(self) -> bool:
        return self.budget.over or self.proved

    def _run_repair(self, share: float) -> None:
        """Insert unplaced pods, important ones first, until many attempts in a row have failed."""
        end = self.budget.spent + share * self.budget.left
        failures = 0
        while not self.levels_met and failures < _REPAIR_FAILURES and self.budget.spent < end:
            kinds = [k for k in self._open_kinds() if self._repair.usable(k)]
            if not kinds:
                return
            top = max(self.instance.kinds[kind].priority for kind in kinds)
            first = [kind for kind in kinds if self.instance.kinds[kind].priority == top]
            kind = self._random.choice(first if self._random.random() < 0.7 else kinds)
            self.attempts += 1
            if self._repair.insert(kind):
                failures = 0
                self.repaired += 1
                self.refresh_bounds()
            else:
                failures += 1
                self.tried.add(kind)

    def _run_undisturb(self) -> None:
        """Disturb fewer pods, until many attempts in a row have failed."""
        end = self.budget.spent + _CALM_SHARE * self.budget.left
        failures = 0
        while failures < _CALM_FAILURES and self.budget.spent < end and not self.proved:
            if self._repair.undisturb():
                failures = 0
                self.undisturbed += 1
            else:
                failures += 1

    def _strengthen_bounds(self) -> None:
        """Bound the levels that are still open by column generation."""
        value = self.layout.value()
        if self.levels_met or value == self._strengthened or self._ordered is not None:
            return
        if not self._patterns.worthwhile(self.layout):
            return
        self._strengthened = value
        limit = _BOUND_SHARE * self.budget.left
        for index, level in enumerate(self.instance.levels):
            if level.reported and value[index] < self.bounds[index]:
                self.bounds[index] = self._patterns.bound(
                    self.layout, index, self.bounds[index], self.budget, limit
                )

    def _run_windows(self) -> None:
        """Windows until many in a row have failed."""
        failures, width = 0, _NARROW
        met = self.levels_met
        while not self._finished and failures < _PATIENCE:
            if met:
                self._target = None
            window = self._window_of_disturbed(width) if met else self._room(width)
            if window is None:
                return
            if self._solve(window):
                failures, width = 0, _NARROW
            else:
                failures += 1
                width = min(_WIDE, width + failures % 2)
            if met != self.levels_met:
                return
            if not met and failures == _PATIENCE:
                met, failures, width = (
                    True,
                    0,
                    _NARROW,
                )  # fewer may be disturbed

    def _prove_disruption(self) -> None:
        value = self.layout.value()
        counted = self._counted(value)
        bound = prove_disruption(self.instance, counted, self.budget, self.budget.left / 4)
        self.disruption_bound = min(-value[-1], max(self.disruption_bound, bound))

    def _run_chains(self) -> None:
        instance = self.instance
        kinds = [kind for kind, pods in enumerate(self.layout.unplaced) if pods]
        kinds.sort(key=lambda k: (-instance.kinds[k].priority, -instance.gpu_milli(k), k))
        if self._ordered is not None:
            tiers = range(len(instance.priorities))
            kinds = [kind for tier in tiers for kind in self._ordered.next_kinds(tier)]
        if instance.origin:
            emptying = Emptying(self.layout, self.budget)
            self.emptied = emptying.run(kinds)
            if self.emptied:
                self.refresh_bounds()
        chains = Chains(self.layout, self.budget)
        placed = chains.run(kinds)
        self.tried |= chains.failed
        self.chained += placed
        if placed:
            self.refresh_bounds()

    def _solve(self, window: Window) -> bool:
        self.windows += 1
        if self._ordered is None or self._target is None:
            improved = window.improve(self.budget, _WINDOW_LIMIT)
        else:
            floors = self._ordered.floors(self._target)
            improved, _ = window.admit(self._target, floors, self.budget, _WINDOW_LIMIT)
        if improved:
            self.improved += 1
            if self.layout.value()[:-1] != self._bounded_at and len(self.bounds) > 1:
                self.refresh_bounds()
        return improved

    def _whole_size(self) -> int:
        return int((self.instance.most > 0).sum())

    def _solve_whole(self, share: float) -> None:
        """Everything at once, for a share of what is left: proves what the relaxation cannot."""
        rows = np.flatnonzero(self.instance.most.any(axis=0)).tolist()
        offered = {kind: len(pods) for kind, pods in enumerate(self.layout.unplaced) if pods}
        if not rows:
            return
        self.whole_solves += 1
        self.tried.update(offered)
        if self._ordered is not None and not self.levels_met:
            self._admit_all(self._ordered, share * self.budget.left)
            if not self.levels_met:
                return
            offered = {kind: len(pods) for kind, pods in enumerate(self.layout.unplaced) if pods}
        settled = [v == b for v, b in zip(self.layout.value(), self.bounds, strict=False)]
        improved, bounds = Window(self.layout, rows, offered).prove(
            self.budget, settled, share * self.budget.left
        )
        self.improved += improved
        self.refresh_bounds()
        value = self.layout.value()
        for index, bound in enumerate(bounds[:-1]):
            if bound is None:
                return
            self.bounds[index] = max(value[index], min(self.bounds[index], bound))
            if value[index] != bound:
                return  # bounds of lower levels hold for other values of this one
        if bounds[-1] is not None:
            self.disruption_bound = min(-value[-1], max(self.disruption_bound, -bounds[-1]))

    def _admit_all(self, ordered: Ordered, limit: float) -> None:
        """Everything at once, one pod after another: each gets a place or is ruled out."""
        end = self.budget.spent + limit
        rows = np.flatnonzero(self.instance.most.any(axis=0)).tolist()
        while not self.levels_met and self.budget.spent < end and not self.budget.over:
            tiers = range(len(self.instance.priorities))
            kinds = [k for t in tiers for k in ordered.next_kinds(t) if not ordered.is_hopeless(k)]
            if not kinds:
                return
            floors = ordered.floors(kinds[0])
            offered = {kind: len(pods) for kind, pods in enumerate(self.layout.unplaced) if pods}
            window = Window(self.layout, rows, offered)
            improved, none = window.admit(kinds[0], floors, self.budget, end - self.budget.spent)
            if none:
                ordered.rule_out(kinds[0], floors)
            elif not improved:
                return
            else:
                self.improved += 1
            self.refresh_bounds()

    # -- choosing windows --------------------------------------------------------------------

    def _room(self, width: int) -> Window | None:
        """Rows where an unplaced pod of the most important open tier might get room."""
        instance, self._target = self.instance, None
        tier_of = {priority: tier for tier, priority in enumerate(instance.priorities)}
        wanted = [kind for kind in self._open_kinds() if self._offerable(kind)]
        if not wanted:
            return None
        best = min(tier_of[instance.kinds[kind].priority] for kind in wanted)
        first = [kind for kind in wanted if tier_of[instance.kinds[kind].priority] == best]
        target = self._random.choice(first if self._random.random() < 0.8 else wanted)
        if self._ordered is not None:
            first.sort(key=self._ordered.position)
            target = first[min(int(self._random.expovariate(0.5)), len(first) - 1)]
            self._target = target
        rows = self._rows_for(target, width)
        offers = self._offers(target, rows)
        self.tried.update(offers)
        return Window(self.layout, rows, offers)

    def _open_kinds(self) -> list[int]:
        """Unplaced kinds of the tiers that do not meet their bounds."""
        value, instance = self.layout.value(), self.instance
        open_priorities = {
            instance.priorities[level.tier]
            for index, level in enumerate(instance.levels)
            if value[index] < self.bounds[index]
        }
        return [
            kind
            for kind, pods in enumerate(self.layout.unplaced)
            if pods
            and instance.most[kind].any()
            and instance.kinds[kind].priority in open_priorities
        ]

    def _offerable(self, kind: int) -> bool:
        gang = self.instance.kinds[kind].gang
        if gang is None:
            return True
        return not self.instance.problem.topology

    def _offers(self, target: int, rows: list[int]) -> dict[int, int]:
        """The target (with its gang), then other unplaced pods that could use these rows."""
        instance = self.instance
        offers: dict[int, int] = {}
        gang = instance.kinds[target].gang
        for kind in instance.gang_kinds[gang] if gang else [target]:
            if self.layout.unplaced[kind]:
                offers[kind] = len(self.layout.unplaced[kind])
        others = [
            kind
            for kind, pods in enumerate(self.layout.unplaced)
            if pods
            and kind not in offers
            and self._offerable(kind)
            and instance.most[kind, rows].any()
        ]
        self._random.shuffle(others)
        others.sort(key=lambda kind: -instance.kinds[kind].priority)
        room = _OFFERED - sum(offers.values())
        for kind in others:
            if room <= 0:
                break
            offers[kind] = min(room, len(self.layout.unplaced[kind]))
            room -= offers[kind]
        return offers

    def _rows_for(self, kind: int, width: int) -> list[int]:
        """Rows that could host the kind: half of them those with most left, the rest at random."""
        instance, state = self.instance, self.layout.state
        rows = np.flatnonzero(instance.most[kind] > 0)
        shape = instance.kinds[kind].shape
        gang = instance.kinds[kind].gang
        if gang:
            missing = gang_missing(self.layout, gang)
            per_row = max(1, int(np.median(instance.most[kind, rows])))
            width = max(width, -(-missing // per_row) + width // 2)
        left = np.minimum(
            state.cpu_free[rows] / max(1, shape.cpu_milli),
            state.mem_free[rows] / max(1, shape.memory_bytes),
        )
        for axis in instance.axes:
            if axis.name in dict(shape.counted):
                left = np.minimum(left, axis.free(state)[rows] / axis.need[kind])
        if shape.gpu.requested_milli:
            left = np.minimum(left, state.gpu_left[rows] / shape.gpu.requested_milli)
        noise = np.array([self._random.random() for _ in rows])
        order = rows[np.lexsort((noise, -np.round(left + 0.3 * noise, 3)))].tolist()
        near = order[: max(1, (width + 1) // 2)]
        rest = order[len(near) :]
        return sorted(near + self._random.sample(rest, min(len(rest), width - len(near))))

    def _window_of_disturbed(self, width: int) -> Window | None:
        """Rows around a disturbed pod, to put it back or disturb fewer."""
        layout, instance = self.layout, self.instance
        moved = [uid for uid in sorted(instance.origin) if layout.moved(uid)]
        if not moved:
            return None
        state = layout.state
        rows: list[int] = []
        self._random.shuffle(moved)
        for uid in moved:
            target = state.placements.get(uid)
            for placement in (instance.origin[uid], target):
                if placement and state.row_of[placement.node] not in rows:
                    rows.append(state.row_of[placement.node])
            if len(rows) >= width:
                break
        others = [row for row in np.flatnonzero(instance.most.any(axis=0)).tolist()
                  if row not in rows]  # fmt: skip
        rows += self._random.sample(others, min(len(others), max(0, width - len(rows), 1)))
        offered = {
            kind: min(_OFFERED, len(pods))
            for kind, pods in enumerate(layout.unplaced)
            if pods and self._offerable(kind)
        }
        return Window(layout, sorted(rows), offered)
