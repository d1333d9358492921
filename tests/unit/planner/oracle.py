"""The optimum of tiny problems by trying everything; shares no code with the planner."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from scheduler.core.mig import MigType, pack
from scheduler.core.model import GangKey, GpuKind, Node, Placement, PodRequest, Reason
from scheduler.core.selection import admits, selects
from scheduler.planner.problem import Problem

Value = tuple[int, ...]
Merits = tuple[int, int, int]
"""Unmet preferences, cost of models, nodes in use: each the least on its own."""


def optimum(problem: Problem) -> tuple[Value, Merits]:
    """Best value (pods per tier, highest first, then the negative disruption) and what it allows.

    The second part says how little each of the further objectives could be, looked at alone,
    among all plans of that value; of preferences and cost together the least pair is taken.
    """
    running = dict(problem.state.placements)
    movable = [running[uid] for uid in problem.movable]
    fixed = [placed for uid, placed in running.items() if uid not in problem.movable]
    pods = [*problem.pending, *(placed.pod for placed in movable)]
    tiers = sorted({pod.priority for pod in pods}, reverse=True)
    nodes = [node for node in problem.state.nodes if node is not None]
    best: Value | None = None
    costs: list[tuple[int, int]] = []
    used: list[int] = []
    for choice in itertools.product(*(_options(problem, pod, nodes) for pod in pods)):
        value = _value(problem, pods, choice, tiers)
        if (best is None or value >= best) and _possible(problem, pods, choice, nodes, fixed):
            if value != best:
                costs, used = [], []
            best = value
            costs.append(_costs(problem, pods, choice))
            used.append(_nodes_used(problem, pods, choice, fixed))
    assert best is not None  # leaving everything as it is is always possible
    return best, (*min(costs), min(used))


def _costs(problem: Problem, pods: list[PodRequest], choice: tuple[str, ...]) -> tuple[int, int]:
    unmet = expensive = 0
    named = {node.name: node for node in problem.state.nodes if node is not None}
    for pod, where in zip(pods, choice, strict=True):
        if where and pod.uid not in problem.movable:
            node = named[where]
            unmet += sum(
                weight
                for wish, weight in problem.preferences.get(pod.uid, ())
                if not selects(wish, node)
            )
            milli = pod.gpu.count * 1000 or pod.gpu.milli
            expensive += problem.model_costs.get(node.product, 0) * milli
    return unmet, expensive


def _nodes_used(
    problem: Problem, pods: list[PodRequest], choice: tuple[str, ...], fixed: list[Placement]
) -> int:
    used = {placed.node for placed in fixed}
    for pod, where in zip(pods, choice, strict=True):
        if where:
            used.add(problem.state.placements[pod.uid].node if where == "stay" else where)
    return len(used)


def _options(problem: Problem, pod: PodRequest, nodes: list[Node]) -> Iterator[str]:
    """Where a pod may be: nowhere, ``stay`` as it is, or newly on a node."""
    running = pod.uid in problem.movable
    if running:
        yield "stay"
    if not running or problem.movable[pod.uid].evict is not None:
        yield ""
    names = problem.candidates.get(pod.uid)
    for node in nodes:
        if admits(node, pod) is Reason.FITS and (names is None or node.name in names):
            yield node.name


def _value(
    problem: Problem, pods: list[PodRequest], choice: tuple[str, ...], tiers: list[int]
) -> Value:
    placed = [
        sum(bool(where) and pod.priority == tier for pod, where in zip(pods, choice, strict=True))
        for tier in tiers
    ]
    cost = 0
    running = [pod.uid in problem.movable for pod in pods]
    stopped = {
        pod.gang
        for pod, where, runs in zip(pods, choice, running, strict=True)
        if runs and where != "stay" and pod.gang and problem.minimum(pod.gang) > 1
    }
    for pod, where, runs in zip(pods, choice, running, strict=True):
        if runs and (where != "stay" or pod.gang in stopped):
            costs = problem.movable[pod.uid]
            moved = where != "stay" and pod.gang in stopped
            cost += costs.move + moved if where else costs.evict or 0
    return (*placed, -cost)


def _possible(
    problem: Problem,
    pods: list[PodRequest],
    choice: tuple[str, ...],
    nodes: list[Node],
    fixed: list[Placement],
) -> bool:
    gangs: dict[GangKey, int] = {}
    for pod, where in zip(pods, choice, strict=True):
        if pod.gang:
            gangs[pod.gang] = gangs.get(pod.gang, 0) + bool(where)
    if any(0 < count < problem.minimum(gang) for gang, count in gangs.items()):
        return False
    for budget in problem.budgets:
        disturbed = sum(
            pod.uid in budget.uids and where != "stay"
            for pod, where in zip(pods, choice, strict=True)
        )
        if disturbed > budget.allowed:
            return False
    staying = [
        problem.state.placements[pod.uid]
        for pod, where in zip(pods, choice, strict=True)
        if where == "stay"
    ]
    return all(
        _node_holds(
            node,
            [placed for placed in [*fixed, *staying] if placed.node == node.name],
            [pod for pod, where in zip(pods, choice, strict=True) if where == node.name],
        )
        for node in nodes
    )


def _node_holds(node: Node, placed: list[Placement], new: list[PodRequest]) -> bool:
    everyone = [*(p.pod for p in placed), *new]
    if (
        sum(pod.cpu_milli for pod in everyone) > node.cpu_milli
        or sum(pod.memory_bytes for pod in everyone) > node.memory_bytes
        or len(everyone) > node.pods
    ):
        return False
    taken = [pair for pod in everyone for pair in pod.counted]
    for name in {name for name, _ in taken}:
        if sum(amount for n, amount in taken if n == name) > node.counted.get(name, 0):
            return False
    if any(pod.gpu.products and node.product not in pod.gpu.products for pod in new):
        return False
    free = [0 if device.mig or not device.healthy else 1000 for device in node.devices]
    masks = [MigType(device.mig).full_mask if device.mig else 0 for device in node.devices]
    for placement in placed:
        for share in placement.devices:
            free[share.index] -= share.milli
            masks[share.index] &= ~share.slots
    instances: dict[str, int] = {}
    for pod in new:
        for profile, count in pod.gpu.mig:
            instances[profile] = instances.get(profile, 0) + count
    if instances:
        types = tuple(MigType(device.mig) if device.mig else None for device in node.devices)
        if pack(types, tuple(masks), tuple(sorted(instances.items()))) is None:
            return False
    whole = sum(pod.gpu.count for pod in new)
    fractions = sorted(pod.gpu.milli for pod in new if pod.gpu.kind is GpuKind.FRACTION)
    return _devices_hold(free, whole, fractions)


def _devices_hold(free: list[int], whole: int, fractions: list[int]) -> bool:
    if not fractions:
        return free.count(1000) >= whole
    *rest, largest = fractions
    for index in range(len(free)):
        if free[index] >= largest:
            after = [*free[:index], free[index] - largest, *free[index + 1 :]]
            if _devices_hold(after, whole, rest):
                return True
    return False
