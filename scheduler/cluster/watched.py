"""A watched kind of object: how its objects are applied, and which of them have been.

The version of every object that was applied is remembered. What the API has in another version, or
we in none, is what an audit asks about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from scheduler.cluster.api.reflector import Reflector
from scheduler.kube.salvage import InPart

__all__ = ["Kind"]


@dataclass
class Kind:
    """One kind. Its methods are called with the service's lock held.

    Parameters
    ----------
    label
        Plural name, in logs and metrics.
    path
        Where all objects of the kind are listed.
    decoder
        Of one object.
    selector
        Field selector of those that are followed.
    apply, remove_named
        An object exists and looks like this; the one of this identity does not exist.
    identity
        By which an object is known.
    known, where
        Every identity that is known; namespace and name of one.
    right
        Whether an object is known, and charged as it asks for.
    ended
        Whether an object is none that is followed any more.
    unread
        What to do with an object of which only a part could be read.
    complete, untold
        All objects of the kind have been applied; nobody can tell any more which exist.
    optional
        Whether everything but what is told by this kind goes on without it.
    reflector
        What watches it.

    Attributes
    ----------
    versions : dict of str to str
        ``resourceVersion`` that was applied, by identity.
    unreadable : dict of str to str
        Keys of objects that could be read in part only, by identity.
    missing : dict of str to str
        What could not be read of these.
    unlisted : set of str
        Known objects that the list under way has not named yet.
    listed : bool
        Whether a whole list has been applied.
    """

    label: str
    path: str
    decoder: msgspec.json.Decoder[Any]
    selector: str
    apply: Callable[[Any], None]
    remove_named: Callable[[str], None]
    identity: Callable[[Any], str]
    known: Callable[[], Sequence[str]]
    where: Callable[[str], tuple[str, str]]
    right: Callable[[Any], bool]
    ended: Callable[[Any], bool]
    unread: Callable[[InPart[Any]], None]
    complete: Callable[[], None]
    untold: Callable[[], None]
    optional: bool
    reflector: Reflector[Any]
    versions: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unlisted: set[str] = field(default_factory=set)
    listed: bool = False

    def exists(self, obj: Any) -> None:  # noqa: ANN401 - of this kind
        """An object exists; whatever goes wrong, its version does not count as applied."""
        identity = self.identity(obj)
        self.versions.pop(identity, None)
        self.unreadable.pop(identity, None)
        self.missing.pop(identity, None)
        self.apply(obj)
        self.versions[identity] = obj.metadata.resource_version

    def exists_in_part(self, part: InPart[Any]) -> None:
        """An object exists of which this could be read."""
        identity, metadata = self.identity(part.obj), part.obj.metadata
        self.versions.pop(identity, None)
        self.unreadable[identity] = f"{metadata.namespace}/{metadata.name}".lstrip("/")
        self.missing[identity] = ", ".join(part.missing)
        self.unread(part)

    def gone(self, identity: str) -> None:
        """The object does not exist any more, or is none that is followed."""
        self.versions.pop(identity, None)
        self.unreadable.pop(identity, None)
        self.missing.pop(identity, None)
        self.remove_named(identity)

    def whole(self) -> None:
        """A whole list has been applied."""
        self.listed, self.unlisted = True, set()
        self.complete()

    def unknown(self) -> None:
        """Nobody can tell which objects exist: none is known any more."""
        for identity in list(self.known()):
            self.gone(identity)
        self.listed, self.unlisted = False, set()
        self.untold()

    def differs(self, identity: str, obj: Any | None) -> bool:  # noqa: ANN401 - of this kind
        """Whether what the API has is not what is known; None if it has none."""
        if obj is None:
            return identity in self.known()
        return self.versions.get(identity) != obj.metadata.resource_version or not self.right(obj)

    def path_in(self, namespace: str) -> str:
        """Where the objects of one namespace are listed."""
        if not namespace:
            return self.path
        above, _, plural = self.path.rpartition("/")
        return f"{above}/namespaces/{namespace}/{plural}"
