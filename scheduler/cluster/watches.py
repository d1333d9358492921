"""All watches of a cluster: found out what is served, started, looked at, cut, ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from scheduler.cluster.api.client import KubeClient
from scheduler.cluster.api.discovery import find
from scheduler.cluster.housekeeping import RepeatLimit
from scheduler.cluster.inbox import Inbox
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.watched import Watched, WatchedKind
from scheduler.cluster.watched_kinds import Budgets, GangObjects, Nodes, Pods, RuleObjects
from scheduler.core.errors import KubeApiError
from scheduler.kube.rule_context import CONTEXT_PATHS

__all__ = ["Watches"]

log = logging.getLogger(__name__)

_LONGEST_TEXT = 300


class Watches:
    """The kinds watched by now, by label.

    Parameters
    ----------
    ledger
        Of the cluster; its settings say which gangs to watch.
    client
        The API.
    inbox
        Where what is heard goes.
    reported
        What has been logged lately.
    """

    def __init__(
        self, ledger: Ledger, client: KubeClient, inbox: Inbox, reported: RepeatLimit
    ) -> None:
        self._ledger, self._client, self._inbox, self._reported = ledger, client, inbox, reported
        self._started = time.monotonic()
        self._by_label: dict[str, Watched] = {}

    def __iter__(self) -> Iterator[Watched]:
        return iter(self._by_label.values())

    def get(self, label: str) -> Watched | None:
        """A kind, if it is watched."""
        return self._by_label.get(label)

    # -- beginning and end -------------------------------------------------------------------

    def find(self) -> None:
        """Find out what is served; :class:`KubeApiError` if the API does not say now."""
        kinds: list[WatchedKind[Any]] = [
            Nodes(),
            Pods(self._ledger.names),
            Budgets(),
            *(RuleObjects(kind) for kind in CONTEXT_PATHS),
        ]
        for name in self._gang_names():
            served = find(self._client, name)
            if served is None:
                log.info("%s is not served here: gangs of that kind have no stated size", name)
            else:
                kinds.append(GangObjects(name, served))
        self._by_label = {kind.label: self._watched(kind) for kind in kinds}

    def start(self) -> None:
        """Begin watching what has been found."""
        for watched in self:
            watched.reflector.start()

    def stop(self, *, wait: bool) -> None:
        """End every watch."""
        for watched in self:
            watched.reflector.stop(wait=wait)

    def look_for_gangs(self) -> None:
        """Watch the kinds of gangs that are served by now: their operator may come after us."""
        for name in self._gang_names():
            if name in self._by_label:
                continue
            try:
                served = find(self._client, name)
            except KubeApiError as error:
                log.warning("whether %s is served by now is not known: %s", name, error)
                return
            if served is not None:
                log.info("%s is served by now", name)
                watched = self._watched(GangObjects(name, served))
                # Other threads may be walking through the kinds.
                self._by_label = {**self._by_label, name: watched}
                watched.reflector.start()

    def interrupt(self) -> None:
        """Cut every watch, as a network failure would."""
        for watched in self:
            watched.reflector.interrupt()

    # -- what others want to know ------------------------------------------------------------

    @property
    def listed(self) -> bool:
        """Whether everything that existed at the start has been applied."""
        return all(watched.listed or watched.kind.optional for watched in self)

    def ages(self) -> dict[str, float]:
        """Seconds since each kind was last heard of; of optional ones those that are known."""
        now = time.monotonic()
        return {
            watched.label: now - (watched.reflector.figures.evidence_at or self._started)
            for watched in self
            if not watched.kind.optional or watched.listed
        }

    def restarts(self) -> dict[tuple[str, str], int]:
        """Watch failures by kind and cause."""
        return {
            (watched.label, cause): count
            for watched in self
            for cause, count in watched.reflector.figures.restarts.items()
        }

    # -- inside ------------------------------------------------------------------------------

    def _gang_names(self) -> list[str]:
        return [name for n in self._ledger.config.watch_groups.split(",") if (name := n.strip())]

    def _watched(self, kind: WatchedKind[Any]) -> Watched:
        return Watched(
            kind,
            self._client,
            self._inbox,
            read_s=self._ledger.config.watch_read_s,
            unreadable=self._unreadable,
        )

    def _unreadable(self, label: str, text: str) -> None:
        if self._reported.now((label, text)):
            log.warning("an object of %s cannot be read: %s", label, text[:_LONGEST_TEXT])
