"""What the cluster can hold, empty and as it is: the bounds that come before any plan.

A request for more pods at once than that is refused by a few sums over the nodes, however many it
is for and whatever they look like. The bound is never too low: what it refuses cannot be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
from numpy.typing import NDArray

from scheduler.core.devices import fraction_need
from scheduler.core.engine import Engine
from scheduler.core.feasibility import allowed_products, static_reasons
from scheduler.core.groups import odd_rows, units_free, views
from scheduler.core.model import (
    DEVICE_MILLI,
    MAX_PODS,
    MAX_UNITS,
    GpuKind,
    GpuRequest,
    PodRequest,
    Reason,
    Shape,
)
from scheduler.core.plural import plural
from scheduler.core.state import ClusterState, DeviceCode

__all__ = [
    "TOO_LARGE",
    "Excess",
    "empty_room",
    "excess",
    "lacking",
    "overmuch",
    "promising",
    "reservable",
    "room",
    "shortage",
]

IntArray = NDArray[np.int64]

_NO_ROWS: IntArray = np.zeros(0, dtype=np.int64)
_DEVICES = "milli-GPU"
_MOST_SHAPES = 8
_MOST_NAMED = 4
_MOST_UNLIKE = 4  # shapes of one gang that are looked at, each for itself
TOO_LARGE = f"{Reason.GANG_DOES_NOT_FIT.text}: it is larger than the cluster"
"""Why a gang is refused whatever is free."""


@dataclass(frozen=True, slots=True)
class Excess:
    """More than the empty cluster holds: of what, how much it holds, and how much is asked for."""

    what: str
    holds: int
    wanted: int


def empty_room(state: ClusterState, shape: Shape, enough: int, late: IntArray = _NO_ROWS) -> int:
    """Most pods of one shape that the nodes could hold without any pod on them.

    Parameters
    ----------
    state
        The cluster. What is out of service counts as absent.
    shape
        What each pod asks for.
    enough
        More than this need not be told apart, so that sums stay small.
    late : (K,)
        Rows of which the state is late, see :mod:`scheduler.core.passed`: devices count there.

    Returns
    -------
    int
        At most ``enough`` for each node, and in all. Costs a few passes over the columns.
    """
    most = min(enough, MAX_PODS)  # of one node
    each = np.minimum(state.pods_alloc.astype(np.int64), most)
    for has, needs in ((state.cpu_alloc, shape.cpu_milli), (state.mem_alloc, shape.memory_bytes)):
        if needs:
            each = np.minimum(each, has // needs)
    for found in state.counted.fit(shape.counted, len(state), empty=True):
        each = np.minimum(each, found)
    each[late] = most
    if shape.gpu.kind is not GpuKind.NONE:
        each = np.minimum(each, _by_devices(state, shape.gpu, most))
    return min(enough, int(np.maximum(each, 0).sum()))


def excess(
    state: ClusterState, wanted: Mapping[Shape, int], *, first: Shape, late: IntArray = _NO_ROWS
) -> Excess | None:
    """What pods of several shapes ask for beyond what the empty cluster holds, or None.

    Parameters
    ----------
    wanted
        How many pods of each shape.
    first
        The shape to look at first. Of very many shapes some are looked at one by one, those of
        most pods; all of them count in the sums.
    late
        As in :func:`empty_room`.
    """
    total = sum(wanted.values())
    slots = int(state.pods_alloc.sum(dtype=np.int64))
    if total > slots and not len(late):
        return Excess("members", max(0, slots), total)
    often = sorted(wanted, key=lambda shape: -wanted[shape])[:_MOST_SHAPES]
    for shape in dict.fromkeys([first, *often]):
        count = wanted.get(shape, 0)
        room = empty_room(state, shape, count, late)
        if room < count:
            return Excess("members that are alike", room, count)
    for what, has, asked in _sums(state, wanted):
        if asked > has and (what == _DEVICES or not len(late)):
            return Excess(what, has, asked)
    return None


def _sums(state: ClusterState, wanted: Mapping[Shape, int]) -> list[tuple[str, int, int]]:
    """Per resource: in the empty cluster, and wanted by all pods together."""
    devices = int((state.device_code == DeviceCode.PLAIN).sum()) * DEVICE_MILLI
    if state.odd_known:  # a unit counts as much as it is asked for, whatever it is part of
        units = (d for node in state.nodes if node for d in node.devices if d.units and d.healthy)
        devices += sum(max(d.replicas, len(d.mig_layout)) for d in units) * DEVICE_MILLI
    if state.odd_known and any(node.by_dra for node in state.nodes if node):
        devices += DEVICE_MILLI * MAX_PODS * len(state)  # nobody here knows how many these are
    memory = sum(s.memory_bytes * n for s, n in wanted.items())
    asked: Counter[str] = Counter()
    for shape, count in wanted.items():
        for name, amount in shape.counted:
            asked[name] += amount * count
    return [
        ("milli-CPU", int(state.cpu_alloc.sum()), sum(s.cpu_milli * n for s, n in wanted.items())),
        ("MiB", int(state.mem_alloc.sum()) >> 20, -(-memory >> 20)),
        (_DEVICES, devices, sum(s.gpu.requested_milli * n for s, n in wanted.items())),
        *((name, state.counted.total(name), asked[name]) for name in sorted(asked)),
    ]


def _by_devices(state: ClusterState, gpu: GpuRequest, enough: int) -> IntArray:
    """Pods that the devices of each row could have, were they free, (N,)."""
    found = np.where(
        allowed_products(state.products, gpu)[state.product] & (not gpu.also),
        _of_all(state, gpu, enough),
        0,
    )
    every = np.arange(len(state))
    odd = odd_rows(state, gpu, every)
    for view in views(state, gpu, every, odd) if odd is not None else ():
        found[view.at] = np.min([_by_devices(s, ask, enough) for s, ask in view.asks], axis=0)
    return found


def _of_all(state: ClusterState, gpu: GpuRequest, enough: int) -> IntArray:
    codes = state.device_code
    plain = codes == DeviceCode.PLAIN
    match gpu.kind:
        case GpuKind.WHOLE:
            found = plain.sum(axis=1) // gpu.count
        case GpuKind.FRACTION:
            milli, memory = fraction_need(state, gpu, np.arange(len(state)))
            each = np.broadcast_to((DEVICE_MILLI // np.maximum(milli, 1))[:, None], plain.shape)
            needs = np.maximum(memory, 1)[:, None]
            by_memory = np.where(
                (state.device_mem > 0) & (memory > 0)[:, None], state.device_mem // needs, enough
            )
            found = np.where(plain, np.minimum(each, by_memory), 0).sum(axis=1)
        case GpuKind.SHARED:
            found = np.where(codes == DeviceCode.SHARED, state.replicas, 0).sum(axis=1)
            found = found // gpu.replicas
        case _:
            found = np.full(len(state), enough, dtype=np.int64)
            for profile, instances in gpu.mig:
                counts = [mig.count(mig.full_mask, profile) for mig in state.mig_types]
                by_code = np.array([*counts, 0], dtype=np.int64)
                types = np.where(codes >= DeviceCode.MIG, codes - DeviceCode.MIG, -1)
                found = np.minimum(found, by_code[types].sum(axis=1) // instances)
    rooms: IntArray = found.astype(np.int64)
    return rooms


def room(
    engine: Engine,
    request: PodRequest,
    rows: IntArray,
    enough: int,
    *,
    selection: bool = False,
    late: IntArray = _NO_ROWS,
) -> int:
    """How many more pods like this one these rows take at most; exact for whole devices.

    On those of which the state is ``late`` only devices count, see :func:`empty_room`.
    """
    state, gpu = engine.state, request.gpu
    rows = rows[engine.filter(request, rows, selection=selection) == Reason.FITS.code]
    if len(late):
        late = late[engine.filter(request, late, passed=True) == Reason.FITS.code]
        rows = np.union1d(rows, late)
    most = min(enough, MAX_PODS)
    each = np.minimum(state.pods_free[rows].astype(np.int64), most)
    for free, needed in (
        (state.cpu_free, request.cpu_milli),
        (state.mem_free, request.memory_bytes),
    ):
        if needed:
            each = np.minimum(each, free[rows] // needed)
    for found in state.counted.fit(request.counted, len(state), empty=False):
        each = np.minimum(each, found[rows])
    each[np.isin(rows, late)] = most
    if gpu.count:
        each = np.minimum(each, units_free(state, gpu, rows) // gpu.count)
    if gpu.milli:
        each = np.minimum(each, (np.maximum(state.gpu_free[rows], 0) // gpu.milli).sum(axis=1))
    return min(enough, int(each.sum()))


def promising(
    engine: Engine,
    request: PodRequest,
    rows: IntArray,
    missing: int,
    kept: int,
    expected: Collection[PodRequest],
) -> bool:
    """Whether there is room for as many members of each shape as a gang needs.

    Cheaper than a plan, and less: members that are not alike may still be in each other's way.

    Parameters
    ----------
    request
        A member.
    rows : (R,) int64
        Rows that let this member in.
    missing, kept
        Members that need a place, and places that are held already.
    expected
        Members that exist.
    """
    unlike: dict[Shape, list[PodRequest]] = {}
    for member in expected:
        if member.shape != request.shape:
            unlike.setdefault(member.shape, []).append(member)
    wanted = max(1, missing - sum(map(len, unlike.values())) - kept)
    if room(engine, request, rows, wanted) < wanted:
        return False
    if len(expected) > missing or kept:
        return True  # which of the others are needed is not known
    every = np.arange(len(engine.state))
    return all(
        room(engine, members[0], every, len(members), selection=True) == len(members)
        for members in islice(unlike.values(), _MOST_UNLIKE)
    )


def reservable(state: ClusterState, shape: Shape) -> int:
    """Places that a gang of this shape could wait for, by its devices."""
    rows = np.flatnonzero(static_reasons(state, shape) == Reason.FITS.code)
    per_row = state.device_count[rows].astype(np.int64) // max(1, shape.gpu.count)
    if odd_rows(state, shape.gpu, rows) is not None:
        per_row = _by_devices(state, shape.gpu, MAX_UNITS)[rows]
    return int(np.maximum(per_row, 1).sum())


def overmuch(
    engine: Engine,
    known: Sequence[PodRequest],
    members: int,
    *,
    now_too: bool,
    late: IntArray = _NO_ROWS,
) -> str:
    """Why so many members cannot have a place, by sums alone; empty if they might.

    Parameters
    ----------
    known
        Members, the last of which stands for all those that are not known.
    members
        How many there are in all.
    now_too
        Look at what is free now as well.
    late
        As in :func:`empty_room`.
    """
    first = known[-1]
    pods: dict[Shape, PodRequest] = {}
    shapes: Counter[Shape] = Counter()
    for shape, alike in groupby(known[:-1], key=lambda pod: pod.shape):  # hashing each takes long
        *_, pods[shape] = together = list(alike)
        shapes[shape] += len(together)
    pods[first.shape] = first
    shapes[first.shape] += members - len(known) + 1
    over = excess(engine.state, shapes, first=first.shape, late=late)
    if over is not None:
        return f"{TOO_LARGE}, which has room for {over.holds} of {over.wanted} {over.what}"
    every = np.arange(len(engine.state))
    for shape, count in shapes.most_common(_MOST_SHAPES) if now_too else ():
        unlike = shape != first.shape
        found = room(engine, pods[shape], every, count, selection=unlike, late=late)
        if found < count:
            return shortage(pods[shape], found, count)
    return ""


def lacking(existing: int, minimum: int, absent: int) -> str:
    """How many members there are of those that there have to be, in words."""
    text = f"{Reason.GANG_DOES_NOT_FIT.text}: {existing} of {minimum} pods exist"
    return text + (f"; kube-scheduler has not asked about {absent} of them" if absent else "")


def shortage(request: PodRequest, found: int, missing: int) -> str:
    """How many members have a place, and what the others need, in words."""
    each = ", ".join(f"{amount} {name}" for name, amount in request.counted[:_MOST_NAMED])
    beside = f", with {each} for each member" if each else ""
    placed = (
        "the missing member has no place"
        if missing == 1
        else f"{found} of {missing} missing members have a place"
    )
    needed = _devices(request, missing - found)
    return f"{Reason.GANG_DOES_NOT_FIT.text}: needs {needed}{beside}; {placed}"


def _devices(request: PodRequest, members: int) -> str:
    """What so many more members need, in words."""
    gpu = request.gpu
    model = f"model {' or '.join(gpu.products)}" if gpu.products else "any model"
    if gpu.count:
        return f"{plural(members * gpu.count, 'more device')} of {model}"
    if gpu.milli:
        fractions = plural(members, "more fraction")
        return f"{fractions} of {gpu.milli} milli-GPU on devices of {model}"
    return f"room for {plural(members, 'more member')}"
