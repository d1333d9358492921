"""Which rows can host a shape, and the first reason of each row that cannot.

Two layers: what depends on the node alone (:func:`static_reasons`), and what depends on what is
left (:func:`dynamic_reasons`). The first changes only when nodes change, so that a decision pays
for the second only, and only on rows that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scheduler.core.devices import fraction_need, mig_codes, slots_after
from scheduler.core.groups import odd_rows, views
from scheduler.core.makes import wants_those
from scheduler.core.mig_tables import tables_of
from scheduler.core.model import GpuKind, GpuRequest, Reason, Serves, Shape
from scheduler.core.state import ClusterState, DeviceCode

__all__ = ["allowed_products", "dynamic_reasons", "static_reasons", "suited"]

_Models = Sequence[tuple[str, str]]


def allowed_products(products: _Models, gpu: GpuRequest) -> NDArray[np.bool_]:
    """Which of these codes, as in ``ClusterState.products``, the request accepts, shape (P,)."""
    return np.array([accepts(gpu, *pair) for pair in products], dtype=bool)


def accepts(gpu: GpuRequest, resource: str, product: str) -> bool:
    """Whether a request accepts devices of this resource and model; labels decide by themselves."""
    return of_resource(gpu, resource) and (
        gpu.by_label or not gpu.products or product in gpu.products
    )


def of_resource(gpu: GpuRequest, resource: str) -> bool:
    """Whether a request accepts devices of this resource."""
    return not gpu.resource or resource == gpu.resource


def suited(products: _Models, gpu: GpuRequest) -> NDArray[np.bool_]:
    """Which of these codes pods of this request are after, shape (P,).

    A selector on a label that states no model of ours tells nothing: they may be after any then.
    """
    fits = allowed_products(products, gpu)
    if not gpu.by_label:
        return fits
    named = np.array([product in gpu.products for _, product in products], dtype=bool) & fits
    return named if named.any() else fits


def static_reasons(
    state: ClusterState, shape: Shape, rows: NDArray[np.int64] | None = None
) -> NDArray[np.int8]:
    """Reasons that no eviction can cure, for these rows, or for every one.

    Returns
    -------
    (R,) int8
        ``NODE_UNKNOWN`` (an empty row), ``MODEL_NOT_ALLOWED``, ``DEVICE_KIND_MISSING``,
        ``NODE_TOO_SMALL``, ``DEVICE_UNHEALTHY``, ``RESOURCE_MISSING`` or ``FITS``.
    """
    if rows is None:
        rows = np.arange(len(state))
    codes = _static(state, shape, rows)
    odd = odd_rows(state, shape.gpu, rows)
    for view in views(state, shape.gpu, rows, odd) if odd is not None else ():
        here = np.arange(len(view.at))
        found = [_static(seen, replace(shape, gpu=gpu), here) for seen, gpu in view.asks]
        refused = (view.refused != 0) & (_first(found) == Reason.DEVICE_KIND_MISSING.code)
        codes[view.at] = np.where(refused, view.refused, _first(found))
    if state.serves_known and shape.gpu.kind is not GpuKind.NONE:
        others = Serves.WHOLE if shape.gpu.chosen_by_us else Serves.FRACTIONS
        served = (state.serves[rows] == others) & _concerned(state, shape.gpu, rows)
        codes[served] = Reason.DEVICE_KIND_MISSING.code
    if shape.counted:
        lacking = state.counted.too_small(shape.counted, len(state))[rows]
        codes[lacking & (codes == Reason.FITS.code)] = Reason.RESOURCE_MISSING.code
    return codes


def _concerned(state: ClusterState, gpu: GpuRequest, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether what a request would get on each row is offered in two ways there, (R,)."""
    concerned = np.ones(len(rows), dtype=bool)
    if state.odd_known:
        makes = state.make[rows]
        for code in np.unique(makes[makes > 0]).tolist():
            concerned[makes == code] = wants_those(state.makes[code], gpu)
    return concerned


def _first(codes: Sequence[NDArray[np.int8]]) -> NDArray[np.int8]:
    """Of several codes per row the first that says why it does not fit."""
    found = codes[0]
    for more in codes[1:]:
        found = np.where(found == Reason.FITS.code, more, found)
    return found


def _static(state: ClusterState, shape: Shape, rows: NDArray[np.int64]) -> NDArray[np.int8]:
    codes = np.zeros(len(rows), dtype=np.int8)
    gpu = shape.gpu
    if gpu.kind is not GpuKind.NONE:
        healthy, present = _capacity_for(state, gpu, rows)
        wanted = max(1, gpu.count, gpu.replicas)
        codes[healthy < wanted] = Reason.DEVICE_UNHEALTHY.code
        codes[present < wanted] = Reason.NODE_TOO_SMALL.code
        codes[present == 0] = Reason.DEVICE_KIND_MISSING.code
    too_small = (
        (state.cpu_alloc[rows] < shape.cpu_milli)
        | (state.mem_alloc[rows] < shape.memory_bytes)
        | (state.pods_alloc[rows] < 1)
    )
    codes[too_small & (codes != Reason.DEVICE_KIND_MISSING.code)] = Reason.NODE_TOO_SMALL.code
    if gpu.kind is not GpuKind.NONE:
        _refuse_models(state, gpu, rows, codes)
        if gpu.also:  # devices of several resources: a usual row has those of one
            codes[:] = Reason.DEVICE_KIND_MISSING.code
    if empty := state.empty_rows:
        codes[np.isin(rows, empty)] = Reason.NODE_UNKNOWN.code
    return codes


def _refuse_models(
    state: ClusterState, gpu: GpuRequest, rows: NDArray[np.int64], codes: NDArray[np.int8]
) -> None:
    wrong_model = ~allowed_products(state.products, gpu)
    if not wrong_model.any():
        return
    product, some = state.product[rows], state.device_count[rows] > 0
    codes[wrong_model[product] & some] = Reason.MODEL_NOT_ALLOWED.code
    missing = np.array([not of_resource(gpu, resource) for resource, _ in state.products])
    codes[missing[product] & some] = Reason.DEVICE_KIND_MISSING.code


def _capacity_for(
    state: ClusterState, gpu: GpuRequest, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per row: units of this kind on healthy devices, and counting unhealthy devices too."""
    code = state.device_code[rows]
    unhealthy = (code == DeviceCode.UNHEALTHY).sum(axis=1)
    match gpu.kind:
        case GpuKind.SHARED:
            healthy = np.where(code == DeviceCode.SHARED, state.replicas[rows], 0).sum(axis=1)
        case GpuKind.MIG:
            fits = _mig_capacity(state, gpu, rows).astype(np.int64)
            return fits, fits + unhealthy
        case GpuKind.FRACTION if gpu.memory_mib:
            memory = state.device_mem[rows]
            large = (memory >= gpu.memory_mib) | (memory == 0)
            healthy = ((code == DeviceCode.PLAIN) & large).sum(axis=1)
            unhealthy = ((code == DeviceCode.UNHEALTHY) & large).sum(axis=1)
        case _:
            healthy = (code == DeviceCode.PLAIN).sum(axis=1)
    return healthy.astype(np.int64), (healthy + unhealthy).astype(np.int64)


def _mig_capacity(
    state: ClusterState, gpu: GpuRequest, rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Rows whose devices have enough instances of each profile while they are empty, (R,)."""
    types = mig_codes(state, rows)
    fits = np.asarray((types >= 0).any(axis=1))
    for profile, instances in gpu.mig:
        tables = tables_of(state.mig_types, profile)
        if tables is None:
            return np.zeros(len(rows), dtype=bool)
        fits &= tables.entire[types].sum(axis=1) >= instances
    return fits


def dynamic_reasons(state: ClusterState, shape: Shape, rows: NDArray[np.int64]) -> NDArray[np.int8]:
    """Reasons that follow from what is left on these rows; assumes that they fit statically.

    Returns
    -------
    (R,) int8
        The device reason if there is one, else cpu, memory, pods, counted resources, or ``FITS``.
    """
    codes, gpu = _all_but_counted(state, shape, rows), shape.gpu
    if state.serves_known and gpu.kind is not GpuKind.NONE:
        others = state.plugin_pods if gpu.chosen_by_us else state.chosen_pods
        taken = (state.serves[rows] == Serves.ONE_AT_A_TIME) & (others[rows] > 0)
        codes[taken & _concerned(state, gpu, rows)] = Reason.GPUS_SERVED_OTHERWISE.code
    if shape.counted:
        short = state.counted.short(shape.counted, rows)
        codes[short & (codes == Reason.FITS.code)] = Reason.INSUFFICIENT_RESOURCE.code
    return codes


def _all_but_counted(
    state: ClusterState, shape: Shape, rows: NDArray[np.int64]
) -> NDArray[np.int8]:
    odd = odd_rows(state, shape.gpu, rows)
    if odd is None:
        return _dynamic(state, shape, rows)
    codes = np.zeros(len(rows), dtype=np.int8)
    usual = np.flatnonzero(~odd)
    codes[usual] = _dynamic(state, shape, rows[usual])
    for view in views(state, shape.gpu, rows, odd):
        every = np.arange(len(view.at))
        codes[view.at] = _first(
            [_dynamic(seen, replace(shape, gpu=gpu), every) for seen, gpu in view.asks]
        )
    return codes


def _dynamic(state: ClusterState, shape: Shape, rows: NDArray[np.int64]) -> NDArray[np.int8]:
    codes = np.zeros(len(rows), dtype=np.int8)
    codes[state.pods_free[rows] < 1] = Reason.INSUFFICIENT_PODS.code
    if shape.memory_bytes:  # what is not asked for may be over-full
        codes[state.mem_free[rows] < shape.memory_bytes] = Reason.INSUFFICIENT_MEMORY.code
    if shape.cpu_milli:
        codes[state.cpu_free[rows] < shape.cpu_milli] = Reason.INSUFFICIENT_CPU.code
    gpu = shape.gpu
    match gpu.kind:
        case GpuKind.NONE:
            pass
        case GpuKind.WHOLE:
            codes[state.full_free[rows] < gpu.count] = Reason.INSUFFICIENT_DEVICES.code
        case GpuKind.FRACTION:
            _fraction_reasons(state, gpu, rows, codes)
        case GpuKind.MIG | GpuKind.SHARED:
            _slot_reasons(state, gpu, rows, codes)
    return codes


def _fraction_reasons(
    state: ClusterState, gpu: GpuRequest, rows: NDArray[np.int64], codes: NDArray[np.int8]
) -> None:
    if not gpu.memory_mib and not state.device_memory_known:
        codes[state.most_free[rows] < gpu.milli] = Reason.INSUFFICIENT_FRACTION.code
        return
    milli, memory = fraction_need(state, gpu, rows)
    fits = (state.gpu_free[rows] >= milli[:, None]) & (state.gpu_free[rows] >= 0)
    roomy = fits & (
        (state.device_mem[rows] == 0) | (state.device_mem_free[rows] >= memory[:, None])
    )
    codes[~roomy.any(axis=1)] = Reason.INSUFFICIENT_DEVICE_MEMORY.code
    codes[~fits.any(axis=1)] = Reason.INSUFFICIENT_FRACTION.code


def _slot_reasons(
    state: ClusterState, gpu: GpuRequest, rows: NDArray[np.int64], codes: NDArray[np.int8]
) -> None:
    reason = (
        Reason.INSUFFICIENT_MIG_SLOTS if gpu.kind is GpuKind.MIG else Reason.INSUFFICIENT_REPLICAS
    )
    fits, _ = slots_after(state, gpu, rows)
    codes[~fits] = reason.code
