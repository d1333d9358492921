"""What the free resources of a cluster are worth, as tables that a policy can charge.

Computed elsewhere, off the request path, by linear programming over the workload profile; here they
are plain integers. One table says what a device is worth with so much of it left, another one what
a node is worth with so much cpu and so much device left: a placement costs what they fall by. Cpu
without GPUs is worth little to GPU pods and GPUs without cpu nothing, so that both strand less;
scarce models are expensive; four halves of a device are not worth two entire ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.core.mig import SLOT_MASKS, MigType
from scheduler.core.mig_tables import milli_by_mask
from scheduler.core.price_weights import PriceWeights
from scheduler.core.state import ClusterState, DeviceCode

__all__ = [
    "EFFECTIVE_SCALE",
    "NO_DEVICES",
    "PRICE_SCALE",
    "WORTH_SHAPE",
    "NodeClass",
    "Prices",
    "class_of",
    "gain_of_slots",
    "node_effective",
    "node_kinds",
    "present_codes",
    "reprice_after",
    "slot_gains",
]

IntArray = NDArray[np.int64]

PRICE_SCALE = 1 << 10
"""Values are in milli-GPU over this."""

EFFECTIVE_SCALE = 1 << 6
"""Effective milli-GPU are in milli-GPU over this."""

WORTH_SHAPE = (129, 81)
"""Rows (cpu) and columns (GPU) of a table; the steps follow the largest node of the cluster."""

_REPRICE_AT_LEAST = 100
_REPRICE_NODES = 6


def reprice_after(nodes: int, at_least: int = _REPRICE_AT_LEAST) -> int:
    """Bindings and releases after which prices of a cluster of this size are computed anew.

    The same number of pods changes a large cluster less, and costs it more: after each pricing
    every shape is scored again on every node.
    """
    return max(at_least, nodes // _REPRICE_NODES)


@dataclass(frozen=True, slots=True)
class NodeClass:
    """Nodes that have one table of values.

    Parameters
    ----------
    resource, product
        Of their devices; both empty without any.
    mig
        How its devices are partitioned, if any is.
    shared
        Whether devices are time-sliced.
    """

    resource: str
    product: str
    mig: MigType | None = None
    shared: bool = False

    def __str__(self) -> str:
        name = self.product or self.resource
        if self.mig is not None:
            parts = "+".join(f"{profile}@{start}" for profile, start in self.mig.layout)
            name = f"{name} MIG {self.mig.geometry} {parts}".strip()
        return f"{name} shared" if self.shared else name or "none"


NO_DEVICES = NodeClass("", "")
"""Nodes without devices; also what their cpu is worth anywhere once no device is free."""


def node_kinds(state: ClusterState, rows: IntArray | slice) -> IntArray:
    """How devices of rows are shared, (R,): a :class:`DeviceCode`, -1 without a healthy device.

    That of the first partitioned or time-sliced device: two processes agree on it, whatever codes
    they have given to the types of partitions.
    """
    codes = state.device_code[rows]
    if not codes.shape[1]:
        return np.full(len(codes), DeviceCode.ABSENT, dtype=np.int64)
    special = codes >= DeviceCode.SHARED
    first = np.take_along_axis(codes, special.argmax(axis=1)[:, None], axis=1)[:, 0]
    plain = (codes == DeviceCode.PLAIN).any(axis=1)
    usual = np.where(plain, DeviceCode.PLAIN, DeviceCode.ABSENT)
    return np.where(special.any(axis=1), first, usual).astype(np.int64)


def present_codes(state: ClusterState) -> list[tuple[int, int]]:
    """Pairs of model and kind that nodes with healthy devices have, ascending."""
    kinds = node_kinds(state, slice(None))
    there = kinds != DeviceCode.ABSENT
    width = DeviceCode.MIG + len(state.mig_types)
    counts = np.bincount(state.product[there].astype(np.int64) * width + kinds[there])
    return [divmod(pair, width) for pair in np.flatnonzero(counts).tolist()]


def class_of(state: ClusterState, product: int, kind: int) -> NodeClass:
    """The class of nodes with devices by their codes of model and kind."""
    resource, name = state.products[product]
    mig = state.mig_types[kind - DeviceCode.MIG] if kind >= DeviceCode.MIG else None
    return NodeClass(resource, name, mig, kind == DeviceCode.SHARED)


def slot_gains(state: ClusterState, slots: Mapping[MigType, IntArray]) -> IntArray | None:
    """What effective milli-GPU of slots are above the slots' own, by device code and free mask.

    Returns
    -------
    (kinds, SLOT_MASKS) int64 or None
        Over ``EFFECTIVE_SCALE``; None where no device is partitioned, or nothing is known of it.
    """
    known = [(code, slots[mig]) for code, mig in enumerate(state.mig_types) if mig in slots]
    if not known:
        return None
    gains = np.zeros((DeviceCode.MIG + len(state.mig_types), SLOT_MASKS), dtype=np.int64)
    for code, effective in known:
        own = milli_by_mask(state.mig_types[code])
        gains[DeviceCode.MIG + code] = effective - own * EFFECTIVE_SCALE
    return gains


def node_effective(
    state: ClusterState,
    rows: IntArray,
    devices: IntArray,
    gains: IntArray | None,
    *,
    sliced: bool,
) -> IntArray:
    """Effective milli-GPU of rows, (R,), over ``EFFECTIVE_SCALE``.

    Replicas of time-sliced devices count as they are: a request may take them from several.

    Parameters
    ----------
    devices : (R, D)
        Effective milli-GPU of their plain devices.
    gains
        From :func:`slot_gains`.
    sliced
        Whether there are partitioned or time-sliced devices at all.
    """
    if not sliced:
        return np.asarray(devices.sum(axis=1))
    plain = np.maximum(state.gpu_free[rows], 0).astype(np.int64).sum(axis=1)
    other = state.gpu_left[rows].astype(np.int64) - plain
    total = devices.sum(axis=1) + np.maximum(other, 0) * EFFECTIVE_SCALE
    if gains is not None:
        total += gain_of_slots(state, rows, state.slots_free[rows], gains)
    return np.asarray(total)


def gain_of_slots(
    state: ClusterState, rows: IntArray, slots: NDArray[Any], gains: IntArray
) -> IntArray:
    """Sum over the devices of each row of what their free slots (R, D) gain, (R,)."""
    codes = np.maximum(state.device_code[rows], 0)
    partitioned = codes >= DeviceCode.MIG
    masks = np.where(partitioned, slots & (SLOT_MASKS - 1), 0)
    return np.asarray(np.where(partitioned, gains[codes, masks], 0).sum(axis=1))


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of one cluster at one time.

    Attributes
    ----------
    generation
        Of the state they were made for.
    classes
        Nodes that each table of ``worth`` and ``sets`` is about.
    effective : (1001,) int64
        Effective milli-GPU (over ``EFFECTIVE_SCALE``) of a device by its free milli-GPU: 1000 for
        an entire one, less than what is free where no cut fills the rest. It never falls.
    slots
        The same of a partitioned device by its mask of free slots, (SLOT_MASKS,) int64 each.
    worth : (C, *WORTH_SHAPE) int64
        Value of a node by class, cores and effective GPU (in steps). It never falls along any
        axis.
    sets : (C, WORTH_SHAPE[0], MAX_DEVICES + 1) int64
        Value of a node's entirely free devices to pods of several, by class, cores and devices.
    cpu_step, gpu_step
        Milli-CPU between two rows, milli-GPU between two columns of ``worth``.
    weights
        How the policy charges them.
    objective
        Milli-GPU that the linear programme serves at demand 1, for reports.
    groups, shapes
        Size of the programme, for reports.
    sliced
        Whether a class has partitioned or time-sliced devices.
    any_sets
        Whether anything in ``sets`` is worth anything.
    codes : (P, K) int64 or None
        Class by codes of model and kind (:func:`node_kinds`) of a state. A state has codes of its
        own, so that this is None until :meth:`aligned`.
    gains : (K, SLOT_MASKS) int64 or None
        Of ``slots``, by the state's device codes; see :func:`slot_gains`.
    switched_on : (P,) int64 or None
        Watts that the first pod on a device adds, by the state's code of the product; None until
        :meth:`aligned`.
    """

    generation: int
    classes: tuple[NodeClass, ...]
    effective: IntArray
    slots: Mapping[MigType, IntArray]
    worth: IntArray
    sets: IntArray
    cpu_step: int
    gpu_step: int
    weights: PriceWeights
    objective: float
    groups: int
    shapes: int
    sliced: bool
    any_sets: bool
    codes: IntArray | None = None
    gains: IntArray | None = None
    switched_on: IntArray | None = None

    def aligned(self, state: ClusterState) -> Prices | None:
        """The same prices for the codes of a state; None if they lack a class of its nodes.

        Prices are made in another process, which may have met the models in another order. They
        speak of classes and residual capacity, not of rows: nodes of known classes may come and go.
        """
        known = {each: code for code, each in enumerate(self.classes)}
        kinds = DeviceCode.MIG + len(state.mig_types)
        # The last column, kind -1, is of nodes without devices, and so is what nobody has.
        shape = (len(state.products), kinds + 1)
        if self.codes is not None and self.codes.shape == shape:
            codes = self.codes.copy()  # classes whose last node has gone may come back
        else:
            codes = np.full(shape, known[NO_DEVICES], dtype=np.int64)
        for product, kind in present_codes(state):
            code = known.get(class_of(state, product, kind))
            if code is None:
                return None
            codes[product, kind] = code
        if self.codes is not None and np.array_equal(codes, self.codes):
            return self
        return replace(
            self,
            codes=codes,
            gains=slot_gains(state, self.slots),
            switched_on=self.weights.watts.by_product(state)[:, 1],
        )

    def class_codes(self, state: ClusterState, rows: IntArray) -> IntArray:
        """Class of rows, (R,)."""
        assert self.codes is not None  # they are aligned before they are in force
        if not self.sliced:
            # Without free devices the values of all these classes are the same.
            return np.asarray(self.codes[state.product[rows], DeviceCode.PLAIN])
        return np.asarray(self.codes[state.product[rows], node_kinds(state, rows)])

    @property
    def charges_sets(self) -> bool:
        """Whether sets of devices cost anything."""
        return bool(self.weights.contiguity) and self.any_sets

    def effective_of(self, free: IntArray) -> IntArray:
        """Effective milli-GPU of devices by their free milli-GPU; same shape. None counts 0."""
        return np.asarray(self.effective[np.maximum(free, 0)])

    def value(self, code: IntArray, cpu: IntArray, gpu: IntArray) -> IntArray:
        """Value of nodes, bilinear between the steps of the table.

        Parameters
        ----------
        code, cpu, gpu
            Class, free milli-CPU and effective milli-GPU; broadcast against each other.
        """
        rows, columns = WORTH_SHAPE
        cpu_unit, gpu_unit = self.cpu_step, self.gpu_step * EFFECTIVE_SCALE
        cpu = np.minimum(np.maximum(cpu, 0), (rows - 1) * cpu_unit - 1)
        gpu = np.minimum(np.maximum(gpu, 0), (columns - 1) * gpu_unit - 1)
        row, column = cpu // cpu_unit, gpu // gpu_unit
        cpu_rest, gpu_rest = cpu - row * cpu_unit, gpu - column * gpu_unit
        at = (code * rows + row) * columns + column
        flat = self.worth.reshape(-1)
        low = flat[at] * (gpu_unit - gpu_rest) + flat[at + 1] * gpu_rest
        high = flat[at + columns] * (gpu_unit - gpu_rest) + flat[at + columns + 1] * gpu_rest
        value: IntArray = (low * (cpu_unit - cpu_rest) + high * cpu_rest) // (cpu_unit * gpu_unit)
        return value

    def set_value(self, code: IntArray, cpu: IntArray, full: IntArray) -> IntArray:
        """Value of ``full`` entirely free devices with so much milli-CPU beside them.

        The arguments broadcast against each other.
        """
        rows, columns = self.sets.shape[1:]
        row = np.minimum(np.maximum(cpu, 0) // self.cpu_step, rows - 1)
        value: IntArray = self.sets.reshape(-1)[(code * rows + row) * columns + full]
        return value
