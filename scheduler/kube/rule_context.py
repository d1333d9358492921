"""What the rules of pods refer to: namespaces by their labels, claims, volumes and storage classes.

A file lists them once; a live cluster tells of them as they come and go. Either way the same code
says what they mean for a pod.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from scheduler.kube.objects import Metadata, Struct
from scheduler.kube.peers import RuledPod, uncertain_namespaces
from scheduler.kube.volumes import STORAGE_DECODERS, Alternatives, Reach, Storage

__all__ = [
    "CONTEXT_DECODERS",
    "CONTEXT_PATHS",
    "DRIVER_LIMITS",
    "NO_NAMESPACES",
    "RuleContext",
    "RuleReading",
]

DRIVER_LIMITS = "limits of storage drivers: volumes attached to a node, capacity left to provision"
"""A rule that nobody looks at; see :attr:`RuleReading.attaches`."""

NO_NAMESPACES = "namespaceSelector, as no Namespaces are listed"
_OVERLONG = "rules of one kind beyond the first 64 of a pod"
_BY_CLAIM = "ResourceClaims (DRA)"


class _Namespace(Struct):
    metadata: Metadata


CONTEXT_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "Namespace": msgspec.json.Decoder(_Namespace),
    **STORAGE_DECODERS,
}
"""Of the kinds that :class:`RuleContext` keeps."""

CONTEXT_PATHS = {
    "Namespace": "/api/v1/namespaces",
    "PersistentVolumeClaim": "/api/v1/persistentvolumeclaims",
    "PersistentVolume": "/api/v1/persistentvolumes",
    "StorageClass": "/apis/storage.k8s.io/v1/storageclasses",
}
"""Where a live cluster lists those that are followed."""


@dataclass(frozen=True, slots=True)
class RuleReading:
    """What a pod's own rules come to.

    Attributes
    ----------
    unknown
        Rules of which nobody can tell what they mean, in words.
    nodes
        Per volume, terms of which one must match the node.
    unmet
        Why the pod has to wait wherever it goes; empty if it has not.
    attaches
        Whether :data:`DRIVER_LIMITS` may matter.
    exclusive
        Keys of claims that one pod at a time may use.
    """

    unknown: tuple[str, ...] = ()
    nodes: tuple[Alternatives, ...] = ()
    unmet: str = ""
    attaches: bool = False
    exclusive: tuple[str, ...] = ()


class RuleContext:
    """Keeps these objects.

    Attributes
    ----------
    namespaces : dict of str to dict
        Labels of namespaces by name; empty where none are listed.
    storage : Storage
        Claims, volumes and classes.
    """

    def __init__(self) -> None:
        self.namespaces: dict[str, dict[str, str]] = {}
        self.storage = Storage()

    def add(self, kind: str, item: msgspec.Raw) -> bool:
        """Keep an object of a file; False if the kind does not matter here.

        Raises
        ------
        msgspec.MsgspecError
            The object is not of the shape of its kind.
        """
        if kind == "Namespace":
            self.put(kind, CONTEXT_DECODERS[kind].decode(item))
            return True
        return self.storage.add(kind, item)

    def put(self, kind: str, obj: Any) -> None:  # noqa: ANN401 - as the kind's decoder has made it
        """An object exists and looks like this."""
        if kind == "Namespace":
            self.namespaces[obj.metadata.name] = obj.metadata.labels or {}
        else:
            self.storage.put(kind, obj)

    def drop(self, kind: str, key: str) -> None:
        """An object does not exist; unknown ones are not an error."""
        if kind == "Namespace":
            self.namespaces.pop(key, None)
        else:
            self.storage.drop(kind, key)

    def keys(self, kind: str) -> Sequence[str]:
        """Keys of the objects of a kind, as :func:`.volumes.key_of` makes them."""
        return list(self.namespaces) if kind == "Namespace" else self.storage.keys(kind)

    def listed(self, kind: str) -> None:
        """All objects of a kind are known."""
        self.storage.listed.add(kind)

    def unlistable(self, kind: str) -> None:
        """Nobody can tell which objects of a kind exist; none is kept."""
        self.storage.listed.discard(kind)
        for key in self.keys(kind):
            self.drop(kind, key)

    def reading(self, pod: RuledPod) -> RuleReading:
        """What the rules of a pod come to, as far as they do not depend on where others are."""
        reach = self.storage.reach(pod) if pod.spec.volumes else Reach()
        unknown = {
            _BY_CLAIM: bool(pod.spec.resource_claims),
            _OVERLONG: pod.overlong,
            NO_NAMESPACES: uncertain_namespaces(pod, self.namespaces),
            reach.unknown: bool(reach.unknown),
        }
        return RuleReading(
            tuple(rule for rule, concerned in unknown.items() if concerned),
            tuple(reach.nodes) + (((),) if reach.unmet else ()),
            reach.unmet,
            reach.attaches,
            tuple(sorted(set(reach.exclusive))),
        )
