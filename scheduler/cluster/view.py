"""What others see of the cluster: a planner's problem, and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from scheduler.core.cluster_metrics import ClusterMetrics, cluster_metrics
from scheduler.core.engine import Engine
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import GangKey, Node, Placement, PodRequest
from scheduler.planner.pricing.lifecycle import PricingTask

__all__ = ["Figures", "PlanningView"]

_FIGURES_AGE_S = 5.0


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


class Figures:
    """Cluster figures, computed on a snapshot, at most every few seconds.

    Parameters
    ----------
    engine
        Whose cluster it is.
    lock
        Guards it.
    clock
        Monotonic seconds.
    """

    def __init__(self, engine: Engine, lock: Lock, clock: Callable[[], float]) -> None:
        self._engine, self._guard, self._clock = engine, lock, clock
        self._known: tuple[int, float, ClusterMetrics] | None = None
        self._lock = Lock()

    def latest(self) -> ClusterMetrics:
        """Those of now, or of a few seconds ago."""
        with self._lock:
            now, known = self._clock(), self._known
            generation = self._engine.state.generation_now
            if known and (known[0] == generation or now - known[1] < _FIGURES_AGE_S):
                return known[2]
            with self._guard:
                snapshot, mix = self._engine.state.snapshot(), self._engine.mix
                prices = self._engine.prices
            figures = cluster_metrics(snapshot, mix, prices.weights.watts if prices else None)
            self._known = (snapshot.generation_now, now, figures)
            return figures
