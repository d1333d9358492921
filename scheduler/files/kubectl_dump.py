"""Reader and writer of ``kubectl get nodes,pods -A -o json``, and of its other usual forms.

Pods that have ended are left out. A pod with a node runs there, whoever scheduled it; any other
arrives. Creation timestamps become arrival times, counted from the earliest one. Which devices the
running pods have is understood as beside a live cluster, by the same code.

One object that is not as it should be stops no other: what can be read of it counts, as beside a
live cluster, and it is named with what has become of it. A running pod is charged what it asks for,
whatever else of it contradicts itself; if that cannot be told, its node takes nothing new. A pod on
a node that is not listed holds nothing that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.coordinator import Adoption
from scheduler.core.gangs.spec import GangSpec, minimum_of
from scheduler.core.model import (
    Device,
    DeviceShare,
    GangKey,
    GpuKind,
    GpuRequest,
    Node,
    PodRequest,
    Requirement,
)
from scheduler.core.omissions import NotConsidered, NotUnderstood, left_alone
from scheduler.core.selection import IN_DOUBT, NOT_READY
from scheduler.core.state import ClusterState
from scheduler.files.manifests import Manifest, manifests, refuse_strangers
from scheduler.files.workload import MOST_NODES, MOST_PODS, Arrival, BoundPod, Workload
from scheduler.kube.complaints import cut
from scheduler.kube.disruption import (
    CRITICAL,
    Budget,
    BudgetObject,
    budget_decoder,
    budgets_of,
    held_by_several,
    move_cost,
)
from scheduler.kube.gang_groups import Groups
from scheduler.kube.mirror import Mirror
from scheduler.kube.nodes import node_of, without_devices
from scheduler.kube.objects import (
    NodeObject,
    PodObject,
    group_decoder,
    mapping_decoder,
    node_decoder,
    pod_decoder,
)
from scheduler.kube.pod_requests import (
    Charge,
    charge_of,
    has_ended,
    in_full,
    is_counted,
    pod_uid,
    write_device_shares,
)
from scheduler.kube.preferences import Preference, node_preferences
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.salvage import REQUEST, read_in_part
from scheduler.kube.sharing.foreign import awaited_scheduler, unread
from scheduler.kube.sharing.table import record_of
from scheduler.kube.surroundings import Surroundings
from scheduler.kube.workloads import Stated, statements

__all__ = ["Dump", "node_json", "pod_json", "read", "read_dump", "write"]


_WANTED = {"Node", "Pod"}
_SHOWN = 5
_COUNTED = "it runs, and is charged what it asks for"
_CLOSED = "its node takes nothing new"
_WAITS = "it gets no node"
_NO_DEVICES = "none of its devices are handed out"
_BY_RECORD = "each counts as its own record says"
_WITHHELD = "its other devices are free"


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
    provisos
        Rules that are not looked at where pods are placed that they are about.
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
    provisos: tuple[NotConsidered, ...] = ()
    patient: frozenset[str] = frozenset()
    unmet: Mapping[str, str] = field(default_factory=dict)


def read(paths: Path | Sequence[Path], names: ResourceNames | None = None) -> Workload:
    """Nodes and pods of a dump; gated pods arrive like others. Raises as :func:`read_dump`."""
    dump = read_dump(paths, names)
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


def read_dump(paths: Path | Sequence[Path], names: ResourceNames | None = None) -> Dump:
    """Read a dump of nodes and pods, and of podgroups, jobs and pdb where they are listed.

    Parameters
    ----------
    paths
        Files and folders that list the cluster together: :mod:`scheduler.files.manifests`.
    names
        Resource names and labels.

    Raises
    ------
    InvalidInput
        A file cannot be read, or lists nothing of the kind.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    names = names or ResourceNames()
    found = _items(paths, names)
    alive = [pod for pod in found.pods if not _gone(pod)]
    groups = Groups(count_members=True)
    groups.state(found.groups)
    for pod in found.pods:  # one that has succeeded needs no place any more
        groups.join(pod, pod_uid(pod))
    charged = [(pod, charge_of(pod, names, groups)) for pod in alive]
    models, devices = _understood(found, charged, names)
    listed = _Listed({model.name for model in models}, found, names)
    found.surroundings.offered = {
        name for model in models for name, amount in model.counted.items() if amount
    }
    for pod, charge in charged:
        listed.add(pod, charge, devices)
    listed.name_orphans()
    closed = tuple(
        replace(model, taints=(IN_DOUBT,), pods=0) if model.name in found.closed else model
        for model in models
    )
    around = found.surroundings
    workload = Workload(
        closed,
        listed.in_order(),
        tuple(listed.bound),
        ", ".join(path.name for path in paths),
        groups.specs(listed.orphans),
        not_understood=tuple(found.misread),
        not_considered=(*around.omissions(), *_partial(found.misread)),
    )
    budgets = tuple(budgets_of(found.budgets, alive))
    several = held_by_several(found.budgets, alive)
    stay = {*several, *around.unmet, *left_alone(workload.not_considered)}
    stay.update(b.request.uid for b in listed.bound if b.request.priority >= CRITICAL)
    stay |= groups.partners(listed.orphans)
    costs = {uid: cost for uid, cost in listed.costs.items() if uid not in stay}
    return Dump(
        workload,
        tuple(listed.gated),
        costs,
        budgets,
        listed.preferences,
        around.provisos(),
        frozenset(around.patient),
        around.unmet,
    )


def _partial(misread: Sequence[NotUnderstood]) -> tuple[NotConsidered, ...]:
    """That an answer cannot be about the whole cluster, where it cannot."""
    concerned = [one.subject for one in misread if not one.harmless]
    if not concerned:
        return ()
    pods = tuple(name.removeprefix("Pod ") for name in concerned if name.startswith("Pod "))
    return (NotConsidered("objects that are not understood", pods, "see not_understood"),)


def _gone(pod: PodObject) -> bool:
    """Whether a pod takes nothing and waits for nothing: it has ended, or is deleted unbound."""
    going = pod.metadata.deletion_timestamp is not None
    return has_ended(pod) or (going and not pod.spec.node_name)


class _Listed:
    """Pods of a dump, each as what it is: running, gated or arriving."""

    def __init__(self, nodes: AbstractSet[str], found: _Items, names: ResourceNames) -> None:
        self._nodes, self._found, self._names = nodes, found, names
        self._arriving: list[tuple[float | None, PodRequest]] = []
        self._times: list[float | None] = []
        self._orphans: list[PodObject] = []
        self.bound: list[BoundPod] = []
        self.gated: list[PodRequest] = []
        self.costs: dict[str, int] = {}
        self.preferences: dict[str, tuple[Preference, ...]] = {}

    def add(
        self,
        pod: PodObject,
        charge: Charge,
        devices: Mapping[str, tuple[DeviceShare, ...]],
    ) -> None:
        """One more pod; what is wrong with it is noted."""
        node = pod.spec.node_name
        if node and node not in self._nodes:
            self._orphans.append(pod)
            return
        if charge.problem and not node:
            self._found.note(_named(pod), charge.problem, _WAITS)
            return
        if charge.problem and node:
            counted = is_counted(pod)
            self._found.note(_named(pod), charge.problem, _COUNTED if counted else _CLOSED,
                             harmless=counted)  # fmt: skip
            if not counted:
                self._found.closed.add(node)
        created = self._created(pod)
        request = self._found.surroundings.ruled(in_full(charge.request, pod))
        elsewhere = awaited_scheduler(pod, self._names)
        if elsewhere and not node:
            rule = f"shares of devices that {elsewhere} hands out by its own scheduler"
            self._found.surroundings.leave(request, rule)
        if node:
            cost = None if elsewhere else move_cost(pod)
            self.bound.append(BoundPod(request, node, devices.get(request.uid)))
            if cost is not None and not self._found.unguarded & {"", request.namespace}:
                self.costs[request.uid] = cost
        elif pod.spec.scheduling_gates:
            self.gated.append(request)
        else:
            wishes = node_preferences(pod)
            self._arriving.append((created, request))
            if wishes:
                self.preferences[request.uid] = wishes
        self._times.append(created)

    def _created(self, pod: PodObject) -> float | None:
        text = pod.metadata.creation_timestamp
        if not text:
            return None
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            why = f"metadata.creationTimestamp: {cut(repr(text))} is no time"
            self._found.note(_named(pod), why, "it counts as the oldest", harmless=True)
            return None

    @property
    def orphans(self) -> list[str]:
        """Uids of pods on nodes that are not listed."""
        return [pod_uid(pod) for pod in self._orphans]

    def name_orphans(self) -> None:
        """Note pods on nodes that are not listed, all together: there may be very many."""
        if not self._orphans:
            return
        shown = ", ".join(
            f"{p.metadata.namespace}/{p.metadata.name}" for p in self._orphans[:_SHOWN]
        )
        more = len(self._orphans) - _SHOWN
        nodes = sorted({pod.spec.node_name or "" for pod in self._orphans})
        named = ", ".join(map(repr, nodes[:_SHOWN])) + (", ..." if len(nodes) > _SHOWN else "")
        self._found.note(
            f"Pod {shown}" + (f" and {more} more" if more > 0 else ""),
            f"spec.nodeName: no Node is listed for {cut(named)}",
            "left out: nothing that is listed is held",
            harmless=True,
        )

    def in_order(self) -> tuple[Arrival, ...]:
        """Arriving pods by creation, counted from the earliest of all pods."""
        first = min((time for time in self._times if time is not None), default=0.0)
        arrivals = [
            Arrival(request, 0.0 if created is None else created - first)
            for created, request in self._arriving
        ]
        return tuple(sorted(arrivals, key=lambda arrival: arrival.at_s))


def _named(pod: PodObject) -> str:
    return f"Pod {pod.metadata.namespace or 'default'}/{pod.metadata.name}"


def _understood(
    found: _Items, charged: Sequence[tuple[PodObject, Charge]], names: ResourceNames
) -> tuple[tuple[Node, ...], dict[str, tuple[DeviceShare, ...]]]:
    """Nodes, and by uid the devices of pods on nodes where any pod has a record or several ways.

    Such nodes are understood by a mirror, as beside a live cluster.
    """
    running = [(pod, charge) for pod, charge in charged if pod.spec.node_name]
    shared = {pod.spec.node_name for pod, charge in running if _recorded(pod, charge, names)}
    shared -= found.closed
    engine = Engine(ClusterState())
    mirror = Mirror(engine, Adoption(engine, ttl_s=1.0), names)
    for obj, _ in found.nodes:
        if obj.metadata.name in shared:
            mirror.node(obj)
    for pod, _ in running:
        if pod.spec.node_name in shared:
            mirror.pod(pod)
    effective = mirror.image().nodes
    noted = mirror.unreadable
    problems = {_named(pod): charge.problem for pod, charge in running} if noted else {}
    for subject, problem in noted.items():
        if subject.startswith("Pod ") and problem != problems.get(subject):
            found.note(subject, problem, _COUNTED, harmless=True)
    for name in sorted(mirror.uncertain_nodes):
        found.note(f"Node {name}", "which of its devices are free cannot be told", _NO_DEVICES)
    for name, why in sorted(mirror.ambiguous_nodes.items()):
        withheld = "records are not read" in why
        found.note(f"Node {name}", why, _WITHHELD if withheld else _BY_RECORD)
    devices = {uid: placed.devices for uid, placed in engine.state.placements.items()}
    return tuple(effective.get(model.name, model) for _, model in found.nodes), devices


def _recorded(pod: PodObject, charge: Charge, names: ResourceNames) -> bool:
    """Whether more than its request decides which devices the pod has."""
    if unread(name for name, _ in charge.request.counted):
        return True
    return bool(charge.parts) or record_of(pod, charge.request.gpu, names) is not None


@dataclass(slots=True)
class _Items:
    """Nodes as they are and as we read them, and the rest, in order; what could not be read.

    Attributes
    ----------
    closed : set of str
        Nodes where something runs that nobody can count.
    unguarded : set of str
        Namespaces with a budget that cannot be read; empty for one whose namespace cannot.
    """

    nodes: list[tuple[NodeObject, Node]] = field(default_factory=list)
    pods: list[PodObject] = field(default_factory=list)
    budgets: list[BudgetObject] = field(default_factory=list)
    groups: dict[GangKey, Stated] = field(default_factory=dict)
    surroundings: Surroundings = field(default_factory=Surroundings)
    misread: list[NotUnderstood] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    unguarded: set[str] = field(default_factory=set)
    _names: dict[str, Node] = field(default_factory=dict)
    _uids: dict[str, str] = field(default_factory=dict)
    _pods: set[tuple[str, str]] = field(default_factory=set)

    def note(self, subject: str, problem: object, effect: str, *, harmless: bool = False) -> None:
        """An object is not as it should be."""
        self.misread.append(NotUnderstood.of(subject, problem, effect, harmless=harmless))

    def add(self, item: Manifest, names: ResourceNames) -> None:
        """One more object of any kind."""
        match item.kind, item.group:
            case "Node", "":
                self._add_node(item, names)
            case "Pod", "":
                self._add_pod(item)
            case "PodDisruptionBudget", _:
                self._add_budget(item)
            case _:
                self._add_other(item)

    def _add_node(self, item: Manifest, names: ResourceNames) -> None:
        part = read_in_part(node_decoder, item.raw)
        if part is None or not part.obj.metadata.name:
            self.note(item.where, "metadata.name: is missing", "left out")
            return
        obj = part.obj
        subject = f"Node {obj.metadata.name}"
        if part.missing:
            node = Node(obj.metadata.name, 0, 0, 0)
            self.closed.add(node.name)
            self.note(subject, f"{', '.join(part.missing)}: cannot be read", "it takes nothing new")
        else:
            try:
                node = node_of(obj, names)
            except InvalidInput as error:
                node = without_devices(obj, names)
                self.note(subject, error, _NO_DEVICES if node.pods else "it takes nothing new")
                if not node.pods:
                    self.closed.add(node.name)
        known = self._names.setdefault(node.name, node)
        if known is node:
            self.nodes.append((obj, node))
        elif known != node:
            self.note(subject, "metadata.name: is listed twice", "the first one counts")

    def _add_pod(self, item: Manifest) -> None:
        part = read_in_part(pod_decoder, item.raw)
        if part is None:
            self.note(item.where, "is no object", "left out")
            return
        pod, node = part.obj, part.obj.spec.node_name
        if not pod.metadata.name:
            self.note(item.where, "metadata.name: cannot be read", _CLOSED if node else "left out")
            self.closed.add(node or "")
            return
        if not self._is_new(pod):
            return
        self.surroundings.add_pod(pod_uid(pod), item.raw)
        subject = _named(pod)
        problem = f"{', '.join(part.missing)}: cannot be read"
        if part.lacks("spec.nodeName"):
            self.note(subject, problem, "left out: nobody can tell where it runs")
        elif part.lacks(*REQUEST) and node and not _gone(pod):
            self.note(subject, problem, _CLOSED)
            self.closed.add(node)
            self.pods.append(pod)
        elif not node and part.lacks("spec", "metadata"):
            self.note(subject, problem, _WAITS)
        else:
            self.pods.append(pod)
            if part.missing:
                self.note(subject, problem, "the rest of it counts", harmless=True)

    def _is_new(self, pod: PodObject) -> bool:
        """Whether the pod is not listed yet; if another one has its uid, its name becomes it."""
        key = f"{pod.metadata.namespace or 'default'}/{pod.metadata.name}"
        other = self._uids.setdefault(pod_uid(pod), key)
        if other == key:
            known = (key, pod_uid(pod)) in self._pods
            self._pods.add((key, pod_uid(pod)))
            return not known  # files that were written apart may list it twice
        why = f"metadata.uid: {cut(repr(pod.metadata.uid))} is that of Pod {other} too"
        self.note(f"Pod {key}", why, "its name tells it apart", harmless=True)
        pod.metadata.uid = key
        return self._is_new(pod)

    def _add_other(self, item: Manifest) -> None:
        """A group, or something that says where pods may go; anything else says nothing here."""
        try:
            if self.surroundings.add(item.kind, item.raw):
                return
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            self.note(item.where, f"{item.kind}: {error}", "left out")
            return
        try:
            self.groups.update(_group(item))
        except InvalidInput as error:
            self.note(item.where, error, "the pods of its gang are counted instead")

    def _add_budget(self, item: Manifest) -> None:
        try:
            self.budgets.append(budget_decoder.decode(item.raw))
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            part = read_in_part(group_decoder, item.raw)
            namespace = part.obj.metadata.namespace if part else ""
            self.unguarded.add(namespace)
            effect = f"no pod of {namespace or 'any namespace'} is moved"
            self.note(f"PodDisruptionBudget at {item.where}", f"spec: {error}", effect)


def _group(item: Manifest) -> dict[GangKey, Stated]:
    """As :func:`statements`; an object of the kind but not of its shape is refused."""
    try:
        content = mapping_decoder.decode(item.raw)
        version = content.get("apiVersion") or f"{item.group}/"
        return statements({**content, "kind": item.kind, "apiVersion": version})
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(item.kind, "is not of the shape of its kind") from error


def _items(paths: Sequence[Path], names: ResourceNames) -> _Items:
    listed = manifests(paths)
    refuse_strangers(paths, listed, _WANTED)
    for kind, most in (("Node", MOST_NODES), ("Pod", MOST_PODS)):
        if sum(one.kind == kind for one in listed) > most:
            raise InvalidInput(f"{paths[0]}: {kind} objects", f"are more than {most:,}")
    found = _Items()
    for item in listed:
        if item.problem:
            found.note(item.where, item.problem, "left out")
        else:
            found.add(item, names)
    return found


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
    for group in node.groups:
        devices = [node.devices[index] for index in group.devices]
        if group.units or group.product not in ("", node.product):
            raise InvalidInput(
                f"node[{node.name}]",
                "has devices of several models, or units that are no devices",
                "a node object says that by labels of its vendor; use the snugfit/v1 format",
            )
        if group.kind is GpuKind.MIG:
            for profile, count in _instances(node, devices).items():
                name = names.mig_prefix + profile.replace("+", ".")
                allocatable[name] = str(int(allocatable.get(name, 0)) + count)
            if any(other.kind is GpuKind.WHOLE for other in node.groups):
                of_vendor = [d for d in node.devices if not d.resource]
                labels[names.count_label] = str(len(of_vendor))
        elif group.kind is GpuKind.SHARED:
            labels[names.replicas_label] = str(devices[0].replicas)
            allocatable[names.shared] = str(sum(device.replicas for device in devices))
        else:
            allocatable[group.resource] = str(sum(device.healthy for device in devices))
            capacity[group.resource] = str(len(devices))


def _instances(node: Node, devices: Sequence[Device]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for device in devices:
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


def _wants(gpu: GpuRequest, names: ResourceNames) -> dict[str, str]:
    """Resources that a request for devices names."""
    wants: dict[str, str] = {}
    if gpu.count:
        wants[gpu.resource or names.milli] = str(gpu.count if gpu.resource else gpu.count * 1000)
    if gpu.milli:
        wants[names.milli] = str(gpu.milli)
    if gpu.memory_mib:
        wants[names.memory] = str(gpu.memory_mib)
    for profile, count in gpu.mig:
        wants[names.mig_prefix + profile.replace("+", ".")] = str(count)
    if gpu.replicas:
        wants[names.shared] = str(gpu.replicas)
    return wants


def pod_json(
    request: PodRequest,
    names: ResourceNames | None = None,
    gangs: Mapping[GangKey, GangSpec] | None = None,
) -> dict[str, Any]:
    """A Pod object that asks for exactly this."""
    names = names or ResourceNames()
    gpu = request.gpu
    wants: dict[str, str] = {"cpu": f"{request.cpu_milli}m", "memory": str(request.memory_bytes)}
    for part in (gpu, *gpu.also):
        wants |= _wants(part, names)
    for name, amount in request.counted:
        wants[name] = str(amount)
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
        parts = filter(None, (request.gang.name, request.gang.stage))
        spec["schedulingGroup"] = {"podGroupName": "-".join(parts)}
        size = minimum_of(gangs or {}, request.gang)
        metadata["annotations"] = {"snugfit.io/gang-size": str(size)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
