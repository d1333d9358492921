"""Where the volumes of a pod let it go: claims, volumes and classes that a file lists.

As kube-scheduler's VolumeBinding, VolumeZone and VolumeRestrictions decide it. A claim that is
bound ties the pod to where its volume can be had; one that waits for its first consumer to where
its class may make one; any other keeps the pod waiting, as does one that does not exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from scheduler.core.model import Requirement, SelectorTerm
from scheduler.kube.objects import Expression, Metadata
from scheduler.kube.peers import RuledPod
from scheduler.kube.selectors import requirements

__all__ = ["Alternatives", "Reach", "Storage"]

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
_KINDS = ("PersistentVolumeClaim", "PersistentVolume", "StorageClass", "CSINode")


class _Struct(msgspec.Struct, rename="camel", kw_only=True):
    """Wire shape: camelCase keys, unknown keys skipped."""


class _Phase(_Struct):
    phase: str | None = None


class _ClaimSpec(_Struct):
    volume_name: str | None = None
    storage_class_name: str | None = None
    access_modes: list[str] | None = None


class _Claim(_Struct):
    metadata: Metadata
    spec: _ClaimSpec = msgspec.field(default_factory=_ClaimSpec)
    status: _Phase | None = None


class _Term(_Struct):
    match_expressions: list[Expression] | None = None
    match_fields: list[Expression] | None = None


class _Selector(_Struct):
    node_selector_terms: list[_Term] | None = None


class _NodeAffinity(_Struct):
    required: _Selector | None = None


class _Driver(_Struct):
    driver: str = ""


class _VolumeSpec(_Struct):
    node_affinity: _NodeAffinity | None = None
    csi: _Driver | None = None


class _Volume(_Struct):
    metadata: Metadata
    spec: _VolumeSpec = msgspec.field(default_factory=_VolumeSpec)


class _LabelValues(_Struct):
    key: str = ""
    values: list[str] | None = None


class _Topology(_Struct):
    match_label_expressions: list[_LabelValues] | None = None


class _Class(_Struct):
    metadata: Metadata
    provisioner: str = ""
    volume_binding_mode: str | None = None
    allowed_topologies: list[_Topology] | None = None


class _Count(_Struct):
    count: int | None = None


class _NodeDriver(_Struct):
    allocatable: _Count | None = None


class _NodeDrivers(_Struct):
    drivers: list[_NodeDriver] | None = None


class _StorageNode(_Struct):
    spec: _NodeDrivers = msgspec.field(default_factory=_NodeDrivers)


_claim_decoder = msgspec.json.Decoder(_Claim)
_volume_decoder = msgspec.json.Decoder(_Volume)
_class_decoder = msgspec.json.Decoder(_Class)
_node_decoder = msgspec.json.Decoder(_StorageNode)


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
    """Claims, volumes and classes."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str], _Claim] = {}
        self._volumes: dict[str, _Volume] = {}
        self._classes: dict[str, _Class] = {}
        self._limits: list[bool] = []

    def add(self, kind: str, item: msgspec.Raw) -> bool:
        """Keep an object; False if it is of no kind that matters here."""
        if kind not in _KINDS:
            return False
        if kind == "PersistentVolumeClaim":
            claim = _claim_decoder.decode(item)
            self._claims[claim.metadata.namespace or "default", claim.metadata.name] = claim
        elif kind == "PersistentVolume":
            volume = _volume_decoder.decode(item)
            self._volumes[volume.metadata.name] = volume
        elif kind == "CSINode":
            drivers = _node_decoder.decode(item).spec.drivers or ()
            counts = [one.allocatable.count for one in drivers if one.allocatable]
            self._limits.append(any(count is not None for count in counts))
        else:
            made = _class_decoder.decode(item)
            self._classes[made.metadata.name] = made
        return True

    def reach(self, pod: RuledPod) -> Reach:
        """Where the volumes of a pod let it go."""
        reach = Reach()
        for volume in pod.spec.volumes or ():
            if volume.persistent_volume_claim is not None:
                self._claimed(reach, pod.namespace, volume.persistent_volume_claim.claim_name)
            elif volume.ephemeral is not None:
                self._claimed(reach, pod.namespace, f"{pod.metadata.name}-{volume.name}")
        return reach

    def _claimed(self, reach: Reach, namespace: str, name: str) -> None:
        key = f"{namespace}/{name}"
        if not self._claims:
            reach.unknown = "volume claims, as no PersistentVolumeClaims are listed"
            return
        claim = self._claims.get((namespace, name))
        if claim is None:
            reach.unmet = f"claim {key} does not exist"
            return
        if _ONE_POD in (claim.spec.access_modes or ()):
            reach.exclusive.append(key)
        phase = claim.status.phase if claim.status else None
        annotations = claim.metadata.annotations or {}
        if claim.metadata.deletion_timestamp is not None:
            reach.unmet = f"claim {key} is being deleted"
        elif phase == "Lost":
            reach.unmet = f"claim {key} has lost its volume"
        elif claim.spec.volume_name and (_BOUND in annotations or phase == "Bound"):
            self._bound(reach, key, claim.spec.volume_name)
        elif claim.spec.volume_name:
            reach.unmet = f"claim {key} is not bound yet"
        else:
            self._unbound(reach, key, claim)

    def _bound(self, reach: Reach, key: str, name: str) -> None:
        if not self._volumes:
            reach.unknown = "volumes of claims, as no PersistentVolumes are listed"
            return
        volume = self._volumes.get(name)
        if volume is None:
            reach.unmet = f"volume {name} of claim {key} does not exist"
            return
        # Drivers that state no limit on any node have none.
        limited = any(self._limits) or not self._limits
        reach.attaches |= volume.spec.csi is not None and limited
        affinity = volume.spec.node_affinity
        if affinity is not None and affinity.required is not None:
            reach.nodes.append(tuple(_terms(affinity.required)))
        zoned = _zoned(volume.metadata.labels or {})
        if zoned:
            reach.nodes.append(zoned)

    def _unbound(self, reach: Reach, key: str, claim: _Claim) -> None:
        annotations = claim.metadata.annotations or {}
        name = annotations.get(_OLD_CLASS, claim.spec.storage_class_name or "")
        if name and not self._classes:
            reach.unknown = "claims that are not bound, as no StorageClasses are listed"
            return
        kind = self._classes.get(name)
        if kind is None or kind.volume_binding_mode != "WaitForFirstConsumer":
            reach.unmet = f"claim {key} is not bound yet"
        elif _CHOSEN in annotations:
            chosen = Requirement("metadata.name", "In", (annotations[_CHOSEN],))
            reach.nodes.append((SelectorTerm(fields=(chosen,)),))
        elif kind.provisioner == _NO_PROVISIONER:
            reach.unknown = f"which volume of class {name} a claim is going to be bound to"
        else:
            reach.attaches = True
            if kind.allowed_topologies:
                reach.nodes.append(tuple(map(_allowed, kind.allowed_topologies)))


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
