"""What every policy is made of: candidates, device choices, orders and ranks.

A policy is a pure function from :class:`Candidates` to :class:`Scored`. It sees feasible rows
only, and may look at nothing but the state's columns, the shape, the fragmentation tables and the
salt. Scores are int64, higher is better, and of magnitude below 2**42.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scheduler.core.devices import fraction_need, mig_codes, slots_after
from scheduler.core.fragmentation import Fragmentation
from scheduler.core.mig import SLOT_MASKS
from scheduler.core.mig_tables import milli_by_mask
from scheduler.core.model import DEVICE_MILLI, GpuKind, Shape
from scheduler.core.price_tables import Prices
from scheduler.core.state import ClusterState

__all__ = [
    "Candidates",
    "DeviceChooser",
    "Policy",
    "Scored",
    "best_first",
    "best_fit_device",
    "fewest_left",
    "first_fit_device",
    "hashed",
    "ranks",
]

IntArray = NDArray[np.int64]
_TIGHTNESS_BITS = 20
_LARGE = 1 << 20


@dataclass
class Candidates:
    """Feasible rows for one shape, with what policies derive from them computed at most once.

    Attributes
    ----------
    rows : (R,) int64
        Feasible rows of ``state``.
    identities : (R,) int64
        What a randomised policy draws by: the rows themselves, unless ``state`` is an excerpt.
    salt : int
        Differs by pod and seed; only randomised policies look at it.
    prices
        What free resources are worth, for the policy that charges it; None if nobody knows.
    """

    state: ClusterState
    shape: Shape
    rows: IntArray
    identities: IntArray
    fragmentation: Fragmentation
    salt: int = 0
    prices: Prices | None = None

    @cached_property
    def gpu(self) -> IntArray:
        """(R, D) free milli-GPU per plain device, -1 where there is none."""
        return self.state.gpu_free[self.rows].astype(np.int64)

    @cached_property
    def need(self) -> tuple[IntArray, IntArray]:
        """(R,) milli-GPU and (R,) MiB that a fraction takes of one device."""
        return fraction_need(self.state, self.shape.gpu, self.rows)

    @cached_property
    def hosts(self) -> NDArray[np.bool_]:
        """(R, D) devices that can host the fraction."""
        milli, memory = self.need
        fits: NDArray[np.bool_] = self.gpu >= milli[:, None]
        if self.state.device_memory_known:
            fits &= (self.state.device_mem[self.rows] == 0) | (
                self.state.device_mem_free[self.rows] >= memory[:, None]
            )
        return fits

    @cached_property
    def slots_after(self) -> IntArray:
        """(R, D) MIG slots and replicas left after the request has taken its own."""
        return slots_after(self.state, self.shape.gpu, self.rows)[1]

    @cached_property
    def cpu_left(self) -> IntArray:
        """(R,) milli-CPU left after the placement."""
        return self.state.cpu_free[self.rows] - self.shape.cpu_milli

    @cached_property
    def memory_left(self) -> IntArray:
        """(R,) bytes of memory left after the placement."""
        return self.state.mem_free[self.rows] - self.shape.memory_bytes

    @cached_property
    def gpu_taken(self) -> IntArray:
        """(R,) milli-GPU that the placement takes."""
        gpu = self.shape.gpu
        match gpu.kind:
            case GpuKind.FRACTION:
                return self.need[0]
            case GpuKind.MIG:
                before = self.state.slots_free[self.rows].astype(np.int64)
                return self._mig_milli(before) - self._mig_milli(self.slots_after)
            case GpuKind.SHARED:
                replicas = self.state.replicas[self.rows].max(axis=1).astype(np.int64)
                return np.asarray(gpu.replicas * DEVICE_MILLI // replicas)
            case _:
                return np.full(len(self.rows), gpu.count * DEVICE_MILLI, dtype=np.int64)

    def _mig_milli(self, slots: IntArray) -> IntArray:
        """(R,) milli-GPU of the free MIG slots (R, D)."""
        none = np.zeros(SLOT_MASKS, dtype=np.int64)  # of devices that are not partitioned
        table = np.array([*map(milli_by_mask, self.state.mig_types), none])
        milli: IntArray = table[mig_codes(self.state, self.rows), slots & (SLOT_MASKS - 1)]
        return np.asarray(milli.sum(axis=1))

    @cached_property
    def gpu_left(self) -> IntArray:
        """(R,) milli-GPU left on the node after the placement."""
        return self.state.gpu_left[self.rows].astype(np.int64) - self.gpu_taken


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of candidates, and for a fraction the device that each score stands for.

    Attributes
    ----------
    scores : (R,) int64
    devices : (R,) int64
        Device index for a fraction, -1 for every other kind.
    """

    scores: IntArray
    devices: IntArray


@dataclass(frozen=True, slots=True)
class Policy:
    """One entry of the policy table.

    Attributes
    ----------
    evaluate
        The policy itself.
    source
        Where it comes from.
    tightest
        Whether ties between nodes go to the one with the fewest resources left before they go to
        the first row. Published policies have their own rule and leave it off.
    cacheable
        Whether scores depend on shape and row alone.
    """

    name: str
    summary: str
    source: str
    evaluate: Callable[[Candidates], Scored]
    tightest: bool = False
    cacheable: bool = True


DeviceChooser = Callable[[Candidates], IntArray]


def best_fit_device(candidates: Candidates) -> IntArray:
    """Device with the least free milli-GPU that hosts the fraction; first index on ties. (R,)"""
    if candidates.shape.gpu.kind is not GpuKind.FRACTION:
        return np.full(len(candidates.rows), -1, dtype=np.int64)
    devices: IntArray = np.where(candidates.hosts, candidates.gpu, _LARGE).argmin(axis=1)
    return devices


def first_fit_device(candidates: Candidates) -> IntArray:
    """First device that hosts the fraction. (R,)"""
    if candidates.shape.gpu.kind is not GpuKind.FRACTION:
        return np.full(len(candidates.rows), -1, dtype=np.int64)
    devices: IntArray = candidates.hosts.argmax(axis=1)
    return devices


def hashed(keys: IntArray, salt: int) -> IntArray:
    """Non-negative pseudo-random numbers below 2**32 by key and salt (SplitMix64's finaliser)."""
    offset = (salt * 0x9E3779B97F4A7C15) % (1 << 64)
    mixed = keys.astype(np.uint64) + np.uint64(offset)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(32)).astype(np.int64)


def fewest_left(candidates: Candidates, scores: IntArray) -> IntArray:
    """Scores widened so that equal ones prefer the node with the fewest resources left. (R,)

    GPUs weigh far more than cpu: 1 milli-GPU counts as much as 512 milli-CPU.
    """
    left = np.maximum(candidates.gpu_left, 0) * 8 + np.maximum(candidates.cpu_left, 0) // 64
    tightness = _LARGE - 1 - np.minimum(left, _LARGE - 1)
    return np.asarray((scores << _TIGHTNESS_BITS) + tightness)


def ranks(scores: IntArray, identities: IntArray) -> IntArray:
    """Extender scores 0..10: the winner alone gets 10, the others share 0..9 by rank. (R,)

    kube-scheduler breaks ties at random, so the winner has to be made unique before scores are
    squeezed into eleven steps. Of equal best scores the lowest identity (row) wins; other equal
    scores get equal ranks, so that the order of the candidates in a call changes nothing.
    """
    count = len(scores)
    result = np.zeros(count, dtype=np.int64)
    if count == 0:
        return result
    best = np.flatnonzero(scores == scores.max())
    winner = int(best[identities[best].argmin()])
    if count > 1:
        # A score's step is how many of nine cut positions lie above it; a partial sort of the
        # cuts is all the order that is needed.
        losers = -np.delete(scores, winner)
        cuts = np.unique(-(-np.arange(1, 10) * len(losers) // 10)) - 1
        cuts = cuts[cuts >= 0]
        bounds = np.partition(losers, cuts)[cuts]
        steps = np.searchsorted(bounds, -scores, side="left")
        result = 9 - steps * 9 // max(1, len(cuts))
    result[winner] = 10
    return result


def best_first(scores: IntArray, identities: IntArray, count: int) -> IntArray:
    """Positions of the ``count`` best scores, best first, equal ones by identity (row).

    Scores may be the least of all integers, which has no negative.
    """
    count = min(count, len(scores))
    if not count:
        return np.zeros(0, dtype=np.int64)
    cut = np.partition(scores, -count)[-count]
    above = np.flatnonzero(scores > cut)
    equal, missing = np.flatnonzero(scores == cut), count - len(above)
    lowest = np.argpartition(identities[equal], missing - 1)[:missing]
    chosen = np.concatenate((above, equal[lowest]))
    ordered: IntArray = chosen[np.lexsort((identities[chosen], ~scores[chosen]))]
    return ordered
