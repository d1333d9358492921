"""What is learnt of the pods that ask, come and leave: the typical mix, and the turnover."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.fragmentation import Fragmentation, Vocabulary
from scheduler.core.mix import Learnt, MixLearner, TypicalMix
from scheduler.core.model import GpuKind, PodRequest
from scheduler.core.prices import Prices
from scheduler.core.turnover import Turnover

__all__ = ["Learning", "Lesson"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A mix to be made of what is known, and its tables where it comes into force at once.

    Parameters
    ----------
    learnt
        What is known.
    vocabulary
        What the tables are made for; None without any.
    number
        Lessons before this one.
    """

    learnt: Learnt
    vocabulary: Vocabulary | None
    number: int

    def make(self) -> tuple[TypicalMix, Fragmentation | None]:
        """The mix and its tables; takes long, and no lock."""
        mix = self.learnt.mix()
        return mix, Fragmentation(self.vocabulary, mix) if self.vocabulary else None


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
        self._every, self._half_life = config.relearns_every, config.mix_half_life_pods
        self._next: TypicalMix | None = None  # in force together with prices for it
        running = [placement.pod for placement in engine.state.placements.values()]
        self._learner = MixLearner(self._half_life, running=running)
        self._turnover = Turnover(running)
        self._begun = False
        self._lesson: Lesson | None = None
        self._lessons = self._learnt = 0

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
            self._next = self._lesson = None

    def asks(self, request: PodRequest) -> None:
        """A pod has asked for the first time; it may be time for a :meth:`lesson`."""
        self._learner.observe(request)
        if self._learner.due(self._every):
            # Scores are made anew once, at prices for it; early on it does not wait for those.
            soon = self._engine.prices is None or self._learner.observed < self._every
            vocabulary = Vocabulary.of(self._engine.state) if soon else None
            self._lessons += 1
            self._lesson = Lesson(self._learner.learnt(), vocabulary, self._lessons)

    def lesson(self) -> Lesson | None:
        """What is to be made now, if anything; whoever gets it has to :meth:`learn` it,
        without the lock.
        """
        lesson, self._lesson = self._lesson, None
        return lesson

    def learn(self, lesson: Lesson | None) -> None:
        """Make a mix and its tables, and put them in force unless a later lesson is already."""
        if lesson is None:
            return
        mix, tables = lesson.make()
        with self._lock:
            if lesson.number < self._learnt:
                return
            self._learnt, self._next = lesson.number, mix
            if tables is not None:
                self._engine.set_mix(mix, tables)

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
            mix = mix if prices is not None else self.mix
            self._engine.set_prices(prices, rehearsed, mix)
            if mix is self._next:
                self._next = None
            if prices is not None and self._engine.prices is None:
                log.warning("prices lack a class of nodes that is here; scoring as fgd")

    def comes(self, request: PodRequest, *, asked: bool) -> None:
        """A pod was placed; one that has not asked here has asked another replica."""
        self._turnover.comes(request)
        if self._begun and not asked and request.gpu.kind is not GpuKind.NONE:
            self.asks(request)

    def leaves(self, request: PodRequest) -> None:
        """A pod that was placed is gone."""
        self._turnover.leaves(request)
