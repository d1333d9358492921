"""When the workload profile and the prices of an engine are made anew, and which are in force.

One life cycle, driven by the webhook and by the simulator::

    profile in force --pods seen--> due --made--> waiting for prices --priced--> in force
                                     |                                              ^
                                     +--without prices, or early on: at once--------+

    prices  none --made--> in force --due--> being made --made--> in force
                                                 |
                                                 +--none--> the last good ones stay

A profile comes into force together with the prices for it, so that scores are made anew once.
Prices are due when the profile or the nodes have changed, after so many placements and departures,
and, where there is a clock, after a while with any of them.

Nothing here takes a lock, starts a thread or solves anything. The webhook calls all of it with the
lock of its cluster held and makes profile and prices without; the simulator makes them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from scheduler.core.engine import Engine, ScoreWarmup
from scheduler.core.fragmentation import Fragmentation, Vocabulary
from scheduler.core.model import PodRequest
from scheduler.core.price_tables import Prices, reprice_after
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.pricing.departures import DepartureRate
from scheduler.planner.pricing.learner import Learnt, ProfileLearner

__all__ = ["PriceLifecycle", "PricingRules", "PricingTask", "ProfileUpdate"]


@dataclass(frozen=True, slots=True)
class PricingRules:
    """How often profile and prices are made anew; defaults are the extender's.

    Parameters
    ----------
    relearn_pods
        Pods seen after which the profile is made anew; 0 for a profile that is given for good.
    half_life_pods
        Pods seen after which an observation counts half.
    reprice_changes
        Placements and departures after which prices are made anew, on large clusters more.
    reprice_s
        Seconds after which a single placement or departure is enough; ``inf`` without a clock.
    """

    relearn_pods: int = 500
    half_life_pods: int = 2000
    reprice_changes: int = 100
    reprice_s: float = inf


@dataclass(frozen=True, slots=True)
class ProfileUpdate:
    """A profile to be made of what is known, and its tables where it comes into force at once.

    Parameters
    ----------
    learnt
        What is known.
    vocabulary
        What the tables are made for; None without any.
    number
        Updates before this one.
    """

    learnt: Learnt
    vocabulary: Vocabulary | None
    number: int

    def make(self) -> tuple[WorkloadProfile, Fragmentation | None]:
        """The profile and its tables. Takes long, and reads nothing that may change meanwhile."""
        profile = self.learnt.profile()
        return profile, Fragmentation(self.vocabulary, profile) if self.vocabulary else None


@dataclass(frozen=True, slots=True)
class PricingTask:
    """What prices are to be made for.

    Parameters
    ----------
    profile
        The workload profile.
    departures
        Pods that leave for each pod that is placed, in 0..1.
    changes
        Placements and departures so far.
    node_epoch
        Which nodes there are.
    """

    profile: WorkloadProfile
    departures: float
    changes: int
    node_epoch: int


class PriceLifecycle:
    """The profile and the prices of one engine.

    Parameters
    ----------
    engine
        Whose profile and prices are kept. The pods that it has placed are the first to learn from.
    rules
        How often.
    """

    def __init__(self, engine: Engine, rules: PricingRules) -> None:
        self._engine, self._rules = engine, rules
        self._next: WorkloadProfile | None = None  # in force together with prices for it
        self._update: ProfileUpdate | None = None
        self._updates = self._latest = 0
        self._changes = 0
        self._priced: tuple[float, PricingTask] | None = None
        self._begin([placement.pod for placement in engine.state.placements.values()])

    def _begin(self, running: list[PodRequest]) -> None:
        self._learner = ProfileLearner(self._rules.half_life_pods, running=running)
        self._departures = DepartureRate(running)

    # -- what happens to pods --------------------------------------------------------------------

    def on_initial_sync(self, running: list[PodRequest]) -> None:
        """Learn from these running pods alone; what was learnt before is forgotten."""
        self._begin(running)
        if self._rules.relearn_pods:
            self._engine.put_profile_in_force(self._learner.profile())
            self._next = self._update = None

    def on_pod_seen(self, request: PodRequest) -> None:
        """Learn from a pod that kube-scheduler asks about for the first time."""
        self._learner.observe(request)
        if not self._learner.due(self._rules.relearn_pods):
            return
        # Early on the profile changes too fast to wait for prices.
        at_once = self._engine.prices() is None or self._learner.observed < self._rules.relearn_pods
        vocabulary = Vocabulary.of(self._engine.state) if at_once else None
        self._updates += 1
        self._update = ProfileUpdate(self._learner.learnt(), vocabulary, self._updates)

    def on_pod_placed(self, request: PodRequest) -> None:
        """Count a pod that was placed."""
        self._departures.on_pod_placed(request)
        self._changes += 1

    def on_pod_left(self, request: PodRequest) -> None:
        """Count a pod that was placed and is gone."""
        self._departures.on_pod_left(request)
        self._changes += 1

    # -- the profile -----------------------------------------------------------------------------

    @property
    def profile(self) -> WorkloadProfile:
        """The profile that prices are to be made for."""
        return self._next or self._engine.profile

    def take_update(self) -> ProfileUpdate | None:
        """The profile that is due, if any. The caller has to :meth:`put_profile`."""
        update, self._update = self._update, None
        return update

    def put_profile(
        self, update: ProfileUpdate, profile: WorkloadProfile, tables: Fragmentation | None = None
    ) -> None:
        """Put a profile in force at once if it has tables, else with its prices.

        Parameters
        ----------
        update
            What was due. Ignored if a later one has been put in force already.
        profile, tables
            What :meth:`ProfileUpdate.make` made of it.
        """
        if update.number < self._latest:
            return
        self._latest, self._next = update.number, profile
        if tables is not None:
            self._engine.put_profile_in_force(profile, tables)

    # -- the prices ------------------------------------------------------------------------------

    def task(self, node_epoch: int = 0) -> PricingTask:
        """What prices are to be made for now."""
        return PricingTask(self.profile, self._departures.share, self._changes, node_epoch)

    def prices_due(self, now: float = 0.0, node_epoch: int = 0, pause_s: float = 0.0) -> bool:
        """Whether enough has changed since prices were last made.

        Parameters
        ----------
        now
            Seconds, on the clock of :meth:`priced`.
        node_epoch
            Changes with the nodes.
        pause_s
            Seconds to wait for more changes of profile and nodes.
        """
        if self._priced is None:
            return True
        at, task = self._priced
        if (
            task.node_epoch != node_epoch or task.profile is not self.profile
        ) and now - at >= pause_s:
            return True
        changed = self._changes - task.changes
        enough = reprice_after(len(self._engine.state), self._rules.reprice_changes)
        return changed >= enough or (changed > 0 and now - at >= self._rules.reprice_s)

    def priced(self, task: PricingTask, now: float = 0.0) -> None:
        """Note that prices have been made for this task, or that there are none.

        Parameters
        ----------
        task
            What they were made for.
        now
            Seconds, as in :meth:`prices_due`.
        """
        self._priced = (now, task)

    def put_prices(
        self, prices: Prices | None, profile: WorkloadProfile, warmup: ScoreWarmup | None = None
    ) -> None:
        """Put prices in force, with the profile that they were made for.

        Parameters
        ----------
        prices
            None for none: the latest profile is put in force without.
        profile
            What they were made for.
        warmup
            Scores at these prices, made before.
        """
        profile = profile if prices is not None else self.profile
        self._engine.put_prices_in_force(prices, warmup, profile)
        if profile is self._next:
            self._next = None
