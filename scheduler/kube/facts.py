"""Objects -> what is observed: nodes and running pods, and which devices the pods have.

- A pod is charged what its ``resources`` ask for, whatever else is written on it. A record says
  which devices these are (:mod:`scheduler.kube.sharing.records`). Where none is believed, its
  devices cannot be named.
- Records are taken by standing, then by age: nobody's device can be claimed by a record of less
  standing. A record that is not protected and whose devices others have is not believed.
- Where it cannot be told which devices are free, none of the node's is handed out.

Pure: an engine is neither known nor needed. Beside a live cluster :mod:`scheduler.cluster.charges`
applies the same rules pod by pod; a file is understood at once, by :func:`understood`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.core.errors import InvalidInput
from scheduler.core.model import DeviceShare, GpuKind, GpuRequest, Node
from scheduler.core.occupancy import occupied
from scheduler.core.state import ClusterState
from scheduler.kube.nodes import described_node, without_devices
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.kube.observed import ObservedNode, ObservedPod, shared_labels, withheld
from scheduler.kube.pod_requests import Charge
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.claims import indices_of
from scheduler.kube.sharing.foreign import foreign_share
from scheduler.kube.sharing.records import Reading, Standing, read, standing
from scheduler.kube.sharing.table import ambiguity, protocol_of, record_of, registered

__all__ = [
    "DEVICES_TAKEN",
    "Understood",
    "Use",
    "judged",
    "observed_node",
    "observed_pod",
    "rank",
    "reading_of",
    "understood",
    "use_of",
    "why_uncertain",
]


def observed_node(obj: NodeObject, names: ResourceNames) -> ObservedNode:
    """The node; one whose devices cannot be understood has none, and a problem."""
    try:
        foreign = registered(obj, names)
        node = described_node(obj, names, foreign)
    except InvalidInput as error:
        return ObservedNode(without_devices(obj, names), problem=str(error))
    return ObservedNode(node, indices_of(foreign[0]) if foreign is not None else {})


def observed_pod(obj: PodObject, charge: Charge, names: ResourceNames) -> ObservedPod:
    """A pod that has a node, charged this."""
    gpu = charge.request.gpu
    return ObservedPod(
        charge.request,
        obj.spec.node_name or "",
        shared_labels(obj.metadata.labels or {}),
        obj.metadata.creation_timestamp or "",
        record_of(obj, gpu, names),
        charge.parts,
        charge.slots,
        charge.problem,
    )


# -- records -----------------------------------------------------------------------------------


def judged(pod: ObservedPod, protected_since: float | None) -> tuple[Standing, str]:
    """How far the pod's record is to be believed, and why not; without one, not at all."""
    if pod.record is None:
        return Standing.VOID, ""
    return standing(pod.record, pod.request.uid, pod.created, protected_since)


def rank(pod: ObservedPod, protected_since: float | None) -> tuple[int, str, str]:
    """Order in which pods are charged, the lowest first: records by standing, then by age."""
    return judged(pod, protected_since)[0].value, pod.created, pod.request.uid


def reading_of(pod: ObservedPod, node: ObservedNode, protected_since: float | None) -> Reading:
    """What the pod's record says on this node; nothing where there is none, or it is void."""
    record = pod.record
    if record is None:
        return Reading(None)
    trusted, why = judged(pod, protected_since)
    if trusted is Standing.VOID:
        return Reading(None, record.problem or why)
    return read(record, pod.request.gpu, pod.slots, node.node, node.indices)


DEVICES_TAKEN = Reading(None, "other pods have the devices that its record names")
"""What remains of a record whose devices others have."""


# -- charges -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Use:
    """What a pod takes of the devices of its node.

    Parameters
    ----------
    devices
        These; None where they have to be chosen.
    parts
        What they have to be chosen for where the request does not say it.
    system
        A sharing system by which it has them, and whose records are not read.
    protocol
        By which it has them, if it has any.
    """

    devices: tuple[DeviceShare, ...] | None
    parts: tuple[GpuRequest, ...] = ()
    system: str = ""
    protocol: str = ""


_NOTHING = Use(())


def use_of(pod: ObservedPod, node: ObservedNode, reading: Reading, names: ResourceNames) -> Use:
    """What the pod takes of this node's devices, its record being read like this."""
    request, model = pod.request, node.node
    gpu = request.gpu
    if gpu.kind is GpuKind.NONE and not request.counted and not pod.parts:
        return _NOTHING
    ours = model.resources | {""}
    asked = {gpu.resource, *(part.resource for part in gpu.also)}
    system, foreign = foreign_share(request, model)
    parts = tuple(part for part in pod.parts if part.resource in ours) or foreign
    devices = reading.shares
    if not asked & ours or (pod.parts and not parts):
        devices = ()  # the node has no such devices, and the kubelet gives it none
    elif node.indices and gpu.resource and pod.slots and model.devices:
        parts = tuple(slot.request(model.devices[0].memory_mib) for slot in pod.slots)
    record = pod.record
    by_record = reading.shares is not None or record is None or record.protocol == "KAI"
    protocol = protocol_of(gpu, names, record if by_record else None)
    return Use(devices, parts, system, system or protocol)


def why_uncertain(
    pod: ObservedPod,
    node: Node,
    trusted: Standing,
    reading: Reading,
    use: Use,
    devices: tuple[DeviceShare, ...],
) -> str:
    """Why nobody knows which devices are free beside the pod; empty if that is known.

    Parameters
    ----------
    pod, node
        The pod and where it is.
    trusted, reading, use
        What has been made of its record.
    devices
        What it is charged.
    """
    if not node.devices:
        return ""
    if use.system and not devices:
        return f"{use.system} shares devices, and its records are not read"
    if reading.vanished and trusted is Standing.PROTECTED:
        return reading.problem
    return "what it asks for cannot be read" if pod.unread else ""


# -- a whole file ------------------------------------------------------------------------------


@dataclass(slots=True)
class Understood:
    """Nodes and pods of a file, understood together.

    Attributes
    ----------
    nodes : dict of str to Node
        By name; where :attr:`uncertain` says so, without devices to hand out.
    devices : dict of str to tuple of DeviceShare
        By uid of the pod.
    problems : dict of str to str
        Why the record of a pod is not believed, by uid.
    uncertain : set of str
        Nodes where nobody knows which devices are free.
    ambiguous : dict of str to str
        Nodes whose pods share devices by several protocols, or in a way that is not read.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    devices: dict[str, tuple[DeviceShare, ...]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    uncertain: set[str] = field(default_factory=set)
    ambiguous: dict[str, str] = field(default_factory=dict)


def understood(
    nodes: Iterable[ObservedNode], pods: Iterable[ObservedPod], names: ResourceNames
) -> Understood:
    """Which devices the pods of these nodes have.

    Nothing protects the records of a file. Where none is believed, the devices are the tightest
    ones that have room.

    Parameters
    ----------
    nodes
        Of different names.
    pods
        All that run on them; others are left out.
    names
        Resource names and labels.
    """
    found = Understood()
    by_name = {node.node.name: node for node in nodes}
    on: dict[str, list[ObservedPod]] = {name: [] for name in by_name}
    for pod in pods:
        if pod.node in on:
            on[pod.node].append(pod)
    for name, node in by_name.items():
        _understand(node, on[name], names, found)
    return found


def _understand(
    node: ObservedNode, pods: list[ObservedPod], names: ResourceNames, found: Understood
) -> None:
    state, protocols = ClusterState([node.node]), Counter[str]()
    for pod in sorted(pods, key=lambda pod: rank(pod, None)):
        trusted, reading = judged(pod, None)[0], reading_of(pod, node, None)
        if reading.shares is not None and not state.room_for(0, reading.shares):
            reading = DEVICES_TAKEN
        use = use_of(pod, node, reading, names)
        placement = occupied(state, pod.request, pod.node, use.devices, use.parts)
        state.apply([placement], enforce=False)
        if placement.devices and use.protocol:
            protocols[use.protocol] += 1
        if why_uncertain(pod, node.node, trusted, reading, use, placement.devices):
            found.uncertain.add(pod.node)
        found.devices[pod.request.uid] = placement.devices
        if reading.problem and not pod.problem:
            found.problems[pod.request.uid] = reading.problem
    name = node.node.name
    found.nodes[name] = withheld(node.node) if name in found.uncertain else node.node
    if why := ambiguity(protocols):
        found.ambiguous[name] = why
