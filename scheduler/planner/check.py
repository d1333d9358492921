"""The last word on a plan: what it promises is re-derived from the model objects alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from scheduler.core.errors import SolverFault
from scheduler.core.model import GangKey, Placement, Reason
from scheduler.core.neighbours import Neighbours
from scheduler.core.omissions import left_alone
from scheduler.core.selection import admits
from scheduler.core.validator import Validator, Violation
from scheduler.planner.problem import Problem

__all__ = ["check"]


def check(
    problem: Problem, final: Mapping[str, Placement], order: Sequence[str] | None = None
) -> None:
    """Raise :class:`SolverFault` if these placements break a rule of the problem.

    Capacity and devices go through the validator. Nodes that running pods over-fill already cannot
    be judged and are left out. Selection, candidates, gangs, pods that must stay and disruption
    budgets are checked here.

    Parameters
    ----------
    problem
        What was asked.
    final
        Every placement once the plan is carried out, by uid.
    order
        Uids of all that is placed anew, in the order in which that can be done.
    """
    before = problem.state.placements
    _check_capacity(problem, final)
    for uid, placement in before.items():
        if uid not in problem.movable and final.get(uid) != placement:
            raise SolverFault(f"{placement.pod.key} must stay and was moved")
        costs = problem.movable.get(uid)
        if costs and costs.evict is None and uid not in final:
            raise SolverFault(f"{placement.pod.key} must not be evicted and was")
    alone = left_alone(problem.not_considered)
    for uid in alone:
        if final.get(uid) != before.get(uid):
            raise SolverFault(f"pod uid {uid} was to be left alone and was not")
    for uid, placement in final.items():
        if before.get(uid) == placement:
            continue
        node = problem.state.node(problem.state.row(placement.node))
        admitted = admits(node, placement.pod)  # the validator does not judge over-full nodes
        if admitted is not Reason.FITS:
            raise SolverFault(f"{placement.pod.key} on {placement.node}: {admitted.text}")
        names = problem.candidates.get(uid)
        if names is not None and placement.node not in names:
            raise SolverFault(f"{placement.pod.key} is on {placement.node}, no candidate of it")
    _check_gangs(problem, final)
    _check_patience(problem, final)
    _check_order(problem, final, order)
    for budget in problem.budgets:
        disturbed = sum(final.get(uid) != before.get(uid) for uid in budget.uids)
        if disturbed > max(budget.allowed, 0):
            raise SolverFault(f"{budget.name} allows {budget.allowed}, the plan takes {disturbed}")


def _check_patience(problem: Problem, final: Mapping[str, Placement]) -> None:
    """Where pods wait for which nobody may be evicted, an eviction serves a more important one."""
    if not problem.patient:
        return
    able = [pod for pod in problem.pending if pod.uid in final and pod.uid not in problem.patient]
    most = max((pod.priority for pod in able), default=None)
    for uid, placement in problem.state.placements.items():
        if uid not in final and (most is None or most <= placement.pod.priority):
            raise SolverFault(f"{placement.pod.key} is evicted for pods that evict nobody")


def _check_order(
    problem: Problem, final: Mapping[str, Placement], order: Sequence[str] | None
) -> None:
    """Rules between pods let everybody in, step by step, once all that moves is gone."""
    before, row_of = problem.state.placements, problem.state.row_of
    anew = {uid for uid, placement in final.items() if before.get(uid) != placement}
    if order is not None and (len(order) != len(anew) or set(order) != anew):
        raise SolverFault("the steps of the plan are not what it changes")
    stay = [(p.pod, row_of[p.node]) for uid, p in before.items() if final.get(uid) == p]
    everybody = [*problem.pending, *(placement.pod for placement in before.values())]
    there = Neighbours.among(problem.state.nodes, everybody, stay)
    if there is None:
        return
    for uid in anew if order is None else order:
        pod, row = final[uid].pod, row_of[final[uid].node]
        admitted = there.admits(pod, row)
        if admitted is not Reason.FITS:
            raise SolverFault(f"{pod.key} on {final[uid].node}: {admitted.text}")
        there.add(pod, row)


def _check_capacity(problem: Problem, final: Mapping[str, Placement]) -> None:
    nodes = [node for node in problem.state.nodes if node is not None]
    validator = Validator(nodes)
    before = problem.state.placements
    full: set[str] = set()
    fixed = [p for uid, p in final.items() if before.get(uid) == p]
    placed = [p for uid, p in final.items() if before.get(uid) != p]
    for placement in fixed:
        try:
            validator.place(placement, running=True)
        except Violation:
            full.add(placement.node)  # a fact of the cluster, not of the plan
    for placement in placed:
        try:
            validator.place(placement)
        except Violation as violation:
            if placement.node not in full:
                raise SolverFault(str(violation)) from violation


def _check_gangs(problem: Problem, final: Mapping[str, Placement]) -> None:
    running: Counter[GangKey] = Counter()
    added: Counter[GangKey] = Counter()
    lost: Counter[GangKey] = Counter()
    for uid, placement in final.items():
        if placement.pod.gang:
            running[placement.pod.gang] += 1
            added[placement.pod.gang] += uid not in problem.state.placements
    for uid, placement in problem.state.placements.items():
        if placement.pod.gang and uid not in final:
            lost[placement.pod.gang] += 1
    left = {gang.whole for gang in lost if gang.stage and lost[gang]}
    for gang in added:
        if added[gang] and gang.whole in left:
            raise SolverFault(f"gang {gang.label} starts as others of it are evicted")
    least = problem.least_of_roles()
    for gang in {*added, *lost}:
        touched = added[gang] or lost[gang]
        if touched and 0 < running[gang] < problem.minimum(gang):
            raise SolverFault(f"gang {gang.label} runs {running[gang]} of {problem.minimum(gang)}")
        for role, number in least.get(gang, {}).items() if touched and running[gang] else ():
            there = sum(p.pod.gang == gang and p.pod.role == role for p in final.values())
            if there < number:
                raise SolverFault(f"gang {gang.label} runs {there} of {number} as {role}")
