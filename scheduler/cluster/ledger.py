"""The one way to a cluster: its state, engine, gangs and memories, behind one lock.

    with ledger.locked() as cluster:
        cluster.engine.filter(request)

What stands behind ``as`` is the only thing by which anything can be changed, and it is of no use
any more once the block has ended. Requests come before chores, see :mod:`.fair_lock`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeVar, cast

from scheduler.cluster.cluster_events import ClusterEvents
from scheduler.cluster.fair_lock import FairLock
from scheduler.cluster.live_rules import LiveRules
from scheduler.cluster.named_victims import NamedVictims
from scheduler.cluster.pod_memory import PodMemory
from scheduler.cluster.requeue import RefusedPods
from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.sync import Sync
from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.model import PodRequest
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.kube.resource_names import ResourceNames
from scheduler.planner.pricing.lifecycle import PriceLifecycle, PricingRules

__all__ = ["Cluster", "Ledger", "Pulse"]

T = TypeVar("T")

_PLACES_AT_ONCE = 16
_EXPIRED_AT_ONCE = 128


@dataclass(slots=True)
class Cluster:
    """Everything that is known of a cluster, for as long as its lock is held.

    Attributes
    ----------
    engine
        Answers, and the state.
    gangs
        Joint plans and pins.
    pods
        Pods that kube-scheduler has asked about, and pods that wait.
    requeue
        Refused pods that may have to be requeued.
    victims
        Pods that are evicted for others.
    pricing
        When the workload profile and the prices are made anew, and which are in force.
    sync
        What the API says; None where the cluster comes from a file and bind is the truth.
    rules
        What the API says about rules between pods, for dry runs.
    events
        What follows once a pod is placed or gone.
    config
        Settings.
    now
        Monotonic seconds when the lock was taken.
    """

    engine: Engine
    gangs: GangCoordinator
    pods: PodMemory
    requeue: RefusedPods
    victims: NamedVictims
    pricing: PriceLifecycle
    sync: Sync | None
    rules: LiveRules
    events: ClusterEvents
    config: ExtenderConfig
    now: float

    @property
    def live(self) -> Sync:
        """What the API says, where the cluster is a live one."""
        assert self.sync is not None  # only what follows a live cluster asks
        return self.sync

    def expire(self) -> None:
        """End what is over by now: places of gangs, and reservations.

        Those of pods that exist stay where the cluster is a live one: they may be bound, and the
        API is asked first.
        """
        self.gangs.expire(self.now)
        spare = None if self.sync is None else self.is_pod
        self.engine.reservations.expire(self.now, spare=spare, most=_EXPIRED_AT_ONCE)

    def is_pod(self, uid: str) -> bool:
        """Whether this is a pod, and not what stands for a gang's missing member."""
        return uid in self.pods or (self.sync is not None and uid in self.sync.pending)

    def runs(self, uid: str) -> bool:
        """Whether the API says that the pod has a node, be it one that is not known yet."""
        return self.sync is not None and uid in self.sync.pods

    def is_joint(self, request: PodRequest) -> bool:
        """Whether the pod is answered from the plan of a gang that is not whole yet."""
        return self.config.gangs and self.gangs.is_incomplete_gang(request)

    def request_of(self, uid: str) -> PodRequest | None:
        """What a pod asks for that has asked, or is known to be pending."""
        pending = self.sync.pending.get(uid) if self.sync else None
        asked = self.pods.asked(uid)
        if asked is None or pending is None or asked.gang == pending.gang:
            return asked or pending
        return replace(asked, gang=pending.gang)  # its group has become known since it asked


class _GivenBack(Cluster):
    """A :class:`Cluster` whose lock has been given back."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> object:
        raise _outside(name)

    def __setattr__(self, name: str, value: object) -> None:
        raise _outside(name)


def _outside(name: str) -> RuntimeError:
    return RuntimeError(
        f"`{name}` of a cluster whose lock has been given back: "
        "use it inside of `with ledger.locked() as cluster:` alone"
    )


@dataclass(frozen=True, slots=True)
class Pulse:
    """How far things have come, to notice that they have changed.

    Attributes
    ----------
    generation
        Stamp of the latest change of the state.
    nodes
        Nodes known.
    reservations
        Reservations in force, expired ones included until the next question.
    profile
        The workload profile that prices are to be made for.
    """

    generation: int
    nodes: int
    reservations: int
    profile: WorkloadProfile


class Ledger:
    """Owns a cluster and lends it to one thread at a time.

    Parameters
    ----------
    engine
        Only this ledger may touch it from now on.
    config
        Settings.
    live
        The API says what is there. Otherwise the cluster comes from a file.
    names
        Resource names and labels.
    clock
        Monotonic seconds; reservations expire by it.
    lock
        Lends the cluster; one of its own if left out.
    places_at_once
        Places of a gang that may be planned while somebody waits for the answer; None for any
        number, where nobody does.
    """

    def __init__(
        self,
        engine: Engine,
        config: ExtenderConfig,
        *,
        live: bool = False,
        names: ResourceNames | None = None,
        clock: Callable[[], float] = time.monotonic,
        lock: FairLock | None = None,
        places_at_once: int | None = _PLACES_AT_ONCE,
    ) -> None:
        self.config, self.live, self.clock = config, live, clock
        self.names = names or config.resource_names
        self._lock = lock or FairLock()
        engine.state.counted.elsewhere_counts = live  # kube-scheduler has been asked first
        pods, victims = PodMemory(config.remembered_pods), NamedVictims(config.remembered_pods)
        requeue = RefusedPods(config.remembered_pods)
        gangs = GangCoordinator(
            engine,
            ttl_s=config.gang_ttl_s,
            reserve_after_s=config.gang_reserve_after_s,
            at_once=places_at_once,
            unborn_share=config.gang_unborn_share,
            passed=live,
            binds=config.bind,
            on_gathered=requeue.stir,
        )
        rules = PricingRules(
            config.relearns_every,
            config.workload_profile_half_life_pods,
            config.reprice_bindings,
            config.reprice_s,
        )
        pricing = PriceLifecycle(engine, rules)
        live_rules = LiveRules()
        events = ClusterEvents(
            engine,
            gangs,
            pods,
            requeue,
            victims,
            pricing,
            live_rules.kept,
            reserved_s=config.reservation_ttl_s,
            clock=clock,
        )
        sync = Sync(engine, gangs, self.names, events=events) if live else None
        self._victims = victims
        self._parts = (
            engine,
            gangs,
            pods,
            requeue,
            victims,
            pricing,
            sync,
            live_rules,
            events,
            config,
        )

    def locked(self, *, chore: bool = False) -> _Locked:
        """The cluster, with no other thread in it.

        Parameters
        ----------
        chore
            Let requests go first that wait as well.
        """
        return _Locked(self, chore)

    def in_steps(self, work: Iterator[T], *, chore: bool = True) -> Iterator[T]:
        """Work done step by step under the lock; other threads get in between.

        Parameters
        ----------
        work
            Does one step whenever it is asked for the next item.
        chore
            As in :meth:`locked`.
        """
        done = object()
        while True:
            with self.locked(chore=chore) as cluster:
                cluster.expire()
                step = next(work, done)
            if step is done:
                return
            yield cast("T", step)

    def pulse(self) -> Pulse:
        """How far things have come."""
        with self.locked(chore=True) as cluster:
            state = cluster.engine.state
            return Pulse(
                state.generation_now,
                len(state.row_of),
                len(cluster.engine.reservations),
                cluster.pricing.profile,
            )

    def awaits_victims(self) -> bool:
        """Whether the end of some victim may not be known yet; asked without the lock."""
        return self.live and len(self._victims) > 0


class _Locked:
    """One stay in a cluster."""

    __slots__ = ("_chore", "_cluster", "_ledger")

    def __init__(self, ledger: Ledger, chore: bool) -> None:  # noqa: FBT001 - of Ledger.locked
        self._ledger, self._chore = ledger, chore

    def __enter__(self) -> Cluster:
        ledger = self._ledger
        ledger._lock.acquire(chore=self._chore)  # noqa: SLF001 - a part of it
        try:
            self._cluster = Cluster(*ledger._parts, ledger.clock())  # noqa: SLF001
        except BaseException:
            ledger._lock.release()  # noqa: SLF001
            raise
        return self._cluster

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cluster.__class__ = _GivenBack
        self._ledger._lock.release()  # noqa: SLF001
