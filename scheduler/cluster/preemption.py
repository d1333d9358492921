"""Victims that really make room: the right model, the same device, gangs at the price of all.

kube-scheduler chooses victims by counts per node and asks an extender to correct the choice; it
checks neither priorities nor budgets of what comes back. Its own victims are kept, since they may
serve constraints that only it knows; what is missing is added, cheapest first.

A gang that loses a member has lost all of them. So its members of lower priority on the node go
together, and the price of that counts the members on other nodes too, who cannot be named. Nothing
that is written on a pod makes it immune: membership costs, it does not protect. What becomes of the
others is decided in :mod:`.named_victims`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.feasibility import dynamic_reasons
from scheduler.core.gangs.members import Members
from scheduler.core.model import GangKey, Placement, PodRequest, Reason, Release
from scheduler.core.passed import believe
from scheduler.core.state import ClusterState
from scheduler.kube.disruption import BudgetObject, covers

__all__ = [
    "Candidate",
    "Victims",
    "choose_victims",
    "kept_by_reservations",
    "preemptible",
    "without_more_expensive_gangs",
]

Labels = Callable[[str], Mapping[str, str] | None]

_ROW = np.array([0])
_FITS = Reason.FITS.code

# Reasons that kube-scheduler's own accounting notices too, so that its preemption dry run finds
# victims. Elsewhere it would find that the pod fits without any, and report an error (<= 1.37).
_SEEN_IN_TREE = np.zeros(len(Reason), dtype=bool)
for _reason in (
    Reason.INSUFFICIENT_CPU,
    Reason.INSUFFICIENT_MEMORY,
    Reason.INSUFFICIENT_PODS,
    Reason.INSUFFICIENT_RESOURCE,
    Reason.INSUFFICIENT_DEVICES,
    Reason.INSUFFICIENT_FRACTION,
    Reason.INSUFFICIENT_MIG_SLOTS,
    Reason.INSUFFICIENT_REPLICAS,
):
    _SEEN_IN_TREE[_reason.code] = True


def preemptible(
    engine: Engine, request: PodRequest, rows: NDArray[np.int64], codes: NDArray[np.int8]
) -> NDArray[np.bool_]:
    """Rows where evicting pods could help and kube-scheduler's dry run would notice it, (R,).

    Nodes with reservations of others are not among them: a reservation is not a pod to evict.

    Parameters
    ----------
    engine
        Read only.
    rows, codes : (R,)
        What was asked about, and the verdicts.
    """
    preemptible = _noticed(engine, request, rows, codes)
    if preemptible.any():
        preemptible &= ~_held(engine, request, rows)
    return preemptible


def kept_by_reservations(
    engine: Engine, request: PodRequest, rows: NDArray[np.int64], codes: NDArray[np.int8]
) -> NDArray[np.int64]:
    """Those of the rows that would be preemptible but for reservations of others."""
    kept = _held(engine, request, rows)
    return rows[kept & _noticed(engine, request, rows, codes)] if kept.any() else rows[:0]


def _held(engine: Engine, request: PodRequest, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows with reservations of others."""
    nodes = {one.placement.node for uid, one in engine.reservations.items() if uid != request.uid}
    if not nodes:
        return np.zeros(len(rows), dtype=bool)
    row_of = engine.state.row_of  # some are perhaps on nodes that have gone
    return np.isin(rows, [row_of[name] for name in nodes if name in row_of])


def _noticed(
    engine: Engine, request: PodRequest, rows: NDArray[np.int64], codes: NDArray[np.int8]
) -> NDArray[np.bool_]:
    """Rows that kube-scheduler's own accounting would find short, too."""
    state = engine.state
    preemptible: NDArray[np.bool_] = _SEEN_IN_TREE[codes]
    if not preemptible.any():
        return preemptible
    if not request.gpu.resource and request.gpu.requested_milli:
        # In-tree counts milli-GPU per node, not per device: it sees a shortage only where the
        # node's sum falls short.
        short = state.gpu_left[rows] < request.gpu.requested_milli
        devices = (codes == Reason.INSUFFICIENT_FRACTION.code) | (
            codes == Reason.INSUFFICIENT_DEVICES.code
        )
        preemptible &= short | ~devices
    return preemptible


@dataclass(frozen=True, slots=True)
class Unit:
    """What goes together: one pod, or the members of a gang that can be evicted from the node.

    ``others`` are the gang's other members that run, on whatever node: they pay, too.
    """

    here: tuple[Placement, ...]
    others: tuple[Placement, ...] = ()

    @property
    def all(self) -> tuple[Placement, ...]:
        """Everybody who pays."""
        return self.here + self.others


class Candidate:
    """One node as it was when the call came, to be thought about without holding anybody up.

    Parameters
    ----------
    engine
        Read now, and never again.
    request
        The pod that needs room.
    row
        Row of the node.
    members
        Members of gangs that run, on whatever node.
    passed
        kube-scheduler finds room there for what it counts itself, once its own victims have gone.
    """

    def __init__(
        self,
        engine: Engine,
        request: PodRequest,
        row: int,
        members: Members | None = None,
        *,
        passed: bool = False,
    ) -> None:
        self.request, self._passed = request, passed
        self.node = node.name if (node := engine.state.nodes[row]) is not None else ""
        self.pods = engine.state.pods_on(row)
        placements, here = engine.state.placements, {p.pod.uid for p in self.pods}
        gangs = {p.pod.gang.whole for p in self.pods if p.pod.gang} if members else set()
        partners = {gang: members.partners(gang) for gang in gangs} if members else {}
        self.elsewhere = {
            gang: tuple(placements[u] for u in sorted(uids) if u in placements and u not in here)
            for gang, uids in partners.items()
            if uids
        }
        self.reserved = frozenset(p.pod.uid for p in self.pods if p.pod.uid in engine.reservations)
        self._state: ClusterState | None = engine.excerpt(request, row, passed=passed)

    @property
    def everybody(self) -> list[str]:
        """Uids of the pods of the node, and of members of their gangs elsewhere."""
        others = (p.pod.uid for members in self.elsewhere.values() for p in members)
        return [*(p.pod.uid for p in self.pods), *others]

    @property
    def possible(self) -> bool:
        """Whether evictions can help at all."""
        return self._state is not None

    def fits(self) -> bool:
        """Whether the pod fits with what has been taken out."""
        assert self._state is not None  # callers look at possible
        return int(dynamic_reasons(self._state, self.request.shape, _ROW)[0]) == _FITS

    def believe(self) -> None:
        """kube-scheduler's victims are out: by its count, cpu and its like suffice now.

        What is reserved for others it does not count.
        """
        assert self._state is not None  # callers look at possible
        if self._passed:
            others = self.reserved - {self.request.uid}
            there = (p.pod for p in self.pods if p.pod.uid in others)
            reserved = [pod for pod in there if pod.uid in self._state.placements]
            believe(self._state, self.request.shape, {0: reserved})

    def take_out(self, unit: Unit) -> None:
        """Imagine that these pods are gone."""
        assert self._state is not None  # callers look at possible
        self._state.apply([Release(placement.pod.uid) for placement in unit.here])

    def put_back(self, unit: Unit) -> None:
        """Imagine that they are not."""
        assert self._state is not None  # callers look at possible
        self._state.apply(unit.here, enforce=False)


@dataclass(frozen=True, slots=True)
class Victims:
    """Pods of one node to be evicted.

    Attributes
    ----------
    uids
        The pods.
    violations
        How many of those that pay their budgets do not allow for.
    price
        Violations, highest priority that pays, and how many pay: less is cheaper.
    others : tuple of PodRequest
        Members of their gangs that may be evicted as well and cannot be named: they are elsewhere.
    gangs : frozenset of str
        Those of ``uids`` that are members of these gangs.
    """

    uids: tuple[str, ...]
    violations: int
    price: tuple[int, ...] = ()
    others: tuple[PodRequest, ...] = ()
    gangs: frozenset[str] = frozenset()


def without_more_expensive_gangs(found: Mapping[str, Victims]) -> dict[str, Victims]:
    """The nodes that kube-scheduler may choose among.

    It compares the victims that it is told of, and cannot know that a gang's members on other nodes
    pay, too: a node where they do is left out if another one is cheaper.
    """
    least = min((victims.price for victims in found.values()), default=())
    return {
        node: victims
        for node, victims in found.items()
        if not victims.others or victims.price <= least
    }


def choose_victims(
    candidate: Candidate,
    suggested: Sequence[str],
    *,
    budgets: Iterable[BudgetObject] = (),
    labels: Labels = lambda _uid: None,
) -> Victims | None:
    """The cheapest victims on a node that make the pod fit there, or None.

    Cheapest: fewest violated budgets, then the lowest priority that has to go, then fewest pods,
    then least GPU, with all members of a gang that loses one. A set that is kept from 1.38 on may
    be empty: the pod fits as it is.

    Parameters
    ----------
    candidate
        The node; only pods of lower priority than the one that asks are ever victims.
    suggested
        kube-scheduler's victims.
    budgets, labels
        PodDisruptionBudgets, and the labels of a running pod.
    """
    if not candidate.possible:
        return None
    units = _units(candidate, frozenset(suggested))
    of_uid = {p.pod.uid: unit for unit in units for p in unit.here}
    on_node = {placement.pod.uid for placement in candidate.pods}
    base: list[Unit] = []
    for uid in dict.fromkeys(suggested):
        if uid not in of_uid:
            if uid in on_node:
                return None  # protected: of equal priority by now
            continue  # gone in the meantime: kube-scheduler will see that, too
        if of_uid[uid] not in base:
            base.append(of_uid[uid])
    gone = tuple(uid for uid in dict.fromkeys(suggested) if uid not in on_node)
    costs = _Costs(list(budgets), labels)
    best: tuple[tuple[int, ...], list[Unit]] | None = None
    rest = [unit for unit in units if unit not in base]
    for unit in base:
        candidate.take_out(unit)
    candidate.believe()
    for order in _orders(rest, costs):
        found = _enough(candidate, order)
        if found is None:
            break  # not even all of them make room, whatever the order
        found = [*base, *found]
        cost = costs.of(found)
        if best is None or cost < best[0]:
            best = (cost, found)
    if best is None:
        return None
    uids = tuple(p.pod.uid for unit in best[1] for p in unit.here)
    broken = [unit for unit in best[1] if unit.others]
    most = candidate.request.priority
    elsewhere = (p.pod for unit in broken for p in unit.others if p.node != candidate.node)
    return Victims(
        gone + uids,
        best[0][0],
        best[0][:3],
        tuple(pod for pod in elsewhere if pod.priority < most),
        frozenset(p.pod.uid for unit in broken for p in unit.here),
    )


def _units(candidate: Candidate, suggested: AbstractSet[str]) -> list[Unit]:
    """What can be evicted from a node: pods one by one, the members of a gang together.

    A pod with a reservation there does not run yet, unless kube-scheduler says so: it has heard of
    the binding before us.
    """
    singles: list[Unit] = []
    gangs: dict[GangKey, list[Placement]] = {}
    stay: dict[GangKey, list[Placement]] = {}
    asking = candidate.request
    for placement in candidate.pods:
        pod = placement.pod
        if pod.uid == asking.uid:
            continue
        there = pod.uid not in candidate.reserved or pod.uid in suggested
        evictable = there and pod.priority < asking.priority
        key = pod.gang.whole if pod.gang else None
        if key is None or key not in candidate.elsewhere:
            if evictable:
                singles.append(Unit((placement,)))
        elif there:
            (gangs if evictable else stay).setdefault(key, []).append(placement)
    return singles + [
        Unit(tuple(members), (*stay.get(key, ()), *candidate.elsewhere[key]))
        for key, members in gangs.items()
    ]


def _orders(units: Sequence[Unit], costs: _Costs) -> Iterable[list[Unit]]:
    """Orders in which to try: by priority and size, and once per device with its pods first.

    Pods that their budgets protect come last in each of them.
    """
    protected = {unit.here[0].pod.uid for unit in units if costs.of([unit])[0]}

    def general(unit: Unit) -> tuple[bool, int, int, int, str]:
        return (
            unit.here[0].pod.uid in protected,
            max(p.pod.priority for p in unit.all),
            len(unit.all),
            sum(p.gpu_milli for p in unit.all),
            unit.here[0].pod.uid,
        )

    yield sorted(units, key=general)
    for device in sorted({s.index for unit in units for p in unit.here for s in p.devices}):
        yield sorted(
            units,
            key=lambda unit, device=device: (  # type: ignore[misc] # mypy infers no lambda default
                not any(s.index == device for p in unit.here for s in p.devices),
                general(unit),
            ),
        )


def _enough(candidate: Candidate, order: Sequence[Unit]) -> list[Unit] | None:
    """The first units of an order that suffice, less those taken in vain; all are put back."""
    out: list[Unit] = []
    fits = candidate.fits()
    for unit in order:
        if fits:
            break
        candidate.take_out(unit)
        out.append(unit)
        fits = candidate.fits()
    needed = []
    for unit in sorted(out, key=lambda unit: -max(p.pod.priority for p in unit.all)):
        candidate.put_back(unit)
        if fits and not candidate.fits():
            candidate.take_out(unit)
            needed.append(unit)
    for unit in needed:
        candidate.put_back(unit)
    return needed if fits else None


class _Costs:
    """What a set of victims costs."""

    def __init__(self, budgets: Sequence[BudgetObject], labels: Labels) -> None:
        self._budgets, self._labels = budgets, labels

    def of(self, units: Sequence[Unit]) -> tuple[int, ...]:
        pods = [placement for unit in units for placement in unit.all]
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
