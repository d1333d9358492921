"""Where the volumes of a pod let it go: claims, volumes and classes of a file or a live cluster.

As kube-scheduler's VolumeBinding, VolumeZone and VolumeRestrictions decide it. A claim that is
bound ties the pod to where its volume can be had; one that waits for its first consumer to where
its class may make one; any other keeps the pod waiting, as does one that does not exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from scheduler.core.model import Requirement, SelectorTerm
from scheduler.kube.objects import Expression, Metadata, Struct
from scheduler.kube.peers import RuledPod, claims_of
from scheduler.kube.selectors import requirements

__all__ = ["STORAGE_DECODERS", "Alternatives", "Reach", "Storage", "key_of"]

Alternatives = tuple[SelectorTerm, ...]
"""Node selector terms of which any may match."""

_BOUND = "pv.kubernetes.io/bind-completed"
_CHOSEN = "volume.kubernetes.io/selected-node"
_OLD_CLASS = "volume.beta.kubernetes.io/storage-class"
_NO_PROVISIONER = "kubernetes.io/no-provisioner"
_ONE_POD = "ReadWriteOncePod"
_ZONES = {
    "topology.kubernetes.io/zone": "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region": "failure-domain.beta.kubernetes.io/region",
}
_NO_ZONES = SelectorTerm(
    tuple(Requirement(key, "DoesNotExist") for pair in _ZONES.items() for key in pair)
)


class _Phase(Struct):
    phase: str | None = None


class _ClaimSpec(Struct):
    volume_name: str | None = None
    storage_class_name: str | None = None
    access_modes: list[str] | None = None


class _Claim(Struct):
    metadata: Metadata
    spec: _ClaimSpec = msgspec.field(default_factory=_ClaimSpec)
    status: _Phase | None = None


class _Term(Struct):
    match_expressions: list[Expression] | None = None
    match_fields: list[Expression] | None = None


class _Selector(Struct):
    node_selector_terms: list[_Term] | None = None


class _NodeAffinity(Struct):
    required: _Selector | None = None


class _Driver(Struct):
    driver: str = ""


class _VolumeSpec(Struct):
    node_affinity: _NodeAffinity | None = None
    csi: _Driver | None = None


class _Volume(Struct):
    metadata: Metadata
    spec: _VolumeSpec = msgspec.field(default_factory=_VolumeSpec)


class _LabelValues(Struct):
    key: str = ""
    values: list[str] | None = None


class _Topology(Struct):
    match_label_expressions: list[_LabelValues] | None = None


class _Class(Struct):
    metadata: Metadata
    provisioner: str = ""
    volume_binding_mode: str | None = None
    allowed_topologies: list[_Topology] | None = None


class _Count(Struct):
    count: int | None = None


class _NodeDriver(Struct):
    allocatable: _Count | None = None


class _NodeDrivers(Struct):
    drivers: list[_NodeDriver] | None = None


class _StorageNode(Struct):
    metadata: Metadata
    spec: _NodeDrivers = msgspec.field(default_factory=_NodeDrivers)


STORAGE_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "PersistentVolumeClaim": msgspec.json.Decoder(_Claim),
    "PersistentVolume": msgspec.json.Decoder(_Volume),
    "StorageClass": msgspec.json.Decoder(_Class),
    "CSINode": msgspec.json.Decoder(_StorageNode),
}
"""Of the kinds that :class:`Storage` keeps."""


@dataclass(frozen=True, slots=True)
class _ClaimFact:
    """What counts of a claim: many are kept as long as a cluster is followed."""

    volume: str
    storage_class: str
    one_pod: bool
    bound: bool
    lost: bool
    going: bool
    chosen: str | None


@dataclass(frozen=True, slots=True)
class _VolumeFact:
    nodes: tuple[Alternatives, ...]
    by_driver: bool


@dataclass(frozen=True, slots=True)
class _ClassFact:
    waits: bool
    provisions: bool
    topologies: Alternatives


@dataclass(slots=True)
class Reach:
    """Where a pod's volumes let it go.

    Attributes
    ----------
    nodes
        Per volume, terms of which one must match the node.
    exclusive
        Keys of claims that one pod at a time may use.
    unmet
        Why the pod has to wait wherever it goes; empty if it has not.
    unknown
        What would have to be known; empty if all is.
    attaches
        Whether a driver has to attach or make a volume, and may be short of either.
    """

    nodes: list[Alternatives] = field(default_factory=list)
    exclusive: list[str] = field(default_factory=list)
    unmet: str = ""
    unknown: str = ""
    attaches: bool = False


class Storage:
    """Claims, volumes and classes.

    Attributes
    ----------
    listed : set of str
        Kinds of which all objects are known. Of the others nobody can tell what does not exist.
    """

    def __init__(self) -> None:
        self.listed: set[str] = set()
        self._claims: dict[str, _ClaimFact] = {}
        self._volumes: dict[str, _VolumeFact] = {}
        self._classes: dict[str, _ClassFact] = {}
        self._limits: dict[str, bool] = {}
        self._kept: dict[str, dict[str, Any]] = {
            "PersistentVolumeClaim": self._claims,
            "PersistentVolume": self._volumes,
            "StorageClass": self._classes,
            "CSINode": self._limits,
        }

    def add(self, kind: str, item: msgspec.Raw) -> bool:
        """Keep an object of a file, which lists its kind; False if the kind does not matter here.

        Raises
        ------
        msgspec.MsgspecError
            The object is not of the shape of its kind.
        """
        if kind not in STORAGE_DECODERS:
            return False
        self.put(kind, STORAGE_DECODERS[kind].decode(item))
        self.listed.add(kind)
        return True

    def put(self, kind: str, obj: Any) -> None:  # noqa: ANN401 - as the kind's decoder has made it
        """An object exists and looks like this."""
        make = _FACT_OF[kind]
        self._kept[kind][key_of(obj.metadata, kind)] = make(obj)

    def drop(self, kind: str, key: str) -> None:
        """An object does not exist; unknown ones are not an error."""
        self._kept[kind].pop(key, None)

    def keys(self, kind: str) -> Sequence[str]:
        """Keys of the objects of a kind, as :func:`key_of` makes them."""
        return list(self._kept[kind])

    def reach(self, pod: RuledPod) -> Reach:
        """Where the volumes of a pod let it go."""
        reach = Reach()
        for name in claims_of(pod):
            self._claimed(reach, f"{pod.namespace}/{name}")
        return reach

    def _claimed(self, reach: Reach, key: str) -> None:
        if "PersistentVolumeClaim" not in self.listed:
            reach.unknown = "volume claims, as no PersistentVolumeClaims are listed"
            return
        claim = self._claims.get(key)
        if claim is None:
            reach.unmet = f"claim {key} does not exist"
            return
        if claim.one_pod:
            reach.exclusive.append(key)
        if claim.going:
            reach.unmet = f"claim {key} is being deleted"
        elif claim.lost:
            reach.unmet = f"claim {key} has lost its volume"
        elif claim.volume and claim.bound:
            self._bound(reach, key, claim.volume)
        elif claim.volume:
            reach.unmet = f"claim {key} is not bound yet"
        else:
            self._unbound(reach, key, claim)

    def _bound(self, reach: Reach, key: str, name: str) -> None:
        if "PersistentVolume" not in self.listed:
            reach.unknown = "volumes of claims, as no PersistentVolumes are listed"
            return
        volume = self._volumes.get(name)
        if volume is None:
            reach.unmet = f"volume {name} of claim {key} does not exist"
            return
        # Drivers that state no limit on any node have none.
        limited = any(self._limits.values()) or not self._limits
        reach.attaches |= volume.by_driver and limited
        reach.nodes += volume.nodes

    def _unbound(self, reach: Reach, key: str, claim: _ClaimFact) -> None:
        name = claim.storage_class
        if name and "StorageClass" not in self.listed:
            reach.unknown = "claims that are not bound, as no StorageClasses are listed"
            return
        kind = self._classes.get(name)
        if kind is None or not kind.waits:
            reach.unmet = f"claim {key} is not bound yet"
        elif claim.chosen is not None:
            chosen = Requirement("metadata.name", "In", (claim.chosen,))
            reach.nodes.append((SelectorTerm(fields=(chosen,)),))
        elif not kind.provisions:
            reach.unknown = f"which volume of class {name} a claim is going to be bound to"
        else:
            reach.attaches = True
            if kind.topologies:
                reach.nodes.append(kind.topologies)


def key_of(metadata: Metadata, kind: str) -> str:
    """``namespace/name`` of a claim, the name of anything else."""
    if kind != "PersistentVolumeClaim":
        return metadata.name
    return f"{metadata.namespace or 'default'}/{metadata.name}"


def _claim_fact(claim: _Claim) -> _ClaimFact:
    annotations = claim.metadata.annotations or {}
    phase = claim.status.phase if claim.status else None
    return _ClaimFact(
        claim.spec.volume_name or "",
        annotations.get(_OLD_CLASS, claim.spec.storage_class_name or ""),
        _ONE_POD in (claim.spec.access_modes or ()),
        _BOUND in annotations or phase == "Bound",
        phase == "Lost",
        claim.metadata.deletion_timestamp is not None,
        annotations.get(_CHOSEN),
    )


def _volume_fact(volume: _Volume) -> _VolumeFact:
    affinity, zoned = volume.spec.node_affinity, _zoned(volume.metadata.labels or {})
    required = affinity.required if affinity is not None else None
    nodes = [] if required is None else [tuple(_terms(required))]
    if zoned:
        nodes.append(zoned)
    return _VolumeFact(_shared(tuple(nodes)), volume.spec.csi is not None)


@lru_cache(maxsize=4096)
def _shared(nodes: tuple[Alternatives, ...]) -> tuple[Alternatives, ...]:
    """The same object for volumes that can be had on the same nodes, as those of a zone can."""
    return nodes


def _class_fact(kind: _Class) -> _ClassFact:
    return _ClassFact(
        kind.volume_binding_mode == "WaitForFirstConsumer",
        kind.provisioner != _NO_PROVISIONER,
        tuple(map(_allowed, kind.allowed_topologies or ())),
    )


def _limited(node: _StorageNode) -> bool:
    """Whether any driver of a node states how many volumes it can attach there."""
    counts = [one.allocatable.count for one in node.spec.drivers or () if one.allocatable]
    return any(count is not None for count in counts)


_FACT_OF: dict[str, Callable[[Any], object]] = {
    "PersistentVolumeClaim": _claim_fact,
    "PersistentVolume": _volume_fact,
    "StorageClass": _class_fact,
    "CSINode": _limited,
}


def _allowed(topology: _Topology) -> SelectorTerm:
    return SelectorTerm(
        tuple(
            Requirement(rule.key, "In", tuple(rule.values or ()))
            for rule in topology.match_label_expressions or ()
        )
    )


def _terms(selector: _Selector) -> Iterator[SelectorTerm]:
    for term in selector.node_selector_terms or ():
        yield SelectorTerm(requirements(term.match_expressions), requirements(term.match_fields))


def _zoned(labels: dict[str, str]) -> Alternatives:
    """Terms for the zone labels of a volume; a node without any such label takes it, too.

    The old names of these labels stand for the new ones, on volumes and on nodes.
    """
    choices = []
    for key, old in _ZONES.items():
        value = labels.get(key, labels.get(old))
        if value is not None:
            values = tuple(value.split("__"))
            choices.append([Requirement(name, "In", values) for name in (key, old)])
    if not choices:
        return ()
    return (*(SelectorTerm(rules) for rules in itertools.product(*choices)), _NO_ZONES)
