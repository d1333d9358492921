"""Drives the life cycle of workload profile and prices for the simulator, which waits for them.

Beside the webhook, profiles and prices are made in other threads and processes, and come into force
some tens of milliseconds later.
"""

from __future__ import annotations

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import GpuKind, PodRequest
from scheduler.core.price_weights import PriceWeights
from scheduler.planner.pricing.compute import prices
from scheduler.planner.pricing.lifecycle import PriceLifecycle, PricingRules

__all__ = ["PROFILES", "Pricing"]

PROFILES = ("given", "learnt")
"""Whether the profile is that of the whole workload, or learnt from the pods seen so far."""


class Pricing:
    """Keeps the profile and the prices of an engine up to date.

    Parameters
    ----------
    engine
        Whose profile and prices are set. Running pods are the first that the profile is learnt
        from.
    profile
        One of :data:`PROFILES`.
    weights
        Of policy ``priced``; without meaning for any other.
    """

    def __init__(
        self, engine: Engine, profile: str = "given", weights: PriceWeights | None = None
    ) -> None:
        if profile not in PROFILES:
            raise InvalidInput(
                "workload_profile", f"is {profile!r}", f"use {' or '.join(PROFILES)}"
            )
        self._engine, self._weights = engine, weights
        self._lifecycle = PriceLifecycle(
            engine, PricingRules() if profile == "learnt" else PricingRules(relearn_pods=0)
        )
        self.solved = 0
        running = [placement.pod for placement in engine.state.placements.values()]
        self._lifecycle.on_initial_sync([pod for pod in running if _is_asked_about(pod)])

    def arrives(self, request: PodRequest) -> None:
        """Learn from a pod that is seen for the first time."""
        if not _is_asked_about(request):
            return
        self._lifecycle.on_pod_seen(request)
        update = self._lifecycle.take_update()
        if update is not None:
            self._lifecycle.put_profile(update, *update.make())

    def starts(self, request: PodRequest) -> None:
        """Note that a pod was placed."""
        self._lifecycle.on_pod_placed(request)

    def departs(self, request: PodRequest) -> None:
        """Note that a pod has left."""
        self._lifecycle.on_pod_left(request)

    def refresh(self) -> None:
        """Make prices anew if they are due; the last good ones stay if there are none."""
        engine, lifecycle = self._engine, self._lifecycle
        if engine.policy.name != "priced" or not lifecycle.prices_due():
            return
        task = lifecycle.task()
        made = prices(engine.state, task.profile, self._weights, departures=task.departures)
        if made is not None or task.profile is not engine.profile:
            lifecycle.put_prices(made or engine.prices(), task.profile)
        lifecycle.priced(task)
        self.solved += made is not None


def _is_asked_about(request: PodRequest) -> bool:
    """kube-scheduler asks an extender about pods with its resources alone."""
    return request.gpu.kind is not GpuKind.NONE
