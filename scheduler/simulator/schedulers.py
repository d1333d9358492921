"""Who decides in a replay: stock kube-scheduler, or kube-scheduler with Snugfit as its extender.

The extender is not modelled. It is the code of the webhook's verbs over a :class:`.Ledger` whose
clock is the simulated one: the same verdicts, joint plans of gangs, reservations with their times,
and the same look at refused pods that fit by now. What is emulated is kube-scheduler, which passes
the nodes that its own filters leave, takes the winner and binds at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import numpy as np

from scheduler.cluster.chores import pods_to_requeue
from scheduler.cluster.filtering import filter_nodes, record_filter
from scheduler.cluster.ledger import Cluster, Ledger
from scheduler.cluster.offline import OfflineBinder
from scheduler.cluster.prioritizing import rank_nodes, record_prioritize
from scheduler.cluster.reserving import reserve
from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.verdicts import RequestedNodes
from scheduler.core.engine import Engine
from scheduler.core.errors import CapacityConflict
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.gangs.states import HOLDING
from scheduler.core.model import GangKey, Placement, PodRequest
from scheduler.files.workload import Workload

__all__ = ["Extended", "Scheduler", "Stock"]

_LOOKS_AT_ONCE = 32

Refused = Mapping[str, tuple[PodRequest, float]]
"""Pods that wait, by uid, and when each was refused last."""


class Scheduler(Protocol):
    """What a replay asks of whoever decides.

    Attributes
    ----------
    grown
        Set where room was made without a departure; whoever has taken note of that clears it.
    """

    grown: bool

    def kind(self, request: PodRequest) -> Hashable | None:
        """Pods of one kind are refused together until there is more room; None for one by one."""

    def arrives(self, request: PodRequest) -> None:
        """A pod exists and waits, for the first time or again."""

    def schedule(self, request: PodRequest) -> Placement | None:
        """One scheduling cycle of the pod; None if it is refused."""

    def placed(self, request: PodRequest) -> None:
        """A pod was placed by somebody else."""

    def departs(self, request: PodRequest, *, ended: bool) -> None:
        """A pod leaves its node: it has ended, or else is evicted."""

    def holding(self) -> list[GangKey]:
        """Gangs that hold places."""

    def expires(self) -> float:
        """When something that is held ends by itself; ``inf`` where nothing is held."""

    def expire(self) -> None:
        """End what is over by now."""

    @property
    def requeue_after_s(self) -> float:
        """How long a refused pod that fits by now is left to kube-scheduler."""

    def requeued(self, refused: Refused) -> list[PodRequest]:
        """Refused pods that kube-scheduler is told to try again."""


class Stock:
    """kube-scheduler alone, or an emulation of it: each pod by itself, nothing is held.

    Parameters
    ----------
    engine
        Places pods.
    choose
        Picks the row of a pod, or -1.
    """

    def __init__(self, engine: Engine, choose: Callable[[PodRequest], int]) -> None:
        self._engine, self._choose = engine, choose
        self.grown = False

    def kind(self, request: PodRequest) -> Hashable | None:
        """Those that ask for the same by the same rules."""
        neighbours = self._engine.neighbours
        ruled = neighbours is not None and not neighbours.of(request).free
        return None if ruled else (request.shape, request.selection)

    def arrives(self, request: PodRequest) -> None:
        """Nobody has to be told."""

    def schedule(self, request: PodRequest) -> Placement | None:
        """Place the pod on the row chosen."""
        row = self._choose(request)
        if row < 0:
            return None
        return self._engine.place_on(request, self._engine.state.node(row).name)

    def placed(self, request: PodRequest) -> None:
        """Nobody has to be told."""

    def departs(self, request: PodRequest, *, ended: bool) -> None:  # noqa: ARG002 - of the protocol
        """Give the room back."""
        self._engine.release(request.uid)

    def holding(self) -> list[GangKey]:
        """Nothing is held."""
        return []

    def expires(self) -> float:
        """Nothing is held."""
        return float("inf")

    def expire(self) -> None:
        """Nothing is held."""

    @property
    def requeue_after_s(self) -> float:
        """Nobody looks."""
        return float("inf")

    def requeued(self, refused: Refused) -> list[PodRequest]:  # noqa: ARG002 - of the protocol
        """Nobody tells stock kube-scheduler."""
        return []


class Extended:
    """kube-scheduler with Snugfit beside it.

    Parameters
    ----------
    engine
        The ledger's from now on. The replay goes on reading it, and keeps its ``neighbours``,
        profile and prices.
    workload
        Its gangs are described as their objects would.
    clock
        Simulated seconds.
    gangs
        Whether members of gangs are answered from joint plans.
    """

    def __init__(
        self, engine: Engine, workload: Workload, clock: Callable[[], float], *, gangs: bool = True
    ) -> None:
        pods = len(workload.arrivals) + len(workload.bound)
        # kube-scheduler binds in the cycle in which it asks: no winner has to be held for it.
        config = ExtenderConfig(
            gangs=gangs,
            answer_top_k=0,
            reservation_ttl_s=0,
            relearn_every=0,
            remembered_pods=pods + 1,
        )
        self._engine = engine
        self._ledger = Ledger(engine, config, clock=clock, places_at_once=None)
        self._binder = OfflineBinder(self._ledger)
        self._specs = workload.gangs if gangs else {}
        self._came: Counter[GangKey] = Counter()
        self._ended: Counter[GangKey] = Counter()
        self.grown = False
        with self._ledger.locked() as cluster:
            for bound in workload.bound:
                self._joins(cluster, bound.request)

    @property
    def requeue_after_s(self) -> float:
        """How long a pod that fits by now is left to kube-scheduler."""
        return self._ledger.config.requeue_after_s

    def kind(self, request: PodRequest) -> Hashable | None:
        """Members of a gang that is not whole; else those that ask for the same.

        A gang that has places, or had some, is told of by each member that asks.
        """
        neighbours, key = self._engine.neighbours, request.gang
        if key is not None and key in self._specs:
            with self._ledger.locked() as cluster:
                if cluster.is_joint(request):
                    told = cluster.gangs.state_of(key) in HOLDING
                    alone = told or cluster.gangs.members.absent(key) or neighbours is not None
                    return None if alone else key
        ruled = neighbours is not None and not neighbours.of(request).free
        return None if ruled else (request.shape, request.selection)

    def arrives(self, request: PodRequest) -> None:
        """The watch tells of a pod that waits."""
        if request.gang in self._specs:
            with self._ledger.locked() as cluster:
                self._joins(cluster, request)
                cluster.gangs.on_pod_pending(request)

    def schedule(self, request: PodRequest) -> Placement | None:
        """Filter, prioritize, bind."""
        held = self._held()
        with self._ledger.locked() as cluster:
            row = self._asked(cluster, request)
            bound = None
            if row >= 0:
                # It may fail: by then a gang's other places may be gone. The pod waits again.
                with suppress(CapacityConflict):
                    bound = reserve(cluster, request, self._engine.state.node(row).name)
        self._compare(held)
        return bound

    def _asked(self, cluster: Cluster, request: PodRequest) -> int:
        """Row where kube-scheduler binds the pod, or -1."""
        engine = self._engine
        if self._alone(cluster, request):
            return engine.best(request, selection=True)
        return _winner(cluster, request, RequestedNodes(engine.admitted(request), {}))

    def _alone(self, cluster: Cluster, request: PodRequest) -> bool:
        """Whether the verbs add nothing to what the engine says: a third of the time is saved.

        What they would have remembered of a refusal is made up for in :meth:`requeued`.
        """
        return not self._engine.reservations and not cluster.is_joint(request)

    def placed(self, request: PodRequest) -> None:
        """The watch tells of a pod that has a node."""
        with self._ledger.locked() as cluster:
            cluster.gangs.on_pod_bound(request)
            cluster.events.on_pod_settled(request.uid)

    def departs(self, request: PodRequest, *, ended: bool) -> None:
        """The watch tells that a pod is gone; a gang needs fewer once its members have ended."""
        key = request.gang
        self._binder.release(request.uid)
        if key not in self._specs:
            return
        assert key is not None  # it is a key of the mapping
        if not ended:
            self._came[key] -= 1  # it comes again
            return
        self._ended[key] += 1
        with self._ledger.locked() as cluster:
            cluster.gangs.describe(self._spec(key))

    def holding(self) -> list[GangKey]:
        """Gangs of which reservations are places."""
        placed = (held.placement.pod.gang for held in self._engine.reservations.values())
        return list(dict.fromkeys(gang for gang in placed if gang is not None))

    def expires(self) -> float:
        """When places of a gang end, or are to be asked for."""
        with self._ledger.locked() as cluster:
            return min(cluster.gangs.ends(), cluster.engine.reservations.ends())

    def expire(self) -> None:
        """End what is over, all of it: live that takes some turns."""
        held = self._held()
        with self._ledger.locked() as cluster:
            now = cluster.now
            cluster.expire()
        while held and self._engine.reservations.ends() <= now:
            with self._ledger.locked() as cluster:
                cluster.expire()
        self._compare(held)

    def requeued(self, refused: Refused) -> list[PodRequest]:
        """Whom the extender would requeue by an annotation."""
        with self._ledger.locked() as cluster:
            for uid, (request, at) in refused.items():
                if uid not in cluster.requeue:
                    _record_refused_unasked(cluster, request, at)
            turns = 1 + len(cluster.requeue) // _LOOKS_AT_ONCE
        for _ in range(turns):
            found = pods_to_requeue(self._ledger, self.requeue_after_s)
            if found:
                return found
        return []

    # -- inside ------------------------------------------------------------------------------

    def _joins(self, cluster: Cluster, request: PodRequest) -> None:
        key = request.gang
        if key in self._specs:
            assert key is not None  # it is a key of the mapping
            self._came[key] += 1
            cluster.gangs.describe(self._spec(key))

    def _spec(self, key: GangKey) -> GangSpec:
        """The gang, as far as there will be so many members that have not ended."""
        spec = self._specs[key]
        left = max(spec.minimum, self._came[key]) - self._ended[key]
        return replace(spec, minimum=max(1, min(spec.minimum, left)))

    def _held(self) -> dict[str, str]:
        """Nodes of reservations, by the pod that has them."""
        return {uid: held.placement.node for uid, held in self._engine.reservations.items()}

    def _compare(self, before: dict[str, str]) -> None:
        """Whether something that was held is free by now."""
        placements = self._engine.state.placements
        for uid, node in before.items():
            now = placements.get(uid)
            if now is None or now.node != node:
                self.grown = True
                return


def _winner(cluster: Cluster, request: PodRequest, offered: RequestedNodes) -> int:
    """Row where kube-scheduler binds the pod, or -1: its calls as the verbs answer them."""
    verdicts = filter_nodes(cluster, request, offered)
    record_filter(cluster, request, verdicts)
    passing = verdicts.passing
    if len(passing) < 2:  # with one survivor it asks nobody for scores
        return int(passing[0]) if len(passing) else -1
    order = rank_nodes(cluster, request, RequestedNodes(passing, {}), 1)
    record_prioritize(cluster, request, order)
    return int(passing[order.winner])


def _record_refused_unasked(cluster: Cluster, request: PodRequest, at: float) -> None:
    """A pod that was known to be refused counts as one that was asked about, too."""
    gang = request.gang if cluster.gangs.members.gathered(request) else None
    nowhere = np.zeros(0, dtype=np.int64)
    cluster.requeue.add(request, at, -1, nowhere, anywhere=True, gang=gang)
