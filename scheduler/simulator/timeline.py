"""Figures over the course of a run, sampled so that measuring does not dominate it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler.core.cluster_metrics import ClusterMetrics, cluster_metrics
from scheduler.core.engine import Engine
from scheduler.core.model import PodRequest
from scheduler.planner.bounds.offline_optimum import most_gpu

__all__ = ["Sample", "Timeline"]

_STEP = 0.02


@dataclass(frozen=True, slots=True)
class Sample:
    """The cluster when this share of its GPUs had been requested, or at this time in seconds."""

    at: float
    metrics: ClusterMetrics

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, in shares of the capacity."""
        capacity = self.metrics.capacity_milli or 1
        return {
            "at": round(self.at, 6),
            "allocated": self.metrics.allocated_milli / capacity,
            "fragmented": self.metrics.fragmentation_milli / capacity,
            "stranded": {c: m / capacity for c, m in self.metrics.stranded_milli.items()},
        }


@dataclass
class Timeline:
    """Takes a sample each time another 2 % of the capacity have been requested, or when told.

    Attributes
    ----------
    bounded : bool
        Whether the ceiling is wanted too.
    samples : list of Sample
    ceiling : list of (float, float)
        Time in seconds, and the most GPU that any scheduler could have had in use at that time with
        the pods that were in the system, as a share of the capacity; empty unless asked for.
    devices : list of list of int
        Milli-GPU in use per node and device, as of the last pod; only nodes with devices.
    """

    samples: list[Sample] = field(default_factory=list)
    ceiling: list[tuple[float, float]] = field(default_factory=list)
    bounded: bool = False
    _engine: Engine | None = None

    def observe(self, _number: int, requested: float, engine: Engine) -> None:
        """Hook for :func:`scheduler.simulator.inflation.run`."""
        self._engine = engine
        if not self.samples or requested >= self.samples[-1].at + _STEP:
            self.samples.append(Sample(requested, cluster_metrics(engine.state, engine.profile)))

    def observe_time(self, now_s: float, engine: Engine, waiting: Sequence[PodRequest]) -> None:
        """Hook for :func:`scheduler.simulator.replay.replay`."""
        self._engine = engine
        self.samples.append(Sample(now_s, cluster_metrics(engine.state, engine.profile)))
        if self.bounded:  # at each sample: drawn through fewer points it would cut corners
            state = engine.state
            nodes = [node for node in state.nodes if node is not None]
            pods = [placement.pod for placement in state.placements.values()]
            capacity = self.samples[-1].metrics.capacity_milli or 1
            self.ceiling.append((now_s, most_gpu(nodes, [*pods, *waiting]) / capacity))

    def ceiling_json(self) -> list[dict[str, float]]:
        """The ceiling as plain JSON values, in percent."""
        return [
            {"at_s": round(at, 3), "percent": round(100 * share, 4)} for at, share in self.ceiling
        ]

    def finish(self) -> ClusterMetrics:
        """Figures of the final state."""
        assert self._engine is not None, "nothing was observed"
        return cluster_metrics(self._engine.state, self._engine.profile)

    @property
    def devices(self) -> list[list[int]]:
        """Milli-GPU in use per node and device at the end."""
        assert self._engine is not None, "nothing was observed"
        state = self._engine.state
        return [
            [1000 - int(free) for free in state.gpu_free[row, : len(node.devices)]]
            for row, node in enumerate(state.nodes)
            if node is not None and node.devices
        ]
