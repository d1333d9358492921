"""API objects as the API server would send them, in one line each."""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler.kube.objects import NodeObject, PodObject


def node_json(
    name: str, *, gpus: int = 0, cpu: str = "64", pods: int = 110, **rest: Any
) -> dict[str, Any]:
    """A node; ``gpus`` whole devices of the device plugin, or other ``allocatable`` entries."""
    allocatable = {"cpu": cpu, "memory": "256Gi", "pods": str(pods)}
    if gpus:
        allocatable["nvidia.com/gpu"] = str(gpus)
    allocatable |= rest.pop("allocatable", {})
    spec: dict[str, Any] = {}
    if rest.pop("cordoned", False):
        spec["unschedulable"] = True
    if taints := rest.pop("taints", None):
        spec["taints"] = taints
    status = {
        "allocatable": allocatable,
        "capacity": rest.pop("capacity", allocatable),
        "conditions": [{"type": "Ready", "status": "True" if rest.pop("ready", True) else "False"}],
    }
    labels = {"nvidia.com/gpu.product": rest.pop("product", "A100")} | rest.pop("labels", {})
    metadata = {"name": name, "uid": f"node-{name}", "labels": labels, **rest}
    return {"kind": "Node", "metadata": metadata, "spec": spec, "status": status}


def pod_json(
    name: str,
    *,
    uid: str = "",
    node: str = "",
    phase: str = "Running",
    requests: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """A pod of one container, on ``node`` if that is given."""
    asked = {"cpu": "1", "memory": "1Gi"} | (requests or {})
    content = {
        "containers": [{"name": "main", "resources": {"requests": asked}}],
        **({"nodeName": node} if node else {}),
        **(spec or {}),
    }
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": uid or f"uid-{name}", **metadata},
        "spec": content,
        "status": {"phase": phase if node else "Pending", **(status or {})},
    }


def node_object(*args: Any, **rest: Any) -> NodeObject:
    """:func:`node_json`, decoded."""
    return msgspec.convert(node_json(*args, **rest), NodeObject)


def pod_object(*args: Any, **rest: Any) -> PodObject:
    """:func:`pod_json`, decoded."""
    return msgspec.convert(pod_json(*args, **rest), PodObject)
