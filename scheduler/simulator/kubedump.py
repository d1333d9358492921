"""Reader and writer of ``kubectl get nodes,pods -A -o json``.

Pods that have ended are left out. A pod with a node runs there, whoever scheduled it; any other
arrives. Creation timestamps become arrival times, counted from the earliest one. Which devices the
running pods have is understood as beside a live cluster, by the same code.

One object that cannot be read stops no other: it is left out and named. A running pod is charged
what it asks for, whatever else of it contradicts itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from scheduler.core.adoption import Adoption
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.gangs import GangSpec, minimum_of
from scheduler.core.model import DeviceShare, GangKey, Node, PodRequest, Requirement
from scheduler.core.omissions import left_alone
from scheduler.core.reading import read_bytes
from scheduler.core.selection import NOT_READY
from scheduler.core.state import ClusterState
from scheduler.kube.disruption import (
    Budget,
    BudgetObject,
    budget_decoder,
    budgets_of,
    held_by_several,
    move_cost,
)
from scheduler.kube.groups import Groups
from scheduler.kube.mirror import Mirror
from scheduler.kube.names import ResourceNames
from scheduler.kube.nodes import node_of
from scheduler.kube.objects import (
    NodeObject,
    PodObject,
    mapping_decoder,
    node_decoder,
    object_list_decoder,
    pod_decoder,
)
from scheduler.kube.pods import Charge, charge_of, pod_uid, write_device_shares
from scheduler.kube.preferences import Preference, node_preferences
from scheduler.kube.protocols import record_of
from scheduler.kube.surroundings import Surroundings
from scheduler.kube.workloads import Stated, statements
from scheduler.simulator.workload import MOST_NODES, MOST_PODS, Arrival, BoundPod, Workload

__all__ = ["Dump", "node_json", "pod_json", "read", "read_dump", "write"]


class _Kind(msgspec.Struct):
    kind: str = ""


_kind_decoder = msgspec.json.Decoder(_Kind)
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump with what a planner needs beside nodes and pods.

    Attributes
    ----------
    workload
        Nodes, running pods, pending pods that are free to be scheduled.
    gated
        Pending pods that wait for a scheduling gate; nobody may place them yet.
    move_costs
        By uid, for the running pods that may be disturbed.
    budgets
        PodDisruptionBudgets.
    preferences
        Soft node affinity by uid, for the pending pods that state any.
    patient
        Uids of pods for which nobody may be evicted.
    unmet
        Why pods have to wait wherever they go, by uid.
    """

    workload: Workload
    gated: tuple[PodRequest, ...]
    move_costs: Mapping[str, int]
    budgets: tuple[Budget, ...]
    preferences: Mapping[str, tuple[Preference, ...]] = field(default_factory=dict)
    patient: frozenset[str] = frozenset()
    unmet: Mapping[str, str] = field(default_factory=dict)


def read(path: Path, names: ResourceNames | None = None) -> Workload:
    """Nodes and pods of a dump; gated pods arrive like others. Raises as :func:`read_dump`."""
    dump = read_dump(path, names)
    workload = _without(dump.workload, left_alone(dump.workload.not_considered))
    gated = tuple(Arrival(request) for request in dump.gated)
    return replace(workload, arrivals=workload.arrivals + gated) if gated else workload


def _without(workload: Workload, alone: Mapping[str, str]) -> Workload:
    """The workload without arrivals that are left alone; the remarks say why."""
    if not workload.not_considered:
        return workload
    arrivals = tuple(a for a in workload.arrivals if a.request.uid not in alone)
    said = tuple(f"not considered: {one.text}" for one in workload.not_considered)
    return replace(workload, arrivals=arrivals, remarks=workload.remarks + said)


def read_dump(path: Path, names: ResourceNames | None = None) -> Dump:
    """Read a dump of nodes and pods, and of podgroups, jobs and pdb where they are listed.

    Raises
    ------
    InvalidInput
        Names the file, the item and the field.
    """
    names = names or ResourceNames()
    found = _items(path, names)
    alive = [pod for pod in found.pods if not _gone(pod)]
    groups = Groups(count_members=True)
    groups.state(found.groups)
    for pod in found.pods:  # one that has succeeded needs no place any more
        groups.join(pod, pod_uid(pod))
    models, devices = _understood(found.nodes, alive, names)
    listed = _Listed({model.name for model in models})
    for pod in alive:
        where = f"pod {pod.metadata.namespace}/{pod.metadata.name}"
        try:
            charge = charge_of(pod, names, groups)
            request = found.surroundings.ruled(charge.request)
            listed.add(pod, replace(charge, request=request), devices)
            if charge.problem:
                found.left_out.append(f"{where}: {charge.problem}; it runs, and is charged for it")
        except InvalidInput as error:
            found.left_out.append(f"{where}: {error}")
            listed.uncertain.add(pod.spec.node_name or "")
    if found.left_out and not (listed.pods or models):
        raise InvalidInput(f"{path}: {found.left_out[0]}", "nothing else could be read")
    closed = tuple(
        replace(model, unschedulable=True) if model.name in listed.uncertain else model
        for model in models
    )
    around = found.surroundings
    workload = Workload(
        closed,
        listed.in_order(),
        tuple(listed.bound),
        path.name,
        groups.specs(),
        tuple(found.left_out),
        around.omissions(),
    )
    budgets = tuple(budgets_of(found.budgets, alive))
    several = held_by_several(found.budgets, alive)
    stay = {*several, *around.unmet, *left_alone(workload.not_considered)}
    costs = {uid: cost for uid, cost in listed.costs.items() if uid not in stay}
    return Dump(
        workload,
        tuple(listed.gated),
        costs,
        budgets,
        listed.preferences,
        frozenset(around.patient),
        around.unmet,
    )


def _gone(pod: PodObject) -> bool:
    """Whether a pod takes nothing and waits for nothing: it has ended, or is deleted unbound."""
    ended = pod.status is not None and pod.status.phase in _ENDED
    return ended or (pod.metadata.deletion_timestamp is not None and not pod.spec.node_name)


class _Listed:
    """Pods of a dump, each as what it is: running, gated or arriving."""

    def __init__(self, nodes: AbstractSet[str]) -> None:
        self._nodes = nodes
        self._arriving: list[tuple[float | None, PodRequest]] = []
        self._times: list[float | None] = []
        self.pods: set[str] = set()
        self.bound: list[BoundPod] = []
        self.gated: list[PodRequest] = []
        self.costs: dict[str, int] = {}
        self.preferences: dict[str, tuple[Preference, ...]] = {}
        self.uncertain: set[str] = set()

    def add(
        self,
        pod: PodObject,
        charge: Charge,
        devices: Mapping[str, tuple[DeviceShare, ...]],
    ) -> None:
        """One more pod; :class:`InvalidInput` if it cannot be, and then nothing is kept of it."""
        created, node, request = _created(pod), pod.spec.node_name, charge.request
        if charge.problem and not node:
            raise InvalidInput("spec", charge.problem)
        if request.uid in self.pods:
            raise InvalidInput("metadata.uid", f"{request.uid!r} is that of another pod too")
        if node:
            if node not in self._nodes:
                raise InvalidInput("spec.nodeName", f"{node!r} is not listed", "list that node too")
            cost = move_cost(pod)
            self.bound.append(BoundPod(request, node, devices.get(request.uid)))
            if cost is not None:
                self.costs[request.uid] = cost
        elif pod.spec.scheduling_gates:
            self.gated.append(request)
        else:
            wishes = node_preferences(pod)
            self._arriving.append((created, request))
            if wishes:
                self.preferences[request.uid] = wishes
        self.pods.add(request.uid)
        self._times.append(created)

    def in_order(self) -> tuple[Arrival, ...]:
        """Arriving pods by creation, counted from the earliest of all pods."""
        first = min((time for time in self._times if time is not None), default=0.0)
        arrivals = [
            Arrival(request, 0.0 if created is None else created - first)
            for created, request in self._arriving
        ]
        return tuple(sorted(arrivals, key=lambda arrival: arrival.at_s))


def _understood(
    nodes: list[tuple[NodeObject, Node]], pods: list[PodObject], names: ResourceNames
) -> tuple[tuple[Node, ...], dict[str, tuple[DeviceShare, ...]]]:
    """Nodes, and by uid the devices of pods on nodes where any pod has a record or several ways.

    Such nodes are understood by a mirror, as beside a live cluster.
    """
    running = [pod for pod in pods if pod.spec.node_name]
    shared = {pod.spec.node_name for pod in running if _recorded(pod, names)}
    engine = Engine(ClusterState())
    mirror = Mirror(engine, Adoption(engine, ttl_s=1.0), names)
    for obj, _ in nodes:
        if obj.metadata.name in shared:
            mirror.node(obj)
    for pod in running:
        if pod.spec.node_name in shared:
            mirror.pod(pod)
    effective = mirror.image().nodes
    devices = {uid: placed.devices for uid, placed in engine.state.placements.items()}
    return tuple(effective.get(model.name, model) for _, model in nodes), devices


def _recorded(pod: PodObject, names: ResourceNames) -> bool:
    """Whether more than its request decides which devices the pod has."""
    charge = charge_of(pod, names)
    return bool(charge.parts) or record_of(pod, charge.request.gpu, names) is not None


@dataclass(slots=True)
class _Items:
    """Nodes as they are and as we read them, and the rest, in order; what could not be read."""

    nodes: list[tuple[NodeObject, Node]] = field(default_factory=list)
    pods: list[PodObject] = field(default_factory=list)
    budgets: list[BudgetObject] = field(default_factory=list)
    groups: dict[GangKey, Stated] = field(default_factory=dict)
    surroundings: Surroundings = field(default_factory=Surroundings)
    left_out: list[str] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)

    def add(self, item: msgspec.Raw, names: ResourceNames) -> None:
        kind = _kind_decoder.decode(item).kind
        if kind == "Node":
            obj = node_decoder.decode(item)
            node = node_of(obj, names)
            if node.name in self._names:
                raise InvalidInput("metadata.name", f"{node.name!r} is that of another node too")
            self._names.add(node.name)
            self.nodes.append((obj, node))
        elif kind == "Pod":
            pod = pod_decoder.decode(item)
            self.pods.append(pod)
            self.surroundings.add_pod(pod_uid(pod), item)
        elif kind == "PodDisruptionBudget":
            self.budgets.append(budget_decoder.decode(item))
        elif not self.surroundings.add(kind, item):
            self.groups.update(_group(mapping_decoder.decode(item)))


def _group(content: dict[str, Any]) -> dict[GangKey, Stated]:
    """As :func:`statements`; an object of the kind but not of its shape is refused."""
    try:
        return statements(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(str(content.get("kind")), "is not of the shape of its kind") from error


def _items(path: Path, names: ResourceNames) -> _Items:
    try:
        listed = object_list_decoder.decode(read_bytes(path)).items
    except msgspec.DecodeError as error:
        raise InvalidInput(str(path), f"is no kubectl list: {error}") from error
    except RecursionError as error:
        raise InvalidInput(str(path), "is nested too deeply") from error
    if listed is None:
        raise InvalidInput(str(path), "is no kubectl list: it has no items", "see --help")
    if len(listed) > MOST_NODES + MOST_PODS:
        raise InvalidInput(f"{path}: items", f"are more than {MOST_NODES + MOST_PODS:,}")
    found = _Items()
    for index, item in enumerate(listed):
        try:
            found.add(item, names)
        except (InvalidInput, msgspec.DecodeError, RecursionError) as error:
            found.left_out.append(f"items[{index}]: {error}")
    return found


def _created(pod: PodObject) -> float | None:
    text = pod.metadata.creation_timestamp
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(
            "metadata.creationTimestamp", f"{text!r} is no time", "use RFC 3339"
        ) from error


def write(workload: Workload, path: Path, names: ResourceNames | None = None) -> None:
    """Write a workload as such a dump. Durations and arrival times have no place in it."""
    names = names or ResourceNames()
    items = [node_json(node, names) for node in workload.nodes]
    items += [pod_json(arrival.request, names, workload.gangs) for arrival in workload.arrivals]
    for bound in workload.bound:
        item = pod_json(bound.request, names, workload.gangs)
        item["spec"]["nodeName"] = bound.node
        item["status"] = {"phase": "Running"}
        if bound.devices is not None:
            item["metadata"].setdefault("annotations", {})[names.devices_annotation] = (
                write_device_shares(bound.devices)
            )
        items.append(item)
    content = {"apiVersion": "v1", "kind": "List", "items": items}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def node_json(node: Node, names: ResourceNames | None = None) -> dict[str, Any]:
    """A Node object that :func:`scheduler.kube.nodes.node_of` reads back as this node."""
    names = names or ResourceNames()
    labels = dict(node.labels)
    allocatable: dict[str, str] = {
        "cpu": f"{node.cpu_milli}m",
        "memory": str(node.memory_bytes),
        "pods": str(node.pods),
    } | {name: str(amount) for name, amount in node.counted.items()}
    capacity = dict(allocatable)
    if node.devices:
        device = node.devices[0]
        labels[names.product_labels[0]] = node.product
        if device.memory_mib:
            labels[names.memory_label] = str(device.memory_mib)
        _advertise(node, names, labels, allocatable, capacity)
    spec: dict[str, Any] = {}
    if node.taints:
        spec["taints"] = [{"key": t.key, "value": t.value, "effect": t.effect} for t in node.taints]
    if node.unschedulable:
        spec["unschedulable"] = True
    ready = all(taint.key != NOT_READY for taint in node.taints)
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": allocatable, "capacity": capacity, "conditions": [condition]},
    }


def _advertise(
    node: Node,
    names: ResourceNames,
    labels: dict[str, str],
    allocatable: dict[str, str],
    capacity: dict[str, str],
) -> None:
    device = node.devices[0]
    healthy = [d for d in node.devices if d.healthy]
    if device.mig:
        for profile, count in _instances(node).items():
            allocatable[names.mig_prefix + profile.replace("+me", ".me")] = str(count)
    elif device.replicas > 1:
        labels[names.replicas_label] = str(device.replicas)
        allocatable[names.shared] = str(len(node.devices) * device.replicas)
    else:
        allocatable[node.resource] = str(len(healthy))
        capacity[node.resource] = str(len(node.devices))


def _instances(node: Node) -> dict[str, int]:
    counts: dict[str, int] = {}
    for device in node.devices:
        if not device.mig_layout:
            raise InvalidInput(
                f"node[{node.name}]",
                "has MIG devices without fixed instances",
                "a node object cannot say that; use the snugfit/v1 format",
            )
        for profile, _ in device.mig_layout:
            counts[profile] = counts.get(profile, 0) + 1
    return counts


def _selection_json(request: PodRequest, names: ResourceNames) -> dict[str, Any]:
    """The part of a pod's spec that says which nodes it may go to."""
    selection, found = request.selection, dict[str, Any]()
    if selection.node_selector:
        found["nodeSelector"] = dict(selection.node_selector)
    if selection.tolerations:
        found["tolerations"] = [
            {"key": t.key, "operator": t.operator, "value": t.value, "effect": t.effect}
            for t in selection.tolerations
        ]
    terms = [
        {"matchExpressions": _rules_json(t.expressions), "matchFields": _rules_json(t.fields)}
        for t in selection.terms
    ]
    keys = {key for key, _ in selection.node_selector}
    keys.update(rule.key for term in selection.terms for rule in term.expressions)
    if request.gpu.products and keys.isdisjoint(names.product_labels):
        models = Requirement(names.product_labels[0], "In", request.gpu.products)
        terms = terms or [{"matchExpressions": []}]
        for term in terms:
            term["matchExpressions"] += _rules_json((models,))
    if terms:
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        found["affinity"] = {"nodeAffinity": required}
    return found


def _rules_json(rules: tuple[Requirement, ...]) -> list[dict[str, Any]]:
    return [{"key": r.key, "operator": r.operator, "values": list(r.values)} for r in rules]


def pod_json(
    request: PodRequest,
    names: ResourceNames | None = None,
    gangs: Mapping[GangKey, GangSpec] | None = None,
) -> dict[str, Any]:
    """A Pod object that asks for exactly this."""
    names = names or ResourceNames()
    gpu = request.gpu
    wants: dict[str, str] = {"cpu": f"{request.cpu_milli}m", "memory": str(request.memory_bytes)}
    if gpu.count:
        wants[gpu.resource or names.milli] = str(gpu.count if gpu.resource else gpu.count * 1000)
    if gpu.milli:
        wants[names.milli] = str(gpu.milli)
    if gpu.memory_mib:
        wants[names.memory] = str(gpu.memory_mib)
    for name, amount in request.counted:
        wants[name] = str(amount)
    for profile, count in gpu.mig:
        wants[names.mig_prefix + profile.replace("+me", ".me")] = str(count)
    if gpu.replicas:
        wants[names.shared] = str(gpu.replicas)
    extended = {n: value for n, value in wants.items() if "/" in n or n.startswith("hugepages-")}
    spec: dict[str, Any] = {
        "containers": [
            {
                "name": "main",
                "image": "registry/main",
                "resources": {"requests": wants, "limits": extended},
            }
        ],
        "priority": request.priority,
        "schedulerName": "default-scheduler",
    }
    spec |= _selection_json(request, names)
    metadata: dict[str, Any] = {
        "name": request.name,
        "namespace": request.namespace,
        "uid": request.uid,
    }
    if request.gang:
        spec["schedulingGroup"] = {"podGroupName": request.gang.name}
        size = minimum_of(gangs or {}, request.gang)
        metadata["annotations"] = {"snugfit.io/gang-size": str(size)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
