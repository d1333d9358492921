"""When prices are asked for, and what becomes of the answer."""

from __future__ import annotations

import logging
import time

from scheduler.cluster.ledger import Ledger
from scheduler.cluster.repricing import put_prices
from scheduler.cluster.view import planning_view
from scheduler.cluster.worker.figures import PlannerFigures
from scheduler.cluster.worker.messages import PriceQuestion, PricesMade
from scheduler.cluster.worker.planner_process import PlannerProcess

__all__ = ["PriceLoop"]

log = logging.getLogger(__name__)

_IDLE = 4  # times as long as a pricing takes the next one waits, for mixes and nodes
_RETRY_S = 1.0
_PRICES_LAST = 6  # times the longest wait between two pricings


class PriceLoop:
    """Has prices made anew when they are due, and puts them in force.

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
        self._weights = ledger.config.price_weights()
        self._took_s = 0.0
        self._again_at = 0.0  # not before, since it has just failed

    def turn(self) -> None:
        """Make prices anew if they are due."""
        if self._config.policy == "priced" and self.due():
            self._reprice()

    def due(self) -> bool:
        """Whether prices are to be made anew, and the last attempt has not just failed."""
        now = time.monotonic()
        if now < self._again_at:
            return False
        # Nodes that come one by one are not worth a pricing each, nor is every first pod.
        pause_s = min(self._config.planner_debounce_s, _IDLE * self._took_s)
        with self._ledger.locked(chore=True) as cluster:
            return cluster.pricing.prices_due(now, cluster.engine.state.node_epoch, pause_s)

    def failed(self) -> None:
        """Pricing has failed: neither try five times a second nor charge old prices for ever."""
        self._again_at = time.monotonic() + max(_RETRY_S, self._config.planner_debounce_s)
        made, longest = self._figures.priced_at, _PRICES_LAST * max(1.0, self._config.reprice_s)
        if made is not None and time.monotonic() - made > longest:
            log.warning("no prices for %.0f s; scoring as fgd until there are some", longest)
            put_prices(self._ledger, None)
            self._figures.priced_at = None

    def _reprice(self) -> None:
        view, started = planning_view(self._ledger), time.monotonic()
        task = view.pricing
        question = PriceQuestion(task.profile, self._weights, task.departures)
        answer = self._process.ask(view, question)
        if not isinstance(answer, PricesMade):
            if answer is not None:
                log.error("prices could not be computed: %s", answer)
            self.failed()
            return
        self._figures.price_seconds = answer.seconds
        if answer.prices is not None:
            self._figures.priced_at = time.monotonic()
        with self._ledger.locked() as cluster:
            last_good, profile = cluster.engine.prices(), cluster.engine.profile
        if answer.prices is not None or task.profile is not profile:
            put_prices(self._ledger, answer.prices or last_good, task.profile)
        with self._ledger.locked(chore=True) as cluster:
            cluster.pricing.priced(task, time.monotonic())
        self._took_s = time.monotonic() - started
