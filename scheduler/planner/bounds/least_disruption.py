"""A lower bound on the disruption that a plan needs, by counting.

A pending pod that fits on no row as it is (a misfit) can only go where a running pod has left. How
many misfits a row can take after *j* running pods have left it is bounded resource by resource:
the *j* largest needs go, the smallest misfits come. The cheapest way to make enough room over all
rows is a small knapsack.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from scheduler.core.feasibility import dynamic_reasons
from scheduler.core.model import Reason
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Value
from scheduler.planner.window.window import solver_for

__all__ = ["least_disruption", "prove_disruption"]

IntArray = NDArray[np.int64]

_NEVER = 1 << 40


def least_disruption(instance: Instance, value: Value) -> int:
    """Disruption that every plan with these level values has at least.

    Parameters
    ----------
    instance
        The problem; tiers must count pods (with another objective the answer is 0).
    value
        Values of the levels, as :meth:`Layout.value` gives them.
    """
    demand = _demand(instance, value)
    if demand is None:
        return 0
    misfits, by_tier, move, evict = demand
    needed = sum(by_tier.values())
    available = sum(len(instance.pods[kind]) for kind in misfits)
    removals = _least_removals(instance, misfits, available)
    best: int | None = None
    # Each eviction of a running pod has to be made good by one more pending pod of its tier.
    for evicted in range((available - needed if evict is not None else 0) + 1):
        least = removals[needed + evicted]
        if least is None:
            break
        cost = move * max(0, least - evicted) + (evict or 0) * evicted
        best = cost if best is None else min(best, cost)
    return best or 0


def _demand(
    instance: Instance, value: Value
) -> tuple[list[int], dict[int, int], int, int | None] | None:
    """Misfit kinds, how many of them each tier needs, least cost of a move and of an eviction.

    None if nothing has to be disturbed as far as can be told.
    """
    costs = [kind.disruption for kind in instance.kinds if kind.disruption]
    if instance.problem.objective != "pods" or not costs:
        return None
    move = min(cost.move for cost in costs)
    evict = min((cost.evict for cost in costs if cost.evict is not None), default=None)
    misfits = [kind for kind in range(len(instance.kinds)) if _fits_nowhere(instance, kind)]
    needed: dict[int, int] = {}
    for tier, priority in enumerate(instance.priorities):
        running = direct = 0
        for code, kind in enumerate(instance.kinds):
            if kind.priority == priority and kind.disruption:
                running += len(instance.pods[code])
            elif kind.priority == priority and code not in misfits:
                direct += len(instance.pods[code])
        needed[tier] = max(0, value[tier] - running - direct)
    return (misfits, needed, move, evict) if any(needed.values()) else None


def prove_disruption(instance: Instance, value: Value, budget: Budget, limit: float) -> int:
    """A stronger bound than :func:`least_disruption`, by the solver.

    The same relaxation, row by row and pod by pod: which pods have to leave so that the misfits
    find room, wherever those that leave may go.
    """
    demand = _demand(instance, value)
    if demand is None or limit <= 0:
        return 0
    misfits, by_tier, move, evict = demand
    state, model = instance.state, cp_model.CpModel()
    leaving: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for uid, origin in instance.origin.items():
        leaving[state.row_of[origin.node]][instance.kind_of[uid]] += 1
    hosted: dict[int, list[cp_model.IntVar]] = defaultdict(list)
    removed: list[cp_model.IntVar] = []
    for row, here in sorted(leaving.items()):
        out = {kind: model.new_int_var(0, count, "") for kind, count in here.items()}
        into = {
            kind: model.new_int_var(0, len(instance.pods[kind]), "")
            for kind in misfits
            if instance.admissible[kind, row]
        }
        free = _free(instance, row)
        for axis, room in enumerate(free):
            model.add(
                sum(_needs(instance, kind)[axis] * var for kind, var in into.items())
                <= room + sum(_needs(instance, kind)[axis] * var for kind, var in out.items())
            )
        removed += out.values()
        for kind, var in into.items():
            hosted[kind].append(var)
    evicted = []
    for tier, needed in by_tier.items():
        ours = [k for k in misfits if instance.kinds[k].priority == instance.priorities[tier]]
        extra = model.new_int_var(0, sum(len(instance.pods[k]) for k in ours) if evict else 0, "")
        evicted.append(extra)
        model.add(sum(var for kind in ours for var in hosted[kind]) >= needed + extra)
    for kind in misfits:
        model.add(sum(hosted[kind]) <= len(instance.pods[kind]))
    model.add(sum(evicted) <= sum(removed))
    model.minimize(move * (sum(removed) - sum(evicted)) + (evict or 0) * sum(evicted))
    solver = solver_for(budget, min(limit, budget.left))
    status = solver.solve(model)
    budget.charge(solver.response_proto.deterministic_time)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
        return 0
    return max(0, math.ceil(solver.best_objective_bound - 1e-6))


def _free(instance: Instance, row: int) -> tuple[int, ...]:
    state = instance.state
    left = [int(axis.free(state)[row]) for axis in instance.axes]
    devices = _NEVER if instance.odd[row] else int(state.gpu_left[row])
    return tuple(max(0, amount) for amount in (*left, devices))


def _fits_nowhere(instance: Instance, kind: int) -> bool:
    """Whether a pending kind has no room on any row as the cluster is now."""
    if instance.kinds[kind].disruption is not None:
        return False
    rows = np.flatnonzero(instance.admissible[kind])
    codes = dynamic_reasons(instance.state, instance.kinds[kind].shape, rows)
    return not (codes == Reason.FITS.code).any()


def _needs(instance: Instance, kind: int) -> tuple[int, ...]:
    milli = instance.kinds[kind].shape.gpu.requested_milli
    return (*(int(axis.need[kind]) for axis in instance.axes), milli)


def _least_removals(instance: Instance, misfits: list[int], most: int) -> list[int | None]:
    """Fewest running pods that must leave before 0..most misfits can be hosted; None: never."""
    smallest = [
        np.concatenate(([0], np.cumsum(np.sort(column))))
        for column in np.array(
            [_needs(instance, kind) for kind in misfits for _ in instance.pods[kind]],
            dtype=np.int64,
        ).reshape(-1, len(instance.axes) + 1).T
    ]  # fmt: skip
    state = instance.state
    leaving: dict[int, list[tuple[int, ...]]] = {}
    for uid, origin in instance.origin.items():
        row = state.row_of[origin.node]
        leaving.setdefault(row, []).append(_needs(instance, instance.kind_of[uid]))
    fewest = np.full(most + 1, _NEVER, dtype=np.int64)
    fewest[0] = 0
    for row, needs in sorted(leaving.items()):
        hosted = _hosted(_free(instance, row), np.array(needs, dtype=np.int64), smallest, most)
        fewest = _combine(fewest, hosted)
    return [count if count < _NEVER else None for count in fewest.tolist()]


def _hosted(
    free: tuple[int, ...], needs: IntArray, smallest: list[IntArray], most: int
) -> list[int]:
    """Upper bound on the misfits that a row takes after 1, 2, ... of its pods have left."""
    largest = [np.cumsum(np.sort(column)[::-1]) for column in needs.T]
    counts = []
    for left in range(1, len(needs) + 1):
        fit = most
        for axis, sums in enumerate(smallest):
            room = free[axis] + int(largest[axis][left - 1])
            fit = min(fit, int(np.searchsorted(sums, room, side="right")) - 1)
        counts.append(fit)
    return counts


def _combine(fewest: IntArray, hosted: list[int]) -> IntArray:
    """Add one row to the knapsack."""
    total = np.arange(len(fewest))
    combined = fewest.copy()
    best = 0
    for left, count in enumerate(hosted, start=1):
        if count > best:  # only the first removal that allows a number of misfits matters
            best = count
            np.minimum(combined, fewest[np.maximum(0, total - count)] + left, out=combined)
    return combined
