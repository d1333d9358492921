"""A watched kind of object: what it means for the cluster, and which of its objects were applied.

The version of every object that was applied is remembered. What the API has in another version, or
we in none, is what an audit asks about.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar

import msgspec

from scheduler.cluster.api.client import KubeClient
from scheduler.cluster.api.reflector import Reflector, WatchTiming
from scheduler.cluster.inbox import Inbox, WatchSink
from scheduler.cluster.ledger import Cluster
from scheduler.kube.salvage import InPart

__all__ = ["Watched", "WatchedKind"]

T = TypeVar("T")


class WatchedKind(ABC, Generic[T]):
    """What objects of one kind mean for the cluster.

    Attributes
    ----------
    label
        Plural name, in logs and metrics.
    path
        Where all objects of the kind are listed.
    decoder
        Of one object.
    selector
        Field selector of those that are followed.
    optional
        Whether everything but what is told by this kind goes on without it.
    """

    label: str
    path: str
    decoder: msgspec.json.Decoder[T]
    selector: str = ""
    optional: bool = False

    @abstractmethod
    def identity(self, obj: T) -> str:
        """By which an object is known."""

    @abstractmethod
    def apply(self, cluster: Cluster, obj: T) -> None:
        """An object exists and looks like this."""

    @abstractmethod
    def remove(self, cluster: Cluster, identity: str) -> None:
        """The object of this identity does not exist."""

    @abstractmethod
    def known(self, cluster: Cluster) -> Collection[str]:
        """Every identity that is known."""

    def where(self, cluster: Cluster, identity: str) -> tuple[str, str]:  # noqa: ARG002 - of others
        """Namespace and name of a known object; here the identity says both."""
        namespace, _, name = identity.rpartition("/")
        return namespace, name

    def is_right(self, cluster: Cluster, obj: T) -> bool:
        """Whether an object is known, and charged as it asks for."""
        return self.identity(obj) in self.known(cluster)

    def has_ended(self, obj: T) -> bool:  # noqa: ARG002 - of others
        """Whether an object is not followed any more."""
        return False

    def apply_part(self, cluster: Cluster, part: InPart[T]) -> None:
        """An object exists of which only a part could be read."""

    def whole(self, cluster: Cluster) -> None:
        """All objects of the kind have been applied."""

    def unlistable(self, cluster: Cluster) -> None:
        """Nobody can tell any more which objects exist."""


class Watched:
    """One kind, what watches it, and what has been applied of it.

    Its methods are called with the cluster's lock held.

    Parameters
    ----------
    kind
        What the objects mean.
    client
        The API.
    inbox
        Where what is heard of them goes.
    read_s
        How long a watch may be silent.
    unreadable
        Called with label and error text of an object that cannot be read.

    Attributes
    ----------
    reflector : Reflector
        What watches the kind.
    unreadable : dict of str to str
        Keys of objects that could be read in part only, by identity.
    missing : dict of str to str
        What could not be read of these.
    unlisted : set of str
        Known objects that the list under way has not named yet.
    listed : bool
        Whether a whole list has been applied.
    """

    def __init__(
        self,
        kind: WatchedKind[Any],
        client: KubeClient,
        inbox: Inbox,
        *,
        read_s: float,
        unreadable: Callable[[str, str], None],
    ) -> None:
        self.kind, self.label = kind, kind.label
        self.reflector: Reflector[Any] = Reflector(
            client,
            kind.path,
            kind.decoder,
            WatchSink(self, inbox),
            label=kind.label,
            selector=kind.selector,
            timing=WatchTiming(read_s=read_s),
            optional=kind.optional,
            unreadable=lambda text: unreadable(kind.label, text),
        )
        self.unreadable: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.unlisted: set[str] = set()
        self.listed = False
        self._versions: dict[str, str] = {}

    def exists(self, cluster: Cluster, obj: Any) -> None:  # noqa: ANN401 - of this kind
        """An object exists; whatever goes wrong, its version does not count as applied."""
        identity = self.kind.identity(obj)
        self._forget(identity)
        self.kind.apply(cluster, obj)
        self._versions[identity] = obj.metadata.resource_version

    def exists_in_part(self, cluster: Cluster, part: InPart[Any]) -> None:
        """An object exists of which this could be read."""
        identity, metadata = self.kind.identity(part.obj), part.obj.metadata
        self._forget(identity)
        self.unreadable[identity] = f"{metadata.namespace}/{metadata.name}".lstrip("/")
        self.missing[identity] = ", ".join(part.missing)
        self.kind.apply_part(cluster, part)

    def gone(self, cluster: Cluster, identity: str) -> None:
        """The object does not exist any more, or is not followed."""
        self._forget(identity)
        self.kind.remove(cluster, identity)

    def whole(self, cluster: Cluster) -> None:
        """A whole list has been applied."""
        self.listed, self.unlisted = True, set()
        self.kind.whole(cluster)

    def unlistable(self, cluster: Cluster) -> None:
        """Nobody can tell which objects exist: none is known any more."""
        for identity in list(self.kind.known(cluster)):
            self.gone(cluster, identity)
        self.listed, self.unlisted = False, set()
        self.kind.unlistable(cluster)

    def differs(self, cluster: Cluster, identity: str, obj: Any | None) -> bool:  # noqa: ANN401 - of this kind
        """Whether what the API has is not what is known; None if it has none."""
        if obj is None:
            return identity in self.kind.known(cluster)
        version = obj.metadata.resource_version
        return self._versions.get(identity) != version or not self.kind.is_right(cluster, obj)

    def path_in(self, namespace: str) -> str:
        """Where the objects of one namespace are listed."""
        if not namespace:
            return self.kind.path
        above, _, plural = self.kind.path.rpartition("/")
        return f"{above}/namespaces/{namespace}/{plural}"

    def _forget(self, identity: str) -> None:
        self._versions.pop(identity, None)
        self.unreadable.pop(identity, None)
        self.missing.pop(identity, None)
