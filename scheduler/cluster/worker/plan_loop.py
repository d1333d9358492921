"""When a plan is asked for, and how its places are adopted."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

from scheduler.cluster.ledger import Ledger
from scheduler.cluster.view import PlanningView, planning_view
from scheduler.cluster.worker.figures import PlannerFigures
from scheduler.cluster.worker.messages import PlanMade, PlanQuestion
from scheduler.cluster.worker.planner_process import PlannerProcess
from scheduler.core.model import GangKey, PodRequest

__all__ = ["PlanLoop"]

log = logging.getLogger(__name__)

_PIECE = 25

Places = Sequence[tuple[PodRequest, str]]


class PlanLoop:
    """Has the backlog planned, at most as often as it may, and pods answered from the plan.

    Parameters
    ----------
    ledger
        Of the cluster.
    process
        The planner process.
    figures
        Counts what happens.
    """

    def __init__(self, ledger: Ledger, process: PlannerProcess, figures: PlannerFigures) -> None:
        self._ledger, self._process, self._figures = ledger, process, figures
        self._config = ledger.config
        self._seen: tuple[object, ...] | None = None
        self._at = time.monotonic()

    def turn(self) -> None:
        """Plan if it is time, and if there is anything new to plan."""
        config = self._config
        if time.monotonic() - self._at < config.planner_debounce_s:
            return
        self._at = time.monotonic()
        if not config.planner:
            return
        view = planning_view(self._ledger)
        if not view.pending or view.stamp == self._seen:
            return
        self._seen = view.stamp
        answer = self._process.ask(view, PlanQuestion(config.planner_budget_s, view.gangs))
        if isinstance(answer, PlanMade):
            self.adopt(answer, view)
        elif answer is not None:
            log.error("the planner reports a fault: %s", answer)
            self._figures.plans["failed"] += 1
        self._at = time.monotonic()

    def adopt(self, plan: PlanMade, view: PlanningView) -> None:
        """Answer the pods of a plan from it from now on, as far as they still fit.

        Parameters
        ----------
        view
            What the plan was made for.
        """
        figures = self._figures
        pending = {pod.uid: pod for pod in view.pending}
        places = [(pending[uid], node) for uid, node in plan.places if uid in pending]
        for piece in _pieces(places):  # requests get in between
            with self._ledger.locked(chore=True) as cluster:
                cluster.expire()
                adopted, rejected = cluster.gangs.adopt_plan(
                    piece, cluster.now, generation=view.generation
                )
            figures.adopted += adopted
            figures.rejected.update(rejected)
        figures.plans[plan.status.lower()] += 1
        figures.planned += len(places)
        figures.last_seconds, figures.last_gap = plan.seconds, plan.gap
        figures.last_at = time.monotonic()


def _pieces(places: Places) -> Iterator[list[tuple[PodRequest, str]]]:
    """The places in pieces of about ``_PIECE``, each gang in one."""
    gangs: dict[GangKey, list[tuple[PodRequest, str]]] = {}
    piece: list[tuple[PodRequest, str]] = []
    for request, node in places:
        if request.gang is not None:
            gangs.setdefault(request.gang, []).append((request, node))
        else:
            piece.append((request, node))
        if len(piece) >= _PIECE:
            yield piece
            piece = []
    for gang in gangs.values():
        piece += gang
        if len(piece) >= _PIECE:
            yield piece
            piece = []
    if piece:
        yield piece
