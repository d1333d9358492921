"""What the objects of a file say, beside nodes and requests, about where its pods may go.

Rules between pods, host ports and volumes: read from pods, namespaces, claims, volumes and storage
classes, whichever of them the file lists. What cannot be told for lack of objects is named, and the
pods that it concerns are left alone.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import msgspec

from scheduler.core.model import PodRequest
from scheduler.core.omissions import NotConsidered
from scheduler.core.peers import Peer
from scheduler.kube.disruption import CRITICAL
from scheduler.kube.dra import DEVICES_OF_CLASS, IMPLICIT, mapped_resources, resources_of
from scheduler.kube.objects import Metadata
from scheduler.kube.peers import RuledPod, peer_of, ruled_pod_decoder
from scheduler.kube.rule_context import DRIVER_LIMITS, RuleContext
from scheduler.kube.salvage import read_in_part
from scheduler.kube.sharing.foreign import unread
from scheduler.kube.volumes import Alternatives

__all__ = ["Surroundings"]

_LEFT_ALONE = "pods that wait get no place, those that run keep theirs"


_RULES = (
    "metadata.namespace",
    "metadata.labels",
    "metadata.deletionTimestamp",
    "spec.affinity",
    "spec.topologySpreadConstraints",
    "spec.containers",
    "spec.initContainers",
    "spec.hostNetwork",
    "spec.volumes",
    "spec.preemptionPolicy",
    "spec.priorityClassName",
    "spec.resourceClaims",
)
"""Where a pod says where it may go beside whom."""


class _PriorityClass(msgspec.Struct, rename="camel"):
    metadata: Metadata
    value: int = 0
    preemption_policy: str | None = None


_class_decoder = msgspec.json.Decoder(_PriorityClass)
_BUILT_IN = (
    _PriorityClass(Metadata(name="system-cluster-critical"), CRITICAL),
    _PriorityClass(Metadata(name="system-node-critical"), CRITICAL + 1000),
)


class Surroundings:
    """Collects the objects of a file, then says of each pod what they mean for it.

    Attributes
    ----------
    unmet : dict of str to str
        Why pods have to wait wherever they go, by uid.
    patient : set of str
        Uids of pods for which nobody may be evicted (``preemptionPolicy: Never``).
    offered : set of str
        Resources that nodes offer.
    """

    def __init__(self) -> None:
        self._pods: dict[str, RuledPod] = {}
        self._peers: dict[str, Peer] | None = None
        self._context = RuleContext()
        self._classes = {built_in.metadata.name: built_in for built_in in _BUILT_IN}
        self._unsure: dict[str, list[PodRequest]] = defaultdict(list)
        self._unreadable: set[str] = set()
        self._alone: set[str] = set()
        self.unmet: dict[str, str] = {}
        self.patient: set[str] = set()
        self._attaching: list[PodRequest] = []
        self.offered: set[str] = set()
        self._mapped: set[str] = set()

    def add(self, kind: str, item: msgspec.Raw) -> bool:
        """Keep an object; False if it is of no kind that matters here."""
        if kind == "PriorityClass":
            made = _class_decoder.decode(item)
            self._classes[made.metadata.name] = made
            return True
        if kind == "DeviceClass":
            self._mapped |= mapped_resources(item)
            return True
        return self._context.add(kind, item)

    def add_pod(self, uid: str, item: msgspec.Raw) -> None:
        """Keep the rules of a pod."""
        part = read_in_part(ruled_pod_decoder, item)
        if part is None or part.lacks(*_RULES):
            self._unreadable.add(uid)
        else:
            self._pods[uid] = part.obj

    def ruled(self, request: PodRequest) -> PodRequest:
        """The request with what is known about its rules; once all objects have been added."""
        uid = request.uid
        if uid in self._unreadable:
            self.leave(request, "affinity, spread, ports or volumes that cannot be read")
        pod = self._pods.get(uid)
        self._note_devices(request)
        if pod is None:
            return self._closed(request, ())
        if self._peers is None:
            self._peers = self._all_peers()
        request = self._ranked(request, pod)
        reading = self._context.reading(pod)
        for rule in reading.unknown:
            self.leave(request, rule)
        if reading.attaches:
            self._attaching.append(request)
        if reading.unmet:
            self.unmet[uid] = reading.unmet
        request = self._closed(request, reading.nodes)
        peer = self._peers.get(uid)
        return request if peer is None else replace(request, peer=peer)

    def leave(self, request: PodRequest, rule: str) -> None:
        """Leave a pod alone, as nobody takes this into account."""
        self._unsure[rule].append(request)
        self._alone.add(request.uid)

    def _closed(self, request: PodRequest, nodes: tuple[Alternatives, ...]) -> PodRequest:
        """With where its volumes are; nowhere if the pod is left alone."""
        if request.uid in self._alone:
            nodes = (*nodes, ())
        if not nodes:
            return request
        return replace(request, selection=replace(request.selection, volumes=nodes))

    def _ranked(self, request: PodRequest, pod: RuledPod) -> PodRequest:
        """With the priority of its class, where admission has not written it into the pod."""
        named = self._classes.get(pod.spec.priority_class_name or "")
        policy = pod.spec.preemption_policy or (named.preemption_policy if named else None)
        if policy == "Never":
            self.patient.add(request.uid)
        if named is None or pod.spec.priority is not None:
            return request
        return replace(request, priority=named.value)

    def _note_devices(self, request: PodRequest) -> None:
        """Devices that the pod has in a way that is not modelled."""
        system = unread(name for name, _ in request.counted if name in self.offered)
        if system:
            rule = f"devices shared by {system}, whose records are not read"
            self.leave(request, rule)
        asked = resources_of(request)
        if asked & self._mapped or any(name.startswith(IMPLICIT) for name in asked):
            self.leave(request, DEVICES_OF_CLASS)

    def _all_peers(self) -> dict[str, Peer]:
        """Every pod as rules see it; empty if nobody has any."""
        peers = {}
        for uid, pod in self._pods.items():
            exclusive = self._context.reading(pod).exclusive if pod.spec.volumes else ()
            peers[uid] = peer_of(pod, self._context.namespaces, exclusive)
        return peers if any(peer.ruled for peer in peers.values()) else {}

    def provisos(self) -> tuple[NotConsidered, ...]:
        """Rules that are not looked at, of pods that were asked about and may be placed."""
        if not self._attaching:
            return ()
        return (
            NotConsidered(
                DRIVER_LIMITS,
                tuple(request.key for request in self._attaching),
                "places are chosen as if there were none",
                frozenset(request.uid for request in self._attaching),
            ),
        )

    def omissions(self) -> tuple[NotConsidered, ...]:
        """What could not be told, of the pods that were asked about."""
        return tuple(
            NotConsidered(
                rule,
                tuple(request.key for request in requests),
                _LEFT_ALONE,
                frozenset(request.uid for request in requests),
            )
            for rule, requests in self._unsure.items()
        )
