"""Short ways to write clusters and pods in tests. Model objects, never mocks."""

from __future__ import annotations

from itertools import count

from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import Device, GangKey, GpuRequest, Node, PodRequest

_serial = count()
_sizes: dict[GangKey, int] = {}


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


def gang_key(name: str, size: int) -> GangKey:
    """A gang; :func:`gangs_of` knows its size from now on."""
    key = GangKey("kubernetes", "default", name)
    _sizes[key] = size
    return key


def gangs_of(*pods: PodRequest) -> dict[GangKey, GangSpec]:
    """Gangs of these pods, as large as :func:`gang_key` made them."""
    return {p.gang: GangSpec(p.gang, _sizes[p.gang]) for p in pods if p.gang is not None}


def described(gangs: GangCoordinator, *pods: PodRequest) -> GangCoordinator:
    """The gangs, told of the gangs of these pods."""
    for spec in gangs_of(*pods).values():
        gangs.describe(spec)
    return gangs
