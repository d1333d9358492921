"""What has to be looked after beside the watches: each chore by itself, each object by itself.

Reservations and bindings past their time are settled by the API, refused pods that fit by now are
requeued, the state is compared with the facts and mended, and what is known with the API.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from scheduler.cluster.api.client import KubeClient
from scheduler.cluster.audit import Audit
from scheduler.cluster.binding import Binder
from scheduler.cluster.chores import expired_reservations, pods_to_requeue, requeue_later
from scheduler.cluster.housekeeping import Chore, Housekeeping, Patience, RepeatLimit
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.live_figures import LiveFigures
from scheduler.cluster.preempting import due_evictions
from scheduler.cluster.recount import Recount
from scheduler.cluster.repricing import put_profile_if_due
from scheduler.cluster.requeue import REQUEUE_ANNOTATION
from scheduler.core.errors import Conflict, KubeApiError, NotFound, TooManyRequests
from scheduler.core.model import PodRequest

__all__ = ["Caretaker"]

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 3600.0
_MOST_READINGS = 50
_LONGEST_TEXT = 300


class Caretaker:
    """Looks after a live cluster.

    Parameters
    ----------
    ledger, binder, client, figures
        Of the live cluster.
    audit
        Compares what is known with the API.
    recount
        Compares the state with what is known.
    active
        Whether this replica is the one that compares it.
    accepting
        Whether verbs are answered here.
    looks
        What is looked at anew from time to time.
    """

    def __init__(
        self,
        ledger: Ledger,
        binder: Binder,
        client: KubeClient,
        figures: LiveFigures,
        *,
        audit: Audit,
        recount: Recount,
        active: Callable[[], bool],
        accepting: Callable[[], bool],
        looks: Sequence[Chore],
    ) -> None:
        config = ledger.config
        self._ledger, self._binder, self._client, self._figures = ledger, binder, client, figures
        self._audit, self._active, self._accepting = audit, active, accepting
        self._reported, self._patience = RepeatLimit(_REPORT_EVERY_S), Patience()
        self._chores = [
            Chore("learning", lambda: put_profile_if_due(ledger)),
            *looks,
            Chore(
                "reservations", lambda: self._settle("reservations", expired_reservations(ledger))
            ),
            Chore("bindings", lambda: self._settle("bindings", binder.overdue())),
        ]
        if config.requeue_after_s:
            self._chores.append(Chore("requeue", self._requeue_missed))
        if config.evict_gangs:
            self._chores.append(Chore("gangs", self._evict_remainders))
        if config.recount_s:
            self._chores.append(Chore("recount", recount.run, config.recount_s))
        self._checks = [Chore("rereading", audit.reread)]
        if config.audit_s:
            self._checks.append(Chore("audit", self._compare, config.audit_s, spread=0.25))

    @property
    def chores(self) -> list[str]:
        """Names of all that is looked after."""
        return [chore.name for chore in (*self._chores, *self._checks)]

    def threads(
        self, ready: Callable[[], bool], stop: threading.Event
    ) -> tuple[threading.Thread, ...]:
        """What is overdue has one thread, comparing with the API, which may take long, another."""
        return tuple(
            Housekeeping(
                name, chores, ready=ready, stop=stop, faults=self._figures.chore_faults
            ).thread
            for name, chores in (("look after", self._chores), ("audit", self._checks))
        )

    def _compare(self) -> None:
        if self._active():
            self._audit.audit()

    def _settle(self, chore: str, overdue: Sequence[PodRequest]) -> None:
        """Ask the API about pods whose reservation or binding is past its time.

        One that fails waits ever longer, so that it never keeps the others from their turn.
        """
        due = [pod for pod in overdue if not self._patience.waits(pod.uid)]
        for pod in due[:_MOST_READINGS]:
            try:
                self._binder.read(pod)
            except KubeApiError as error:
                log.warning("pod %s keeps its room until the API can be asked: %s", pod.key, error)
                if error.passing:
                    return
                self._patience.failed(pod.uid)
            except Exception as error:  # noqa: BLE001 - of this pod alone
                self._patience.failed(pod.uid)
                self._failed(chore, pod, error)
            else:
                self._patience.succeeded(pod.uid)
                self._figures.readings += 1

    def _failed(self, chore: str, pod: PodRequest, error: Exception) -> None:
        self._figures.chore_faults[chore] += 1
        if self._reported.now((chore, pod.uid)):
            text = str(error)[:_LONGEST_TEXT]
            log.error("%s: pod %s is left out: %s", chore, pod.key, text, exc_info=error)

    def _requeue_missed(self) -> None:
        if self._accepting():
            self._requeue(pods_to_requeue(self._ledger, self._ledger.config.requeue_after_s))

    def _requeue(self, missed: Sequence[PodRequest]) -> None:
        """Let kube-scheduler ask about these pods again."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        for at, pod in enumerate(missed):
            content = {"metadata": {"uid": pod.uid, "annotations": {REQUEUE_ANNOTATION: now}}}
            try:
                self._client.patch_pod_status(pod.namespace, pod.name, content)
            except KubeApiError as error:
                log.warning("pod %s fits by now and cannot be requeued: %s", pod.key, error)
                if error.passing:
                    requeue_later(self._ledger, missed[at:])  # the others would fare no better
                    return
            except Exception as error:  # noqa: BLE001 - of this pod alone
                self._failed("requeue", pod, error)
                requeue_later(self._ledger, [pod])
            else:
                self._figures.requeues += 1
                log.info("pod %s fits by now and was requeued", pod.key)

    def _evict_remainders(self) -> None:
        """Evict what is left of gangs elsewhere, as far as their budgets allow."""
        if not self._accepting():
            return
        with self._ledger.locked(chore=True) as cluster:
            due = due_evictions(cluster)
        due = [pod for pod in due if not self._patience.waits(pod.uid)]
        for pod in due[:_MOST_READINGS]:
            try:
                self._client.evict(pod.namespace, pod.name, pod.uid)
            except (NotFound, Conflict):  # it is gone, or another pod has its name
                self._evicted(pod)
            except KubeApiError as error:
                log.warning("pod %s, whose gang is evicted, stays: %s", pod.key, error)
                self._patience.failed(pod.uid)
                if error.passing and not isinstance(error, TooManyRequests):
                    return
            except Exception as error:  # noqa: BLE001 - of this pod alone
                self._patience.failed(pod.uid)
                self._failed("gangs", pod, error)
            else:
                self._patience.succeeded(pod.uid)
                self._evicted(pod)
                self._figures.gang_evictions += 1
                log.info("pod %s was evicted, as kube-scheduler evicts others of its gang", pod.key)

    def _evicted(self, pod: PodRequest) -> None:
        with self._ledger.locked(chore=True) as cluster:
            cluster.victims.done(pod.uid)
