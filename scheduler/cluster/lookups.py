"""What is read from time to time instead of being watched, as it hardly ever changes."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod

from scheduler.cluster.api.client import KubeClient
from scheduler.cluster.api.device_classes import read_mapped
from scheduler.cluster.api.record_policy import read_policy
from scheduler.cluster.ledger import Ledger
from scheduler.core.errors import KubeApiError
from scheduler.kube.sharing.record_policy import guarded_since

__all__ = ["DeviceClasses", "Lookup", "RecordPolicy"]

log = logging.getLogger(__name__)


class Lookup(ABC):
    """Something to be read from the API.

    Parameters
    ----------
    ledger
        Learns it.
    client
        The API.
    """

    unknown: str
    """What is not known while the API does not answer."""

    def __init__(self, ledger: Ledger, client: KubeClient) -> None:
        self._ledger, self._client = ledger, client
        self._refused = ""

    @abstractmethod
    def read(self) -> None:
        """Learn it; :class:`KubeApiError` if the API does not say now."""

    def look(self) -> None:
        """Learn it anew, as it may have changed; what was known stays if the API does not say."""
        try:
            self.read()
        except KubeApiError as error:
            log.warning("%s is not known: %s", self.unknown, error)

    def _refusal(self, error: KubeApiError, text: str) -> None:
        """The API has refused for good: what follows from that is logged once per reason."""
        if error.passing:
            raise error
        if self._refused != str(error):
            log.warning("%s: %s", text, error)
        self._refused = str(error)


class RecordPolicy(Lookup):
    """Since when an admission policy guards records of devices."""

    unknown = "whether records are still guarded"

    def read(self) -> None:
        """Learn since when, or that none does."""
        name = self._ledger.config.record_policy
        if not name:
            return
        since = None
        try:
            since = guarded_since(*read_policy(self._client, name), name)
        except KubeApiError as error:
            self._refusal(error, f"records count as unguarded, policy {name} cannot be read")
        with self._ledger.locked(chore=True) as cluster:
            cluster.live.charges.protect(since)


class DeviceClasses(Lookup):
    """Which resources DeviceClasses stand for."""

    unknown = "which resources are handed out by DRA"

    def read(self) -> None:
        """Learn which."""
        mapped = frozenset[str]()
        try:
            mapped = read_mapped(self._client)
        except KubeApiError as error:
            self._refusal(error, "nodes whose devices come by DRA are refused")
        with self._ledger.locked(chore=True) as cluster:
            nodes = cluster.live.charges.nodes
            if mapped != nodes.dra.mapped:
                before, nodes.dra.mapped = nodes.dra.nodes, mapped
                nodes.redescribe(sorted({*before, *nodes.dra.nodes}))
