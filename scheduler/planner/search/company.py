"""Where pods that have to be together begin.

The first of them chooses the domain for all that follow, and kube-scheduler never looks back. So it
is put where most of them have room.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from scheduler.core.feasibility import dynamic_reasons
from scheduler.core.model import GpuKind, PodRequest, Reason
from scheduler.core.neighbours import Together
from scheduler.planner.layout import Layout

__all__ = ["begin", "beginnings"]

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


def begin(layout: Layout, kind: int, rows: BoolArray) -> BoolArray:
    """Of these rows those of the domain that a kind had best begin in; all if it may not choose."""
    return next(iter(_by_room(layout, kind, rows)), rows)


def beginnings(layout: Layout, kinds: list[int]) -> Iterator[BoolArray]:
    """Row masks of the domains that pods of some of these kinds may begin in, roomy ones first."""
    for kind in kinds:
        yield from _by_room(layout, kind, layout.instance.admissible[kind])


def _by_room(layout: Layout, kind: int, rows: BoolArray) -> Iterator[BoolArray]:
    there = layout.neighbours
    rule = _starts(layout, kind)
    if there is None or rule is None:
        return
    domain = there.rules.domain(rule.keys[0])
    room = _room(layout, layout.instance.pods[kind][0], rows)
    values = np.unique(domain[rows & (domain >= 0)])
    totals = [int(room[domain == value].sum()) for value in values.tolist()]
    for index in np.argsort(-np.array(totals, dtype=np.int64), kind="stable").tolist():
        yield rows & (domain == values[index])


def _starts(layout: Layout, kind: int) -> Together | None:
    """The affinity of a kind that nobody meets yet, if its own pods will."""
    there = layout.neighbours
    if there is None or not layout.instance.kinds[kind].standing:
        return None
    rule = there.rules.standings[layout.instance.kinds[kind].standing].together
    if rule is None or not rule.itself or there.count(rule.trait).any():
        return None
    return rule


def _room(layout: Layout, pod: PodRequest, rows: BoolArray) -> IntArray:
    """Roughly how many pods like this each row has room for; 0 elsewhere, (N,)."""
    state, shape = layout.state, pod.shape
    room = np.zeros(len(state), dtype=np.int64)
    listed = np.flatnonzero(rows)
    fits = listed[dynamic_reasons(state, shape, listed) == Reason.FITS.code]
    most = state.pods_free[fits].astype(np.int64)
    if shape.cpu_milli:
        most = np.minimum(most, state.cpu_free[fits] // shape.cpu_milli)
    if shape.memory_bytes:
        most = np.minimum(most, state.mem_free[fits] // shape.memory_bytes)
    if shape.gpu.kind is GpuKind.WHOLE:
        most = np.minimum(most, state.full_free[fits] // shape.gpu.count)
    elif shape.gpu.requested_milli:
        most = np.minimum(most, state.gpu_left[fits] // shape.gpu.requested_milli)
    room[fits] = np.maximum(most, 1)
    return room
