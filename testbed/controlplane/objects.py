"""Factories of API objects: a cluster in three lines, pods in three lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

GPU = "nvidia.com/gpu"
SHARED = "nvidia.com/gpu.shared"
MILLI = "snugfit.io/gpu-milli"
MEMORY = "snugfit.io/gpu-memory-mib"
PRODUCT = "nvidia.com/gpu.product"
DEVICE_MEMORY = "nvidia.com/gpu.memory"
REPLICAS = "nvidia.com/gpu.replicas"
DEVICES = "snugfit.io/devices"
SCHEDULER = "snugfit"  # as the chart names it; tests of stock scheduling take the same name
SCHEDULING = "scheduling.k8s.io/v1beta1"

_MEMORY_OF = {"Tesla-T4": 15_360, "NVIDIA-A100-SXM4-80GB": 81_920, "NVIDIA-H100-80GB-HBM3": 81_559}


def node(
    name: str,
    resources: Mapping[str, int] | None = None,
    *,
    cpu: int = 96,
    memory_gib: int = 768,
    pods: int = 110,
    labels: Mapping[str, str] | None = None,
) -> Json:
    """A Ready node with these extended resources."""
    room = {"cpu": str(cpu), "memory": f"{memory_gib}Gi", "pods": str(pods)} | {
        key: str(count) for key, count in (resources or {}).items()
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }


def gpu_node(name: str, gpus: int = 8, product: str = "NVIDIA-A100-SXM4-80GB", **more: Any) -> Json:
    """A node whose device plugin counts whole devices."""
    return node(name, {GPU: gpus}, labels=_labels(product), **more)


def fraction_node(
    name: str, gpus: int = 8, product: str = "NVIDIA-A100-SXM4-80GB", **more: Any
) -> Json:
    """A node that advertises thousandths of its devices, and their memory."""
    memory = _MEMORY_OF[product]
    return node(name, {MILLI: gpus * 1000, MEMORY: gpus * memory}, labels=_labels(product), **more)


def mig_node(name: str, profiles: Mapping[str, int], product: str, **more: Any) -> Json:
    """A node whose devices are partitioned; ``profiles`` like ``{"1g.10gb": 7}``."""
    counts = {f"nvidia.com/mig-{profile}": count for profile, count in profiles.items()}
    return node(name, counts, labels=_labels(product), **more)


def shared_node(
    name: str, gpus: int, replicas: int, product: str = "Tesla-T4", **more: Any
) -> Json:
    """A node with time-sliced devices."""
    labels = _labels(product) | {PRODUCT: f"{product}-SHARED", REPLICAS: str(replicas)}
    return node(name, {SHARED: gpus * replicas}, labels=labels, **more)


def _labels(product: str) -> dict[str, str]:
    return {PRODUCT: product, DEVICE_MEMORY: str(_MEMORY_OF[product])}


def pod(
    name: str,
    resources: Mapping[str, int] | None = None,
    *,
    cpu_milli: int = 500,
    memory_mib: int = 512,
    namespace: str = "default",
    scheduler: str = SCHEDULER,
    products: tuple[str, ...] = (),
    priority_class: str = "",
    group: str = "",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    node_name: str = "",
    grace_s: int = 0,
) -> Json:
    """A pod with one container.

    Parameters
    ----------
    name, namespace, labels, annotations
        Of the object.
    resources
        Extended resources that it asks for.
    cpu_milli, memory_mib
        What else it asks for.
    scheduler
        Name of the profile that is to place it.
    products
        Models that it is satisfied with, as node affinity.
    priority_class
        Name of its PriorityClass.
    group
        Name of its PodGroup.
    node_name
        Node that it is bound to from the start, as a static pod is.
    grace_s
        How long it terminates. 0: there is no kubelet that would end it, so the API server
        removes it at once.
    """
    room = {"cpu": f"{cpu_milli}m", "memory": f"{memory_mib}Mi"} | {
        key: str(count) for key, count in (resources or {}).items()
    }
    spec: Json = {
        "schedulerName": scheduler,
        "terminationGracePeriodSeconds": grace_s,
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "main",
                "image": "pause:3.10",
                "resources": {"requests": room, "limits": room},
            }
        ],
    }
    if products:
        rule = {"key": PRODUCT, "operator": "In", "values": list(products)}
        spec["affinity"] = {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [rule]}]
                }
            }
        }
    if priority_class:
        spec["priorityClassName"] = priority_class
    if group:
        spec["schedulingGroup"] = {"podGroupName": group}
    if node_name:
        spec["nodeName"] = node_name
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": dict(labels or {}),
            "annotations": dict(annotations or {}),
        },
        "spec": spec,
    }


def gpu_pod(name: str, gpus: int = 1, **more: Any) -> Json:
    """A pod that asks for whole devices of the device plugin."""
    return pod(name, {GPU: gpus}, **more)


def fraction_pod(name: str, milli: int, memory_mib: int = 0, **more: Any) -> Json:
    """A pod that asks for part of one device (1..999), or whole ones in thousandths."""
    wanted = {MILLI: milli} | ({MEMORY: memory_mib} if memory_mib else {})
    return pod(name, wanted, **more)


def mig_pod(name: str, profile: str, count: int = 1, **more: Any) -> Json:
    """A pod that asks for MIG instances."""
    return pod(name, {f"nvidia.com/mig-{profile}": count}, **more)


def shared_pod(name: str, replicas: int = 1, **more: Any) -> Json:
    """A pod that asks for replicas of time-sliced devices."""
    return pod(name, {SHARED: replicas}, **more)


def pod_group(name: str, size: int, namespace: str = "default") -> Json:
    """A native gang, all or none of ``size`` pods."""
    return {
        "apiVersion": SCHEDULING,
        "kind": "PodGroup",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"schedulingPolicy": {"gang": {"minCount": size}}},
    }


def priority_class(name: str, value: int) -> Json:
    """A PriorityClass."""
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
    }


def disruption_budget(
    name: str, labels: Mapping[str, str], at_least: int, namespace: str = "default"
) -> Json:
    """A PodDisruptionBudget."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"minAvailable": at_least, "selector": {"matchLabels": dict(labels)}},
    }
