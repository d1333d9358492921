"""The exact model of a window: all pods in play on a few rows, and some that have no row yet.

One CP-SAT model decides again about everything in the window; the rest of the layout stays as it
is. Pods of a kind are counted, not named. Devices are modelled one by one only where fractions
make it necessary, and a running pod counts as undisturbed only if it keeps its very devices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ortools.sat.python import cp_model

from scheduler.core.model import GangKey, GpuKind, Placement, PodRequest
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.window.gangs import GangConstraints
from scheduler.planner.window.neighbours import NeighbourConstraints
from scheduler.planner.window.rows import Expr, Var, constrain_row

__all__ = ["WindowModel"]


class WindowModel:
    """Variables, constraints and objectives of a window.

    Parameters
    ----------
    layout
        The current layout, where the solver begins.
    rows
        Rows of the window.
    offered
        Kinds whose unplaced pods may be placed, with how many of them at most.

    Attributes
    ----------
    model
        The CP-SAT model.
    pool
        Pods of the window by kind: those in play on its rows, then those offered.
    variables
        By row.
    here
        Pods in play by row and kind, as the layout has them now.
    """

    def __init__(self, layout: Layout, rows: Sequence[int], offered: dict[int, int]) -> None:
        self.layout = layout
        self.instance: Instance = layout.instance
        self.rows = list(rows)
        self.model = cp_model.CpModel()
        self.pool: dict[int, list[PodRequest]] = defaultdict(list)
        for row in self.rows:
            for placement in layout.in_play(row):
                self.pool[self.instance.kind_of[placement.pod.uid]].append(placement.pod)
        self.count()
        for kind, most in offered.items():
            self.pool[kind] += list(layout.unplaced[kind].values())[:most]
        self.variables = {
            row: constrain_row(self.model, self.instance, row, self.pool) for row in self.rows
        }
        self._total = {
            kind: sum(v.counts[kind] for v in self.variables.values() if kind in v.counts)
            for kind in self.pool
        }
        for kind, pods in self.pool.items():
            self.model.add(self._total[kind] <= len(pods))
        self._together = GangConstraints(self.model, layout, self.pool, self._total, self.here)
        self._together.constrain()
        if layout.neighbours is not None:
            counts = {row: made.counts for row, made in self.variables.items()}
            pool = {kind: len(pods) for kind, pods in self.pool.items()}
            NeighbourConstraints(self.model, layout, counts, self.here, pool).constrain()
        self._disruption = self._disruptions()
        self._hint()

    def count(self) -> None:
        """Count the pods in play again, once the layout has changed."""
        self.here: dict[int, dict[int, int]] = {row: defaultdict(int) for row in self.rows}
        for row in self.rows:
            for placement in self.layout.in_play(row):
                self.here[row][self.instance.kind_of[placement.pod.uid]] += 1

    @property
    def size(self) -> int:
        """Variables of the model."""
        return len(self.model.proto.variables)

    def terms(self) -> list[tuple[Expr, int]]:
        """Level by level, then the negative disruption: what to maximise, and its range."""
        terms: list[tuple[Expr, int]] = []
        for level in self.instance.levels:
            weights = {kind: int(level.weights[kind]) for kind in self.pool}
            terms.append(
                (
                    sum(w * self._total[kind] for kind, w in weights.items() if w),
                    sum(w * len(self.pool[kind]) for kind, w in weights.items()),
                )
            )
        worst = sum(cost for cost, _ in self._together.elsewhere().values())
        for kind, pods in self.pool.items():
            costs = self.instance.kinds[kind].disruption
            if costs:
                worst += max(costs.move + 1, costs.evict or 0) * len(pods)
        terms.append((-self._disruption, worst))
        return terms

    def now(self, level: int) -> int:
        """What the pods of this window contribute to a level at present."""
        weights = self.instance.levels[level].weights
        return sum(
            int(weights[kind]) * count
            for here in self.here.values()
            for kind, count in here.items()
        )

    def keep(self, floors: Sequence[int], more: int) -> None:
        """Place at least so many pods of each kind, and one more of a kind than there are now."""
        here = {kind: sum(row[kind] for row in self.here.values()) for kind in self.pool}
        for kind, total in self._total.items():
            elsewhere = self.layout.placed(kind) - here[kind]
            least = here[kind] + 1 if kind == more else floors[kind] - elsewhere
            if least > 0:
                self.model.add(total >= least)

    def served(self) -> Expr:
        """Pods that the window places in all."""
        return sum(self._total.values())

    def disruption_now(self) -> int:
        """Disruption of the running pods of this window at present."""
        stopped = self.layout.stopped()
        total = sum(
            cost for unit, (cost, _) in self._together.elsewhere().items() if unit in stopped
        )
        for kind, pods in self.pool.items():
            costs = self.instance.kinds[kind].disruption
            restarts = self.instance.unit_of(kind) in stopped
            for pod in pods if costs else ():
                assert costs is not None
                if pod.uid not in self.layout.state.placements:
                    total += costs.evict or 0
                elif restarts or self.layout.moved(pod.uid):
                    total += costs.move + (restarts and self.layout.moved(pod.uid))
        return total

    def _disruptions(self) -> Expr:
        """Cost of the running pods of the window that end up disturbed."""
        model, instance = self.model, self.instance
        cost: Expr = 0
        disturbed: dict[int, list[Expr]] = defaultdict(list)
        offers: dict[int, int] = defaultdict(int)
        stopped: dict[GangKey, Expr] = {}
        for unit, (elsewhere, already) in self._together.elsewhere().items():
            stopped[unit] = 1 if already else model.new_bool_var("")
            cost += elsewhere * stopped[unit]
        for kind, pods in self.pool.items():
            costs = instance.kinds[kind].disruption
            if costs is None:
                continue
            kept = self._kept(kind, pods)
            total = self._total[kind]
            if costs.evict is None:
                model.add(total == len(pods))
            cost += (costs.evict or 0) * (len(pods) - total)
            gang = instance.unit_of(kind)
            if gang is None:
                cost += costs.move * (total - kept)
            else:
                restarted = self._together.restarted(total, kept, len(pods), stopped[gang])
                cost += costs.move * restarted + (total - kept)
            for budget in instance.kinds[kind].budgets:
                disturbed[budget].append(len(pods) - kept)
                offers[budget] += sum(self.layout.moved(pod.uid) for pod in pods)
        for budget, counts in disturbed.items():
            outside = self.layout.disturbed(budget) - offers[budget]
            allowed = instance.problem.budgets[budget].allowed
            model.add(sum(counts) + outside <= max(allowed, 0))
        return cost

    def _kept(self, kind: int, pods: Sequence[PodRequest]) -> Expr:
        """How many of these running pods stay exactly where they are."""
        model, instance = self.model, self.instance
        at: dict[int, list[Placement]] = defaultdict(list)
        for pod in pods:
            origin = instance.origin[pod.uid]
            at[instance.state.row_of[origin.node]].append(origin)
        terms: list[Var] = []
        gpu = instance.kinds[kind].shape.gpu.kind
        for row, origins in at.items():
            made = self.variables.get(row)
            if made is None or kind not in made.counts:
                continue
            if gpu is GpuKind.FRACTION:
                on: dict[int, int] = defaultdict(int)
                for origin in origins:
                    on[origin.devices[0].index] += 1
                for device, count in on.items():
                    if (kind, device) in made.fractions:
                        var = model.new_int_var(0, count, "")
                        model.add(var <= made.fractions[kind, device])
                        made.kept_fractions[kind, device] = var
                        terms.append(var)
            elif gpu is GpuKind.WHOLE and made.whole:
                for origin in origins:
                    if all(share.index in made.whole for share in origin.devices):
                        var = model.new_bool_var("")
                        for share in origin.devices:
                            model.add_implication(var, made.whole[share.index])
                        made.kept[origin.pod.uid] = var
                        terms.append(var)
                ours = [made.kept[o.pod.uid] for o in origins if o.pod.uid in made.kept]
                model.add(sum(ours) <= made.counts[kind])
            else:
                var = model.new_int_var(0, len(origins), "")
                model.add(var <= made.counts[kind])
                made.kept_counts[kind] = var
                terms.append(var)
        return sum(terms)

    def _hint(self) -> None:
        """Begin from the current layout."""
        for row, made in self.variables.items():
            for kind, var in made.counts.items():
                self.model.add_hint(var, self.here[row][kind])
