"""Pods that run already: what they take, whether or not anybody recorded their devices.

A running pod is a fact. It is recorded even where it over-fills its node, and what it holds is
never counted as free only because nobody knows which device it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scheduler.core.devices import fraction_need, mig_shares, shares_of
from scheduler.core.engine import Engine
from scheduler.core.groups import asks_on, is_odd
from scheduler.core.mig import claimed_slots
from scheduler.core.model import (
    DEVICE_MILLI,
    DeviceShare,
    GpuKind,
    GpuRequest,
    Placement,
    PodRequest,
    Reason,
)
from scheduler.core.state import ClusterState, DeviceCode

__all__ = ["running"]

_MOST_REPLICAS = 1 << 14  # no device is cut so often; a column must not overflow all the same


def running(
    engine: Engine,
    request: PodRequest,
    node: str,
    devices: tuple[DeviceShare, ...] | None = None,
    parts: Sequence[GpuRequest] = (),
) -> Placement:
    """The placement of a pod that runs on a node; writes nothing.

    Parameters
    ----------
    engine
        Chooses devices where none are recorded, as it would have itself.
    request
        The pod.
    node
        A node that the state knows.
    devices
        Recorded devices, or None. Recorded ones are taken as they are.
    parts
        What it takes of devices where its request cannot say that: several ways at once, or one
        share after another.

    Returns
    -------
    Placement
        To be applied with ``enforce=False``. Where the devices do not suffice, the pod takes what
        is left of those of its kind and claims the rest beyond what they have: all that it asks
        for, but no more whole devices or MIG instances than the node may have. Only what the node
        has no device for, such as a MIG profile that none of them offers, is not charged.
    """
    if devices is not None:
        return Placement(request, node, devices)
    row = engine.state.row(node)
    if request.gpu.also and not is_odd(engine.state, request.gpu, row):
        parts = _parts_here(engine.state, request.gpu, row)
        return Placement(request, node, _together(engine, request, row, parts))
    if parts:
        return Placement(request, node, _together(engine, request, row, parts))
    if request.gpu.kind is not GpuKind.FRACTION:  # only that is a choice of the policy
        shares = shares_of(engine.state, request.gpu, row, -1)
        return Placement(
            request, node, _claimed(engine.state, request.gpu, row) if shares is None else shares
        )
    if int(engine.filter(request, np.array([row]))[0]) == Reason.FITS.code:
        return engine.choose(request, node)
    return Placement(request, node, _claimed(engine.state, request.gpu, row))


def _parts_here(state: ClusterState, gpu: GpuRequest, row: int) -> list[GpuRequest]:
    """Of a request for devices of several resources, what is asked of those that the node has."""
    node = state.nodes[row]
    assert node is not None  # callers name an occupied row
    parts = (replace(gpu, also=()), *gpu.also)
    return [part for part in parts if not part.resource or part.resource in node.resources]


def _together(
    engine: Engine, request: PodRequest, row: int, parts: Sequence[GpuRequest]
) -> tuple[DeviceShare, ...]:
    """Devices for one part after another, each chosen as if it were a pod of its own."""
    state = engine.state.excerpt_without(row, {request.uid})
    chooser = Engine(state, "best-fit")
    node = state.nodes[0]
    assert node is not None  # the excerpt is of an occupied row
    found: dict[int, DeviceShare] = {}
    # Whole devices first: a free one must not be taken for a part that fits beside others.
    for number, gpu in enumerate(sorted(parts, key=lambda gpu: gpu.kind is not GpuKind.WHOLE)):
        part = replace(
            request,
            uid=f"{request.uid}/{number}",
            cpu_milli=0,
            memory_bytes=0,
            gpu=gpu,
            gang=None,
            counted=(),
        )
        placed = running(chooser, part, node.name)
        state.apply([placed], enforce=False)
        for share in placed.devices:
            before = found.get(share.index, DeviceShare(share.index, 0))
            found[share.index] = DeviceShare(
                share.index,
                before.milli + share.milli,
                before.memory_mib + share.memory_mib,
                before.slots | share.slots if gpu.mig else before.slots + share.slots,
            )
    return tuple(found[index] for index in sorted(found))


def _claimed(state: ClusterState, gpu: GpuRequest, row: int) -> tuple[DeviceShare, ...]:
    """Devices for a pod that does not fit: the emptiest ones of its kind."""
    if is_odd(state, gpu, row):
        asks = asks_on(state, gpu, row)
        return tuple(share for seen, ask in asks for share in _claimed(seen, ask, 0))
    codes = state.device_code[row]
    if gpu.kind is GpuKind.SHARED:
        return _claimed_replicas(state, gpu, row)
    if gpu.kind is GpuKind.MIG:
        types = state.mig_types_of(row)
        free = tuple(state.slots_free[row, : len(types)].tolist())
        claims = claimed_slots(types, free, gpu.mig)
        return mig_shares(state, row, ((i, mask) for i, mask in enumerate(claims) if mask))
    plain = np.flatnonzero(codes == DeviceCode.PLAIN)
    emptiest = plain[np.argsort(-state.gpu_free[row, plain], kind="stable")].tolist()
    if gpu.kind is GpuKind.WHOLE:
        sizes = state.device_mem[row].tolist()
        return tuple(DeviceShare(i, DEVICE_MILLI, sizes[i]) for i in sorted(emptiest[: gpu.count]))
    if gpu.kind is GpuKind.FRACTION and emptiest:
        part, memory_mib = fraction_need(state, gpu, np.array([row]))
        return (DeviceShare(emptiest[0], int(part[0]), int(memory_mib[0])),)
    return ()  # no plain device


def _claimed_replicas(state: ClusterState, gpu: GpuRequest, row: int) -> tuple[DeviceShare, ...]:
    """All replicas that are free, and on the device with most of them those that are not."""
    shared = np.flatnonzero(state.device_code[row] == DeviceCode.SHARED).tolist()
    if not shared:
        return ()
    claims = {index: max(0, int(state.slots_free[row, index])) for index in shared}
    freest = max(shared, key=lambda index: (state.slots_free[row, index], -index))
    missing = gpu.replicas - sum(claims.values())
    claims[freest] += min(missing, _MOST_REPLICAS)
    return tuple(
        DeviceShare(index, count * DEVICE_MILLI // int(state.replicas[row, index]), 0, count)
        for index, count in claims.items()
        if count
    )
