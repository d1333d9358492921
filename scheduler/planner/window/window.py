"""The exact model of a window: all pods in play on a few rows, and some that have no row yet.

One CP-SAT model decides again about everything in the window; the rest of the layout stays as it
is. Pods of a kind are counted, not named. Devices are modelled one by one only where fractions
make it necessary, and a running pod counts as undisturbed only if it keeps its very devices.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ortools.sat.python import cp_model

from scheduler.core.model import (
    DEVICE_MILLI,
    GangKey,
    GpuKind,
    Placement,
    PodRequest,
)
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout, Value
from scheduler.planner.odd import OddRow
from scheduler.planner.topology import gang_levels, torn
from scheduler.planner.window.device_assignment import Handout
from scheduler.planner.window.gangs import Together
from scheduler.planner.window.neighbours import Joint

__all__ = ["Window", "solver_for"]

_WEIGHT_LIMIT = 1 << 48

Var = cp_model.IntVar
Expr = cp_model.LinearExpr | int


@dataclass
class _Row:
    """Variables of one row."""

    counts: dict[int, Var] = field(default_factory=dict)
    fractions: dict[tuple[int, int], Var] = field(default_factory=dict)
    whole: dict[int, Var] = field(default_factory=dict)
    instances: dict[tuple[str, int, int], Var] = field(default_factory=dict)
    kept: dict[str, Var] = field(default_factory=dict)
    kept_fractions: dict[tuple[int, int], Var] = field(default_factory=dict)
    kept_counts: dict[int, Var] = field(default_factory=dict)
    odd: OddRow | None = None


class Window:
    """Decides again about the pods in play on some rows.

    Parameters
    ----------
    layout
        The current layout. :meth:`improve` and :meth:`prove` write a better one into it.
    rows
        Rows of the window.
    offered
        Kinds whose unplaced pods may be placed, with how many of them at most.
    """

    def __init__(self, layout: Layout, rows: Sequence[int], offered: dict[int, int]) -> None:
        self.layout = layout
        self.instance: Instance = layout.instance
        self.rows = list(rows)
        self.model = cp_model.CpModel()
        self._pool: dict[int, list[PodRequest]] = defaultdict(list)
        for row in self.rows:
            for placement in layout.in_play(row):
                self._pool[self.instance.kind_of[placement.pod.uid]].append(placement.pod)
        self._count()
        for kind, most in offered.items():
            self._pool[kind] += list(layout.unplaced[kind].values())[:most]
        self._vars = {row: self._row(row) for row in self.rows}
        self._total = {
            kind: sum(v.counts[kind] for v in self._vars.values() if kind in v.counts)
            for kind in self._pool
        }
        for kind, pods in self._pool.items():
            self.model.add(self._total[kind] <= len(pods))
        self._together = Together(self.model, layout, self._pool, self._total, self._here)
        self._together.constrain()
        if layout.neighbours is not None:
            counts = {row: made.counts for row, made in self._vars.items()}
            pool = {kind: len(pods) for kind, pods in self._pool.items()}
            Joint(self.model, layout, counts, self._here, pool).constrain()
        self._disruption = self._disruptions()
        self._hint()

    def _count(self) -> None:
        """Pods in play by row and kind, as the layout has them now."""
        self._here: dict[int, dict[int, int]] = {row: defaultdict(int) for row in self.rows}
        for row in self.rows:
            for placement in self.layout.in_play(row):
                self._here[row][self.instance.kind_of[placement.pod.uid]] += 1

    @property
    def size(self) -> int:
        """Variables of the model."""
        return len(self.model.proto.variables)

    # -- rows --------------------------------------------------------------------------------

    def _row(self, row: int) -> _Row:
        model, instance = self.model, self.instance
        made = _Row()
        for kind in self._pool:
            most = min(int(instance.most[kind, row]), len(self._pool[kind]))
            if most > 0:
                made.counts[kind] = model.new_int_var(0, most, "")
        base = instance.base
        shapes = {kind: instance.kinds[kind].shape for kind in made.counts}
        for axis in instance.axes:
            # A row that is over-full without any pod in play hosts none that asks for this.
            taken = [n * made.counts[kind] for kind, n in axis.needs(shapes).items() if n]
            model.add(sum(taken) <= max(0, int(axis.room[row])))
        if instance.odd[row]:
            asks = {kind: instance.asks(kind, row) for kind in made.counts}
            made.odd = OddRow(model, instance.state, row, instance.by_device, asks, made.counts)
            return made
        by_way: dict[GpuKind, list[int]] = defaultdict(list)
        for kind, shape in shapes.items():
            by_way[shape.gpu.kind].append(kind)
        if by_way[GpuKind.FRACTION]:
            self._devices(row, made, by_way[GpuKind.FRACTION], by_way[GpuKind.WHOLE])
        elif by_way[GpuKind.WHOLE]:
            used = sum(
                instance.kinds[k].shape.gpu.count * made.counts[k] for k in by_way[GpuKind.WHOLE]
            )
            model.add(used <= int(base.whole[row]))
        if by_way[GpuKind.SHARED]:
            used = sum(
                instance.kinds[k].shape.gpu.replicas * made.counts[k]
                for k in by_way[GpuKind.SHARED]
            )
            model.add(used <= int(base.replicas[row]))
        if by_way[GpuKind.MIG]:
            self._mig(row, made, by_way[GpuKind.MIG])
        return made

    def _devices(self, row: int, made: _Row, fractions: list[int], whole: list[int]) -> None:
        """Which device hosts which fraction, and which is taken whole."""
        model, instance = self.model, self.instance
        free = instance.base.milli[row].tolist()
        memory = instance.base.memory[row].tolist()
        sizes = instance.state.device_mem[row].tolist()
        needs = {kind: instance.fraction(kind, row) for kind in fractions}
        for device, milli in enumerate(free):
            if milli <= 0:
                continue
            if milli == DEVICE_MILLI and whole:
                made.whole[device] = model.new_bool_var("")
            for kind in fractions:
                most = min(milli // needs[kind][0], len(self._pool[kind]))
                if most:
                    made.fractions[kind, device] = model.new_int_var(0, most, "")
            used = sum(
                needs[kind][0] * made.fractions[kind, device]
                for kind in fractions
                if (kind, device) in made.fractions
            )
            taken = made.whole.get(device, 0)
            model.add(used + DEVICE_MILLI * taken <= milli)
            if sizes[device] and any(needs[kind][1] for kind in fractions):
                model.add(
                    sum(
                        needs[kind][1] * made.fractions[kind, device]
                        for kind in fractions
                        if (kind, device) in made.fractions
                    )
                    <= max(0, memory[device])
                )
        for kind in fractions:
            on = [var for (k, _), var in made.fractions.items() if k == kind]
            model.add(sum(on) == made.counts[kind])
        if whole:
            used = sum(instance.kinds[k].shape.gpu.count * made.counts[k] for k in whole)
            model.add(sum(made.whole.values()) == used)

    def _mig(self, row: int, made: _Row, kinds: list[int]) -> None:
        """Where on which device the instances of each profile go."""
        model, instance = self.model, self.instance
        need: dict[str, list[Expr]] = defaultdict(list)
        for kind in kinds:
            for profile, count in instance.kinds[kind].shape.gpu.mig:
                need[profile].append(count * made.counts[kind])
        slots = instance.base.slots[row].tolist()
        for device, mig in enumerate(instance.state.mig_types_of(row)):
            if mig is None:
                continue
            by_slot: dict[int, list[Var]] = defaultdict(list)
            for profile in need:
                for mask in mig.placements(profile):
                    if slots[device] & mask == mask:
                        var = model.new_bool_var("")
                        made.instances[profile, device, mask] = var
                        for bit in range(mask.bit_length()):
                            if mask >> bit & 1:
                                by_slot[bit].append(var)
            for on_slot in by_slot.values():
                model.add_at_most_one(on_slot)
        for profile, wanted in need.items():
            there = [var for (name, _, _), var in made.instances.items() if name == profile]
            model.add(sum(there) == sum(wanted))

    # -- gangs and disruption ----------------------------------------------------------------

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
        for kind, pods in self._pool.items():
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
            made = self._vars.get(row)
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
        for row, made in self._vars.items():
            for kind, var in made.counts.items():
                self.model.add_hint(var, self._here[row][kind])

    # -- solving -----------------------------------------------------------------------------

    def improve(self, budget: Budget, limit: float) -> bool:
        """Place more if that is possible here, else disturb fewer; apply what is better.

        Parameters
        ----------
        budget
            Charged with the work done.
        limit
            Most of the budget that each of the two steps may take.
        """
        terms = self._terms()
        before = self.layout.value()
        now = [self._now(level) for level in range(len(terms) - 1)]
        found: cp_model.CpSolver | None = None
        for objective, floor in self._stages(terms[:-1], now):
            solver, status = self._maximize(objective, budget, limit)
            if solver is None:
                return False
            found = solver
            self.model.add(objective >= round(solver.objective_value))
            if status != cp_model.OPTIMAL or round(solver.objective_value) > floor:
                break
        if before[-1] < 0 or found is None or self._gained(found, terms, now):
            for (term, _), level in zip(terms[:-1], range(len(now)), strict=True):
                self.model.add(term >= (now[level] if found is None else self._of(found, term)))
            solver, _ = self._maximize(terms[-1][0], budget, limit)
            found = solver or found
        return found is not None and self._apply(found, before)

    def prove(
        self, budget: Budget, settled: Sequence[bool], limit: float
    ) -> tuple[bool, list[int | None]]:
        """Optimise level by level, then the disruption; for windows that hold the whole problem.

        Parameters
        ----------
        budget
            Charged with the work done.
        settled
            Levels whose present value is known to be the best; they are only kept.
        limit
            Most of the budget that this may take.

        Returns
        -------
        improved : bool
            Whether a better layout was applied.
        bounds : list of int or None
            Per level, and last for the negative disruption, a proved upper bound given the values
            found for the levels before it; None where nothing was proved.
        """
        terms = self._terms()
        before = self.layout.value()
        bounds: list[int | None] = []
        found: cp_model.CpSolver | None = None
        end = budget.spent + limit
        for index, (term, _) in enumerate(terms):
            if index < len(settled) and settled[index]:
                bounds.append(before[index])
                self.model.add(term >= before[index])
                continue
            solver, status = self._maximize(term, budget, end - budget.spent)
            if solver is None:
                break
            found = solver
            reached = self._of(solver, term)
            if status == cp_model.OPTIMAL:
                bounds.append(reached)
                self.model.add(term >= reached)
                continue
            bounds.append(math.floor(solver.best_objective_bound + 1e-6))
            break
        bounds += [None] * (len(terms) - len(bounds))
        return found is not None and self._apply(found, before), bounds

    def cheapen(
        self, costs: Sequence[Mapping[tuple[int, int], int]], budget: Budget, limit: float
    ) -> list[int | None]:
        """Lower linear costs one after another; all levels and the disruption stay as they are.

        Parameters
        ----------
        costs
            Most important first: by kind and row, what one pod there costs. 0 where left out.
        budget
            Charged with the work done.
        limit
            Most of the budget that this may take.

        Returns
        -------
        list of int or None
            Per cost a proved lower bound for this window, given the values of those before it;
            None where nothing was proved.
        """
        terms = self._terms()
        before = self.layout.value()
        for level, (term, _) in enumerate(terms[:-1]):
            self.model.add(term >= self._now(level))
        self.model.add(terms[-1][0] >= -self._disruption_now())
        bounds: list[int | None] = []
        end = budget.spent + limit
        for cost in costs:
            if not cost:
                bounds.append(0)
                continue
            total = sum(
                price * made.counts[kind]
                for (kind, row), price in cost.items()
                if (made := self._vars.get(row)) is not None and kind in made.counts
            )
            now = sum(
                cost.get((kind, row), 0) * count
                for row, here in self._here.items()
                for kind, count in here.items()
            )
            solver, status = self._maximize(-total, budget, end - budget.spent)
            if solver is None:
                break
            found = self._of(solver, total)
            bounds.append(max(0, math.ceil(-solver.best_objective_bound - 1e-6)))
            if found < now and not self._exchange(solver, before):
                break
            self.model.add(total <= min(found, now))
            self._count()
            if status != cp_model.OPTIMAL:
                break
        return bounds + [None] * (len(costs) - len(bounds))

    def _disruption_now(self) -> int:
        """Disruption of the running pods of this window at present."""
        stopped = self.layout.stopped()
        total = sum(
            cost for unit, (cost, _) in self._together.elsewhere().items() if unit in stopped
        )
        for kind, pods in self._pool.items():
            costs = self.instance.kinds[kind].disruption
            restarts = self.instance.unit_of(kind) in stopped
            for pod in pods if costs else ():
                assert costs is not None
                if pod.uid not in self.layout.state.placements:
                    total += costs.evict or 0
                elif restarts or self.layout.moved(pod.uid):
                    total += costs.move + (restarts and self.layout.moved(pod.uid))
        return total

    def _maximize(
        self, objective: Expr, budget: Budget, limit: float
    ) -> tuple[cp_model.CpSolver | None, cp_model.CpSolverStatus]:
        left = min(limit, budget.left)
        if left <= 0:
            return None, cp_model.UNKNOWN
        self.model.maximize(objective)
        solver = solver_for(budget, left)
        status = solver.solve(self.model)
        budget.charge(solver.response_proto.deterministic_time)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None, status
        return solver, status

    @staticmethod
    def _of(solver: cp_model.CpSolver, term: Expr) -> int:
        return int(solver.value(term))

    def _now(self, level: int) -> int:
        """What the pods of this window contribute to a level at present."""
        weights = self.instance.levels[level].weights
        return sum(
            int(weights[kind]) * count
            for here in self._here.values()
            for kind, count in here.items()
        )

    def _gained(
        self, solver: cp_model.CpSolver, terms: Sequence[tuple[Expr, int]], now: Sequence[int]
    ) -> bool:
        return [self._of(solver, term) for term, _ in terms[:-1]] > list(now)

    def _terms(self) -> list[tuple[Expr, int]]:
        """Level by level, then the negative disruption: what to maximise, and its range."""
        terms: list[tuple[Expr, int]] = []
        for level in self.instance.levels:
            weights = {kind: int(level.weights[kind]) for kind in self._pool}
            terms.append(
                (
                    sum(w * self._total[kind] for kind, w in weights.items() if w),
                    sum(w * len(self._pool[kind]) for kind, w in weights.items()),
                )
            )
        worst = sum(cost for cost, _ in self._together.elsewhere().values())
        for kind, pods in self._pool.items():
            costs = self.instance.kinds[kind].disruption
            if costs:
                worst += max(costs.move + 1, costs.evict or 0) * len(pods)
        terms.append((-self._disruption, worst))
        return terms

    @staticmethod
    def _stages(terms: Sequence[tuple[Expr, int]], now: Sequence[int]) -> list[tuple[Expr, int]]:
        """Objectives to solve one after another, with their present values.

        Levels share one objective as long as its weights stay exact.
        """
        stages: list[tuple[Expr, int]] = []
        objective: Expr = 0
        value, product = 0, 1
        for (term, span), present in zip(terms, now, strict=True):
            if product * (span + 1) > _WEIGHT_LIMIT:
                stages.append((objective, value))
                objective, value, product = 0, 0, 1
            objective = objective * (span + 1) + term
            value = value * (span + 1) + present
            product *= span + 1
        stages.append((objective, value))
        return stages

    # -- applying ----------------------------------------------------------------------------

    def _apply(self, solver: cp_model.CpSolver, before: Value) -> bool:
        """Write the solution into the layout if that makes it better."""
        return self._exchange(solver, before, strictly=True)

    def _exchange(
        self, solver: cp_model.CpSolver, before: Value, *, strictly: bool = False
    ) -> bool:
        placements = self._decode(solver)
        undo = [placement for row in self.rows for placement in self.layout.in_play(row)]
        near = gang_levels(self.layout)
        if not self.layout.exchange([placement.pod.uid for placement in undo], placements):
            return False
        value = self.layout.value()
        good = value > before or (value == before and not strictly)
        if good and not (near and torn(near, gang_levels(self.layout))):
            return True
        self.layout.exchange([placement.pod.uid for placement in placements], undo, back=True)
        return False

    def _decode(self, solver: cp_model.CpSolver) -> list[Placement]:
        """Name the pods and devices that the counts stand for; undisturbed ones first."""
        left = {kind: {pod.uid: pod for pod in pods} for kind, pods in self._pool.items()}
        settled: dict[int, list[Placement]] = {row: [] for row in self.rows}
        for row, made in self._vars.items():
            for origin in self._staying(solver, row, made):
                settled[row].append(origin)
                del left[self.instance.kind_of[origin.pod.uid]][origin.pod.uid]
        placements = [placement for listed in settled.values() for placement in listed]
        for row, made in self._vars.items():
            placements += self._newcomers(solver, row, made, settled[row], left)
        return placements

    def _staying(self, solver: cp_model.CpSolver, row: int, made: _Row) -> list[Placement]:
        """Running pods of the window that this solution leaves exactly in place."""
        instance = self.instance
        quota: dict[tuple[int, int], int] = {
            key: solver.value(var) for key, var in made.kept_fractions.items()
        }
        quota.update({(kind, -1): solver.value(var) for kind, var in made.kept_counts.items()})
        node = instance.state.nodes[row]
        assert node is not None
        staying = []
        for kind, pods in self._pool.items():
            for pod in pods:
                origin = instance.origin.get(pod.uid)
                if origin is None or origin.node != node.name:
                    continue
                if pod.uid in made.kept:
                    if solver.value(made.kept[pod.uid]):
                        staying.append(origin)
                    continue
                fraction = pod.gpu.kind is GpuKind.FRACTION
                key = (kind, origin.devices[0].index if fraction else -1)
                if quota.get(key, 0) > 0:
                    quota[key] -= 1
                    staying.append(origin)
        return staying

    def _newcomers(
        self,
        solver: cp_model.CpSolver,
        row: int,
        made: _Row,
        settled: Sequence[Placement],
        left: dict[int, dict[str, PodRequest]],
    ) -> list[Placement]:
        instance = self.instance
        node = instance.state.nodes[row]
        assert node is not None
        devices = Handout(instance, row, settled)
        stay: dict[int, int] = defaultdict(int)
        stay_on: dict[tuple[int, int], int] = defaultdict(int)
        for placement in settled:
            kind = instance.kind_of[placement.pod.uid]
            stay[kind] += 1
            if placement.pod.gpu.kind is GpuKind.FRACTION:
                stay_on[kind, placement.devices[0].index] += 1
        if made.whole:
            chosen = {device for device, var in made.whole.items() if solver.value(var)}
            devices.allow_whole(chosen)
        placements: list[Placement] = []
        if made.odd is not None:
            for kind, var in made.counts.items():
                hands = made.odd.shares(solver, kind)
                for _ in range(solver.value(var) - stay[kind]):
                    pod = left[kind].pop(self._next(left[kind], node.name))
                    placements.append(Placement(pod, node.name, next(hands)))
            return placements
        devices.allow_instances([key for key, var in made.instances.items() if solver.value(var)])
        for kind, var in made.counts.items():
            gpu = instance.kinds[kind].shape.gpu
            where = [
                device
                for (k, device), on in sorted(made.fractions.items())
                if k == kind
                for _ in range(solver.value(on) - stay_on[kind, device])
            ]
            for number in range(solver.value(var) - stay[kind]):
                uid = self._next(left[kind], node.name)
                pod = left[kind].pop(uid)
                device = where[number] if gpu.kind is GpuKind.FRACTION else -1
                placements.append(Placement(pod, node.name, devices.take(pod, kind, device)))
        return placements

    def _next(self, pods: dict[str, PodRequest], node: str) -> str:
        """Which of the interchangeable pods comes: one that is here already, else the first."""
        placed = self.layout.state.placements
        for uid in pods:
            if uid in placed and placed[uid].node == node and uid not in self.instance.origin:
                return uid
        return next(iter(pods))


def solver_for(budget: Budget, left: float) -> cp_model.CpSolver:
    """A solver that stops within what is left, reproducibly if the budget asks for that."""
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.num_workers = budget.workers
    parameters.random_seed = budget.seed
    if budget.deterministic or budget.shared:
        parameters.max_deterministic_time = left  # the solver knows no clock of processor time
    else:
        parameters.max_time_in_seconds = left
    return solver
