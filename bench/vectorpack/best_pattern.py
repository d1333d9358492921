"""The most valuable contents of one bin, by the solver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from scheduler.planner.bounds.bin_patterns import Bin, Pattern
from scheduler.planner.effort import Budget
from scheduler.planner.window.window import solver_for

__all__ = ["best_pattern"]


def best_pattern(
    content: Bin, prices: NDArray[np.int64], budget: Budget, limit: float
) -> tuple[Pattern | None, int | None]:
    """The most valuable pattern, and an upper bound on the value of any; None if unknown.

    Parameters
    ----------
    content
        Bin and items.
    prices : (n,) int64
        What one copy of each item is worth; none is taken at 0 or less.
    budget
        Charged with the work done.
    limit
        Most of the budget that this may take.
    """
    if limit <= 0:
        return None, None
    model = cp_model.CpModel()
    priced = np.flatnonzero((prices > 0) & (content.demand > 0)).tolist()
    amount = {i: model.new_int_var(0, int(content.demand[i]), "") for i in priced}
    for axis, capacity in enumerate(content.capacity.tolist()):
        sizes = content.sizes[:, axis].tolist()
        model.add(sum(sizes[i] * amount[i] for i in priced if sizes[i]) <= capacity)
    model.maximize(sum(int(prices[i]) * amount[i] for i in priced))
    solver = solver_for(budget, limit)
    status = solver.solve(model)
    budget.charge(solver.response_proto.deterministic_time)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, None
    pattern = [0] * len(prices)
    for item in priced:
        pattern[item] = solver.value(amount[item])
    return tuple(pattern), int(solver.best_objective_bound + 0.5)
