"""Fragmentation of a row for a workload profile, exactly and in table look-ups.

Definition (FGD: Weng et al., "Beware of Fragmentation", USENIX ATC'23): for a typical shape *m*,
the fragmentation of node *n* is all its free milli-GPU if *m* cannot run there (or asks for no
GPU), else the free milli-GPU on devices that have less free than *m* needs. F(n) is the mean over
the profile, weighted by popularity.

Computed literally this costs rows x devices x shapes. But the *usable* part separates by device:
for shapes of one device it is a sum over devices of ``free x weight of the shapes whose need is
at most free``, where only the node's model and free cpu decide which shapes count. So one table,
indexed by (model, cpu bucket, free milli), answers a device, and another one, indexed by (model,
cpu bucket, entirely free devices), answers the shapes of several devices. All values are
integers (milli-GPU x weight): results do not depend on the order or number of rows computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.feasibility import suited
from scheduler.core.mig import SLOT_MASKS, MigType
from scheduler.core.mig_tables import MigTables, tables_of
from scheduler.core.model import DEVICE_MILLI, MAX_DEVICES, GpuKind, GpuRequest
from scheduler.core.state import ClusterState, DeviceCode
from scheduler.core.workload_profile import TypicalShape, WorkloadProfile

__all__ = ["Fragmentation", "Vocabulary"]

IntArray = NDArray[np.int64]
_MOST_STEPS = 64
_MOST_BY_SLOTS = 32


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What tables need to know of a state: they may be made of it while the state changes.

    Parameters
    ----------
    products, mig_types
        Those of the state.
    memory : (P,) int64
        MiB of the largest device of each model; 0 where none is known.
    node_epoch
        That of the state.
    """

    products: Sequence[tuple[str, str]]
    mig_types: Sequence[MigType]
    memory: IntArray
    node_epoch: int

    @classmethod
    def of(cls, state: ClusterState) -> Vocabulary:
        """A copy of what the state knows now."""
        memory = _memory_by_product(state)
        return cls(tuple(state.products), tuple(state.mig_types), memory, state.node_epoch)


class Fragmentation:
    """Tables of one profile for the models that a state knows.

    Parameters
    ----------
    state
        Supplies the vocabulary of models and how much memory their devices have; build a new one
        when it is no longer :meth:`current`.
    profile
        Typical pods. Shapes that ask for no GPU count as fragmentation of everything, as
        published, and so only add to the total weight.

    Attributes
    ----------
    total_weight : int
        Sum of the weights of the profile. F(n) in milli-GPU is ``fragmentation / total_weight``.
    """

    def __init__(self, state: ClusterState | Vocabulary, profile: WorkloadProfile) -> None:
        known = state if isinstance(state, Vocabulary) else Vocabulary.of(state)
        self.profile = profile
        self.total_weight = max(1, profile.total_weight)
        self._vocabulary = (len(known.products), len(known.mig_types))
        self._seen_epoch = known.node_epoch
        shapes = [shape for shape in profile.shapes if shape.gpu.kind is not GpuKind.NONE]
        self._by_memory = any(_counts_memory(shape) for shape in shapes)
        self._cpu_steps = _steps([shape.cpu_milli for shape in shapes])
        self._buckets = len(self._cpu_steps) + 1
        self._memory = known.memory
        products = len(known.products)
        # Where the weight of each shape begins; running sums then spread it to all that is more.
        single = np.zeros((products, self._buckets, DEVICE_MILLI + 1), dtype=np.int64)
        several = np.zeros((products, self._buckets, MAX_DEVICES + 1), dtype=np.int64)
        by_slots: dict[GpuRequest, IntArray] = {}
        for shape in shapes:
            gpu, allowed = shape.gpu, suited(known.products, shape.gpu)
            bucket = int(np.searchsorted(self._cpu_steps, shape.cpu_milli)) + 1
            if gpu.kind is GpuKind.FRACTION or gpu.count == 1:
                for product in np.flatnonzero(allowed).tolist():
                    single[product, bucket, self._need(shape, product)] += shape.weight
            elif gpu.count > MAX_DEVICES:
                continue  # no node has so many: they are fragmentation of everything
            elif gpu.kind is GpuKind.WHOLE:
                several[allowed, bucket, gpu.count] += shape.weight
            elif gpu in by_slots or len(by_slots) < _MOST_BY_SLOTS:
                weights = by_slots.setdefault(
                    gpu, np.zeros((products, self._buckets), dtype=np.int64)
                )
                weights[allowed, bucket:] += shape.weight
        self._single = _spread(single, np.arange(DEVICE_MILLI + 1))
        self._several = _spread(several, np.arange(MAX_DEVICES + 1) * DEVICE_MILLI)
        self._replicas, self._instances = _by_amount(by_slots, known.mig_types)

    def current(self, state: ClusterState) -> bool:
        """Whether the tables still say what the state knows of its models.

        They do not once a model or a type of partition is new, or, where the profile asks for
        device memory, once the memory of a model is another: it may become known after its first
        node.
        """
        if self._vocabulary != (len(state.products), len(state.mig_types)):
            return False
        if not self._by_memory or self._seen_epoch == state.node_epoch:
            return True
        if not np.array_equal(self._memory, _memory_by_product(state)):
            return False
        self._seen_epoch = state.node_epoch
        return True

    def _need(self, shape: TypicalShape, product: int) -> int:
        """Milli-GPU of one device of this model that the shape needs."""
        gpu = shape.gpu
        if _counts_memory(shape) and self._memory[product]:
            return int(np.clip(gpu.memory_mib * DEVICE_MILLI // self._memory[product], 1, 1000))
        return gpu.milli or DEVICE_MILLI

    # -- look-ups ----------------------------------------------------------------------------

    def base(self, product: NDArray[np.int16], cpu_free: IntArray) -> IntArray:
        """Table offset of (model, cpu bucket) per row, shape (R,)."""
        bucket = np.searchsorted(self._cpu_steps, cpu_free, side="right")
        return product.astype(np.int64) * self._buckets + bucket

    def device_usable(self, base: IntArray, free: IntArray) -> IntArray:
        """Usable milli x weight of devices for one-device shapes.

        Parameters
        ----------
        base : (R,)
            From :meth:`base`.
        free : (R, D)
            Free milli-GPU per device; negative counts as none.
        """
        index = np.maximum(free, 0)
        index += (base * (DEVICE_MILLI + 1))[:, None]
        return self._single[index]

    def node_usable(self, base: IntArray, full: IntArray) -> IntArray:
        """Usable milli x weight of ``full`` entirely free devices for shapes of several."""
        usable: IntArray = self._several[base * (MAX_DEVICES + 1) + full]
        return usable

    def slot_usable(
        self, state: ClusterState, rows: IntArray, base: IntArray, slots: IntArray
    ) -> IntArray:
        """Usable milli x weight of MIG slots and replicas, (R,), if ``slots`` (R, D) are free."""
        usable = np.zeros(len(base), dtype=np.int64)
        if self._replicas is not None:
            shared = state.device_code[rows] == DeviceCode.SHARED
            free = np.where(shared, np.maximum(slots, 0), 0)
            milli = (free * DEVICE_MILLI // state.replicas[rows]).sum(axis=1)
            usable += self._replicas.weight(base, free.sum(axis=1)) * milli
        if self._instances:
            codes = state.device_code[rows]
            partitioned = np.where(codes >= DeviceCode.MIG, codes - DeviceCode.MIG, -1)
            masks = slots & (SLOT_MASKS - 1)
            for tables, weights in self._instances:
                counts = tables.counts[partitioned, masks]
                each = tables.each[partitioned] if tables.unlike else tables.each.max()
                weight = weights.weight(base, counts.sum(axis=1))
                usable += weight * (counts * each).sum(axis=1)
        return usable

    @property
    def has_slot_shapes(self) -> bool:
        """Whether the profile asks for MIG profiles or time-sliced replicas at all."""
        return bool(self._instances) or self._replicas is not None

    # -- whole rows --------------------------------------------------------------------------

    def usable(self, state: ClusterState, rows: IntArray) -> IntArray:
        """Usable milli-GPU x weight of rows as they are, (R,)."""
        base = self.base(state.product[rows], state.cpu_free[rows])
        usable: IntArray = self.device_usable(base, state.gpu_free[rows].astype(np.int64)).sum(
            axis=1
        )
        usable += self.node_usable(base, state.full_free[rows].astype(np.int64))
        if self.has_slot_shapes:
            usable += self.slot_usable(state, rows, base, state.slots_free[rows].astype(np.int64))
        return usable

    def fragmentation(self, state: ClusterState, rows: IntArray) -> IntArray:
        """F(n) x total weight of rows as they are, in milli-GPU, shape (R,)."""
        left = state.gpu_left[rows].astype(np.int64)
        return left * self.total_weight - self.usable(state, rows)


class _ByAmount:
    """Weight of the shapes that ask for at most so much of something, by model and cpu bucket.

    Parameters
    ----------
    wanted
        Amounts, and weights of the shapes that ask for them, (models x buckets,).
    """

    def __init__(self, wanted: Sequence[tuple[int, IntArray]]) -> None:
        self._amounts = np.unique(np.array([amount for amount, _ in wanted], dtype=np.int64))
        weights = np.zeros((len(wanted[0][1]), len(self._amounts) + 1), dtype=np.int64)
        for amount, each in wanted:
            weights[:, int(np.searchsorted(self._amounts, amount)) + 1] += each
        self._weights = np.cumsum(weights, axis=1)

    def weight(self, base: IntArray, there: IntArray) -> IntArray:
        """Weight of those for which that much is enough, (R,)."""
        weights: IntArray = self._weights[base, np.searchsorted(self._amounts, there, "right")]
        return weights


def _by_amount(
    shapes: Mapping[GpuRequest, IntArray], types: Sequence[MigType]
) -> tuple[_ByAmount | None, list[tuple[MigTables, _ByAmount]]]:
    """Weights of shapes that ask for replicas, and of those that ask for instances, by profile."""
    replicas: list[tuple[int, IntArray]] = []
    profiles: dict[str, list[tuple[int, IntArray]]] = {}
    for gpu, weights in shapes.items():
        if gpu.kind is GpuKind.SHARED:
            replicas.append((gpu.replicas, weights.ravel()))
        for profile, instances in gpu.mig:
            profiles.setdefault(profile, []).append((instances, weights.ravel()))
    made = [
        (tables, _ByAmount(wanted))
        for profile, wanted in profiles.items()
        if (tables := tables_of(types, profile)) is not None  # else no device here has it
    ]
    return _ByAmount(replicas) if replicas else None, made


def _counts_memory(shape: TypicalShape) -> bool:
    """Whether what the shape needs of a device depends on the device's memory."""
    return bool(shape.gpu.memory_mib) and not shape.gpu.milli


def _memory_by_product(state: ClusterState) -> IntArray:
    memory = np.zeros(len(state.products), dtype=np.int64)
    np.maximum.at(memory, state.product, state.device_mem.max(axis=1, initial=0))
    return memory


def _spread(begins: IntArray, amounts: IntArray) -> IntArray:
    """Flat table of (model, cpu bucket, what is free), of where the weight of each shape begins."""
    for axis in (1, 2):
        np.cumsum(begins, axis=axis, out=begins)
    begins *= amounts
    return begins.ravel()


def _steps(sizes: Sequence[int]) -> IntArray:
    """Ascending cpu sizes that are told apart; of very many some, and the others count upwards."""
    steps = np.unique(np.array(sizes or [0], dtype=np.int64))
    if len(steps) > _MOST_STEPS:
        kept = (np.arange(1, _MOST_STEPS + 1) * len(steps) + _MOST_STEPS - 1) // _MOST_STEPS - 1
        steps = steps[np.unique(kept)]
    return steps
