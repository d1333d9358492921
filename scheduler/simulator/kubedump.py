"""Reader and writer of ``kubectl get nodes,pods -A -o json``.

Pods that have ended are left out. A pod with a node runs there, whoever scheduled it; any other
arrives. Creation timestamps become arrival times, counted from the earliest one. Which devices the
running pods have is understood as beside a live cluster, by the same code: what HAMi and KAI have
recorded counts, and a node of which nobody can say that has no device to give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from scheduler.core.adoption import Adoption
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import DeviceShare, Node, PodRequest
from scheduler.core.state import ClusterState
from scheduler.kube.disruption import (
    Budget,
    BudgetObject,
    budget_decoder,
    budgets_of,
    move_cost,
)
from scheduler.kube.gangs import gang_sizes, group_size
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
from scheduler.kube.pods import device_shares, pod_request, write_device_shares
from scheduler.kube.preferences import Preference, node_preferences
from scheduler.kube.protocols import record_of
from scheduler.simulator.workload import Arrival, BoundPod, Workload

__all__ = ["Dump", "node_json", "pod_json", "read", "read_dump", "write"]


class _Kind(msgspec.Struct):
    kind: str = ""


_kind_decoder = msgspec.json.Decoder(_Kind)


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
    """

    workload: Workload
    gated: tuple[PodRequest, ...]
    move_costs: Mapping[str, int]
    budgets: tuple[Budget, ...]
    preferences: Mapping[str, tuple[Preference, ...]] = field(default_factory=dict)


def read(path: Path, names: ResourceNames | None = None) -> Workload:
    """Nodes and pods of a dump; gated pods arrive like others. Raises as :func:`read_dump`."""
    dump = read_dump(path, names)
    workload = dump.workload
    gated = tuple(Arrival(request) for request in dump.gated)
    return replace(workload, arrivals=workload.arrivals + gated) if gated else workload


def read_dump(path: Path, names: ResourceNames | None = None) -> Dump:
    """Read a dump of nodes and pods, and of podgroups, jobs and pdb where they are listed.

    Raises
    ------
    InvalidInput
        Names the file, the item and the field.
    """
    names = names or ResourceNames()
    nodes, pods, budgets, groups = _items(path, names)
    alive = [p for p in pods if not (p.status and p.status.phase in ("Succeeded", "Failed"))]
    sizes = gang_sizes(alive, groups)
    models, devices = _understood(nodes, alive, names)
    times = [_created(path, pod) for pod in alive]
    first = min((t for t in times if t is not None), default=0.0)
    arrivals, bound, gated, costs = [], [], [], {}
    preferences: dict[str, tuple[Preference, ...]] = {}
    for pod, created in zip(alive, times, strict=True):
        try:
            request = pod_request(pod, names, sizes)
            if pod.spec.node_name:
                recorded = device_shares(pod, names)
                if recorded is None:
                    recorded = devices.get(request.uid)
                bound.append(BoundPod(request, pod.spec.node_name, recorded))
                cost = move_cost(pod)
                if cost is not None:
                    costs[request.uid] = cost
            elif pod.spec.scheduling_gates:
                gated.append(request)
            else:
                arrivals.append(Arrival(request, (first if created is None else created) - first))
                if wishes := node_preferences(pod):
                    preferences[request.uid] = wishes
        except InvalidInput as error:
            where = f"{path}: pod {pod.metadata.namespace}/{pod.metadata.name}"
            raise InvalidInput(where, str(error)) from error
    arrivals.sort(key=lambda arrival: arrival.at_s)
    workload = Workload(models, tuple(arrivals), tuple(bound), path.name)
    return Dump(workload, tuple(gated), costs, tuple(budgets_of(budgets, alive)), preferences)


def _understood(
    nodes: list[tuple[NodeObject, Node]], pods: list[PodObject], names: ResourceNames
) -> tuple[tuple[Node, ...], dict[str, tuple[DeviceShare, ...]]]:
    """Nodes, and by uid the devices of pods that others than we have recorded or put in doubt.

    Nodes with such pods are understood by a mirror, as beside a live cluster.
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
    effective, doubtful = mirror.image().nodes, mirror.uncertain_nodes
    placed = engine.state.placements
    devices = {
        uid: placed[uid].devices
        for uid, fact in mirror.facts.items()
        if uid in placed and (fact.record is not None or fact.node in doubtful)
    }
    return tuple(effective.get(model.name, model) for _, model in nodes), devices


def _recorded(pod: PodObject, names: ResourceNames) -> bool:
    """Whether another protocol has recorded devices of the pod, readably or not."""
    try:
        return record_of(pod, names) is not None
    except InvalidInput:
        return True


def _items(
    path: Path, names: ResourceNames
) -> tuple[
    list[tuple[NodeObject, Node]],
    list[PodObject],
    list[BudgetObject],
    dict[tuple[str, str, str], int],
]:
    """Nodes as they are and as we read them, pods, disruption budgets and gang sizes, in order."""
    try:
        listed = object_list_decoder.decode(path.read_bytes())
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be read: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(str(path), f"is no kubectl list: {error}") from error
    nodes: list[tuple[NodeObject, Node]] = []
    pods: list[PodObject] = []
    budgets: list[BudgetObject] = []
    groups: dict[tuple[str, str, str], int] = {}
    for index, item in enumerate(listed.items or ()):
        try:
            kind = _kind_decoder.decode(item).kind
            if kind == "Node":
                obj = node_decoder.decode(item)
                nodes.append((obj, node_of(obj, names)))
            elif kind == "Pod":
                pods.append(pod_decoder.decode(item))
            elif kind == "PodDisruptionBudget":
                budgets.append(budget_decoder.decode(item))
            else:
                groups.update(group_size(mapping_decoder.decode(item)))
        except (InvalidInput, msgspec.DecodeError) as error:
            raise InvalidInput(f"{path}: items[{index}]", str(error)) from error
    return nodes, pods, budgets, groups


def _created(path: Path, pod: PodObject) -> float | None:
    text = pod.metadata.creation_timestamp
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        where = f"{path}: pod {pod.metadata.name}: metadata.creationTimestamp"
        raise InvalidInput(where, f"{text!r} is no time", "use RFC 3339") from error


def write(workload: Workload, path: Path, names: ResourceNames | None = None) -> None:
    """Write a workload as such a dump. Durations and arrival times have no place in it."""
    names = names or ResourceNames()
    items = [node_json(node, names) for node in workload.nodes]
    items += [pod_json(arrival.request, names) for arrival in workload.arrivals]
    for bound in workload.bound:
        item = pod_json(bound.request, names)
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
        "memory": f"{node.memory_mib}Mi",
        "pods": str(node.pods),
    }
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
    ready = {"type": "Ready", "status": "True" if node.ready else "False"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": allocatable, "capacity": capacity, "conditions": [ready]},
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


def pod_json(request: PodRequest, names: ResourceNames | None = None) -> dict[str, Any]:
    """A Pod object that asks for exactly this."""
    names = names or ResourceNames()
    gpu = request.gpu
    wants: dict[str, str] = {"cpu": f"{request.cpu_milli}m", "memory": f"{request.memory_mib}Mi"}
    if gpu.count:
        wants[gpu.resource or names.milli] = str(gpu.count if gpu.resource else gpu.count * 1000)
    if gpu.milli:
        wants[names.milli] = str(gpu.milli)
    if gpu.memory_mib:
        wants[names.memory] = str(gpu.memory_mib)
    for profile, count in gpu.mig:
        wants[names.mig_prefix + profile.replace("+me", ".me")] = str(count)
    if gpu.replicas:
        wants[names.shared] = str(gpu.replicas)
    extended = {name: value for name, value in wants.items() if "/" in name}
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
    if gpu.products:
        rule = {"key": names.product_labels[0], "operator": "In", "values": list(gpu.products)}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
        spec["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}
        }
    metadata: dict[str, Any] = {
        "name": request.name,
        "namespace": request.namespace,
        "uid": request.uid,
    }
    if request.gang:
        spec["schedulingGroup"] = {"podGroupName": request.gang.name}
        metadata["annotations"] = {"snugfit.io/gang-size": str(request.gang.min_count)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
