"""Figures over the course of a run, sampled so that measuring does not dominate it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scheduler.core.engine import Engine
from scheduler.core.metrics import ClusterMetrics, cluster_metrics

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
    samples : list of Sample
    devices : list of list of int
        Milli-GPU in use per node and device, as of the last pod; only nodes with devices.
    """

    samples: list[Sample] = field(default_factory=list)
    _engine: Engine | None = None

    def observe(self, _number: int, requested: float, engine: Engine) -> None:
        """Hook for :func:`scheduler.simulator.inflation.run`."""
        self._engine = engine
        if not self.samples or requested >= self.samples[-1].at + _STEP:
            self.samples.append(Sample(requested, cluster_metrics(engine.state, engine.mix)))

    def observe_time(self, now_s: float, engine: Engine) -> None:
        """Hook for :func:`scheduler.simulator.replay.replay`."""
        self._engine = engine
        self.samples.append(Sample(now_s, cluster_metrics(engine.state, engine.mix)))

    def finish(self) -> ClusterMetrics:
        """Figures of the final state."""
        assert self._engine is not None, "nothing was observed"
        return cluster_metrics(self._engine.state, self._engine.mix)

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
