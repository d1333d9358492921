"""A whole cluster as the API server lists it, in the form of ``kubectl get ... -A -o json``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from scheduler.cluster.api.client import KubeClient
from scheduler.cluster.api.discovery import Served, find_kind
from scheduler.cluster.api.paging import pages
from scheduler.core.errors import KubeApiError
from scheduler.kube.gang_membership import GANG_SOURCES

__all__ = ["Dump"]

_NEEDED = ("Node", "Pod")
_CORE = (*_NEEDED, "Namespace", "PersistentVolumeClaim", "PersistentVolume")
_GROUPED = (
    "PodDisruptionBudget.policy",
    "PriorityClass.scheduling.k8s.io",
    "StorageClass.storage.k8s.io",
    "CSINode.storage.k8s.io",
    "DeviceClass.resource.k8s.io",
    *dict.fromkeys(kind for source in GANG_SOURCES for kind in source.groups),
)


@dataclass
class Dump:
    """Lists of every kind that says something about where pods may go.

    Parameters
    ----------
    client
        The API, with the right to list nodes and pods.

    Attributes
    ----------
    refused : list of str
        Kinds that are served and may not be listed, or could not be; filled by :meth:`lists`.
    """

    client: KubeClient
    refused: list[str] = field(default_factory=list)

    def lists(self) -> Iterator[bytes]:
        """JSON documents, each the list of one kind or a page of it.

        Kinds that are not served here are left out: there is no such object.

        Raises
        ------
        KubeApiError
            Nodes or pods cannot be listed.
        """
        for name in (*_CORE, *_GROUPED):
            try:
                served = self._served(name)
                if served is not None:
                    yield from self._pages(served)
            except KubeApiError as error:
                if name in _NEEDED or error.status == 401:
                    raise
                self.refused.append(f"{name}: {error.message or error.status}")

    def _served(self, name: str) -> Served | None:
        if name in _CORE:
            return Served(f"/api/v1/{name.lower()}s", name, "v1")
        kind, _, group = name.partition(".")
        return find_kind(self.client, kind, group)

    def _pages(self, served: Served) -> Iterator[bytes]:
        for items in pages(self.client, served.path, {}):
            page = {
                "kind": f"{served.kind}List",
                "apiVersion": served.api_version,
                "items": items,
            }
            yield msgspec.json.encode(page)
