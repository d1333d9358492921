"""Victims that really make room: the right model, the same device, gangs whole or not at all.

kube-scheduler chooses victims by counts per node and asks an extender to correct the choice; it
checks neither priorities nor budgets of what comes back. Its own victims are kept, since they may
serve constraints that only it knows; what is missing is added, cheapest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from scheduler.core.engine import Engine
from scheduler.core.model import GangKey, Placement, PodRequest
from scheduler.kube.disruption import BudgetObject, covers

__all__ = ["Victims", "choose_victims"]

Labels = Callable[[str], Mapping[str, str] | None]


@dataclass(frozen=True, slots=True)
class Victims:
    """Pods of one node to be evicted, and how many of them their budgets do not allow for."""

    uids: tuple[str, ...]
    violations: int


def choose_victims(
    engine: Engine,
    request: PodRequest,
    row: int,
    suggested: Sequence[str],
    *,
    elsewhere: AbstractSet[GangKey] = frozenset(),
    budgets: Iterable[BudgetObject] = (),
    labels: Labels = lambda _uid: None,
) -> Victims | None:
    """The cheapest victims on a row that make the pod fit there, or None.

    Cheapest: fewest violated budgets, then the lowest priority that has to go, then fewest pods,
    then least GPU. A set that is kept from 1.38 on may be empty: the pod fits as it is.

    Parameters
    ----------
    engine
        Read only.
    request
        The pod that needs room; only pods of lower priority are ever victims.
    row
        Row of the node.
    suggested
        kube-scheduler's victims.
    elsewhere
        Gangs with members on other nodes: a member of one is never a victim, since the rest of
        its gang would be left running for nothing.
    budgets, labels
        PodDisruptionBudgets, and the labels of a running pod.
    """
    units = _units(engine, request, row, elsewhere)
    if units is None:
        return None
    of_uid = {p.pod.uid: unit for unit in units for p in unit}
    on_node = {placement.pod.uid for placement in engine.state.pods_on(row)}
    base: list[tuple[Placement, ...]] = []
    for uid in dict.fromkeys(suggested):
        if uid not in of_uid:
            if uid in on_node:
                return None  # protected: of equal priority by now, or part of a gang elsewhere
            continue  # gone in the meantime: kube-scheduler will see that, too
        if of_uid[uid] not in base:
            base.append(of_uid[uid])
    gone = tuple(uid for uid in dict.fromkeys(suggested) if uid not in on_node)
    costs = _Costs(list(budgets), labels)
    best: tuple[tuple[int, ...], list[tuple[Placement, ...]]] | None = None
    rest = [unit for unit in units if unit not in base]
    for order in _orders(rest, costs):
        found = _enough(engine, request, row, base, order)
        if found is None:
            break  # not even all of them make room, whatever the order
        cost = costs.of(found)
        if best is None or cost < best[0]:
            best = (cost, found)
    if best is None:
        return None
    uids = tuple(p.pod.uid for unit in best[1] for p in unit)
    return Victims(gone + uids, best[0][0])


def _units(
    engine: Engine, request: PodRequest, row: int, elsewhere: AbstractSet[GangKey]
) -> list[tuple[Placement, ...]] | None:
    """What can be evicted from a row: pods one by one, gangs as a whole."""
    singles: list[tuple[Placement, ...]] = []
    gangs: dict[GangKey, list[Placement]] = {}
    protected = set(elsewhere)
    for placement in engine.state.pods_on(row):
        pod = placement.pod
        evictable = pod.priority < request.priority and pod.uid not in engine.holds
        key = pod.gang if pod.gang and pod.gang.min_count > 1 else None
        if key is None:
            if evictable:
                singles.append((placement,))
        elif evictable:
            gangs.setdefault(key, []).append(placement)
        else:
            protected.add(key)
    whole = [tuple(members) for key, members in gangs.items() if key not in protected]
    return singles + whole


def _orders(
    units: Sequence[tuple[Placement, ...]], costs: _Costs
) -> Iterable[list[tuple[Placement, ...]]]:
    """Orders in which to try: by priority and size, and once per device with its pods first.

    Pods that their budgets protect come last in each of them.
    """
    protected = {unit[0].pod.uid for unit in units if costs.of([unit])[0]}

    def general(unit: tuple[Placement, ...]) -> tuple[bool, int, int, int, str]:
        return (
            unit[0].pod.uid in protected,
            max(p.pod.priority for p in unit),
            len(unit),
            sum(p.gpu_milli for p in unit),
            unit[0].pod.uid,
        )

    yield sorted(units, key=general)
    for device in sorted({s.index for unit in units for p in unit for s in p.devices}):
        yield sorted(
            units,
            key=lambda unit, device=device: (  # type: ignore[misc] # mypy infers no lambda default
                not any(s.index == device for p in unit for s in p.devices),
                general(unit),
            ),
        )


def _enough(
    engine: Engine,
    request: PodRequest,
    row: int,
    base: Sequence[tuple[Placement, ...]],
    order: Sequence[tuple[Placement, ...]],
) -> list[tuple[Placement, ...]] | None:
    """The first units of an order that suffice beside the base, less those taken in vain."""

    def fits(units: Iterable[tuple[Placement, ...]]) -> bool:
        uids = frozenset(p.pod.uid for unit in units for p in unit)
        return engine.fits_without(request, row, uids)

    added: list[tuple[Placement, ...]] = []
    for unit in order:
        if fits([*base, *added]):
            break
        added.append(unit)
    if not fits([*base, *added]):
        return None
    for unit in sorted(added, key=lambda unit: -max(p.pod.priority for p in unit)):
        spared = [other for other in added if other is not unit]
        if fits([*base, *spared]):
            added = spared
    return [*base, *added]


class _Costs:
    """What a set of victims costs."""

    def __init__(self, budgets: Sequence[BudgetObject], labels: Labels) -> None:
        self._budgets, self._labels = budgets, labels

    def of(self, units: Sequence[tuple[Placement, ...]]) -> tuple[int, ...]:
        pods = [placement for unit in units for placement in unit]
        left = {b.key: b.status.disruptions_allowed if b.status else 0 for b in self._budgets}
        violations = 0
        for placement in pods:
            own = self._labels(placement.pod.uid) or {}
            hit = [b.key for b in self._budgets if covers(b, placement.pod.namespace, own)]
            violations += any(left[key] <= 0 for key in hit)
            for key in hit:
                left[key] -= 1
        priority = max((p.pod.priority for p in pods), default=-(1 << 31))
        return (violations, priority, len(pods), sum(p.gpu_milli for p in pods))
