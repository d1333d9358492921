"""The planner process beside the web process: spawned, bounded, replaced when it misbehaves.

A thread of the web process watches for work, hands the planner a copy of the cluster in small
pieces (so that no request waits for one long serialisation), and adopts what comes back. The
solver is never imported in the web process: if the planner dies or is slow, the webhook goes on
with its scoring.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from scheduler.cluster.ledger import Ledger
from scheduler.cluster.view import prices_in_force
from scheduler.cluster.worker.figures import PlannerFigures
from scheduler.cluster.worker.plan_loop import PlanLoop
from scheduler.cluster.worker.planner_process import PlannerProcess
from scheduler.cluster.worker.price_loop import PriceLoop

__all__ = ["PlannerLoop", "decided_by"]

log = logging.getLogger(__name__)

_GRACE_S = 5.0
_LOOK_S = 0.05  # at 300 pods a second, fifteen are placed at old prices meanwhile


class PlannerLoop:
    """The thread that has the cluster priced and planned.

    Parameters
    ----------
    ledger
        Of the cluster; with budget, debounce and memory limit.

    Attributes
    ----------
    figures : PlannerFigures
        What has happened so far.
    prices : PriceLoop
        Asks for prices.
    plans : PlanLoop
        Asks for plans.
    process : PlannerProcess
        The planner process.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._stop = threading.Event()
        self.figures = PlannerFigures()
        self.process = PlannerProcess(ledger.config, self.figures, self._stop)
        self.prices = PriceLoop(ledger, self.process, self.figures)
        self.plans = PlanLoop(ledger, self.process, self.figures)
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id of the planner, if it runs."""
        return self.process.pid

    @property
    def state(self) -> str:
        """What the process does: ``down``, ``starting``, ``idle``, ``plan`` or ``price``."""
        return self.process.state

    def detail(self) -> dict[str, Any]:
        """For ``/readyz``: what is computed, how old what is in force is, what went wrong."""
        made = self.figures.priced_at
        return {
            "state": self.state,
            "price_age_seconds": None if made is None else round(time.monotonic() - made, 1),
            "given_up": dict(sorted(self.figures.faults.items())),
        }

    def start(self) -> None:
        """Begin planning."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop and the process. Callable from any thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_GRACE_S)
        self.process.end()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self.process.look()
                self.prices.turn()
                self.plans.turn()
            except Exception:  # the loop must outlive whatever a plan does
                log.exception("planning failed; the webhook goes on without this plan")
                self.figures.plans["failed"] += 1
                self.process.give_up("failed")
                self.prices.failed()


def decided_by(ledger: Ledger) -> str:
    """What scores nodes now: the policy; with ``priced`` ``prices``, or ``fgd`` without any."""
    policy = ledger.config.policy
    return policy if policy != "priced" else "prices" if prices_in_force(ledger) else "fgd"
