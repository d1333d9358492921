"""A webhook in this process, without HTTP, and what a test wants to know of its cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from scheduler.cluster import reserving
from scheduler.cluster.awaited_victims import Ask
from scheduler.cluster.bind_request import BindRequest
from scheduler.cluster.chores import expired_reservations, pods_to_requeue
from scheduler.cluster.follow import LiveCluster
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.preempting import due_evictions
from scheduler.cluster.repricing import put_prices
from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.sync import Sync
from scheduler.cluster.view import PlanningView, planning_view, prices_in_force, snapshot
from scheduler.cluster.worker.planning import PlannerLoop
from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.model import Placement, PodRequest
from scheduler.core.price_tables import Prices
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.kube.resource_names import ResourceNames
from scheduler.webhook.protocol import FilterArgs, PreemptArgs
from scheduler.webhook.verbs import Verbs
from scheduler.webhook.webhook import Webhook


class Service:
    """A webhook over an engine; what follows a cluster and what prices it come with it."""

    def __init__(
        self,
        engine: Engine,
        config: ExtenderConfig,
        *,
        offline: bool = True,
        names: ResourceNames | None = None,
        clock: Callable[[], float] = time.monotonic,
        live: Callable[[Ledger], LiveCluster] = lambda _: None,
        planner: Callable[[Ledger], PlannerLoop | None] = lambda _: None,
        ask_end: Ask | None = None,
        accepting: Callable[[], bool] | None = None,
    ) -> None:
        self.ledger = Ledger(engine, config, live=not offline, names=names, clock=clock)
        self.live = live(self.ledger)
        self.planner = planner(self.ledger)
        self.webhook = Webhook(self.ledger, self.planner, self.live, accepting=accepting)
        self.verbs = self.webhook.verbs
        if ask_end is not None:
            decisions, bind = self.webhook.decisions, self.webhook.verbs.bind
            self.verbs = Verbs(self.ledger, decisions, bind=bind, ask_end=ask_end)

    # -- verbs -------------------------------------------------------------------------------

    def filter(self, args: FilterArgs) -> bytes:
        return self.verbs.filter(args)

    def preempt(self, args: PreemptArgs) -> Mapping[str, tuple[list[str], int]]:
        return self.verbs.preempt(args)

    def bind(self, asked: BindRequest) -> str:
        return self.verbs.bind(asked)

    def dry_run(self, args: FilterArgs) -> bytes:
        return self.verbs.dry_run(args)

    # -- the cluster -------------------------------------------------------------------------

    @contextmanager
    def exclusive(self) -> Iterator[Engine]:
        with self.ledger.locked() as cluster:
            yield cluster.engine

    @property
    def sync(self) -> Sync:
        """For a test that is the only one to tell what the API says."""
        with self.ledger.locked() as cluster:
            return cluster.live

    @property
    def gangs(self) -> GangCoordinator:
        """For a test that is the only one to ask."""
        with self.ledger.locked() as cluster:
            return cluster.gangs

    def reserve(self, request: PodRequest, node: str) -> Placement:
        with self.ledger.locked() as cluster:
            return reserving.reserve(cluster, request, node)

    def seen(self, uid: str) -> PodRequest | None:
        with self.ledger.locked() as cluster:
            return cluster.request_of(uid)

    @property
    def holds(self) -> int:
        return self.ledger.pulse().reservations

    @property
    def generation(self) -> int:
        return self.ledger.pulse().generation

    @property
    def profile(self) -> WorkloadProfile:
        return self.ledger.pulse().profile

    @property
    def prices(self) -> Prices | None:
        return prices_in_force(self.ledger)

    def set_prices(self, prices: Prices | None, profile: WorkloadProfile | None = None) -> None:
        put_prices(self.ledger, prices, profile)

    def is_joint(self, request: PodRequest) -> bool:
        with self.ledger.locked() as cluster:
            return cluster.is_joint(request)

    def overdue(self) -> list[PodRequest]:
        return expired_reservations(self.ledger)

    def missed(self, after_s: float) -> list[PodRequest]:
        return pods_to_requeue(self.ledger, after_s)

    def due_evictions(self) -> list[PodRequest]:
        with self.ledger.locked() as cluster:
            return due_evictions(cluster)

    def planning_view(self) -> PlanningView:
        return planning_view(self.ledger)

    def snapshot(self) -> tuple[ClusterState, frozenset[str]]:
        return snapshot(self.ledger)

    def gang_counts(self) -> dict[str, int]:
        with self.ledger.locked() as cluster:
            return cluster.gangs.counts()

    def decisions(self, limit: int) -> list[dict[str, Any]]:
        return self.webhook.decisions.latest(limit)
