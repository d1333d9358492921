"""The thread that applies what the watches say, in small groups.

A storm of events costs few stays in the cluster, and a request waits for none of them long.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from scheduler.cluster.audit import Audit
from scheduler.cluster.housekeeping import RepeatLimit
from scheduler.cluster.inbox import (
    Exists,
    ExistsInPart,
    Gone,
    Inbox,
    ListBegins,
    ListEnds,
    Message,
    Page,
    Unlistable,
)
from scheduler.cluster.ledger import Cluster, Ledger
from scheduler.cluster.live_figures import LiveFigures
from scheduler.cluster.watched import Watched
from scheduler.kube.salvage import InPart

__all__ = ["Applier"]

log = logging.getLogger(__name__)

_LONGEST_TEXT = 300


class Applier:
    """Applies messages until it is stopped.

    Parameters
    ----------
    ledger
        Of a live cluster.
    inbox
        Where the messages come from.
    audit
        Reads objects again that could not be applied.
    figures
        Counts what happens.
    on_listed
        Called with the cluster once a whole list has been applied.
    stop
        Ends it.
    reported
        What has been logged lately.
    """

    def __init__(
        self,
        ledger: Ledger,
        inbox: Inbox,
        audit: Audit,
        figures: LiveFigures,
        *,
        on_listed: Callable[[Cluster], None],
        stop: threading.Event,
        reported: RepeatLimit,
    ) -> None:
        self._ledger, self._inbox, self._audit, self._figures = ledger, inbox, audit, figures
        self._on_listed, self._stop, self._reported = on_listed, stop, reported
        self.thread = threading.Thread(target=self._run, name="apply", daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            batch = self._inbox.batch()
            with self._ledger.locked(chore=True) as cluster:
                for message in batch:
                    try:
                        self.apply(cluster, message)
                    except Exception as error:  # noqa: BLE001 - this thread must outlive it
                        self._lost(message.watched, error)

    def apply(self, cluster: Cluster, message: Message) -> None:
        """One message; an object that cannot be applied stops no other."""
        watched = message.watched
        match message:
            case ListBegins():
                watched.unlisted = set(watched.kind.known(cluster))
            case Page(_, objects):
                for obj in objects:
                    watched.unlisted.discard(watched.kind.identity(obj))
                    self._exists(cluster, watched, obj)
            case ListEnds():
                for identity in sorted(watched.unlisted):
                    self._gone(cluster, watched, identity)
                watched.whole(cluster)
                self._on_listed(cluster)
            case Unlistable():
                watched.unlistable(cluster)
            case Exists(_, obj):
                self._exists(cluster, watched, obj)
            case ExistsInPart(_, part):
                self._exists_in_part(cluster, watched, part)
            case Gone(_, obj):
                self._gone(cluster, watched, watched.kind.identity(obj), obj)
        self._figures.events += 1

    def _lost(self, watched: Watched, error: Exception) -> None:
        """A message was not applied, and of which object is not known: all are listed again."""
        self._figures.faults += 1
        watched.reflector.relist()
        if self._reported.now((watched.label, type(error))):
            text = str(error)[:_LONGEST_TEXT]
            log.error(
                "a message about %s cannot be applied: %s", watched.label, text, exc_info=error
            )

    def _exists(self, cluster: Cluster, watched: Watched, obj: Any) -> None:  # noqa: ANN401 - of the kind
        """It is read again until it can be applied; see :mod:`.audit`."""
        identity = watched.kind.identity(obj)
        try:
            watched.exists(cluster, obj)
        except Exception as error:  # noqa: BLE001 - of this object alone
            where = obj.metadata.namespace, obj.metadata.name
            self._audit.failed(watched, identity, where, error)
        else:
            self._audit.settled(watched, identity)

    def _exists_in_part(self, cluster: Cluster, watched: Watched, part: InPart[Any]) -> None:
        metadata = part.obj.metadata
        if not metadata.name:
            watched.unlisted.clear()  # whichever it is, it does exist
            return
        identity, where = watched.kind.identity(part.obj), (metadata.namespace, metadata.name)
        watched.unlisted.discard(identity)
        try:
            watched.exists_in_part(cluster, part)
        except Exception as error:  # noqa: BLE001 - of this object alone
            self._audit.failed(watched, identity, where, error)
        else:
            self._audit.settled(watched, identity)
            self._audit.doubt(watched, identity, where)

    def _gone(self, cluster: Cluster, watched: Watched, identity: str, obj: Any = None) -> None:  # noqa: ANN401 - of the kind
        where = (obj.metadata.namespace, obj.metadata.name) if obj is not None else ("", "")
        try:
            watched.gone(cluster, identity)
        except Exception as error:  # noqa: BLE001 - tried again until it can be
            self._audit.failed(watched, identity, where, error)
        else:
            self._audit.settled(watched, identity)
