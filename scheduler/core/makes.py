"""What the devices of a node are, as requests see them: who may have which, and as what.

Nearly every node has devices of one resource, one model and one way of sharing; it is *usual*, and
has no make. Others are *odd*: a GPU beside one of another vendor, or a partitioned one; or units
that are not devices. A node that offers ``nvidia.com/gpu: 16`` may have four devices, each shared
by four pods, or partitioned ones; a pod that asks for one ``nvidia.com/gpu`` gets a replica or an
instance there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from scheduler.core.mig import UNIT
from scheduler.core.model import GpuKind, GpuRequest, Node, Reason

__all__ = ["USUAL", "Ask", "Make", "Part", "make_of", "meaning", "offered_twice", "wants_those"]


@dataclass(frozen=True, slots=True)
class Part:
    """One device as requests see it.

    Parameters
    ----------
    resource, product
        Under which name it is advertised, and its model.
    kind
        How it is handed out: whole (and in fractions), by MIG instances, or by replicas. No device
        but a resource that kube-scheduler hands out by itself is none of these.
    units
        Whether a request for whole devices of the resource gets an instance or a replica.
    profile
        Of the MIG instances that its replicas share, if these are what is shared.
    """

    resource: str
    product: str
    kind: GpuKind
    units: bool = False
    profile: str = ""


Make = tuple[Part, ...]
USUAL: Make = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """A request in the terms of some devices of a node.

    Parameters
    ----------
    devices
        Which of the node's devices it accepts, one by one.
    gpu
        What it asks of them.
    model
        Resource and model of those devices; None where there are none.
    refused
        Why it accepts none, where there are some of its kind.
    """

    devices: tuple[bool, ...]
    gpu: GpuRequest
    model: tuple[str, str] | None = None
    refused: Reason = Reason.FITS


def make_of(node: Node) -> Make:
    """The make of a node, :data:`USUAL` for most."""
    devices = node.devices
    elsewhere = tuple(Part(name, "", GpuKind.NONE) for name in node.by_dra)
    if not elsewhere and not any(
        device.units
        or device.resource
        or device.product != devices[0].product
        or device.kind is not devices[0].kind
        for device in devices
    ):
        return USUAL
    return (
        tuple(
            Part(
                node.resource_of(device),
                device.product,
                device.kind,
                device.units,
                device.mig if device.kind is GpuKind.SHARED else "",
            )
            for device in devices
        )
        + elsewhere
    )


def meaning(make: Make, gpu: GpuRequest) -> tuple[Ask, ...]:
    """What a request means on nodes of a make; all of it must fit, each on devices of its own."""
    return _meaning(make, gpu, gpu.by_label)


@lru_cache(maxsize=16_384)
def _meaning(
    make: Make,
    gpu: GpuRequest,
    _by_label: bool,  # noqa: FBT001 - for the key: requests are equal without it
) -> tuple[Ask, ...]:
    asks = (replace(gpu, also=()), *gpu.also) if gpu.also else (gpu,)
    return tuple(one for ask in asks for one in _meanings(make, ask))


@lru_cache(maxsize=4096)
def offered_twice(make: Make) -> frozenset[int]:
    """Devices that may be offered both whole and in parts: the node's own ones that are entire."""
    entire = [i for i, p in enumerate(make) if p.kind is GpuKind.WHOLE and not p.units]
    return frozenset(i for i in entire if make[i].resource == make[entire[0]].resource)


def wants_those(make: Make, gpu: GpuRequest) -> bool:
    """Whether a request would get devices that may be offered twice."""
    twice = offered_twice(make)
    return gpu.chosen_by_us or any(
        accepted and index in twice
        for ask in meaning(make, gpu)
        for index, accepted in enumerate(ask.devices)
    )


def _meanings(make: Make, gpu: GpuRequest) -> list[Ask]:
    """Usually one; instances of several profiles, some of them shared, are handed out apart.

    What kube-scheduler hands out by itself is nothing to ask for.
    """
    elsewhere = {part.resource for part in make if part.kind is GpuKind.NONE}
    make = tuple(part for part in make if part.kind is not GpuKind.NONE)
    if gpu.resource and gpu.resource in elsewhere:
        return [Ask((False,) * len(make), GpuRequest())]
    pooled = {part.profile for part in make if part.profile}
    shared = [pair for pair in gpu.mig if pair[0] in pooled]
    if not shared:
        return [_ask(make, gpu)]
    found = [
        _of([part.profile == profile for part in make], make, gpu, replicas=count)
        for profile, count in shared
    ]
    rest = tuple(pair for pair in gpu.mig if pair[0] not in pooled)
    return [*found, _ask(make, replace(gpu, mig=rest))] if rest else found


def _ask(make: Make, gpu: GpuRequest) -> Ask:
    accepted = [_accepts(make, part, gpu) for part in make]
    counts = {part.kind for part, yes in zip(make, accepted, strict=True) if yes and part.units}
    if gpu.kind is GpuKind.WHOLE and counts:
        # Units of one resource are all of one sort; devices beside them would be another one.
        kind = GpuKind.SHARED if GpuKind.SHARED in counts else GpuKind.MIG
        accepted = [
            yes and part.units and part.kind is kind
            for part, yes in zip(make, accepted, strict=True)
        ]
        if kind is GpuKind.SHARED:
            return _of(accepted, make, gpu, replicas=gpu.count)
        return _of(accepted, make, gpu, mig=((UNIT, gpu.count),))
    return _of(
        accepted,
        make,
        gpu,
        count=gpu.count,
        milli=gpu.milli,
        memory_mib=gpu.memory_mib,
        mig=gpu.mig,
        replicas=gpu.replicas,
    )


def _accepts(make: Make, part: Part, gpu: GpuRequest) -> bool:
    """Whether a device is of the resource and the kind that a request asks for."""
    if gpu.resource and part.resource != gpu.resource:
        return False
    match gpu.kind:
        case GpuKind.WHOLE if gpu.resource:
            return part.units or part.kind is GpuKind.WHOLE
        case GpuKind.WHOLE | GpuKind.FRACTION:
            # Devices that we hand out are the node's own ones, not those of another vendor.
            return make.index(part) in offered_twice(make)
        case kind:
            return part.kind is kind and not part.units


def _of(
    accepted: list[bool],
    make: Make,
    gpu: GpuRequest,
    *,
    count: int = 0,
    milli: int = 0,
    memory_mib: int = 0,
    mig: tuple[tuple[str, int], ...] = (),
    replicas: int = 0,
) -> Ask:
    """The request in these terms, of those devices that are of a model it wants."""
    asked = GpuRequest(count, milli, memory_mib, mig, replicas)
    there = any(accepted)
    if gpu.products:
        wanted = [
            yes and part.product in gpu.products for part, yes in zip(make, accepted, strict=True)
        ]
        if any(wanted) or not gpu.by_label:
            accepted = wanted
    if not any(accepted):
        refused = Reason.MODEL_NOT_ALLOWED if there else Reason.FITS
        return Ask(tuple(accepted), asked, refused=refused)
    first = make[accepted.index(True)]
    return Ask(tuple(accepted), asked, (first.resource, first.product))
