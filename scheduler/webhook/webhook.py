"""One webhook: a cluster, the verbs that answer for it, and what runs beside it."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.cluster.bind_request import BindRequest
from scheduler.cluster.follow import LiveCluster
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.offline import OfflineBinder
from scheduler.cluster.worker.planning import PlannerLoop
from scheduler.webhook.decision_log import DecisionLog
from scheduler.webhook.metrics import ExtenderMetrics
from scheduler.webhook.verbs import Verbs

__all__ = ["Webhook"]


class Webhook:
    """What a process serves, put together.

    Parameters
    ----------
    ledger
        Of the cluster.
    planner
        Prices and plans beside it, if anything does.
    live
        Follows the cluster, where it is a live one.
    accepting
        Whether verbs may be answered: the cluster is known, and it is our turn to act. By default
        ``live`` says so.

    Attributes
    ----------
    decisions : DecisionLog
        The latest answers.
    verbs : Verbs
        Answers kube-scheduler.
    metrics : ExtenderMetrics
        What Prometheus sees.
    offline : OfflineBinder or None
        Places pods where no API says what is there.
    """

    def __init__(
        self,
        ledger: Ledger,
        planner: PlannerLoop | None = None,
        live: LiveCluster | None = None,
        *,
        accepting: Callable[[], bool] | None = None,
    ) -> None:
        self.ledger, self.planner, self.live = ledger, planner, live
        self.accepting = accepting or (live.accepting if live else lambda: True)
        self.decisions = DecisionLog(ledger.config.decisions)
        self.offline = None if ledger.live else OfflineBinder(ledger)
        self.verbs = Verbs(
            ledger,
            self.decisions,
            bind=self._binder(),
            ask_end=live.binder.ask_end if live else None,
        )
        self.metrics = ExtenderMetrics(ledger, self.decisions, planner, live)

    def _binder(self) -> Callable[[BindRequest], str]:
        if self.offline is not None:
            return self.offline.bind
        if self.live is not None and self.ledger.config.bind:
            return self.live.binder.bind
        return lambda _: "bind is not configured here: let kube-scheduler bind"
