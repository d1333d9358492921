"""Dual prices of a cluster for its workload profile.

Before the first step the profile is widened by what it may lack: pods that want an entire node of
one model and no other. A few hundred pods tell little about who is picky, and a scarce model that
was given away to those who are not does not come back.

Three steps, each small:

1. *Remainders*: how will devices be cut? An arc flow over the free amount of a device; its duals
   say what a device with so much left is worth, and so how much of it a fraction really takes.
   Partitioned devices have a flow of their own over masks of free slots (:mod:`.slots`).
2. *Pods*: which pods should run on which nodes? A linear programme over kinds of pods and groups
   of nodes with like residual capacity (model, devices, cpu per GPU); its duals say what a pod of
   each kind costs at least. Solved for a demand that equals what is free, and for a multiple of it:
   the first knows which models are scarce, the second that random arrivals strand cpu.
3. *Leftovers*: at these prices per pod, what is a node worth by what it has left? See
   :mod:`scheduler.planner.pricing.node_values`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
from numpy.typing import NDArray

from scheduler.core.feasibility import suited
from scheduler.core.mig import MigType
from scheduler.core.model import DEVICE_MILLI, MAX_DEVICES, GpuKind, GpuRequest
from scheduler.core.price_tables import (
    EFFECTIVE_SCALE,
    NO_DEVICES,
    PRICE_SCALE,
    WORTH_SHAPE,
    NodeClass,
    Prices,
    class_of,
    node_effective,
    node_kinds,
    present_codes,
    slot_gains,
)
from scheduler.core.price_weights import PriceWeights
from scheduler.core.state import ClusterState, DeviceCode
from scheduler.core.workload_profile import TypicalShape, WorkloadProfile
from scheduler.planner.pricing.linear import Program
from scheduler.planner.pricing.node_values import Item, residual_values
from scheduler.planner.pricing.slot_values import (
    least_taken,
    requested_milli,
    slot_values,
)

__all__ = ["prices"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_STEP = 10
_NEED_POWER = 4
_LONG_BROKEN = 4.0  # a node is whole again when all have left, and meanwhile others come
_CPU_VALUE = 0.05  # of a milli-CPU of a pod without GPU, in milli-GPU
_ALIKE = 0.15  # pods whose cpu differs by less than this share are one kind
_RATIOS = np.array([0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 20, 28])  # cores per GPU
_QUARTER_CORE = 250
_CRUMB = 50 * EFFECTIVE_SCALE  # nodes with less GPU left are all of one group


@dataclass(frozen=True, slots=True)
class _Kind:
    """Pods that are priced together."""

    weight: int
    cpu_milli: int
    memory_bytes: int
    gpu: GpuRequest
    milli: int
    takes: int  # effective milli-GPU, over EFFECTIVE_SCALE
    hosts: NDArray[np.bool_]  # (C,) classes of nodes where it may run

    @property
    def worth(self) -> float:
        """What placing one is worth, in milli-GPU."""
        return float(self.milli or _CPU_VALUE * self.cpu_milli)


@dataclass(frozen=True, slots=True)
class _Groups:
    """Nodes with like residual capacity, pooled."""

    code: IntArray  # class of nodes
    cpu: IntArray
    memory: IntArray
    gpu: IntArray  # effective, over EFFECTIVE_SCALE
    most_full: IntArray  # entirely free devices on one node

    def __len__(self) -> int:
        return len(self.code)


def prices(
    state: ClusterState,
    profile: WorkloadProfile,
    weights: PriceWeights | None = None,
    *,
    departures: float = 0.0,
) -> Prices | None:
    """Prices for a state and a profile; None without shapes in the profile, or without optimum.

    Parameters
    ----------
    state
        The cluster as it is; rows that cannot take a pod at all do not count.
    profile
        Typical pods, the rare ones included.
    weights
        How the policy will charge them, and for how much demand they are made.
    departures
        Pods that leave for each that comes, in 0..1: how far sets of devices are needed for good.
    """
    weights = weights or PriceWeights()
    if not len(state):
        return None
    profile = _with_unseen(state, profile, weights.prior_pods)
    classes, code = _classes(state)
    amounts = {shape.gpu: requested_milli(state, shape.gpu) for shape in profile.all_shapes}
    wanted = sum(shape.weight * amounts[shape.gpu] for shape in profile.all_shapes)
    free = int(np.maximum(state.gpu_left, 0).sum())
    if not wanted or not free:
        return None
    scale = free / wanted
    effective = _effective(state, profile, amounts, scale)
    slots = slot_values(state, profile, scale)
    if effective is None or slots is None:
        return None
    kinds = _kinds(profile, classes, amounts, effective, slots)
    sliced = any(each.mig is not None or each.shared for each in classes)
    pooled = node_effective(
        state,
        np.arange(len(state)),
        effective[np.maximum(state.gpu_free, 0)],
        slot_gains(state, slots),
        sliced=sliced,
    )
    groups = _groups(state, code, pooled)
    solved = _pod_prices(kinds, groups, (scale, scale * weights.stranding_demand))
    if solved is None:
        return None
    objective, (near, far) = solved
    cores = -(-int(state.cpu_alloc.max()) // (WORTH_SHAPE[0] - 1))
    cpu_step = max(1, -(-cores // _QUARTER_CORE)) * _QUARTER_CORE
    most = int(state.device_count.max()) * DEVICE_MILLI
    gpu_step = max(DEVICE_MILLI // 10, -(-most // (WORTH_SHAPE[1] - 1)))
    worth = np.zeros((len(classes), *WORTH_SHAPE), dtype=np.int64)
    for weight, pod_prices in ((weights.scarcity, near), (weights.stranding, far)):
        if weight:
            worth += _tables(len(classes), kinds, pod_prices * weight, cpu_step, gpu_step)
    sets = _set_tables(state, code, len(classes), kinds, scale, cpu_step, departures)
    return Prices(
        state.generation_now,
        classes,
        effective,
        slots,
        worth,
        sets,
        cpu_step,
        gpu_step,
        weights,
        objective,
        len(groups),
        len(kinds),
        sliced=sliced,
        any_sets=bool(sets.any()),
    )


def _with_unseen(state: ClusterState, profile: WorkloadProfile, pods: float) -> WorkloadProfile:
    """The profile with so many more pods for an entire node of each model."""
    shapes = profile.all_shapes
    milli = sum(shape.weight * requested_milli(state, shape.gpu) for shape in shapes)
    if not (pods and profile.observed and milli):
        return profile
    weight = round(pods * sum(shape.weight for shape in shapes) / profile.observed)
    if not weight:
        return profile
    cores = sum(shape.weight * shape.cpu_milli for shape in shapes if shape.gpu.kind)
    plain = (node_kinds(state, slice(None)) == DeviceCode.PLAIN) & (state.make == 0)
    more = []
    for code in sorted(range(len(state.products)), key=state.products.__getitem__):
        resource, product = state.products[code]
        rows = np.flatnonzero(plain & (state.product == code))
        if not product or not len(rows):
            continue
        count = int(state.device_count[rows].max())
        largest = rows[state.device_count[rows] == count]
        cpu = min(count * DEVICE_MILLI * cores // milli, int(state.cpu_alloc[largest].min()))
        gpu = GpuRequest(count=count, products=(product,), resource=resource)
        more.append(TypicalShape(cpu, 0, gpu, weight))
    return replace(profile, rare=profile.rare + tuple(more))


def _classes(state: ClusterState) -> tuple[tuple[NodeClass, ...], IntArray]:
    """Classes of nodes in an order that does not depend on that of the nodes, and each row's."""
    pairs = {pair: class_of(state, *pair) for pair in present_codes(state)}
    classes = sorted({NO_DEVICES, *pairs.values()}, key=str)
    kinds = node_kinds(state, slice(None))
    code = np.full(len(state), classes.index(NO_DEVICES), dtype=np.int64)
    for (product, kind), each in pairs.items():
        code[(state.product == product) & (kinds == kind)] = classes.index(each)
    return tuple(classes), code


def _kinds(
    profile: WorkloadProfile,
    classes: Sequence[NodeClass],
    amounts: Mapping[GpuRequest, int],
    effective: IntArray,
    slots: Mapping[MigType, IntArray],
) -> list[_Kind]:
    """Shapes of one GPU request and nearly the same cpu, taken together."""
    together: dict[tuple[GpuRequest, int], tuple[int, int, int]] = {}
    for shape in profile.all_shapes:
        bucket = int(log(max(shape.cpu_milli, 500)) / log(1 + _ALIKE))
        key = (shape.gpu, bucket)
        weight, cpu, memory = together.get(key, (0, 0, 0))
        together[key] = (
            weight + shape.weight,
            cpu + shape.weight * shape.cpu_milli,
            memory + shape.weight * shape.memory_bytes,
        )
    known = {
        gpu: (
            _takes(gpu, amounts[gpu], effective, slots),
            _admits(classes, gpu),
        )
        for gpu in {gpu: None for gpu, _ in together}
    }
    made = [
        _Kind(weight, cpu // weight, memory // weight >> 20 << 20, gpu, amounts[gpu], *known[gpu])
        for (gpu, _), (weight, cpu, memory) in together.items()
    ]
    return sorted(made, key=lambda k: (-k.weight, -k.takes, -k.cpu_milli, k.gpu.products))


def _admits(classes: Sequence[NodeClass], gpu: GpuRequest) -> NDArray[np.bool_]:
    """Which classes have what the request asks for, (C,)."""
    if gpu.kind is GpuKind.NONE:
        return np.ones(len(classes), dtype=bool)
    has = np.array([each != NO_DEVICES and _has(each, gpu) for each in classes], dtype=bool)
    return np.asarray(suited([(each.resource, each.product) for each in classes], gpu) & has)


def _has(nodes: NodeClass, gpu: GpuRequest) -> bool:
    """Whether the devices of a class are shared the way the request wants them."""
    match gpu.kind:
        case GpuKind.MIG:
            mig = nodes.mig
            return mig is not None and all(mig.placements(name) for name, _ in gpu.mig)
        case GpuKind.SHARED:
            return nodes.shared
        case _:
            return nodes.mig is None and not nodes.shared


def _takes(
    gpu: GpuRequest, milli: int, effective: IntArray, slots: Mapping[MigType, IntArray]
) -> int:
    """Effective milli-GPU that a request takes where it takes least."""
    if gpu.kind is GpuKind.FRACTION and 0 < milli <= DEVICE_MILLI:
        return int((effective[milli:] - effective[: DEVICE_MILLI + 1 - milli]).min())
    if gpu.kind is GpuKind.MIG:
        return sum(count * least_taken(slots, profile) for profile, count in gpu.mig)
    return milli * EFFECTIVE_SCALE


def _groups(state: ClusterState, code: IntArray, gpu: IntArray) -> _Groups:
    """Pool nodes by class, devices, cpu per (effective) GPU and entirely free devices."""
    cpu = np.maximum(state.cpu_free, 0)
    usable = (state.pods_free > 0) & (cpu > 0)
    usable[state.empty_rows] = False
    rows = np.flatnonzero(usable)
    gpu, cpu, code = gpu[rows], cpu[rows], code[rows]
    ratio = np.where(
        gpu >= _CRUMB,
        np.searchsorted(_RATIOS, cpu * EFFECTIVE_SCALE / np.maximum(gpu, 1)),
        len(_RATIOS) + 1,
    )
    full = state.full_free[rows].astype(np.int64)
    keys = np.stack((code, state.device_count[rows], ratio, np.minimum(full, 8) // 4))
    _, first, group = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    count = len(first)

    def pooled(column: IntArray) -> IntArray:
        total = np.zeros(count, dtype=np.int64)
        np.add.at(total, group, column)
        return total

    most_full = np.zeros(count, dtype=np.int64)
    np.maximum.at(most_full, group, full)
    memory = np.maximum(state.mem_free[rows], 0)
    return _Groups(code[first], pooled(cpu), pooled(memory), pooled(gpu), most_full)


def _pod_prices(
    kinds: list[_Kind], groups: _Groups, scales: tuple[float, ...]
) -> tuple[float, list[FloatArray]] | None:
    """Price of a pod of each kind at each demand, and the objective at the first; (K,) each.

    A pod's price is its worth less what one more of it in the demand would add: what it costs
    at least, wherever it runs.
    """
    columns = (groups.cpu, groups.memory, groups.gpu)
    # Shares of the cluster instead of amounts: no unit of cpu or memory changes a digit of this.
    totals = [max(1, int(column.sum())) for column in columns]
    supply = [
        int(column[group]) / total
        for group in range(len(groups))
        for column, total in zip(columns, totals, strict=True)
    ]
    program = Program([kind.weight * scales[0] for kind in kinds] + supply)
    worth = [kind.worth for kind in kinds]
    for number, kind in enumerate(kinds):
        hosts = kind.hosts[groups.code]
        if kind.milli:
            hosts &= (groups.most_full >= kind.gpu.count) & (2 * groups.gpu >= kind.takes)
        asked = (kind.cpu_milli, kind.memory_bytes, kind.takes)
        first = len(kinds) + len(columns) * np.flatnonzero(hosts)
        taken: list[tuple[list[int], float]] = [([number] * len(first), 1.0)]
        for at, (amount, total) in enumerate(zip(asked, totals, strict=True)):
            if amount:
                taken.append(((first + at).tolist(), amount / total))
        program.columns(worth[number], taken)
    objective = 0.0
    found: list[FloatArray] = []
    for scale in scales:
        solved = program.solve([kind.weight * scale for kind in kinds])
        if solved is None:
            return None
        objective = objective if found else solved[0]
        found.append(np.clip(np.array(worth) - solved[1][: len(kinds)], 0.0, worth))
    return objective, found


def _tables(
    classes: int, kinds: list[_Kind], pod_prices: FloatArray, cpu_step: int, gpu_step: int
) -> IntArray:
    """Value of residual capacity by class of nodes; see :class:`Prices`."""
    price = np.round(pod_prices * PRICE_SCALE).astype(np.int64).tolist()
    cores = [round(kind.cpu_milli / cpu_step) for kind in kinds]
    gpus = [round(kind.takes / (gpu_step * EFFECTIVE_SCALE)) for kind in kinds]
    tables = []
    known: dict[tuple[Item, ...], IntArray] = {}  # without picky pods all models are alike
    for code in range(classes):
        items = tuple(
            # A pod takes something of what it asks for, however small it is.
            (core or int(not gpu), gpu, amount)
            for core, gpu, amount, kind in zip(cores, gpus, price, kinds, strict=True)
            if kind.hosts[code] and amount > 0
        )
        if items not in known:
            known[items] = residual_values(items)
        tables.append(known[items])
    return np.array(tables, dtype=np.int64).reshape(-1, *WORTH_SHAPE)


def _set_tables(
    state: ClusterState,
    code: IntArray,
    classes: int,
    kinds: list[_Kind],
    scale: float,
    cpu_step: int,
    departures: float,
) -> IntArray:
    """Value of entirely free devices to pods of several; see :class:`Prices`.

    A set of devices is worth what it has, times the chance that such a pod needs it. Prices per
    device do not know it, for a linear programme takes the eighth part of a pod too. Where a
    cluster only fills, a set is needed if the demand comes near all that there are, and hardly
    before; where pods leave and others come, as often as the demand takes one, and some more: once
    broken, a node is whole again only when all its pods have left. No device is worth more than
    itself.
    """
    rows = np.arange(WORTH_SHAPE[0])[:, None]
    full = np.arange(MAX_DEVICES + 1)[None, :]
    tables = np.zeros((classes, WORTH_SHAPE[0], MAX_DEVICES + 1))
    chances = np.zeros(classes)
    several = [k for k in kinds if 1 < k.gpu.count <= MAX_DEVICES]
    # Pods of one number and one choice of models want the same sets, whatever cpu they ask for.
    together: dict[tuple[int, tuple[str, ...]], int] = {}
    for kind in several:
        key = (kind.gpu.count, kind.gpu.products)
        together[key] = together.get(key, 0) + kind.weight
    for kind in several:
        count = kind.gpu.count
        where = kind.hosts
        on = where[code] & (state.cpu_free >= kind.cpu_milli)
        there = int((state.full_free[on] // count).sum())
        all_alike = together[count, kind.gpu.products]
        ratio = min(1.0, all_alike * scale / there) if there else 1.0
        need = max(ratio**_NEED_POWER, min(1.0, _LONG_BROKEN * departures * ratio))
        chance = need * kind.weight / all_alike
        pods = np.minimum(full // count, rows // max(1, kind.cpu_milli // cpu_step))
        tables[where] += chance * pods * (count * DEVICE_MILLI * PRICE_SCALE)
        chances[where] += chance
    tables /= np.maximum(chances, 1.0)[:, None, None]
    return np.round(tables).astype(np.int64)


def _effective(
    state: ClusterState, profile: WorkloadProfile, amounts: Mapping[GpuRequest, int], scale: float
) -> IntArray | None:
    """Effective milli-GPU of a device by its free milli-GPU; see :class:`Prices`."""
    demand: dict[int, float] = {}
    for shape in profile.all_shapes:
        gpu = shape.gpu
        if gpu.kind is GpuKind.FRACTION and amounts[gpu]:
            size = -(-amounts[gpu] // _STEP)
            demand[size] = demand.get(size, 0.0) + shape.weight * scale
        elif gpu.kind is GpuKind.WHOLE:
            full = DEVICE_MILLI // _STEP
            demand[full] = demand.get(full, 0.0) + shape.weight * scale * gpu.count
    supply = np.bincount(state.gpu_free[state.gpu_free >= 0] // _STEP, minlength=101)
    # What leaves a remainder is no more than what is there: supply and what larger ones leave.
    sizes = sorted(demand)
    program = Program([*(float(n) for n in supply.tolist()), *(demand[size] for size in sizes)])
    for at, size in enumerate(sizes, start=len(supply)):
        lefts = range(size, len(supply))
        less = range(len(lefts))
        cuts = ((lefts, 1.0), (less, -1.0), ([at] * len(lefts), 1.0))
        program.columns(float(size * _STEP), cuts)
    # A device is also worth what less of it is worth.
    program.columns(0.0, ((range(1, len(supply)), 1.0), (range(len(supply) - 1), -1.0)))
    solved = program.solve()
    if solved is None:
        return None
    values = np.maximum(solved[1][: len(supply)], 0.0)
    values = np.maximum.accumulate(values - values[0]).clip(0)
    free = np.arange(DEVICE_MILLI + 1)
    if not values[-1] > 0:  # devices are not scarce: each is worth what it has
        return free * EFFECTIVE_SCALE
    shares = values / values[-1]
    made: IntArray = np.round(shares[free // _STEP] * DEVICE_MILLI * EFFECTIVE_SCALE).astype(
        np.int64
    )
    return made
