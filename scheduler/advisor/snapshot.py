"""A cluster at one moment with everything that a planner needs, and the problems made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from scheduler.core.engine import Engine
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import GangKey, NodeSelection, PodRequest
from scheduler.core.omissions import NotConsidered
from scheduler.core.state import ClusterState
from scheduler.files.kubectl_dump import Dump
from scheduler.files.workload import Workload, place_bound
from scheduler.planner.problem import Disruption, DisruptionBudget, Problem

__all__ = ["Snapshot"]

_EVICTION_COST = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A cluster and its backlog.

    Parameters
    ----------
    state
        Nodes and running pods. Neither the snapshot nor a planner writes to it.
    pending
        Pods that wait for a node and may be placed.
    gangs
        What is known of their gangs and of those that run.
    move_costs
        By uid, for the running pods that may be disturbed.
    budgets
        Limits on disturbing running pods.
    preferences
        By uid of a pending pod: node rules that it would like to see met, with their weights.
    not_considered
        Rules that no problem made of this expresses.
    provisos
        Rules that matter only to pods that a plan puts somewhere.
    patient
        Uids of pending pods for which no pod may be evicted.
    unmet
        By uid, why a pod would stay pending wherever it went.
    """

    state: ClusterState
    pending: tuple[PodRequest, ...]
    gangs: Mapping[GangKey, GangSpec] = field(default_factory=dict)
    move_costs: Mapping[str, int] = field(default_factory=dict)
    budgets: tuple[DisruptionBudget, ...] = ()
    preferences: Mapping[str, tuple[tuple[NodeSelection, int], ...]] = field(default_factory=dict)
    not_considered: tuple[NotConsidered, ...] = ()
    provisos: tuple[NotConsidered, ...] = ()
    patient: frozenset[str] = frozenset()
    unmet: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_dump(cls, dump: Dump) -> Snapshot:
        """The cluster of a dump.

        Raises
        ------
        InvalidInput
            A pod runs on a node that the dump does not list.
        """
        engine = Engine(ClusterState(dump.workload.nodes), "best-fit")
        place_bound(engine, dump.workload)
        running = engine.state.placements.keys()
        return cls(
            engine.state.snapshot(),
            dump.workload.requests,
            dump.workload.gangs,
            {uid: cost for uid, cost in dump.move_costs.items() if uid in running},
            tuple(
                DisruptionBudget(budget.name, budget.uids & running, budget.allowed)
                for budget in dump.budgets
            ),
            dump.preferences,
            dump.workload.not_considered,
            dump.provisos,
            dump.patient,
            dump.unmet,
        )

    @classmethod
    def of_empty_cluster(cls, workload: Workload) -> Snapshot:
        """The nodes of a workload, with all of its pods pending at one priority, without gangs.

        What a plan of this places is what the cluster could run at best if every pod could be
        placed anew.
        """
        bound = (running.request for running in workload.bound)
        return cls(
            ClusterState(workload.nodes).snapshot(),
            tuple(replace(pod, priority=0) for pod in (*workload.requests, *bound)),
            not_considered=workload.not_considered,
        )

    def problem(
        self,
        objective: str = "order",
        *,
        moves: bool = True,
        topology: Sequence[str] = (),
        model_costs: Mapping[str, int] | None = None,
        policy: str = "fgd",
    ) -> Problem:
        """The problem of placing all pending pods.

        Parameters
        ----------
        objective
            What a tier gets: see :class:`scheduler.planner.problem.Problem`. ``order`` is that of
            kube-scheduler.
        moves
            Whether running pods may be disturbed.
        topology
            Node label keys, narrowest first, one domain of which should hold a gang.
        model_costs
            What using a device of a model costs, by product name.
        policy
            Of the greedy incumbent.

        Raises
        ------
        InvalidInput
            The objective is unknown, or a pod stands in two places.
        """
        movable = self.move_costs if moves else {}
        return Problem(
            self.state,
            self.pending,
            {uid: Disruption(cost, _EVICTION_COST) for uid, cost in movable.items()},
            self.budgets,
            topology=tuple(topology),
            objective=objective,
            policy=policy,
            preferences=self.preferences,
            model_costs=model_costs or {},
            not_considered=self.not_considered,
            gangs=self.gangs,
            provisos=self.provisos,
            patient=self.patient,
            unmet=self.unmet,
        )
