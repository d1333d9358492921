"""The planner process, seen from outside: told what changes, asked, replaced when it fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.view import PlanningView
from scheduler.cluster.worker import child
from scheduler.cluster.worker.figures import PlannerFigures
from scheduler.cluster.worker.messages import (
    Fault,
    NodesKnown,
    NodesLeft,
    Pending,
    PlacementsEnded,
    PlacementsKnown,
    PlanMade,
    PlanQuestion,
    PricesMade,
    Question,
)
from scheduler.cluster.worker.process import Companion, CompanionFault
from scheduler.core.model import Node, Placement

__all__ = ["PlannerProcess"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_PIECE = 25  # what is serialised at once, without any other thread in the interpreter
_GRACE_S = 5.0
_RETRY_S = 1.0
_MOST_RETRY_S = 30.0


class PlannerProcess:
    """Hands the planner process a copy of the cluster in small pieces, and asks it.

    Used by one thread; :attr:`pid`, :attr:`state` and :meth:`end` by any.

    Parameters
    ----------
    config
        Memory limit, budget and debounce.
    figures
        Counts what happens.
    stop
        Ends every wait early.
    """

    def __init__(
        self, config: ExtenderConfig, figures: PlannerFigures, stop: threading.Event
    ) -> None:
        self._config, self._figures, self._stop = config, figures, stop
        self._companion: Companion | None = None
        self._busy = ""
        self._gave_up = 0  # processes in a row, since the last answer
        self._start_again_at: float | None = None  # at once when asked; unasked not before
        self._sent_epoch = -1
        self._sent_nodes: Mapping[str, Node] = {}
        self._sent_placements: Mapping[str, Placement] = {}

    @property
    def pid(self) -> int | None:
        """Process id of the planner, if it runs."""
        companion = self._companion
        return companion.pid if companion is not None else None

    @property
    def state(self) -> str:
        """What the process does: ``down``, ``starting``, ``idle``, ``plan`` or ``price``."""
        companion = self._companion
        if companion is None or companion.pid is None:
            return "down"
        return (self._busy or "idle") if companion.loaded else "starting"

    def look(self) -> None:
        """Notice that the process has ended or is stuck while nothing is asked of it."""
        companion = self._companion
        if companion is not None:
            try:
                companion.look()
            except CompanionFault as fault:
                self._lost(fault)
        elif self._start_again_at is not None and time.monotonic() >= self._start_again_at:
            self._ensure_process()

    def ask(self, view: PlanningView, question: Question) -> PricesMade | PlanMade | Fault | None:
        """Hand the cluster over and wait for the answer; None if there was none."""
        self._busy = "plan" if isinstance(question, PlanQuestion) else "price"
        try:
            companion = self._ensure_process()
            self._tell(companion, view)
            companion.send(question)
            answer: PricesMade | PlanMade | Fault = companion.receive(
                2 * self._config.planner_budget_s + _GRACE_S
            )
        except CompanionFault as fault:
            self._lost(fault)
            return None
        finally:
            self._busy = ""
        self._gave_up = 0
        return answer

    def give_up(self, cause: str) -> None:
        """End the process. In place of a stuck one the next starts at once, else it may take long
        until there is a question; one that dies whenever it comes up is started ever more rarely.
        """
        self._figures.faults[cause] += 1
        self.end()
        pause = max(_RETRY_S, self._config.planner_debounce_s)
        wait = min(max(pause, _MOST_RETRY_S), pause * 2 ** min(self._gave_up, 16))
        at_once = cause == "stuck" and not self._gave_up
        self._start_again_at = time.monotonic() + (0.0 if at_once else wait)
        self._gave_up += 1

    def end(self) -> None:
        """End the process."""
        companion, self._companion = self._companion, None
        if companion is not None:
            companion.end()

    # -- inside ------------------------------------------------------------------------------

    def _tell(self, companion: Companion, view: PlanningView) -> None:
        """Tell what has changed; the planner process remembers the rest."""
        if view.epoch != self._sent_epoch:
            nodes = {node.name: node for node in view.nodes}
            left, new = _changes(self._sent_nodes, nodes)
            self._send(companion, NodesLeft, left)
            self._send(companion, NodesKnown, new)
            self._sent_nodes, self._sent_epoch = nodes, view.epoch
        placed = {placement.pod.uid: placement for placement in view.placements}
        ended, begun = _changes(self._sent_placements, placed)
        self._send(companion, PlacementsEnded, ended)
        self._send(companion, PlacementsKnown, begun)
        self._sent_placements = placed
        self._send(companion, Pending, view.pending)

    def _send(
        self, companion: Companion, made: Callable[[tuple[Any, ...]], object], items: Sequence[Any]
    ) -> None:
        for start in range(0, len(items), _PIECE):
            companion.send(made(tuple(items[start : start + _PIECE])))

    def _ensure_process(self) -> Companion:
        if self._companion is not None and self._companion.pid is not None:
            return self._companion
        self.end()
        self._start_again_at = None
        self._companion = Companion(child.serve, (self._config.planner_memory_mib,), self._stop)
        self._sent_epoch = -1
        self._sent_nodes, self._sent_placements = {}, {}
        self._figures.restarts += 1
        return self._companion

    def _lost(self, fault: CompanionFault) -> None:
        if not self._stop.is_set():
            log.warning("the planner process %s; it is replaced", fault)
            if self._busy:
                self._figures.plans[fault.cause] += 1
            self.give_up(fault.cause)


def _changes(before: Mapping[str, T], now: Mapping[str, T]) -> tuple[list[str], list[T]]:
    """Keys of what is not there any more or has changed, and what has come or changed."""
    gone = [key for key, item in before.items() if now.get(key) is not item]
    return gone, [item for key, item in now.items() if before.get(key) is not item]
