"""Writer of nodes and pods as ``kubectl get nodes,pods -A -o json`` would list them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.spec import GangSpec, minimum_of
from scheduler.core.model import (
    DEVICE_MILLI,
    Device,
    GangKey,
    GpuKind,
    GpuRequest,
    Node,
    PodRequest,
    Requirement,
)
from scheduler.core.selection import NOT_READY
from scheduler.files.workload import Workload
from scheduler.kube.device_annotation import write_device_shares
from scheduler.kube.resource_names import ResourceNames

__all__ = ["node_json", "pod_json", "write"]


def write(workload: Workload, path: Path, names: ResourceNames | None = None) -> None:
    """Write a workload as such a dump. Durations and arrival times have no place in it.

    Where pods have their devices chosen by us, nodes advertise what ``snugfit advertise`` would
    write there; and where none asks the device plugin, that they serve nothing else.
    """
    names = names or ResourceNames()
    pods = [*workload.requests, *(bound.request for bound in workload.bound)]
    chosen = any(pod.gpu.chosen_by_us for pod in pods)
    others = any(pod.gpu.count and pod.gpu.resource for pod in pods)
    items = [node_json(node, names) for node in workload.nodes]
    for item in items if chosen else ():
        _serve_fractions(item, names, alone=not others)
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


def _serve_fractions(item: dict[str, Any], names: ResourceNames, *, alone: bool) -> None:
    """Advertise the milli-GPU of the devices that a node object offers whole, if none is sick."""
    status = item["status"]
    count = status["allocatable"].get(names.whole[0])
    if count is None or count != status["capacity"].get(names.whole[0]):
        return  # of milli-GPU alone nobody could tell that a device is missing
    for listed in (status["allocatable"], status["capacity"]):
        listed[names.milli] = str(int(count) * DEVICE_MILLI)
    if alone:
        item["metadata"]["labels"][names.serves_label] = "fractions"


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
                "has devices of several models, or units that are not devices",
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
