"""What the planner process has done so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["PlannerFigures"]


@dataclass
class PlannerFigures:
    """What the planner has done so far, for metrics.

    Attributes
    ----------
    plans : Counter of str
        Plans by status, and ``crashed``, ``stuck``, ``killed``, ``failed`` attempts.
    faults : Counter of str
        Processes by why they were given up: ``crashed`` by themselves, ``stuck`` without a sign of
        life, ``killed`` past their deadline, ``failed`` by an error of ours.
    rejected : Counter of str
        Planned pods that were not adopted, by cause.
    """

    plans: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    planned: int = 0
    adopted: int = 0
    last_seconds: float = 0.0
    last_gap: float = 0.0
    last_at: float | None = None
    price_seconds: float = 0.0
    priced_at: float | None = None
    restarts: int = 0
