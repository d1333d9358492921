"""A window, solved: more pods placed, or fewer disturbed, or the same at lower cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ortools.sat.python import cp_model

from scheduler.planner.effort import Budget
from scheduler.planner.layout import Layout, Value
from scheduler.planner.topology import gang_levels, splits_gang
from scheduler.planner.window.decode import Decoder
from scheduler.planner.window.model import WindowModel
from scheduler.planner.window.rows import Expr

__all__ = ["Window", "solver_for"]

_WEIGHT_LIMIT = 1 << 48


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
        self._window = WindowModel(layout, rows, offered)
        self._model = self._window.model

    @property
    def size(self) -> int:
        """Variables of the model."""
        return self._window.size

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
        terms = self._window.terms()
        before = self.layout.value()
        now = [self._window.now(level) for level in range(len(terms) - 1)]
        found: cp_model.CpSolver | None = None
        for objective, floor in self._stages(terms[:-1], now):
            solver, status = self._maximize(objective, budget, limit)
            if solver is None:
                return False
            found = solver
            self._model.add(objective >= round(solver.objective_value))
            if status != cp_model.OPTIMAL or round(solver.objective_value) > floor:
                break
        if before[-1] < 0 or found is None or self._gained(found, terms, now):
            for (term, _), level in zip(terms[:-1], range(len(now)), strict=True):
                self._model.add(term >= (now[level] if found is None else self._of(found, term)))
            solver, _ = self._maximize(terms[-1][0], budget, limit)
            found = solver or found
        return found is not None and self._apply(found, before)

    def admit(
        self, kind: int, floors: Sequence[int], budget: Budget, limit: float
    ) -> tuple[bool, bool]:
        """Place one more pod of a kind, whatever that costs those that come after it.

        Parameters
        ----------
        kind
            Offered to the window.
        floors
            Per kind, how many pods have to have a place in all.
        budget, limit
            As for :meth:`improve`.

        Returns
        -------
        improved : bool
            Whether a better layout was applied.
        ruled_out : bool
            Whether there is no such plan of these rows.
        """
        before, window = self.layout.value(), self._window
        window.keep(floors, kind)
        # Of those that come after it as many as possible keep their place.
        solver, status = self._maximize(window.served(), budget, limit)
        if solver is None:
            return False, status == cp_model.INFEASIBLE
        return self._apply(solver, before), False

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
        terms = self._window.terms()
        before = self.layout.value()
        bounds: list[int | None] = []
        found: cp_model.CpSolver | None = None
        end = budget.spent + limit
        for index, (term, _) in enumerate(terms):
            if index < len(settled) and settled[index]:
                bounds.append(before[index])
                self._model.add(term >= self._window.now(index))
                continue
            solver, status = self._maximize(term, budget, end - budget.spent)
            if solver is None:
                break
            found = solver
            reached = self._of(solver, term)
            if status == cp_model.OPTIMAL:
                bounds.append(reached)
                self._model.add(term >= reached)
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
        terms = self._window.terms()
        before = self.layout.value()
        for level, (term, _) in enumerate(terms[:-1]):
            self._model.add(term >= self._window.now(level))
        self._model.add(terms[-1][0] >= -self._window.disruption_now())
        bounds: list[int | None] = []
        end = budget.spent + limit
        for cost in costs:
            if not cost:
                bounds.append(0)
                continue
            total = sum(
                price * made.counts[kind]
                for (kind, row), price in cost.items()
                if (made := self._window.variables.get(row)) is not None and kind in made.counts
            )
            now = sum(
                cost.get((kind, row), 0) * count
                for row, here in self._window.here.items()
                for kind, count in here.items()
            )
            solver, status = self._maximize(-total, budget, end - budget.spent)
            if solver is None:
                break
            found = self._of(solver, total)
            bounds.append(max(0, math.ceil(-solver.best_objective_bound - 1e-6)))
            if found < now and not self._exchange(solver, before):
                break
            self._model.add(total <= min(found, now))
            self._window.count()
            if status != cp_model.OPTIMAL:
                break
        return bounds + [None] * (len(costs) - len(bounds))

    def _maximize(
        self, objective: Expr, budget: Budget, limit: float
    ) -> tuple[cp_model.CpSolver | None, cp_model.CpSolverStatus]:
        left = min(limit, budget.left)
        if left <= 0:
            return None, cp_model.UNKNOWN
        self._model.maximize(objective)
        solver = solver_for(budget, left)
        status = solver.solve(self._model)
        budget.charge(solver.response_proto.deterministic_time)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None, status
        return solver, status

    @staticmethod
    def _of(solver: cp_model.CpSolver, term: Expr) -> int:
        return int(solver.value(term))

    def _gained(
        self, solver: cp_model.CpSolver, terms: Sequence[tuple[Expr, int]], now: Sequence[int]
    ) -> bool:
        return [self._of(solver, term) for term, _ in terms[:-1]] > list(now)

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
        placements = Decoder(self._window, solver).placements()
        undo = [placement for row in self._window.rows for placement in self.layout.in_play(row)]
        near = gang_levels(self.layout)
        if not self.layout.exchange([placement.pod.uid for placement in undo], placements):
            return False
        value = self.layout.value()
        good = value > before or (value == before and not strictly)
        if good and not (near and splits_gang(near, gang_levels(self.layout))):
            return True
        self.layout.exchange([placement.pod.uid for placement in placements], undo, back=True)
        return False


def solver_for(budget: Budget, left: float) -> cp_model.CpSolver:
    """A solver that stops within what is left, reproducibly if the budget asks for that."""
    solver = cp_model.CpSolver()
    budget.lends(solver)
    parameters = solver.parameters
    parameters.catch_sigint_signal = False  # Ctrl-C belongs to the maker of the budget
    if budget.stopped:
        left = 0.0
    parameters.num_workers = budget.workers
    parameters.random_seed = budget.seed
    if budget.deterministic or budget.shared:
        parameters.max_deterministic_time = left  # the solver knows no clock of processor time
    else:
        parameters.max_time_in_seconds = left
    return solver
