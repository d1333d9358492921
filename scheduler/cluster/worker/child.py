"""What runs in the planner process: it follows the cluster piece by piece, prices and plans it.

The solver is imported here alone, and when the first question comes: it takes a third of a second
and 100 MB.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import replace

from scheduler.cluster.worker.messages import (
    Change,
    Fault,
    NodesKnown,
    NodesLeft,
    Pending,
    PlacementsEnded,
    PlacementsKnown,
    PlanMade,
    PlanQuestion,
    PriceQuestion,
    PricesMade,
    Question,
)
from scheduler.cluster.worker.process import Counterpart
from scheduler.core.model import PodRequest, Release
from scheduler.core.state import ClusterState

__all__ = ["serve"]

_NICE = 10


def serve(caller: Counterpart, memory_mib: int) -> None:
    """Main of the planner process.

    A piece that does not go with what is known is a fault of ours: it ends the process, and the
    next one is told everything anew.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    os.nice(_NICE)  # a plan may take what the webhook leaves
    known = _Known()
    for message in caller.messages():
        match message:
            case PriceQuestion() | PlanQuestion():
                known.settle()
                caller.answer(_answer(known.state, known.pending, message))
                known.pending = []
            case _:
                known.apply(message)


class _Known:
    """The cluster as far as it has been told."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.pending: list[PodRequest] = []
        self._left: set[str] = set()

    def apply(self, change: Change) -> None:
        """Something has changed."""
        match change:
            case NodesLeft(names):
                self._left.update(names)  # or changed: then it comes again, and keeps its pods
            case NodesKnown(nodes):
                for node in nodes:
                    self.state.add_node(replace(node, by_dra=()) if node.by_dra else node)
                    self._left.discard(node.name)
            case PlacementsEnded(uids):
                self.state.apply([Release(uid) for uid in uids])
            case PlacementsKnown(placements):
                self.state.apply(placements, enforce=False)
            case Pending(pods):
                self.pending += pods

    def settle(self) -> None:
        """All changes have been told: nodes that did not come again have left."""
        for name in self._left:
            self.state.remove_node(name)
        self._left.clear()


def _answer(
    state: ClusterState, pending: Sequence[PodRequest], question: Question
) -> PricesMade | PlanMade | Fault:
    try:
        if isinstance(question, PriceQuestion):
            return _priced(state, question)
        return _planned(state, pending, question)
    except Exception as error:  # noqa: BLE001 - told to the web process, which logs it
        return Fault(f"{type(error).__name__}: {error}")


def _priced(state: ClusterState, question: PriceQuestion) -> PricesMade:
    from scheduler.planner.pricing.compute import prices  # noqa: PLC0415 - see above

    started = time.perf_counter()
    made = prices(state, question.profile, question.weights, departures=question.departures)
    return PricesMade(made, time.perf_counter() - started)


def _planned(
    state: ClusterState, pending: Sequence[PodRequest], question: PlanQuestion
) -> PlanMade:
    from scheduler.advisor.snapshot import Snapshot  # noqa: PLC0415 - see above
    from scheduler.planner.effort import Budget  # noqa: PLC0415
    from scheduler.planner.plan import plan  # noqa: PLC0415

    problem = Snapshot(state.fork(), tuple(pending), question.gangs).problem()
    made = plan(problem, Budget(question.seconds, workers=1))
    value = sum(tier.value for tier in made.tiers)
    bound = sum(tier.bound for tier in made.tiers)
    return PlanMade(
        made.status.value,
        tuple((placement.pod.uid, placement.node) for placement in made.placements),
        made.seconds,
        (bound - value) / bound if bound else 0.0,
    )
