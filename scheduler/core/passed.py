"""Nodes that kube-scheduler has passed for a pod, where our state may be behind its own.

kube-scheduler counts cpu, memory, pods and counted resources itself, and hears of pods and nodes by
another watch than ours. Where a node that it has passed lacks these by our state, one of two things
is true: room is reserved for other pods, which kube-scheduler knows nothing of; or our state is
late. It is late where the pod would not fit without these reservations either. Only the first is a
reason to refuse the node. In the second case it is looked at as if it had just what the pod asks
for of all that kube-scheduler counts: whatever is behind the news that we lack has been using, or
has brought, more than one thing. Devices are always those of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from scheduler.core.columns import COLUMNS, counted, counted_bytes
from scheduler.core.counted import amounts
from scheduler.core.excerpts import excerpt
from scheduler.core.feasibility import static_reasons
from scheduler.core.model import Placement, PodRequest, Reason, Shape
from scheduler.core.state import ClusterState

__all__ = ["as_passed", "behind", "believe", "doubtful", "large_enough", "short_of"]

IntArray = NDArray[np.int64]

_NO_ROWS: IntArray = np.zeros(0, dtype=np.int64)

# Reasons that may be about something that kube-scheduler counts itself.
_DOUBTFUL = np.zeros(len(Reason), dtype=bool)
for _reason in (
    Reason.NODE_TOO_SMALL,
    Reason.RESOURCE_MISSING,
    Reason.INSUFFICIENT_CPU,
    Reason.INSUFFICIENT_MEMORY,
    Reason.INSUFFICIENT_PODS,
    Reason.INSUFFICIENT_RESOURCE,
):
    _DOUBTFUL[_reason.code] = True


def doubtful(codes: NDArray[np.int8], rows: IntArray) -> IntArray:
    """Those of the rows, -1 for unknown nodes, that are perhaps refused because we are late.

    Parameters
    ----------
    codes : (N,)
        Reason code of every row of the state.
    rows : (R,)
        Rows that kube-scheduler has passed.

    Returns
    -------
    (K,) int64
        Ascending, each row once.
    """
    doubts = _DOUBTFUL[codes]
    if not doubts.any():
        return _NO_ROWS
    asked = np.zeros(len(codes) + 1, dtype=bool)
    asked[rows] = True  # unknown nodes fall on the last one
    return np.flatnonzero(doubts & asked[:-1])


def as_passed(
    state: ClusterState, request: PodRequest, rows: IntArray, reserved: Iterable[Placement]
) -> ClusterState:
    """These rows alone, as they have to be for kube-scheduler to have passed them for the pod.

    Parameters
    ----------
    state
        Read only.
    rows : (R,)
        Occupied rows.
    reserved
        Reservations, of whatever pods and wherever; the pod's own are room for it.

    Returns
    -------
    ClusterState
        Row *i* is ``rows[i]``. It lacks cpu, memory, pods or counted resources only where the pod
        would have all of them by our state without the reservations for others.
    """
    seen = _without_own(state, request, rows)
    others = _others(state, request, rows, reserved)
    believe(seen, request.shape, others, state.counted.code)
    return seen


def behind(
    state: ClusterState, request: PodRequest, rows: IntArray, reserved: Iterable[Placement]
) -> IntArray:
    """Those of the rows, passed for the pod, of which the state is late: what it lacks is there.

    Reservations that come or end change nothing in that.

    Parameters
    ----------
    rows : (R,)
        Occupied rows.
    reserved
        As in :func:`as_passed`; looked at where some row seems too full.

    Returns
    -------
    (K,) int64
        In the order of ``rows``.
    """
    rows = rows[_short(state, request.shape, rows)]
    if not len(rows):
        return _NO_ROWS
    seen, others = _without_own(state, request, rows), _others(state, request, rows, reserved)
    return rows[_late(seen, request.shape, others, state.counted.code)]


def large_enough(row: ClusterState, shape: Shape) -> bool:
    """Whether the only row of a state has the devices for a shape, once other pods are gone.

    kube-scheduler takes it for large enough in what it counts itself.
    """
    seen = excerpt(row, np.zeros(1, dtype=np.int64))
    believe(seen, shape, {})
    return int(static_reasons(seen, shape)[0]) == Reason.FITS.code


def short_of(
    state: ClusterState,
    request: PodRequest,
    rows: IntArray,
    codes: NDArray[np.int8],
    reserved: Iterable[Placement] | None = None,
) -> IntArray:
    """Which of the counted resources that a pod asks for each row has too little of.

    Parameters
    ----------
    rows, codes : (R,)
        What was asked about, -1 for unknown nodes, and the verdicts.
    reserved
        As in :func:`as_passed`; None where kube-scheduler has not passed the rows.

    Returns
    -------
    (R,) int64
        Position of the first one in ``request.counted``; -1 where that is not what is lacking.
    """
    found = np.full(len(rows), -1, dtype=np.int64)
    missing = codes == Reason.RESOURCE_MISSING.code
    at = np.flatnonzero(missing | (codes == Reason.INSUFFICIENT_RESOURCE.code))
    if len(at):
        if reserved is None:
            seen = _without_own(state, request, rows[at])
        else:
            seen = as_passed(state, request, rows[at], reserved)
        found[at] = seen.counted.first_short(request.counted, missing[at])
    return found


def _without_own(state: ClusterState, request: PodRequest, rows: IntArray) -> ClusterState:
    """These rows alone, without the pod itself."""
    seen = excerpt(state, rows)
    own = state.placements.get(request.uid)
    for position in np.flatnonzero(rows == state.row(own.node)).tolist() if own else ():
        _put(seen, position, state.excerpt_without(int(rows[position]), {request.uid}))
    return seen


def _put(seen: ClusterState, position: int, row: ClusterState) -> None:
    """Write a row of another state with the same vocabulary over one of these."""
    for name, _, _, _ in COLUMNS:
        getattr(seen, name)[position] = getattr(row, name)[0]
    seen.counted.offered[position] = row.counted.offered[0]
    seen.counted.free[position] = row.counted.free[0]


def believe(
    seen: ClusterState,
    shape: Shape,
    others: Mapping[int, Sequence[PodRequest]],
    code_of: Callable[[str], int] | None = None,
) -> None:
    """Have the rows of which the state is late offer and have left what is asked for.

    Parameters
    ----------
    seen
        Rows where kube-scheduler finds room for the shape, as far as it counts; written to.
    others
        By row, pods for which room is reserved there.
    code_of
        Columns of counted resources, by name; where left out, of those that some row offers.
    """
    code_of = code_of or seen.counted.code
    late = _late(seen, shape, others, code_of)
    for offered, free, asked, _ in _accounts(seen, shape, others, code_of):
        offered[late] = np.maximum(offered[late], asked)
        free[late] = np.maximum(free[late], asked)


def _late(
    seen: ClusterState,
    shape: Shape,
    others: Mapping[int, Sequence[PodRequest]],
    code_of: Callable[[str], int],
) -> NDArray[np.bool_]:
    """Rows where the shape would lack something even without the reservations for others, (R,)."""
    late = np.zeros(len(seen), dtype=bool)
    for _, free, asked, kept in _accounts(seen, shape, others, code_of):
        late |= free + kept < asked
    return late


def _short(state: ClusterState, shape: Shape, rows: IntArray) -> NDArray[np.bool_]:
    """Rows that have too little left of something that kube-scheduler counts, (R,)."""
    short = state.pods_free[rows] < 1
    if shape.cpu_milli:
        short |= state.cpu_free[rows] < shape.cpu_milli
    if shape.memory_bytes:
        short |= state.mem_free[rows] < shape.memory_bytes
    for name, asked in shape.counted:
        if (code := state.counted.code(name)) >= 0:
            short |= state.counted.free[rows, code] < asked
    return np.asarray(short)


def _others(
    state: ClusterState, request: PodRequest, rows: IntArray, reserved: Iterable[Placement]
) -> dict[int, list[PodRequest]]:
    """Other pods for which room is reserved on these rows, by position."""
    at = {row: position for position, row in enumerate(rows.tolist())}
    others: dict[int, list[PodRequest]] = {}
    for placement in reserved:
        position = at.get(state.row_of.get(placement.node, -1), -1)
        if position >= 0 and placement.pod.uid != request.uid:
            others.setdefault(position, []).append(placement.pod)
    return others


def _accounts(
    seen: ClusterState,
    shape: Shape,
    others: Mapping[int, Sequence[PodRequest]],
    code_of: Callable[[str], int],
) -> Iterator[tuple[IntArray, IntArray, int, IntArray]]:
    """What kube-scheduler counts of all that is asked for: offered, free, asked and kept, (R,)."""
    kept = np.zeros((3, len(seen)), dtype=np.int64)
    for position, pods in others.items():
        for pod in pods:
            kept[:, position] += (counted(pod.cpu_milli), counted_bytes(pod.memory_bytes), 1)
    columns = (
        (seen.cpu_alloc, seen.cpu_free, shape.cpu_milli),
        (seen.mem_alloc, seen.mem_free, shape.memory_bytes),
        (seen.pods_alloc, seen.pods_free, 1),
    )
    for (offered, free, asked), held in zip(columns, kept, strict=True):
        if asked:
            yield offered, free, asked, held
    for name, asked in shape.counted:
        code = code_of(name)
        if code < 0 or not asked:
            continue  # no node offers it, as far as we know
        counts, rows = seen.counted, slice(len(seen))
        offered, free = counts.offered[rows, code], counts.free[rows, code]
        held = np.zeros(len(seen), dtype=np.int64)
        for position, pods in others.items():
            if offered[position]:  # else nobody is charged for it there
                held[position] = sum(dict(amounts(pod)).get(name, 0) for pod in pods)
        yield offered, free, asked, held
