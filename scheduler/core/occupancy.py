"""Pods that run already: what they take, whether or not anybody recorded their devices.

A running pod is a fact. It is recorded even where it over-fills its node, and what it holds is
never counted as free only because nobody knows which device it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

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

__all__ = ["occupied", "running"]

Choice = Callable[[PodRequest, str], tuple[DeviceShare, ...] | None]

_BEYOND = DEVICE_MILLI + 1
_MOST_REPLICAS = 1 << 14  # no device is cut so often; a column must not overflow all the same


def running(
    engine: Engine,
    request: PodRequest,
    node: str,
    devices: tuple[DeviceShare, ...] | None = None,
    parts: Sequence[GpuRequest] = (),
) -> Placement:
    """The placement of a pod that runs on a node of an engine: :func:`occupied`.

    The device of a fraction is chosen as the engine would have chosen it.
    """
    return occupied(engine.state, request, node, devices, parts, partial(_chosen, engine))


def _chosen(engine: Engine, request: PodRequest, node: str) -> tuple[DeviceShare, ...] | None:
    row = engine.state.row(node)
    if int(engine.filter(request, np.array([row]))[0]) != Reason.FITS.code:
        return None
    return engine.choose(request, node).devices


def occupied(
    state: ClusterState,
    request: PodRequest,
    node: str,
    devices: tuple[DeviceShare, ...] | None = None,
    parts: Sequence[GpuRequest] = (),
    choose: Choice | None = None,
) -> Placement:
    """The placement of a pod that runs on a node; writes nothing.

    Parameters
    ----------
    state
        What is there besides.
    request
        The pod.
    node
        A node that the state knows.
    devices
        Recorded devices, or None. Recorded ones are taken as they are.
    parts
        What it takes of devices where its request cannot say that: several ways at once, or one
        share after another.
    choose
        Device for a fraction, None if there is none; by default the fullest one that has room.

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
    kind = request.gpu.kind
    if kind is GpuKind.NONE and not (parts or request.gpu.also):
        return Placement(request, node, ())
    row = state.row(node)
    if request.gpu.also and not is_odd(state, request.gpu, row):
        parts = _parts_here(state, request.gpu, row)
        return Placement(request, node, _together(state, request, row, parts))
    if parts:
        return Placement(request, node, _together(state, request, row, parts))
    if kind is not GpuKind.FRACTION:  # only that is a choice of the policy
        shares = shares_of(state, request.gpu, row, -1)
    elif choose is not None:
        shares = choose(request, node)
    else:
        shares = shares_of(state, request.gpu, row, _fullest(state, request.gpu, row))
    return Placement(request, node, _claimed(state, request.gpu, row) if shares is None else shares)


def _fullest(state: ClusterState, gpu: GpuRequest, row: int) -> int:
    """The device with the least left that has room for a fraction, or -1."""
    if is_odd(state, gpu, row):
        seen, ask = asks_on(state, gpu, row)[0]
        return _fullest(seen, ask, 0)
    if gpu.kind is not GpuKind.FRACTION:
        return -1
    milli, memory_mib = fraction_need(state, gpu, np.array([row]))
    free, size = state.gpu_free[row], state.device_mem[row]
    fits = (free >= milli[0]) & ((size == 0) | (state.device_mem_free[row] >= memory_mib[0]))
    return int(np.where(fits, free, _BEYOND).argmin()) if fits.any() else -1


def _parts_here(state: ClusterState, gpu: GpuRequest, row: int) -> list[GpuRequest]:
    """Of a request for devices of several resources, what is asked of those that the node has."""
    node = state.node(row)
    parts = (replace(gpu, also=()), *gpu.also)
    return [part for part in parts if not part.resource or part.resource in node.resources]


def _together(
    state: ClusterState, request: PodRequest, row: int, parts: Sequence[GpuRequest]
) -> tuple[DeviceShare, ...]:
    """Devices for one part after another, each chosen as if it were a pod of its own."""
    state = state.excerpt_without(row, {request.uid})
    node = state.node(0)
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
        placed = occupied(state, part, node.name)
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
