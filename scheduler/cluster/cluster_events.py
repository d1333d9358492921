"""What follows in a cluster's memories once a pod is placed, leaves, is gone or is nominated."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.cluster.named_victims import NamedVictims
from scheduler.cluster.pod_memory import PodMemory
from scheduler.cluster.requeue import RefusedPods
from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.model import GpuKind, PodRequest
from scheduler.kube.kept_rules import KeptRules
from scheduler.kube.pod_events import PodEvents
from scheduler.planner.pricing.lifecycle import PriceLifecycle

__all__ = ["ClusterEvents"]


class ClusterEvents(PodEvents):
    """Keeps the memories of a cluster up to date. Used with its lock held.

    Parameters
    ----------
    engine, gangs, pods, requeue, victims, pricing, kept
        Of the cluster; ``kept`` are the rules of its pods.
    reserved_s
        How long a reservation lives without being asked for.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine,
        gangs: GangCoordinator,
        pods: PodMemory,
        requeue: RefusedPods,
        victims: NamedVictims,
        pricing: PriceLifecycle,
        kept: KeptRules,
        *,
        reserved_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._gangs, self._pods = engine, gangs, pods
        self._requeue, self._victims, self._pricing = requeue, victims, pricing
        self._kept = kept
        self._synced = False
        self._reserved_s, self._clock = reserved_s, clock

    def on_synced(self) -> None:
        """Everything that runs in a live cluster is known: prices and profile start from that.

        Pods without devices are left out: kube-scheduler does not ask about them here.
        """
        pods = (placement.pod for placement in self._engine.state.placements.values())
        self._pricing.on_initial_sync([pod for pod in pods if pod.gpu.kind is not GpuKind.NONE])
        self._synced = True

    def on_pod_placed(self, request: PodRequest, *, first: bool) -> None:
        """The API says that a pod has a node; one that has not asked here asked another replica."""
        if first:
            self._pricing.on_pod_placed(request)
            asked = request.uid in self._pods
            if self._synced and not asked and request.gpu.kind is not GpuKind.NONE:
                self._pricing.on_pod_seen(request)
        self.on_pod_settled(request.uid)

    def on_pod_gone(self, uid: str, had: PodRequest | None) -> None:
        """The API says that a pod has ended or was deleted."""
        if had is not None:
            self._pricing.on_pod_left(had)
            self.on_pod_leaving(uid)
        self.on_pod_settled(uid)
        self._pods.forget(uid)
        self._kept.drop(uid)

    def on_pod_settled(self, uid: str) -> None:
        """A pod has been placed, or is gone: it is not waiting any more."""
        self._pods.record_settled(uid)
        self._requeue.drop(uid)
        self._victims.drop(uid)

    def on_pod_leaving(self, uid: str) -> None:
        """A pod with a node is being deleted, or is gone."""
        self._victims.on_pod_leaving(uid, self._clock())

    def on_pod_nominated(self, request: PodRequest, node: str) -> None:
        """kube-scheduler has chosen a node and waits, for victims to go or volumes to come.

        A reservation there lives on; one elsewhere is of no use any more.
        """
        self._victims.on_pod_nominated(request.uid, node, self._clock())
        held = self._engine.reservations.get(request.uid)
        if held is None or self._gangs.has_place(request.uid):
            return  # what it waits for is still there, or its gang's places have times of their own
        if held.placement.node == node:
            self._engine.reserve_until(request, node, self._clock() + self._reserved_s)
        else:
            self._engine.reservations.drop(request.uid)
