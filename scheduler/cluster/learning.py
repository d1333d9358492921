"""The life cycle of mix and prices, driven under the lock of a live cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from threading import Lock

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.fragmentation import Fragmentation, Vocabulary
from scheduler.core.mix import TypicalMix
from scheduler.core.model import GpuKind, PodRequest
from scheduler.core.prices import Prices
from scheduler.planner.pricing.lifecycle import (
    MixUpdate,
    PriceLifecycle,
    PricingRules,
    PricingTask,
)

__all__ = ["Learning"]

log = logging.getLogger(__name__)


class Learning:
    """Learns from every pod once.

    Called with the service's lock held, but for :meth:`learn` and :meth:`charge`: what takes long
    is done without, and swapped in.

    Parameters
    ----------
    engine
        Whose mix is kept up to date; the pods that it has placed are the first to learn from.
    config
        How often the mix changes, how soon pods are forgotten, and whether it is given for good.
    lock
        Guards the engine.
    """

    def __init__(self, engine: Engine, config: ExtenderConfig, lock: Lock) -> None:
        self._engine, self._lock = engine, lock
        rules = PricingRules(
            config.relearns_every,
            config.mix_half_life_pods,
            config.reprice_bindings,
            config.reprice_s,
        )
        self._lifecycle = PriceLifecycle(engine, rules)
        self._begun = False

    @property
    def mix(self) -> TypicalMix:
        """The typical mix that prices are to be made for."""
        return self._lifecycle.mix

    def begun(self) -> None:
        """Everything that runs in a live cluster is known: start from that.

        Pods without devices are left out: kube-scheduler does not ask about them here.
        """
        pods = (placement.pod for placement in self._engine.state.placements.values())
        self._lifecycle.on_initial_sync([pod for pod in pods if pod.gpu.kind is not GpuKind.NONE])
        self._begun = True

    def asks(self, request: PodRequest) -> None:
        """A pod has asked for the first time; it may be time for a :meth:`lesson`."""
        self._lifecycle.on_pod_seen(request)

    def comes(self, request: PodRequest, *, asked: bool) -> None:
        """A pod was placed; one that has not asked here has asked another replica."""
        self._lifecycle.on_pod_placed(request)
        if self._begun and not asked and request.gpu.kind is not GpuKind.NONE:
            self.asks(request)

    def leaves(self, request: PodRequest) -> None:
        """A pod that was placed is gone."""
        self._lifecycle.on_pod_left(request)

    def lesson(self) -> MixUpdate | None:
        """The mix that is due, if any. The caller has to :meth:`learn` it, without the lock."""
        return self._lifecycle.take_update()

    def learn(self, lesson: MixUpdate | None) -> None:
        """Make a mix and its tables, and put them in force unless a later one is already."""
        if lesson is None:
            return
        mix, tables = lesson.make()
        with self._lock:
            self._lifecycle.put_mix(lesson, mix, tables)

    def prices_due(self, now: float, pause_s: float) -> bool:
        """Whether prices are to be made anew; without the lock, so that it may be a moment late."""
        return self._lifecycle.prices_due(now, self._engine.state.node_epoch, pause_s)

    def task(self) -> PricingTask:
        """What prices are to be made for now."""
        return self._lifecycle.task(self._engine.state.node_epoch)

    def priced(self, task: PricingTask, now: float) -> None:
        """Prices were made for this task, or there are none."""
        self._lifecycle.priced(task, now)

    def charge(
        self,
        prices: Prices | None,
        mix: TypicalMix | None,
        in_steps: Callable[[Iterator[None]], Iterator[None]],
    ) -> None:
        """Charge these prices from now on, with the mix that they were made for.

        Scores at them are made first, a few rows at a time so that requests get in between.

        Parameters
        ----------
        prices, mix
            None for none.
        in_steps
            Does work under the lock, step by step.
        """
        rehearsed = tables = None
        if prices is not None:
            with self._lock:
                known, before = Vocabulary.of(self._engine.state), self._engine.mix
            if mix is not None and mix is not before:
                tables = Fragmentation(known, mix)
            with self._lock:
                rehearsed = self._engine.rehearsal(prices, mix, tables)
            if rehearsed is not None:
                for _ in in_steps(rehearsed.steps()):
                    pass
        with self._lock:
            self._lifecycle.put_prices(prices, mix or self._lifecycle.mix, rehearsed)
            if prices is not None and self._engine.prices is None:
                log.warning("prices lack a class of nodes that is here; scoring as fgd")
