"""What a planner needs to know of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.core.mix import TypicalMix
from scheduler.core.model import Node, Placement, PodRequest

__all__ = ["PlanningView"]


@dataclass(frozen=True, slots=True)
class PlanningView:
    """A problem for the planner. Two views with one ``stamp`` are the same problem."""

    stamp: tuple[object, ...]
    epoch: int
    nodes: Sequence[Node]
    placements: Sequence[Placement]
    pending: tuple[PodRequest, ...]
    mix: TypicalMix
    bindings: int
    generation: int
    departures: float
