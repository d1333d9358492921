"""What runs beside the webhook, for the simulator: the learner of the mix, and the prices.

The rules are the webhook's: the mix is learnt from pods as they arrive and put in force at the same
counts, prices are computed anew after so many bindings and releases. The simulator waits for them;
beside the webhook they arrive some tens of milliseconds later.
"""

from __future__ import annotations

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.mix import MixLearner, TypicalMix
from scheduler.core.model import PodRequest
from scheduler.core.prices import PriceWeights, reprice_after
from scheduler.core.turnover import Turnover
from scheduler.planner.pricing.compute import prices

__all__ = ["MIXES", "RELEARN_EVERY", "Pricing"]

RELEARN_EVERY = 500
"""Pods after which a learnt mix is put in force, as in the extender's settings."""

MIXES = ("given", "learnt")
"""Whether the mix is that of the whole workload, or learnt from the pods seen so far."""


class Pricing:
    """Keeps the mix and the prices of an engine up to date.

    Parameters
    ----------
    engine
        Whose mix and prices are set. Running pods are the first that the mix is learnt from.
    mix
        One of :data:`MIXES`.
    weights
        Of policy ``priced``; without meaning for any other.
    """

    def __init__(
        self, engine: Engine, mix: str = "given", weights: PriceWeights | None = None
    ) -> None:
        if mix not in MIXES:
            raise InvalidInput("mix", f"is {mix!r}", f"use {' or '.join(MIXES)}")
        self._engine, self._weights = engine, weights
        running = [placement.pod for placement in engine.state.placements.values()]
        self._learner = MixLearner(running=running) if mix == "learnt" else None
        self._turnover = Turnover(running)
        self._priced_at: int | None = None
        self._priced_mix: TypicalMix | None = None
        self.solved = 0
        if self._learner is not None:
            engine.set_mix(self._learner.mix())

    def arrives(self, request: PodRequest) -> None:
        """Learn from a pod that is seen for the first time."""
        if self._learner is not None:
            self._learner.observe(request)
            if self._learner.due(RELEARN_EVERY):
                self._engine.set_mix(self._learner.mix())

    def starts(self, request: PodRequest) -> None:
        """Note that a pod was placed."""
        self._turnover.comes(request)

    def departs(self, request: PodRequest) -> None:
        """Note that a pod has left."""
        self._turnover.leaves(request)

    def refresh(self) -> None:
        """Compute prices anew if enough has changed; the last good ones stay if there are none."""
        engine = self._engine
        if engine.policy.name != "priced":
            return
        now = engine.state.generation_now
        due = reprice_after(len(engine.state))
        # Early on each look at the mix changes it much more than so many pods change the cluster.
        same_mix = engine.mix is self._priced_mix
        if self._priced_at is not None and now - self._priced_at < due and same_mix:
            return
        made = prices(engine.state, engine.mix, self._weights, departures=self._turnover.share)
        if made is not None:
            engine.set_prices(made)
            self._priced_at, self._priced_mix = now, engine.mix
            self.solved += 1
