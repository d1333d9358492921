"""Problems and plans: what goes into the planner and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Any

from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.spec import GangSpec, least_of_roles, minimum_of
from scheduler.core.model import GangKey, NodeSelection, Placement, PodRequest, Shape
from scheduler.core.omissions import NotConsidered
from scheduler.core.state import ClusterState
from scheduler.planner.served import Served

__all__ = [
    "Disruption",
    "DisruptionBudget",
    "Kind",
    "Move",
    "Objective",
    "Plan",
    "Problem",
    "Status",
    "Tier",
    "Unplaced",
]

OBJECTIVES = ("order", "pods", "gpu")


@unique
class Status(Enum):
    """What is known about a plan."""

    PROVED = "PROVED"
    """Every tier and the disruption meet their bounds: nothing better exists."""
    PROVED_IN_PART = "PROVED_IN_PART"
    """Nothing better exists as far as was considered; ``not_considered`` lists what was not."""
    IMPROVED = "IMPROVED"
    """Better than the greedy plan; not proved: a gap is left, or a choice was not searched."""
    KEPT_GREEDY = "KEPT_GREEDY"
    """The search found nothing better than the greedy plan, and that is not proved either."""
    INFEASIBLE_PROVED = "INFEASIBLE_PROVED"
    """Not one pending pod can be placed, and that is proved."""
    TIMED_OUT = "TIMED_OUT"
    """The budget ended before anything was searched; the greedy plan is returned."""


@dataclass(frozen=True, slots=True)
class Disruption:
    """What disturbing a running pod costs.

    Parameters
    ----------
    move
        Evicting it and starting it elsewhere.
    evict
        Evicting it without a new place; None forbids that.
    """

    move: int = 2
    evict: int | None = 1

    def __post_init__(self) -> None:
        if self.move < 1 or (self.evict is not None and self.evict < 1):
            raise InvalidInput("disruption", f"{self} costs nothing", "use costs of 1 or more")


@dataclass(frozen=True, slots=True)
class DisruptionBudget:
    """At most ``allowed`` of these running pods may be disturbed (a PodDisruptionBudget)."""

    name: str
    uids: frozenset[str]
    allowed: int


@dataclass(frozen=True, slots=True)
class Problem:
    """What to plan.

    Parameters
    ----------
    state
        The cluster with its running pods; usually a snapshot. It is not written to.
    pending
        Pods without a node.
    movable
        Costs by uid of the running pods that may be disturbed. All others stay.
    budgets
        Limits on disturbing running pods.
    candidates
        Node names per pod uid, where somebody else has narrowed them down already.
    topology
        Node label keys, narrowest first: a gang goes into one domain of the first key that can
        hold it whole, else into the whole cluster.
    objective
        What a tier maximises: ``pods`` placed, or ``gpu`` milli-GPU placed, then pods. With
        ``order`` pods come before those that stand behind them in ``pending``: whatever is served
        for a later one, an earlier one is served if that is possible besides those before it.
    policy
        Policy of the greedy incumbent.
    preferences
        By uid of a pending pod: node rules that it would like to see met, with their weights.
    model_costs
        What using a device of this model costs, by product name; others cost nothing. A pod that
        any device could serve is kept off the expensive ones.
    not_considered
        Rules that this problem does not express. The pods that they say are left alone keep their
        node, or get none.
    gangs
        How many members of each gang must start together; others count alone.
    provisos
        Rules that matter only to pods that the plan puts somewhere; they are placed all the same.
    patient
        Uids of pending pods for which nobody may be evicted (``preemptionPolicy: Never``).
    unmet
        By uid, why a pod would have to wait wherever it went; for the reasons that are given.
    """

    state: ClusterState
    pending: tuple[PodRequest, ...]
    movable: Mapping[str, Disruption] = field(default_factory=dict)
    budgets: tuple[DisruptionBudget, ...] = ()
    candidates: Mapping[str, frozenset[str]] = field(default_factory=dict)
    topology: tuple[str, ...] = ()
    objective: str = "pods"
    policy: str = "fgd"
    preferences: Mapping[str, tuple[tuple[NodeSelection, int], ...]] = field(default_factory=dict)
    model_costs: Mapping[str, int] = field(default_factory=dict)
    not_considered: tuple[NotConsidered, ...] = ()
    gangs: Mapping[GangKey, GangSpec] = field(default_factory=dict)
    provisos: tuple[NotConsidered, ...] = ()
    patient: frozenset[str] = frozenset()
    unmet: Mapping[str, str] = field(default_factory=dict)

    def minimum(self, gang: GangKey) -> int:
        """Members of a gang that must start together."""
        return minimum_of(self.gangs, gang)

    def least_of_roles(self) -> dict[GangKey, dict[str, int]]:
        """Members of each role that a gang needs, besides as many as it needs in all."""
        running = (placement.pod for placement in self.state.placements.values())
        return least_of_roles(self.gangs, (*self.pending, *running))

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InvalidInput("objective", f"is {self.objective!r}", "use order, pods or gpu")
        for pod in self.pending:
            if pod.uid in self.state.placements:
                raise InvalidInput(f"pod {pod.key}", "is pending and running at the same time")
        seen = {pod.uid for pod in self.pending}
        if len(seen) < len(self.pending):
            raise InvalidInput("pending", "lists a pod twice", "give every pod one uid")
        for uid in self.movable:
            if uid not in self.state.placements:
                raise InvalidInput(f"movable pod {uid}", "is not running")
        for product, cost in self.model_costs.items():
            if cost < 0:
                raise InvalidInput(f"model_costs.{product}", f"is {cost}", "use 0 or more")


@dataclass(frozen=True, slots=True)
class Kind:
    """Pods that are interchangeable for the planner.

    ``disruption`` is None for pending pods. ``budgets`` are positions in the problem's list.
    ``standing`` is what rules between pods make of them: :class:`Rulebook`.
    ``role`` is stated where its gang needs so many of each.
    """

    shape: Shape
    selection: NodeSelection
    priority: int
    gang: GangKey | None
    disruption: Disruption | None
    budgets: tuple[int, ...]
    candidates: frozenset[str] | None
    preferences: tuple[tuple[NodeSelection, int], ...] = ()
    standing: int = 0
    role: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """A running pod that the plan disturbs; ``target`` is None for an eviction."""

    pod: PodRequest
    source: str
    target: str | None


@dataclass(frozen=True, slots=True)
class Tier:
    """Pods of one priority that are pending or may be moved.

    Attributes
    ----------
    pods, placed
        How many there are, and how many have a node in the plan.
    value, bound
        The objective and a proven upper bound on it, given what the higher tiers got: pods, or
        milli-GPU.
    """

    priority: int
    pods: int
    placed: int
    value: int
    bound: int

    @property
    def gap(self) -> float:
        """(bound - value) / bound; 0 where nothing can be placed."""
        return (self.bound - self.value) / self.bound if self.bound else 0.0


@dataclass(frozen=True, slots=True)
class Objective:
    """One of the lexicographic objectives: the value of the plan, and a proved bound on it.

    ``bound`` is None where none is known; it holds for plans that reach the values of all
    objectives before this one.
    """

    name: str
    value: int
    bound: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "value": self.value, "bound": self.bound}


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A pending pod without a node in the plan, and why.

    ``untried`` says that the budget was over before anybody looked for room beyond what is free.
    """

    pod: PodRequest
    reason: str
    untried: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A verified plan.

    Attributes
    ----------
    status
        What is known about it.
    generation
        Of the state it was made for.
    placements
        Pending pods with node and devices, and the new places of moved pods. Once all that moves
        is evicted, rules between pods let them in one after another in this order.
    moves
        Running pods that are disturbed.
    restarts
        Gangs that restart as a whole for that, and how many of their pods run.
    tiers
        Highest priority first.
    disruption, disruption_bound
        Total cost of the moves, and a proven lower bound on it for the values of the tiers.
    unplaced
        Pending pods that stay pending.
    nodes_used
        Nodes that host any pod once the plan is carried out.
    objectives
        All objectives, most important first: tiers, disruption, and what is improved among equals.
    served
        What each class of requests gets.
    relaxed
        What the planner did not look at, in plain words.
    not_considered
        Rules that the plan could not take into account; while there are any, it is proved in part
        at best.
    statistics
        Solver figures.
    seconds
        Wall-clock time.
    """

    status: Status
    generation: int
    placements: tuple[Placement, ...]
    moves: tuple[Move, ...]
    tiers: tuple[Tier, ...]
    disruption: int
    disruption_bound: int
    unplaced: tuple[Unplaced, ...]
    nodes_used: int
    objectives: tuple[Objective, ...]
    served: tuple[Served, ...] = ()
    relaxed: tuple[str, ...] = ()
    restarts: tuple[tuple[GangKey, int], ...] = ()
    not_considered: tuple[NotConsidered, ...] = ()
    statistics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def proved_tiers(self) -> bool:
        """Whether every tier meets its bound."""
        return all(tier.value == tier.bound for tier in self.tiers)

    def to_json(self) -> dict[str, Any]:
        """The interface of ``snugfit plan --json``."""
        return {
            "status": self.status.value,
            "objectives": [objective.to_json() for objective in self.objectives],
            "tiers": [
                {
                    "priority": tier.priority,
                    "placed": tier.placed,
                    "pods": tier.pods,
                    "value": tier.value,
                    "bound": tier.bound,
                    "gap": round(tier.gap, 6),
                }
                for tier in self.tiers
            ],
            "served": [
                {"class": one.name, "pods": one.pods, "placed": one.placed} for one in self.served
            ],
            "disruption": {"value": self.disruption, "bound": self.disruption_bound},
            "placements": [
                {
                    "namespace": placement.pod.namespace,
                    "name": placement.pod.name,
                    "node": placement.node,
                    "devices": [share.index for share in placement.devices],
                }
                for placement in self.placements
            ],
            "moves": [
                {
                    "namespace": move.pod.namespace,
                    "name": move.pod.name,
                    "from": move.source,
                    "to": move.target,
                }
                for move in self.moves
            ],
            "restarts": [
                {"namespace": gang.namespace, "gang": gang.name, "pods": count}
                for gang, count in self.restarts
            ],
            "unplaced": [
                {
                    "namespace": one.pod.namespace,
                    "name": one.pod.name,
                    "reason": one.reason,
                    "untried": one.untried,
                }
                for one in self.unplaced
            ],
            "nodes_used": self.nodes_used,
            "relaxed": list(self.relaxed),
            "not_considered": [one.to_json() for one in self.not_considered],
            "statistics": dict(self.statistics),
            "seconds": round(self.seconds, 4),
        }
