"""Pods for which nobody may be evicted (``preemptionPolicy: Never``).

Running pods may be moved for them, but not lose their place. Where only such pods are more
important than a running one, it is not evicted at all. Where others are, too, two plans are made:
one that evicts nobody says which of the patient pods get a place; the second may evict for the
others, and the patient ones that got none stay out of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from scheduler.core.omissions import NotConsidered
from scheduler.planner.effort import Budget
from scheduler.planner.problem import Plan, Problem, Status

__all__ = ["patiently"]

_FIRST_SHARE = 0.4
_WHY = "no room unless pods are evicted, and its preemptionPolicy is Never"


def patiently(problem: Problem, budget: Budget, make: Callable[[Problem, Budget], Plan]) -> Plan:
    """Plan a problem with patient pods.

    Parameters
    ----------
    problem, budget
        As of :func:`scheduler.planner.plan.plan`.
    make
        Makes one plan, for pods that wait and those that do not.
    """
    before = problem.state.placements
    able = [pod.priority for pod in problem.pending if pod.uid not in problem.patient]
    waiting = [pod.priority for pod in problem.pending if pod.uid in problem.patient]
    movable = {
        uid: costs
        if max(able, default=before[uid].pod.priority) > before[uid].pod.priority
        else replace(costs, evict=None)
        for uid, costs in problem.movable.items()
    }
    evictable = [before[uid].pod.priority for uid, c in movable.items() if c.evict is not None]
    restricted = replace(problem, movable=movable)
    if not evictable or max(waiting, default=min(evictable)) <= min(evictable):
        return make(restricted, budget)
    nobody = {uid: replace(costs, evict=None) for uid, costs in movable.items()}
    left = budget.left
    first = make(replace(problem, movable=nobody), budget.part(_FIRST_SHARE * left))
    out = [one.pod for one in first.unplaced if one.pod.uid in problem.patient]
    without = replace(
        restricted,
        candidates={**problem.candidates, **{pod.uid: frozenset() for pod in out}},
        unmet={**{pod.uid: _WHY for pod in out}, **problem.unmet},
    )
    made = make(without, budget.part((1 - _FIRST_SHARE) * left))
    if not out:
        return made
    left_out = NotConsidered(
        "preemptionPolicy: Never beside pods that may preempt",
        tuple(pod.key for pod in out),
        "pods that got no place while nobody was evicted get none",
    )
    proved = made.status in (Status.PROVED, Status.INFEASIBLE_PROVED)
    return replace(
        made,
        status=Status.PROVED_IN_PART if proved else made.status,
        not_considered=(*made.not_considered, left_out),
    )
