"""What is learnt of the pods that ask, come and leave: the typical mix, and the turnover."""

from __future__ import annotations

from scheduler.core.engine import Engine
from scheduler.core.mix import MixLearner, TypicalMix
from scheduler.core.model import GpuKind, PodRequest
from scheduler.core.turnover import Turnover
from scheduler.extender.config import ExtenderConfig

__all__ = ["Learning"]


class Learning:
    """Learns from every pod once. Everything here is called with the service's lock held.

    Parameters
    ----------
    engine
        Whose mix is kept up to date; the pods that it has placed are the first to learn from.
    config
        How often the mix changes, how soon pods are forgotten, and whether it is given for good.
    """

    def __init__(self, engine: Engine, config: ExtenderConfig) -> None:
        self._engine = engine
        self._every, self._half_life = config.relearns_every, config.mix_half_life_pods
        self._next: TypicalMix | None = None  # in force together with prices for it
        running = [placement.pod for placement in engine.state.placements.values()]
        self._learner = MixLearner(self._half_life, running=running)
        self._turnover = Turnover(running)
        self._begun = False

    @property
    def mix(self) -> TypicalMix:
        """The typical mix that prices are to be made for."""
        return self._next or self._engine.mix

    @property
    def departures(self) -> float:
        """Pods that leave for each that comes, in 0..1."""
        return self._turnover.share

    def begun(self) -> None:
        """Everything that runs in a live cluster is known: start from that.

        Pods without devices are left out: kube-scheduler does not ask about them here.
        """
        pods = (placement.pod for placement in self._engine.state.placements.values())
        running = [pod for pod in pods if pod.gpu.kind is not GpuKind.NONE]
        self._learner = MixLearner(self._half_life, running=running)
        self._turnover = Turnover(running)
        self._begun = True
        if self._every:
            self._engine.set_mix(self._learner.mix())
            self._next = None

    def asks(self, request: PodRequest) -> None:
        """A pod has asked for the first time."""
        self._learner.observe(request)
        if self._learner.due(self._every):
            self._next = self._learner.mix()
            # Scores are made anew once, at prices for it; early on it does not wait for those.
            if self._engine.prices is None or self._learner.observed < self._every:
                self._engine.set_mix(self._next)

    def comes(self, request: PodRequest, *, asked: bool) -> None:
        """A pod was placed; one that has not asked here has asked another replica."""
        self._turnover.comes(request)
        if self._begun and not asked and request.gpu.kind is not GpuKind.NONE:
            self.asks(request)

    def leaves(self, request: PodRequest) -> None:
        """A pod that was placed is gone."""
        self._turnover.leaves(request)

    def in_force(self, mix: TypicalMix | None) -> None:
        """Note that this mix has come into force, with prices or without."""
        if mix is self._next:
            self._next = None
