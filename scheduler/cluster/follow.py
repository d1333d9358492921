"""A live cluster behind the ledger: watches in, facts applied, doubts settled, drift found.

Threads: one per watched kind reads and decodes (:mod:`.watches`); one applies what they read
(:mod:`.applying`); one looks after what is overdue (:mod:`.caretaker`); one compares what is known
with the API (:mod:`.audit`). None of them decides anything.

After a restart everything is rebuilt from the API. There is no other memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from scheduler.cluster.api.client import KubeClient
from scheduler.cluster.api.lease import LeaseHolder
from scheduler.cluster.applying import Applier
from scheduler.cluster.audit import Audit
from scheduler.cluster.binding import Binder
from scheduler.cluster.caretaker import Caretaker
from scheduler.cluster.housekeeping import Chore, RepeatLimit
from scheduler.cluster.inbox import Inbox
from scheduler.cluster.ledger import Cluster, Ledger
from scheduler.cluster.live_figures import LiveFigures
from scheduler.cluster.lookups import DeviceClasses, RecordPolicy
from scheduler.cluster.readiness import knowledge
from scheduler.cluster.recount import Recount
from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.watches import Watches
from scheduler.core.errors import KubeApiError
from scheduler.core.plural import plural

__all__ = ["LiveCluster"]

log = logging.getLogger(__name__)

_TURN_S = 1.0
_LOOK_EVERY_S = 60.0
_REPORT_EVERY_S = 3600.0
_REPORT_AGAIN_S = 60.0


class LiveCluster:
    """Keeps a ledger informed about a cluster.

    Parameters
    ----------
    ledger
        Of a live cluster; its engine starts empty.
    client
        The API.
    identity
        Of this replica, for the Lease.
    on_synced
        Called once, when everything that existed at the start is known and before it is answered.

    Attributes
    ----------
    watches : Watches
        What is watched.
    binder : Binder
        Carries out the bind verb.
    audit : Audit
        Compares what is known with the API.
    recount : Recount
        Compares the state with what is known.
    applier : Applier
        Applies what the watches say.
    lookups : tuple of RecordPolicy and DeviceClasses
        What is read from time to time.
    lease : LeaseHolder or None
        Says whose turn it is, where that is not decided by somebody else.
    figures : LiveFigures
        What has happened so far.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: KubeClient,
        identity: str,
        *,
        on_synced: Callable[[], None] = lambda: None,
    ) -> None:
        config = ledger.config
        self._ledger, self._on_synced = ledger, on_synced
        self._stop, self._synced = threading.Event(), threading.Event()
        self._started = time.monotonic()
        self.figures, reported = LiveFigures(), RepeatLimit(_REPORT_EVERY_S)
        self.inbox = Inbox(self._stop)
        self.lease = _lease(client, config, identity)
        self.binder = Binder(ledger, client, deadline_s=config.bind_deadline_s)
        self.watches = Watches(ledger, client, self.inbox, reported)
        self.lookups = RecordPolicy(ledger, client), DeviceClasses(ledger, client)
        self.recount = Recount(ledger, self.figures)
        self.audit = Audit(ledger, client, self.watches, self.recount, self.figures)
        self.applier = Applier(
            ledger,
            self.inbox,
            self.audit,
            self.figures,
            on_listed=self._note_synced,
            stop=self._stop,
            reported=reported,
        )
        policy, classes = self.lookups
        self.caretaker = Caretaker(
            ledger,
            self.binder,
            client,
            self.figures,
            audit=self.audit,
            recount=self.recount,
            active=lambda: self.lease is None or self.lease.held,
            accepting=self.accepting,
            looks=(
                Chore("groups", self.watches.look_for_gangs, _LOOK_EVERY_S),
                Chore("record policy", policy.look, _LOOK_EVERY_S),
                Chore("device classes", classes.look, _LOOK_EVERY_S),
            ),
        )
        self._threads = [
            threading.Thread(target=self._begin, name="begin", daemon=True),
            self.applier.thread,
            *self.caretaker.threads(lambda: self.synced, self._stop),
        ]

    def start(self) -> None:
        """Begin watching. Returns at once; see :attr:`synced`."""
        for thread in self._threads:
            thread.start()
        if self.lease:
            self.lease.start()

    def stop(self) -> None:
        """Give up the lease and end every thread."""
        self._stop.set()
        self.watches.stop(wait=False)
        if self.lease:
            self.lease.stop()
        self.watches.stop(wait=True)
        self.inbox.close()

    @property
    def synced(self) -> bool:
        """Whether everything that existed at the start has been applied."""
        return self._synced.is_set()

    def accepting(self) -> bool:
        """Whether verbs may be answered: synced, not stale, and our turn."""
        stale_after = self._ledger.config.stale_after_s
        if not self.synced or (self.lease is not None and not self.lease.held):
            return False
        ages = self.watches.ages()
        return not stale_after or max(ages["nodes"], ages["pods"]) < stale_after

    def detail(self) -> dict[str, Any]:
        """For ``/readyz``."""
        with self._ledger.locked(chore=True) as cluster:
            known = knowledge(cluster, self.watches)
        content: dict[str, Any] = {
            "synced": self.synced,
            "watch_age_seconds": {
                label: round(age, 1) for label, age in self.watches.ages().items()
            },
            "drift": self.figures.drift,
            "objects_in_doubt": self.audit.doubts,
            **known,
        }
        if self.lease:
            content["lease"] = "held" if self.lease.held else "held by another replica"
        return content

    def _begin(self) -> None:
        """Find out what is served, as soon as the API answers, and watch it."""
        reported = RepeatLimit(every_s=_REPORT_AGAIN_S)
        while not self._stop.is_set():
            try:
                for lookup in self.lookups:  # before the first record is read
                    lookup.read()
                self.watches.find()
            except KubeApiError as error:
                if reported.now(error.status):
                    log.warning(
                        "the API does not answer yet, asking again every %g s: %s", _TURN_S, error
                    )
                self._stop.wait(_TURN_S)
            else:
                break
        if not self._stop.is_set():
            self.watches.start()

    def _note_synced(self, cluster: Cluster) -> None:
        if self.synced or not self.watches.listed:
            return
        self.figures.synced_s = time.monotonic() - self._started
        cluster.events.on_synced()
        self._on_synced()
        self._synced.set()
        log.info(
            "synced %s and %s in %.1f s",
            plural(len(cluster.live.node_names()), "node"),
            plural(len(cluster.live.pods), "running pod"),
            self.figures.synced_s,
        )


def _lease(client: KubeClient, config: ExtenderConfig, identity: str) -> LeaseHolder | None:
    if not config.lease_name:
        return None
    return LeaseHolder(
        client, config.lease_namespace, config.lease_name, identity, seconds=config.lease_s
    )
