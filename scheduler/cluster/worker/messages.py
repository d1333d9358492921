"""What the web process and the planner process say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import GangKey, Node, Placement, PodRequest
from scheduler.core.price_tables import Prices
from scheduler.core.price_weights import PriceWeights
from scheduler.core.workload_profile import WorkloadProfile

__all__ = [
    "Change",
    "Fault",
    "NodesKnown",
    "NodesLeft",
    "Pending",
    "PlacementsEnded",
    "PlacementsKnown",
    "PlanMade",
    "PlanQuestion",
    "PriceQuestion",
    "PricesMade",
    "Question",
]

# Changes since the last question.


@dataclass(frozen=True, slots=True)
class NodesLeft:
    """Nodes that have left or changed; those that changed are in a :class:`NodesKnown` after it."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodesKnown:
    """Nodes that have come or changed."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class PlacementsEnded:
    """Pods, by uid, that have no place any more, or another one."""

    uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlacementsKnown:
    """Pods that have a place, or another one."""

    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Pending:
    """Some of the pods that wait, for the next question alone."""

    pods: tuple[PodRequest, ...]


Change = NodesLeft | NodesKnown | PlacementsEnded | PlacementsKnown | Pending

# Questions.


@dataclass(frozen=True, slots=True)
class PriceQuestion:
    """Which prices go with this profile, where so many pods leave for each that comes?"""

    profile: WorkloadProfile
    weights: PriceWeights
    departures: float


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """Where do the pending pods go, within so many seconds of solver time?"""

    seconds: float
    gangs: Mapping[GangKey, GangSpec]


Question = PriceQuestion | PlanQuestion

# Answers.


@dataclass(frozen=True, slots=True)
class PricesMade:
    """Prices, or None where there are none; and how long it took."""

    prices: Prices | None
    seconds: float


@dataclass(frozen=True, slots=True)
class PlanMade:
    """A plan.

    Attributes
    ----------
    status
        Name of a :class:`scheduler.planner.plan.PlanStatus`.
    places
        Pods by uid, and the nodes planned for them.
    seconds
        How long it took.
    gap
        To the bound, in 0..1 of it.
    """

    status: str
    places: tuple[tuple[str, str], ...]
    seconds: float
    gap: float


@dataclass(frozen=True, slots=True)
class Fault:
    """The question could not be answered, for this reason."""

    problem: str
