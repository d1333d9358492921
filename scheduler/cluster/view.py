"""What others see of the cluster: a planner's problem, figures, and a copy of the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from scheduler.cluster.ledger import Ledger
from scheduler.cluster.repricing import put_profile_if_due
from scheduler.core.cluster_metrics import ClusterMetrics, cluster_metrics
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import GangKey, Node, Placement, PodRequest
from scheduler.core.price_tables import Prices
from scheduler.core.state import ClusterState
from scheduler.planner.pricing.lifecycle import PricingTask

__all__ = ["Figures", "PlanningView", "planning_view", "prices_in_force", "snapshot"]

_FIGURES_AGE_S = 5.0
_REPLAN_S = 30.0


@dataclass(frozen=True, slots=True)
class PlanningView:
    """A problem for the planner. Two views with one ``stamp`` are the same problem."""

    stamp: tuple[object, ...]
    epoch: int
    nodes: Sequence[Node]
    placements: Sequence[Placement]
    pending: tuple[PodRequest, ...]
    pricing: PricingTask
    generation: int
    gangs: Mapping[GangKey, GangSpec]


def planning_view(ledger: Ledger) -> PlanningView:
    """What a planner needs to know.

    Pending are the pods that have asked lately and are not bound; what is merely reserved for them
    counts as free.
    """
    put_profile_if_due(ledger)
    with ledger.locked(chore=True) as cluster:
        cluster.expire()
        engine, state = cluster.engine, cluster.engine.state
        pending = cluster.pods.waiting(cluster.now)
        # Copies made by C loops; what takes longer happens outside the lock.
        placed, held = dict(state.placements), set(engine.reservations)
        nodes, epoch = list(state.nodes), state.node_epoch
        pricing, settled = cluster.pricing.task(epoch), cluster.pods.settled
        gangs = cluster.gangs.members.specs({pod.gang for pod in pending if pod.gang})
        generation = state.generation_now
        turn = int(cluster.now // _REPLAN_S)  # reservations come and go by themselves
    return PlanningView(
        (epoch, settled, tuple(pod.uid for pod in pending), turn),
        epoch,
        [node for node in nodes if node is not None],
        [placement for uid, placement in placed.items() if uid not in held],
        pending,
        pricing,
        generation,
        gangs,
    )


def snapshot(ledger: Ledger) -> tuple[ClusterState, frozenset[str]]:
    """A frozen copy of the state, and the uids that only have a reservation."""
    with ledger.locked(chore=True) as cluster:
        cluster.expire()
        return cluster.engine.state.snapshot(), frozenset(cluster.engine.reservations)


def prices_in_force(ledger: Ledger) -> Prices | None:
    """Prices that are charged now."""
    with ledger.locked(chore=True) as cluster:
        return cluster.engine.prices()


class Figures:
    """Cluster figures, computed on a snapshot, at most every few seconds.

    Parameters
    ----------
    ledger
        Of the cluster.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: tuple[int, float, ClusterMetrics] | None = None
        self._lock = Lock()

    def latest(self) -> ClusterMetrics:
        """Those of now, or of a few seconds ago."""
        with self._lock:
            known = self._known
            with self._ledger.locked(chore=True) as cluster:
                engine, now = cluster.engine, cluster.now
                generation = engine.state.generation_now
                if known and (known[0] == generation or now - known[1] < _FIGURES_AGE_S):
                    return known[2]
                copy, profile, prices = engine.state.snapshot(), engine.profile, engine.prices()
            figures = cluster_metrics(copy, profile, prices.weights.watts if prices else None)
            self._known = (copy.generation_now, now, figures)
            return figures
