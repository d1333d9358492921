"""Where the search begins: the best of several plans that move nobody.

A draft in columns is made at any size. The engine goes on where the draft does not know how, and,
as far as a share of the budget lasts, places all pods one by one as the policies do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.core.model import Placement
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.search.draft import drafted, drafts_gang
from scheduler.planner.search.greedy import fill, fill_gangs

__all__ = ["Start", "begin"]

_POLICY_SHARE = 0.25
_AGAIN = 5
"""A second draft is made if the budget would do for so many."""


@dataclass(frozen=True, slots=True)
class Start:
    """A plan to begin with.

    Attributes
    ----------
    layout
        The best of those that were made.
    seconds
        Until the first of them was there.
    whole
        Whether everybody was looked at; else the budget was over before.
    """

    layout: Layout
    seconds: float
    whole: bool


def begin(instance: Instance, budget: Budget, given: Sequence[Placement] = ()) -> Start:
    """Make the plans and take the best.

    Parameters
    ----------
    instance
        The problem.
    budget
        What is made besides the first plan takes a share of it.
    given
        Places of pending pods that somebody else has found, in an order in which they fit.
    """
    started = time.perf_counter()
    best, whole = _drafted(instance, budget, by_pieces=True)
    seconds = time.perf_counter() - started
    if any(best.unplaced) and (budget.deterministic or budget.left > _AGAIN * seconds):
        other, all_seen = _drafted(instance, budget, by_pieces=False)
        best, whole = max(best, other, key=Layout.value), whole or all_seen
    other = Layout(instance)
    if given and other.exchange((), given):
        whole |= fill(other, budget=budget)
        best = max(best, other, key=Layout.value)
    for by_size in (False,) if instance.in_order else (True, False):
        if not any(best.unplaced) or not whole:
            break
        left = (2 if instance.in_order else 1) * _POLICY_SHARE * budget.left
        share = budget if budget.deterministic else budget.part(left)
        other = Layout(instance)
        if fill(other, by_size=by_size, budget=share):
            best = max(best, other, key=Layout.value)
        budget.charge(0.0)
    return Start(best, seconds, whole)


def _drafted(instance: Instance, budget: Budget, *, by_pieces: bool) -> tuple[Layout, bool]:
    """A plan by drafts, and by the engine where they do not know how; whether it saw everybody."""
    layout, whole = Layout(instance), True
    apart = {gang for gang in instance.gang_kinds if not drafts_gang(instance, gang)}
    for priority in instance.priorities:
        whole &= fill_gangs(layout, priority, apart, budget)  # small pods would take their room
        drafted(layout, priority, by_pieces=by_pieces)
        whole &= fill(layout, priorities=(priority,), budget=budget)
    return layout, whole
