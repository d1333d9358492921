"""``plan``: greedy incumbent, bounds, search, verification."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from scheduler.core.model import Placement, PodRequest
from scheduler.core.omissions import NotConsidered
from scheduler.planner.check import check
from scheduler.planner.effort import Budget
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout, Value
from scheduler.planner.patience import patiently
from scheduler.planner.problem import Move, Objective, Plan, Problem, Status, Tier
from scheduler.planner.reasons import Reasons
from scheduler.planner.search.greedy import fill, waiting
from scheduler.planner.search.refine import Refiner
from scheduler.planner.search.search import Search
from scheduler.planner.search.sequence import arrivals, settle
from scheduler.planner.search.starts import begin
from scheduler.planner.served import served
from scheduler.planner.topology import widened

__all__ = ["plan"]

_TO_FINISH = 6
_FOR_REFINING = 0.1


def plan(problem: Problem, budget: Budget, start: Sequence[Placement] = ()) -> Plan:
    """Plan the whole backlog at once.

    Priorities are tiers: a pod of a higher one is worth any number of lower ones. The objectives
    are lexicographic: per tier the most pods (or milli-GPU) placed; then the least disruption of
    running pods; then, as far as a last look at the placed pods finds it, the node preferences of
    pods, cheap device models, the least expected fragmentation and the fewest nodes in use.

    Parameters
    ----------
    problem
        Pods, nodes, what may move.
    budget
        How much work to do. A first plan and first bounds are made whatever it says.
    start
        Places of pending pods that somebody else has found, in an order in which they fit. The
        search begins there if they are worth more than the greedy plan.

    Returns
    -------
    Plan
        Verified against the problem by the validator.

    Raises
    ------
    SolverFault
        The plan breaks a rule of the problem: a fault of ours; nothing of it may be used.
    """
    if problem.patient:
        return patiently(problem, budget, lambda part, rest: _made(part, rest, start))
    return _made(problem, budget, start)


def _made(problem: Problem, budget: Budget, start: Sequence[Placement]) -> Plan:
    started = time.perf_counter()
    instance = Instance(problem)
    # What has to be done at the end takes a few times as long as reading the problem.
    budget.reserve(_TO_FINISH * (time.perf_counter() - started))
    begun = begin(instance, budget, start)
    layout, first_s = begun.layout, begun.seconds
    instance.settle_ways(layout.state.placements.values())
    greedy = layout.value()
    if Refiner.worthwhile(instance):
        budget.hold_back(_FOR_REFINING)
    search = Search(layout, budget)
    search.run()
    if (layout.neighbours is not None or instance.in_order) and waiting(layout):
        fill(
            layout, budget=budget
        )  # what the search has changed may let in some that nobody looked at again
    budget.hold_back(0.0)
    if instance.in_order:
        _first_ones(layout)
    refiner = Refiner(layout)
    refiner.run(budget)
    value = layout.value()
    order = settle(layout)
    if order is None:
        layout = search.layout = Layout(instance)
        fill(layout)  # moves nobody, and places pods in an order in which they are let in
        refiner, order = Refiner(layout), [p.uid for p in _as_placed(layout)]
    if layout.value() != value:
        search.disruption_bound = 0
    check(problem, layout.state.placements, order)
    return _plan(search, refiner, greedy, order, (started, first_s))


def _first_ones(layout: Layout) -> None:
    """Of pods that may stand for each other those that come first have the places there are."""
    before, placements = layout.instance.origin, layout.state.placements
    for pods in layout.instance.pods:
        waiting = [pod for pod in pods if pod.uid not in before]
        placed = [pod for pod in waiting if pod.uid in placements]
        first = waiting[: len(placed)]
        missing = [pod for pod in first if pod.uid not in placements]
        late = [placements[pod.uid] for pod in placed[len(placed) - len(missing) :]]
        come = [replace(old, pod=pod) for old, pod in zip(late, missing, strict=True)]
        layout.exchange([old.pod.uid for old in late], come)


def _as_placed(layout: Layout) -> list[PodRequest]:
    """Pending pods with a place, in the order in which they got it."""
    before = layout.instance.state.placements
    return [placed.pod for uid, placed in layout.state.placements.items() if uid not in before]


def _plan(
    search: Search,
    refiner: Refiner,
    greedy: Value,
    order: Sequence[str],
    times: tuple[float, float],
) -> Plan:
    started, first_s = times
    layout, instance = search.layout, search.instance
    problem, state = instance.problem, layout.state
    moved = [uid for uid in sorted(instance.origin) if layout.moved(uid)]
    before = problem.state.placements
    moves = tuple(
        Move(
            before[uid].pod,
            before[uid].node,
            state.placements[uid].node if uid in state.placements else None,
        )
        for uid in moved
    )
    tiers = _tiers(search)
    reasons = Reasons(layout, search.tried, {t.priority for t in tiers if t.value == t.bound})
    omissions = (*_omissions(layout), *reasons.omissions())
    return Plan(
        status=_status(search, greedy, whole=not omissions),
        generation=problem.state.generation_now,
        placements=tuple(state.placements[uid] for uid in order),
        moves=moves,
        restarts=tuple(
            (unit, len(instance.units[unit]))
            for unit in sorted(layout.stopped(), key=lambda unit: (unit.namespace, unit.name))
        ),
        tiers=tiers,
        disruption=layout.disruption(),
        disruption_bound=search.disruption_bound,
        unplaced=reasons.unplaced(),
        nodes_used=len({placement.node for placement in state.placements.values()}),
        objectives=_objectives(search, refiner),
        served=served(problem.pending, state.placements),
        relaxed=(*instance.relaxed, *widened(layout), *search.scope()),
        not_considered=omissions,
        statistics={
            "kinds": len(instance.kinds),
            "emptied": search.emptied,
            "chained": search.chained,
            "repaired": search.repaired,
            "undisturbed": search.undisturbed,
            "windows": search.windows,
            "windows_improved": search.improved,
            "whole_solves": search.whole_solves,
            "first_plan_seconds": round(first_s, 4),
        },
        seconds=time.perf_counter() - started,
    )


def _objectives(search: Search, refiner: Refiner) -> tuple[Objective, ...]:
    what = "milli-GPU" if search.instance.problem.objective == "gpu" else "pods"
    disruption = search.layout.disruption()
    return (
        *(
            Objective(f"most {what} placed, priority {tier.priority}", tier.value, tier.bound)
            for tier in _tiers(search)
        ),
        Objective("least disruption of running pods", disruption, search.disruption_bound),
        *refiner.objectives(),
    )


def _omissions(layout: Layout) -> tuple[NotConsidered, ...]:
    """What the plan could not take into account: nothing more where no pod lacks anything."""
    problem = layout.instance.problem
    lacks = bool(waiting(layout)) or layout.disruption() > 0
    coming = {pod.uid: pod.key for pod, _ in arrivals(layout)} if problem.provisos else {}
    provisos = tuple(
        NotConsidered(one.rule, tuple(coming[uid] for uid in coming if uid in one.uids), one.effect)
        for one in problem.provisos
        if not one.uids.isdisjoint(coming)
    )
    own = layout.instance.omissions() if lacks else ()
    return (*problem.not_considered, *provisos, *own)


def _status(search: Search, greedy: Value, *, whole: bool) -> Status:
    value = search.layout.value()
    if search.proved and not search.instance.ways_chosen:
        if not whole:
            return Status.PROVED_IN_PART
        pending = bool(search.instance.problem.pending)
        nothing = pending and len(waiting(search.layout)) == len(search.instance.problem.pending)
        return Status.INFEASIBLE_PROVED if nothing else Status.PROVED
    if value > greedy:
        return Status.IMPROVED
    if search.windows or search.whole_solves or search.attempts:
        return Status.KEPT_GREEDY
    return Status.TIMED_OUT


def _tiers(search: Search) -> tuple[Tier, ...]:
    layout, instance = search.layout, search.instance
    value = layout.value()
    reported = [(i, level) for i, level in enumerate(instance.levels) if level.reported]
    tiers = []
    for index, level in reported:
        priority = instance.priorities[level.tier]
        kinds = [k for k, kind in enumerate(instance.kinds) if kind.priority == priority]
        bound = search.bounds[index]
        if instance.ways_chosen:  # the search looked at one choice only; all of them is a bound
            bound = sum(
                int(weight) * len(pods)
                for weight, pods in zip(level.weights, instance.pods, strict=True)
            )
        tiers.append(
            Tier(
                priority,
                sum(len(instance.pods[kind]) for kind in kinds),
                sum(layout.placed(kind) for kind in kinds),
                value[index],
                bound,
            )
        )
    return tuple(tiers)
