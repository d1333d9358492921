"""Short ways to write clusters and pods in tests. Model objects, never mocks."""

from __future__ import annotations

from itertools import count

from scheduler.core.model import Device, GpuRequest, Node, PodRequest

_serial = count()


def node(
    name: str = "n0", *, gpus: int = 0, product: str = "T4", cpu: int = 64_000, **rest
) -> Node:
    """A node with plain devices of one model; ``devices`` overrides ``gpus``. Memory in MiB."""
    device = Device(product, memory_mib=rest.pop("gpu_memory", 0))
    devices = rest.pop("devices", (device,) * gpus)
    memory = rest.pop("memory", 262_144)
    return Node(name, cpu, memory << 20, devices=devices, **rest)


def pod(name: str = "", *, cpu: int = 1000, memory: int = 1024, **rest) -> PodRequest:
    """A pod; GPU fields (count, milli, mig, ...) may be given directly. Memory in MiB."""
    name = name or f"pod-{next(_serial)}"
    fields = ("count", "milli", "memory_mib", "mig", "replicas", "products", "resource")
    gpu = GpuRequest(**{key: rest.pop(key) for key in fields if key in rest})
    uid = rest.pop("uid", name)
    return PodRequest(uid, "default", name, cpu, memory << 20, gpu, **rest)
