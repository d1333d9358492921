"""The policy table. Every policy is a small pure function over :class:`Candidates`.

Published baselines keep their published arithmetic, integer truncation included, so that their
figures can be compared with the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, log
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from scheduler.core.errors import InvalidInput, nearest
from scheduler.core.leftover_values import (
    EFFECTIVE_SCALE,
    PRICE_SCALE,
    Prices,
    gain_of_slots,
    node_effective,
)
from scheduler.core.model import DEVICE_MILLI, GpuKind
from scheduler.core.power import SOCKET_MILLI, entire_slots
from scheduler.core.price_weights import WEIGHT_SCALE
from scheduler.core.ranking import (
    Candidates,
    Policy,
    Scored,
    best_fit_device,
    first_fit_device,
    hashed,
)
from scheduler.core.state import affinity_of

__all__ = ["POLICIES", "policy_named"]

IntArray = NDArray[np.int64]

# Normalisation constants of the FGD artifact: the largest node of the trace.
_MAX_CPU_MILLI = 128_000
_MAX_GPU_MILLI = 8_000


def _random(candidates: Candidates) -> Scored:
    """Uniform over nodes, and over the devices that host a fraction."""
    nodes, salt = candidates.identities, candidates.salt
    if candidates.shape.gpu.kind is not GpuKind.FRACTION:
        return Scored(hashed(nodes, salt), np.full(len(nodes), -1, dtype=np.int64))
    width = candidates.gpu.shape[1]
    keys = nodes[:, None] * width + np.arange(width)
    draw = hashed(keys.ravel(), salt + 1).reshape(keys.shape)
    devices = np.where(candidates.hosts, draw, -1).argmax(axis=1)
    return Scored(hashed(nodes, salt), devices)


def _first_fit(candidates: Candidates) -> Scored:
    return Scored(np.zeros(len(candidates.rows), np.int64), first_fit_device(candidates))


def _best_fit(candidates: Candidates) -> Scored:
    """100 minus the normalised sum of cpu and GPU left, truncated to an integer."""
    scale = 2 * _MAX_CPU_MILLI * _MAX_GPU_MILLI
    left = candidates.cpu_left * _MAX_GPU_MILLI + candidates.gpu_left * _MAX_CPU_MILLI
    return Scored((100 * (scale - left)) // scale, best_fit_device(candidates))


def _dot_product(candidates: Candidates) -> Scored:
    """100 x (1 - mean of free x request per dimension, both normalised), truncated."""
    state, rows = candidates.state, candidates.rows
    cpu = (state.cpu_free[rows] / _MAX_CPU_MILLI) * (candidates.shape.cpu_milli / _MAX_CPU_MILLI)
    gpu = (state.gpu_left[rows] / _MAX_GPU_MILLI) * (candidates.gpu_taken / _MAX_GPU_MILLI)
    scores = (100 * (1 - (cpu + gpu) / 2)).astype(np.int64)
    return Scored(scores, best_fit_device(candidates))


def _gpu_packing(candidates: Candidates) -> Scored:
    """Prefer used devices, then free devices on used nodes, then idle nodes."""
    state, rows = candidates.state, candidates.rows
    devices = best_fit_device(candidates)
    gpu = candidates.shape.gpu
    if gpu.kind is GpuKind.NONE:
        return Scored(np.zeros(len(rows), np.int64), devices)
    full = state.full_free[rows].astype(np.int64)
    idle = full == state.device_count[rows]
    if gpu.kind is GpuKind.FRACTION:
        chosen = candidates.gpu[np.arange(len(rows)), devices]
        on_used = np.maximum(100 - chosen * 100 // DEVICE_MILLI // 10, 50)
        scores = np.where(chosen == DEVICE_MILLI, 49, on_used)
    else:
        scores = np.full(len(rows), max(50 - gpu.count, 33), dtype=np.int64)
    return Scored(np.where(idle, np.maximum(33 - full, full), scores), devices)


def _gpu_clustering(candidates: Candidates) -> Scored:
    """Prefer nodes that run the same kind of request already, the fuller the better."""
    state, rows = candidates.state, candidates.rows
    devices = best_fit_device(candidates)
    kind = affinity_of(candidates.shape.gpu)
    if kind < 0:
        return Scored(np.zeros(len(rows), np.int64), devices)
    present = state.affinity[rows] > 0
    kinds = present.sum(axis=1)
    fullness = 25 * (_MAX_GPU_MILLI - state.gpu_left[rows].astype(np.int64)) // _MAX_GPU_MILLI
    tier = np.where(present[:, kind], np.where(kinds == 1, 75, 50), np.where(kinds == 0, 25, 0))
    return Scored(tier + fullness, devices)


def _used_percent(allocatable: IntArray, left: IntArray) -> IntArray:
    return np.where(allocatable > 0, (allocatable - left) * 100 // np.maximum(allocatable, 1), 0)


def _utilisation(candidates: Candidates) -> tuple[IntArray, IntArray, IntArray]:
    """Percent of cpu, memory and GPU in use after the placement, each (R,)."""
    state, rows = candidates.state, candidates.rows
    capacity = state.device_count[rows].astype(np.int64) * DEVICE_MILLI
    return (
        _used_percent(state.cpu_alloc[rows], candidates.cpu_left),
        _used_percent(state.mem_alloc[rows], candidates.memory_left),
        _used_percent(capacity, candidates.gpu_left),
    )


def _kube_default(candidates: Candidates) -> Scored:
    """NodeResourcesFit LeastAllocated plus NodeResourcesBalancedAllocation, weight 1 each."""
    state, rows = candidates.state, candidates.rows
    cpu, memory = np.maximum(state.cpu_alloc[rows], 1), np.maximum(state.mem_alloc[rows], 1)
    least = (candidates.cpu_left * 100 // cpu + candidates.memory_left * 100 // memory) // 2
    # The standard deviation of two numbers is half their distance.
    spread = np.abs(candidates.cpu_left / cpu - candidates.memory_left / memory) / 2
    return Scored(least + ((1 - spread) * 100).astype(np.int64), first_fit_device(candidates))


def _most_allocated(candidates: Candidates) -> Scored:
    cpu, memory, gpu = _utilisation(candidates)
    has_gpu = candidates.state.device_count[candidates.rows] > 0
    return Scored(
        np.where(has_gpu, (cpu + memory + gpu) // 3, (cpu + memory) // 2),
        best_fit_device(candidates),
    )


def _requested_to_capacity(candidates: Candidates) -> Scored:
    """The bin-packing shape of the Kubernetes manual: GPU weighs 3, cpu and memory 1 each."""
    cpu, memory, gpu = _utilisation(candidates)
    has_gpu = candidates.state.device_count[candidates.rows] > 0
    return Scored(
        np.where(has_gpu, (cpu + memory + 3 * gpu) // 5, (cpu + memory) // 2),
        best_fit_device(candidates),
    )


def _fragmentation_decrease(candidates: Candidates) -> IntArray:
    """How much the placement lowers F(n), times the total weight of the mix.

    Returns
    -------
    (R, D) for a fraction, per device that may take it; (R, 1) otherwise.
    """
    state, rows, tables = candidates.state, candidates.rows, candidates.fragmentation
    product, cpu_free = state.product[rows], state.cpu_free[rows]
    before, after = tables.base(product, cpu_free), tables.base(product, candidates.cpu_left)
    gpu, kind = candidates.gpu, candidates.shape.gpu.kind
    full = state.full_free[rows].astype(np.int64)
    devices_after = tables.device_usable(after, gpu)
    usable = devices_after.sum(axis=1) - tables.device_usable(before, gpu).sum(axis=1)
    usable -= tables.node_usable(before, full)
    if tables.has_slot_shapes:
        slots = state.slots_free[rows].astype(np.int64)
        usable -= tables.slot_usable(state, rows, before, slots)
        left = candidates.slots_after if kind in (GpuKind.MIG, GpuKind.SHARED) else slots
        usable += tables.slot_usable(state, rows, after, left)
    if kind is GpuKind.FRACTION:
        need = candidates.need[0][:, None]
        changed = tables.device_usable(after, gpu - need) - devices_after
        whole = tables.node_usable(after, full)
        fewer = tables.node_usable(after, np.maximum(full - 1, 0))
        several = np.where(gpu == DEVICE_MILLI, fewer[:, None], whole[:, None])
        return np.asarray(usable[:, None] + changed + several + need * tables.total_weight)
    taken = candidates.gpu_taken
    if kind is GpuKind.WHOLE:
        count = candidates.shape.gpu.count
        entire = np.full((len(rows), 1), DEVICE_MILLI, dtype=np.int64)
        usable -= count * tables.device_usable(after, entire)[:, 0]
        full = full - count
    usable += tables.node_usable(after, full)
    return np.asarray(usable + taken * tables.total_weight)[:, None]


def _pick_device(candidates: Candidates, gain: IntArray) -> Scored:
    """The best device of each row by ``gain`` (R, D), first index on ties."""
    if candidates.shape.gpu.kind is not GpuKind.FRACTION:
        return Scored(gain[:, 0], np.full(len(candidates.rows), -1, dtype=np.int64))
    rows = np.arange(len(candidates.rows))
    devices = np.where(candidates.hosts, gain, np.iinfo(np.int64).min).argmax(axis=1)
    return Scored(gain[rows, devices], devices)


_LOGITS = np.array([1000 * log(score / (100 - score)) for score in range(1, 100)])


def _fgd_published(candidates: Candidates) -> Scored:
    """``int(100 x sigmoid((F before - F after) / 1000))``, as steps instead of exp()."""
    decrease = _fragmentation_decrease(candidates)
    # Rounding the steps up to integers keeps the comparison exact and independent of libm.
    steps = np.array([ceil(step * candidates.fragmentation.total_weight) for step in _LOGITS])
    return _pick_device(candidates, np.searchsorted(steps, decrease, side="right"))


def _fgd_gain(candidates: Candidates) -> IntArray:
    """Exact decrease of F(n), less a small charge for what the placement leaves over.

    In units of 1000 milli-GPU the charge is 0.05 x (cpu left / 128 cores + GPU left / 8 devices).
    Without it the exact score spreads pods over nodes whose fragmentation differs by crumbs.
    """
    charge = candidates.cpu_left * _MAX_GPU_MILLI + candidates.gpu_left * _MAX_CPU_MILLI
    charge = (
        charge * candidates.fragmentation.total_weight // (_MAX_CPU_MILLI * _MAX_GPU_MILLI // 50)
    )
    return np.asarray(_fragmentation_decrease(candidates) - charge[:, None])


def _fgd(candidates: Candidates) -> Scored:
    return _pick_device(candidates, _fgd_gain(candidates))


def _priced(candidates: Candidates) -> Scored:
    """What the placement costs at the prices in force, and the fragmentation it causes.

    It costs what the node's leftovers lose in value, plus what the device loses by being cut, plus
    what pods of several devices lose on this node, plus the power that it switches on, if that has
    a weight. Without prices it is ``fgd``.
    """
    prices = candidates.prices
    if prices is None:
        return _pick_device(candidates, _fgd_gain(candidates))
    state, rows, weights = candidates.state, candidates.rows, prices.weights
    code, cpu = prices.class_codes(state, rows), state.cpu_free[rows]
    devices = prices.effective_of(candidates.gpu)
    gpu = node_effective(state, rows, devices, prices.gains, sliced=prices.sliced)
    kind = candidates.shape.gpu.kind
    dearer = weights.scaled["cut"] * (PRICE_SCALE // EFFECTIVE_SCALE)
    row: IntArray | slice = slice(None)
    cut: IntArray | int = 0
    if kind is GpuKind.FRACTION:
        # Only devices that can take it are looked up; on the others the cost is never read.
        row, device = np.nonzero(candidates.hosts)
        left_on = candidates.gpu[row, device] - candidates.need[0][row]
        lost = devices[row, device] - prices.effective_of(left_on)
        cut = dearer * lost
    else:
        lost = candidates.gpu_taken * EFFECTIVE_SCALE
        if kind is GpuKind.MIG and prices.gains is not None:
            lost = lost + gain_of_slots(state, rows, state.slots_free[rows], prices.gains)
            lost -= gain_of_slots(state, rows, candidates.slots_after, prices.gains)
            cut = dearer * lost
    # One look-up for all: nodes as they are, then what each choice would leave.
    values = prices.value(
        np.concatenate((code, code[row])),
        np.concatenate((cpu, candidates.cpu_left[row])),
        np.concatenate((gpu, gpu[row] - lost)),
    )
    cost = (values[: len(rows)][row] - values[len(rows) :]) * WEIGHT_SCALE + cut
    if kind is GpuKind.FRACTION:
        by_device = np.zeros(devices.shape, dtype=np.int64)
        by_device[row, device] = cost
        cost = by_device
    else:
        cost = cost[:, None]
    if prices.charges_sets:
        cost += weights.scaled["contiguity"] * _sets_lost(candidates, prices, code, cpu)
    if weights.power:
        cost += weights.scaled["power"] * PRICE_SCALE * _watts_added(candidates, prices, cpu)
    left = candidates.cpu_left * _MAX_GPU_MILLI + candidates.gpu_left * _MAX_CPU_MILLI
    left = left * weights.scaled["tightness"] // (_MAX_CPU_MILLI * _MAX_GPU_MILLI // PRICE_SCALE)
    total = candidates.fragmentation.total_weight
    gain = weights.scaled["fragmentation"] * _fragmentation_decrease(candidates)
    charged = (cost + left[:, None]) * total // PRICE_SCALE
    return _pick_device(candidates, (gain - charged) // WEIGHT_SCALE)


def _sets_lost(
    candidates: Candidates, prices: Prices, code: IntArray, cpu_free: IntArray
) -> IntArray:
    """Value of entirely free devices that a placement takes from pods of several; (R, 1 or D)."""
    state, rows, gpu = candidates.state, candidates.rows, candidates.shape.gpu
    cpu_left = candidates.cpu_left
    full = state.full_free[rows].astype(np.int64)
    if gpu.kind is GpuKind.FRACTION:
        cpu = np.array((cpu_free, cpu_left, cpu_left))
        devices = np.array((full, full, np.maximum(full - 1, 0)))
        before, kept, fewer = prices.set_value(code, cpu, devices)
        after = np.where(candidates.gpu == DEVICE_MILLI, fewer[:, None], kept[:, None])
        return np.asarray(before[:, None] - after)
    taken = gpu.count if gpu.kind is GpuKind.WHOLE else 0
    devices = np.array((full, full - taken))
    before, after = prices.set_value(code, np.array((cpu_free, cpu_left)), devices)
    return np.asarray(before - after)[:, None]


def _watts_added(candidates: Candidates, prices: Prices, cpu_free: IntArray) -> IntArray:
    """Watts of devices and sockets that the placement takes out of idleness; (R, 1 or D)."""
    state, rows, gpu = candidates.state, candidates.rows, candidates.shape.gpu
    assert prices.switched_on is not None  # they are aligned before they are in force
    device = prices.switched_on[state.product[rows]][:, None]
    # What is left of the last socket in use takes the pod, or begins to.
    room = (cpu_free - state.cpu_alloc[rows]) % SOCKET_MILLI
    more = (candidates.shape.cpu_milli - room + (SOCKET_MILLI - 1)) // SOCKET_MILLI
    added = (more * prices.weights.watts.socket.switched_on)[:, None]
    match gpu.kind:
        case GpuKind.FRACTION:
            return np.asarray(added + device * (candidates.gpu == DEVICE_MILLI))
        case GpuKind.WHOLE:
            return np.asarray(added + device * gpu.count)
        case GpuKind.MIG | GpuKind.SHARED:
            taken = candidates.slots_after != state.slots_free[rows]
            first = taken & (state.slots_free[rows] == entire_slots(state, rows))
            return np.asarray(added + device * first.sum(axis=1)[:, None])
        case _:
            return added


_FGD_PAPER = "Weng et al., Beware of Fragmentation, USENIX ATC'23"


def _table(*policies: Policy) -> Mapping[str, Policy]:
    return MappingProxyType({policy.name: policy for policy in policies})


def _baseline(
    name: str, evaluate: Callable[[Candidates], Scored], summary: str, source: str
) -> Policy:
    return Policy(name, summary, source, evaluate)


POLICIES: Mapping[str, Policy] = _table(
    Policy("random", "any node that fits, uniformly", _FGD_PAPER, _random, cacheable=False),
    _baseline("first-fit", _first_fit, "first node, first device that fits", "classic"),
    _baseline("best-fit", _best_fit, "least cpu and GPU left after placement", _FGD_PAPER),
    _baseline(
        "dot-product",
        _dot_product,
        "least alignment of request and free resources",
        "Grandl et al., Tetris, SIGCOMM'14, as in the FGD artifact",
    ),
    _baseline(
        "gpu-packing",
        _gpu_packing,
        "used devices first, then used nodes, then idle nodes",
        "Weng et al., MLaaS in the Wild, NSDI'22, as in the FGD artifact",
    ),
    _baseline(
        "gpu-clustering",
        _gpu_clustering,
        "pods of one GPU request size together",
        "Xiao et al., Gandiva, OSDI'18, as in the FGD artifact",
    ),
    _baseline(
        "kube-default",
        _kube_default,
        "kube-scheduler's default: LeastAllocated + BalancedAllocation",
        "kube-scheduler NodeResourcesFit, NodeResourcesBalancedAllocation",
    ),
    _baseline(
        "most-allocated",
        _most_allocated,
        "highest mean utilisation of cpu, memory and GPU",
        "kube-scheduler NodeResourcesFit MostAllocated",
    ),
    _baseline(
        "requested-to-capacity-ratio",
        _requested_to_capacity,
        "highest utilisation, GPU weighing three times cpu and memory",
        "kube-scheduler NodeResourcesFit RequestedToCapacityRatio",
    ),
    _baseline(
        "fgd-published",
        _fgd_published,
        "fragmentation gradient descent with the published 0..100 score",
        _FGD_PAPER,
    ),
    Policy(
        "fgd",
        "fragmentation gradient descent on the exact increase; ties to the tightest node",
        _FGD_PAPER,
        _fgd,
        tightest=True,
    ),
    Policy(
        "priced",
        "fgd, and what a placement costs at the solver's prices; fgd itself without prices",
        "dual prices over the typical mix, node by node",
        _priced,
        tightest=True,
    ),
)
"""Every policy by name."""


def policy_named(name: str) -> Policy:
    """The policy of this name; :class:`InvalidInput` names the nearest one if there is none."""
    policy = POLICIES.get(name)
    if policy is None:
        meant = nearest(name, POLICIES)
        raise InvalidInput("policy", f"unknown policy {name!r}", f"did you mean {meant!r}?")
    return policy
