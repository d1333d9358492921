"""The instant incumbent: the engine itself, pod by pod, large before small, gangs whole or not."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.model import GangKey, PodRequest
from scheduler.planner.effort import Budget
from scheduler.planner.layout import Layout
from scheduler.planner.search.company import begin, beginnings
from scheduler.planner.topology import domains

__all__ = ["fill", "fill_gangs", "gang_missing", "waiting"]

Size = tuple[int, int, int]

_AT_LEAST = 100
"""Pods that are looked at whatever the budget says."""


def gang_missing(layout: Layout, gang: GangKey) -> int:
    """How many members a gang still needs before any of them may run."""
    instance = layout.instance
    kinds = instance.gang_kinds[gang]
    placed = sum(layout.placed(kind) for kind in kinds) + instance.fixed(gang)
    of_roles = 0
    for role, least in instance.gang_roles.get(gang, {}).items():
        there = sum(layout.placed(kind) for kind in kinds if instance.kinds[kind].role == role)
        of_roles += max(0, least - there - instance.fixed_in_role(gang, role))
    return max(0, instance.problem.minimum(gang) - placed, of_roles)


def fill(
    layout: Layout,
    *,
    by_size: bool = True,
    priorities: Sequence[int] | None = None,
    budget: Budget | None = None,
) -> bool:
    """Place what fits where nothing has to move, highest priority first.

    Where pods are served in their order, they are looked at in this order. Otherwise gangs come
    first within a priority, since they need room that small pods would take; then
    large pods before small ones, or with ``by_size`` off all in the order in which they were
    given, which mixes shapes and sometimes fills devices better. A gang's members are placed
    together or not at all.

    Parameters
    ----------
    layout
        Written to.
    by_size
        See above.
    priorities
        Those to look at; all if left out.
    budget
        Once it is over no more pods are looked at, but for the first few.

    Returns
    -------
    bool
        Whether everybody was looked at.
    """
    instance = layout.instance
    if not any(layout.unplaced):
        return True
    engine = Engine(layout.state, instance.problem.policy, profile=instance.profile)
    asks = itertools.count()

    def over() -> bool:
        return next(asks) >= _AT_LEAST and budget is not None and budget.over

    listed = instance.priorities if priorities is None else priorities
    if instance.in_order and layout.neighbours is None:
        return all(_fill_queue(layout, engine, priority, over) for priority in listed)
    return all(_fill_tier(layout, engine, priority, over, by_size=by_size) for priority in listed)


def _fill_tier(
    layout: Layout, engine: Engine, priority: int, over: Callable[[], bool], *, by_size: bool
) -> bool:
    """Place pods of a priority, gangs first; False if there was no time for all of them."""
    for gang in _gangs(layout, priority):
        if over():
            return False
        _fill_gang(layout, engine, gang)
    while True:
        kinds = sorted(_kinds(layout, priority), key=lambda k: (_size(layout, k), k))
        before = sum(len(layout.unplaced[kind]) for kind in kinds)
        if by_size:
            for kind in kinds:
                if over():
                    return False
                _fill_kind(layout, engine, kind, layout.instance.admissible[kind], over)
        else:
            _fill_listed(layout, engine, set(kinds), over)
        # With rules between pods, those that have come may have let others in.
        left = sum(len(layout.unplaced[kind]) for kind in kinds)
        if left and over():
            return False
        if layout.neighbours is None or left in (0, before):
            return True


def fill_gangs(layout: Layout, priority: int, among: Collection[GangKey], budget: Budget) -> bool:
    """Place these gangs as :func:`fill` does, and nobody else; False if the budget was over."""
    listed = [gang for gang in _gangs(layout, priority) if gang in among] if among else []
    if not listed:
        return True
    engine = Engine(layout.state, layout.instance.problem.policy, profile=layout.instance.profile)
    for number, gang in enumerate(listed):
        if number >= _AT_LEAST and budget.over:
            return False
        _fill_gang(layout, engine, gang)
    return True


def _kinds(layout: Layout, priority: int) -> Iterator[int]:
    for code, kind in enumerate(layout.instance.kinds):
        if kind.priority == priority and layout.unplaced[code]:
            if kind.gang and gang_missing(layout, kind.gang):
                continue  # members of a gang that is not whole stay out
            yield code


def _gangs(layout: Layout, priority: int) -> list[GangKey]:
    """Incomplete gangs whose most important member has this priority, large ones first."""
    instance = layout.instance
    size: dict[GangKey, int] = defaultdict(int)
    for gang, kinds in instance.gang_kinds.items():
        top = max(instance.kinds[kind].priority for kind in kinds)
        waiting = sum(len(layout.unplaced[kind]) for kind in kinds)
        if top == priority and 0 < gang_missing(layout, gang) <= waiting:
            size[gang] = sum(instance.gpu_milli(k) * len(layout.unplaced[k]) for k in kinds)
    return sorted(size, key=lambda gang: (-size[gang], gang.namespace, gang.name))


def _size(layout: Layout, kind: int) -> Size:
    shape = layout.instance.kinds[kind].shape
    return (-layout.instance.gpu_milli(kind), -shape.cpu_milli, -shape.memory_bytes)


def _fill_listed(layout: Layout, engine: Engine, kinds: set[int], over: Callable[[], bool]) -> None:
    """Place pods of these kinds in the order of the problem."""
    rows = {kind: np.flatnonzero(layout.instance.admissible[kind]) for kind in kinds}
    ruled = layout.neighbours is not None
    for pod in layout.instance.problem.pending:
        kind = layout.instance.kind_of[pod.uid]
        if kind not in kinds or pod.uid not in layout.unplaced[kind]:
            continue
        if over():
            return
        among = rows[kind]
        if ruled:
            let_in = layout.open(pod, layout.instance.admissible[kind])
            among = np.flatnonzero(begin(layout, kind, let_in))
        row = engine.best(pod, among)
        node = layout.state.nodes[row] if row >= 0 else None
        if node is None:
            kinds.discard(kind)  # nothing is released: its others fit nowhere either
            continue
        layout.place(engine.choose(pod, node.name))


def _fill_queue(layout: Layout, engine: Engine, priority: int, over: Callable[[], bool]) -> bool:
    """Place pods in the order of the problem, a gang where its first member stands."""
    instance = layout.instance
    gangs = set(_gangs(layout, priority))
    full: set[int] = set()
    for pod in instance.problem.pending:
        kind = instance.kind_of[pod.uid]
        if pod.priority != priority or kind in full or pod.uid not in layout.unplaced[kind]:
            continue
        if over():
            return False
        if pod.gang in gangs:
            gangs.discard(pod.gang)
            _fill_gang(layout, engine, pod.gang)
        elif (pod.gang is None or not gang_missing(layout, pod.gang)) and not _fill_kind(
            layout, engine, kind, instance.admissible[kind], most=1
        ):
            full.add(kind)  # nothing is released: its others fit nowhere either
    return True


def _fill_kind(
    layout: Layout,
    engine: Engine,
    kind: int,
    allowed: NDArray[np.bool_],
    over: Callable[[], bool] = lambda: False,
    most: int | None = None,
) -> list[str]:
    """Place pods of a kind until one does not fit, or so many are; returns their uids."""
    rows = np.flatnonzero(allowed)
    everywhere = len(rows) == len(layout.state)
    ruled = layout.neighbours is not None
    placed = []
    for pod in list(layout.unplaced[kind].values())[:most]:
        if over():
            break
        if ruled:
            rows = np.flatnonzero(begin(layout, kind, layout.open(pod, allowed)))
            everywhere = False
        row = engine.best(pod, None if everywhere else rows)
        if row < 0:
            break  # nothing was released meanwhile: the next one of this kind fits nowhere either
        node = layout.state.node(row)
        layout.place(engine.choose(pod, node.name))
        placed.append(pod.uid)
    return placed


def _fill_gang(layout: Layout, engine: Engine, gang: GangKey) -> None:
    kinds = layout.instance.gang_kinds[gang]
    for rows in itertools.chain(domains(layout, gang), beginnings(layout, kinds)):
        placed = []
        for kind in sorted(kinds, key=lambda k: (_size(layout, k), k)):
            allowed = layout.instance.admissible[kind] & rows
            placed += _fill_kind(layout, engine, kind, allowed)
        if not gang_missing(layout, gang):
            return
        for uid in placed:
            layout.take(uid)


def waiting(layout: Layout) -> list[PodRequest]:
    """Pending pods without a row, in the order of their kinds."""
    return [
        pod
        for pods in layout.unplaced
        for pod in pods.values()
        if pod.uid not in layout.instance.origin
    ]
