"""Odd rows seen as usual ones: what decides about devices decides on a copy with a request's own.

See :mod:`scheduler.core.makes`. A request is judged on an odd row in the terms of what it gets
there: as a request for replicas, say, on a copy of the row that has only the devices it accepts.
Requests for devices of several resources are judged likewise, one resource after another, as
devices of different resources are different devices; no usual row has any for them. Usual rows
cost nothing of this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.columns import COLUMNS, PER_DEVICE, DeviceCode
from scheduler.core.excerpts import excerpt
from scheduler.core.makes import Ask, meaning
from scheduler.core.mig import SLOT_MASKS
from scheduler.core.mig_tables import milli_by_mask, tables_of
from scheduler.core.model import DEVICE_MILLI, MAX_PODS, GpuKind, GpuRequest
from scheduler.core.state import ClusterState

__all__ = ["View", "asks_on", "is_odd", "odd_rows", "units_free", "views"]

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class View:
    """Rows on which a request means the same.

    Parameters
    ----------
    at : (V,) int64
        Positions among the rows that were asked about.
    asks
        States of these rows alone, in that order, and what is asked of each. All must fit.
    refused : (V,) int8
        Codes of reasons for which a row has no device for the request, 0 where it may have one.
    """

    at: IntArray
    asks: tuple[tuple[ClusterState, GpuRequest], ...]
    refused: NDArray[np.int8]


def is_odd(state: ClusterState, gpu: GpuRequest, row: int) -> bool:
    """Whether the request has to be seen in the row's own terms."""
    return state.odd_known and gpu.kind is not GpuKind.NONE and bool(state.make[row])


def odd_rows(state: ClusterState, gpu: GpuRequest, rows: IntArray) -> BoolArray | None:
    """For which of these rows that is so, (R,); None if for none."""
    if not state.odd_known or gpu.kind is GpuKind.NONE or not len(rows):
        return None
    odd: BoolArray = state.make[rows] > 0
    return odd if odd.any() else None


def views(state: ClusterState, gpu: GpuRequest, rows: IntArray, odd: BoolArray) -> list[View]:
    """Views of those of the rows that are odd."""
    at = np.flatnonzero(odd)
    makes = state.make[rows[at]]
    together: dict[tuple[GpuRequest, ...], list[int]] = {}
    meanings: dict[int, tuple[Ask, ...]] = {}
    for code in np.unique(makes).tolist():
        meanings[code] = meaning(state.makes[code], gpu)
        together.setdefault(tuple(ask.gpu for ask in meanings[code]), []).append(code)
    made = []
    for gpus, codes in together.items():
        mine = at[np.isin(makes, codes)]
        refused = np.zeros(len(mine), dtype=np.int8)
        states = []
        for number in range(len(gpus)):
            asks = {code: meanings[code][number] for code in codes}
            states.append(_excerpt(state, rows[mine], asks))
            for code, ask in asks.items():
                refused[(state.make[rows[mine]] == code) & (refused == 0)] = ask.refused.code
        made.append(View(mine, tuple(zip(states, gpus, strict=True)), refused))
    return made


def asks_on(
    state: ClusterState, gpu: GpuRequest, row: int
) -> tuple[tuple[ClusterState, GpuRequest], ...]:
    """What a request asks on an odd row: states of which that row is the only one, and requests."""
    (view,) = views(state, gpu, np.array([row]), np.ones(1, dtype=bool))
    return view.asks


def units_free(state: ClusterState, gpu: GpuRequest, rows: IntArray) -> IntArray:
    """Units that requests for whole devices of this resource could have on each row now, (R,)."""
    free = state.full_free[rows].astype(np.int64)
    odd = odd_rows(state, gpu, rows)
    if odd is None:
        return free
    for view in views(state, gpu, rows, odd):
        seen, ask = view.asks[0]
        free[view.at] = _units(seen, ask)
    return free


def _units(state: ClusterState, gpu: GpuRequest) -> IntArray:
    match gpu.kind:
        case GpuKind.NONE:  # handed out by somebody else
            return np.full(len(state), MAX_PODS, dtype=np.int64)
        case GpuKind.SHARED:
            shared = state.device_code == DeviceCode.SHARED
            return np.asarray(np.where(shared, np.maximum(state.slots_free, 0), 0).sum(axis=1))
        case GpuKind.MIG:
            (profile, _), *_ = gpu.mig
            tables = tables_of(state.mig_types, profile)
            if tables is None:
                return np.zeros(len(state), dtype=np.int64)
            codes = np.maximum(state.device_code.astype(np.int64), DeviceCode.MIG - 1)
            fit = tables.counts[codes - DeviceCode.MIG, state.slots_free & (SLOT_MASKS - 1)]
            return np.asarray(fit.sum(axis=1))
        case _:
            return state.full_free.astype(np.int64)


def _excerpt(state: ClusterState, rows: IntArray, asks: dict[int, Ask]) -> ClusterState:
    """A state of these rows alone, and of those devices alone that are accepted there."""
    copy = excerpt(state, rows)
    makes = copy.make.copy()
    copy.make[:] = 0
    copy.odd_known = False
    for code, ask in asks.items():
        _keep(copy, np.flatnonzero(makes == code), ask)
    _derive(copy)
    return copy


def _keep(copy: ClusterState, rows: IntArray, ask: Ask) -> None:
    """Take the devices off these rows that a request does not accept there."""
    width = copy.gpu_free.shape[1]
    kept = np.zeros(width, dtype=bool)
    kept[: len(ask.devices)] = ask.devices
    for name, _, empty, axes in COLUMNS:
        if axes == PER_DEVICE:
            column = getattr(copy, name)
            column[np.ix_(rows, np.flatnonzero(~kept))] = empty
    copy.product[rows] = copy.product_code(ask.model) if ask.model else 0
    if kept.any():
        # What a fraction takes follows from the size of the first device, whichever that is.
        copy.device_mem[rows, 0] = copy.device_mem[rows, int(kept.argmax())]


def _derive(copy: ClusterState) -> None:
    """What follows from the devices of every row."""
    free, code, slots = copy.gpu_free, copy.device_code, copy.slots_free
    copy.full_free[:] = (free == DEVICE_MILLI).sum(axis=1)
    copy.most_free[:] = free.max(axis=1, initial=-1)
    left = np.maximum(free, 0)
    left = left + np.where(
        code == DeviceCode.SHARED, np.maximum(slots, 0) * DEVICE_MILLI // copy.replicas, 0
    )
    for kind in np.unique(code[code >= DeviceCode.MIG]).tolist():
        sizes = milli_by_mask(copy.mig_types[kind - DeviceCode.MIG])
        left = left + np.where(code == kind, sizes[slots & (SLOT_MASKS - 1)], 0)
    copy.gpu_left[:] = left.sum(axis=1)
