"""A first plan in columns: kinds are handed to groups of alike rows by a linear programme.

Placing pod by pod through the engine takes a second for a few thousand pods. Here nothing is
written until the end: a small linear programme says how many pods of each kind each group of alike
rows should get, arithmetic on columns puts them on rows and devices, large before small, and what
is left over is put wherever room is left. Covers cpu, memory, counted resources, whole devices and
fractions of usual rows; all other pods are left to the engine.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import (
    DEVICE_MILLI,
    DeviceShare,
    GangKey,
    GpuKind,
    Placement,
    PodRequest,
)
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.search.allotment import Allotment, ClassRoom
from scheduler.planner.search.columns import Columns, Shares

__all__ = ["drafted", "drafts_gang"]

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_MOST_CLASSES = 60
_FOR_DEVICES = 1e-4
_PASSES = 3
_MOST_CLOSED = 30
_SLACK = 0.03
_CUTTINGS = 0.02
"""Of a device that is cut into fractions about this share is left over."""
_DRAFTED = (GpuKind.NONE, GpuKind.WHOLE, GpuKind.FRACTION)


def drafted(layout: Layout, priority: int, *, by_pieces: bool = True) -> bool:
    """Place the pending pods of a priority by a draft of all of them.

    Parameters
    ----------
    layout
        Written to, all at once.
    priority
        Whose pods.
    by_pieces
        Whether what can be cut from devices is counted by sizes when pods are handed out. Neither
        way is always the better one.

    Returns
    -------
    bool
        False, and nothing written, if what was drafted does not fit.
    """
    draft = _Draft(layout, by_pieces=by_pieces)
    draft.place(priority)
    return layout.exchange((), draft.placements())


def drafts_gang(instance: Instance, gang: GangKey) -> bool:
    """Whether where its members go does not depend on where others of it are, nor on their role."""
    return (
        not instance.problem.topology
        and gang not in instance.gang_roles
        and len(instance.gang_kinds[gang]) == 1
    )


@dataclass(frozen=True, slots=True)
class _Type:
    """Kinds that differ in their gang alone."""

    kinds: tuple[int, ...]
    first: int
    worth: int
    size: tuple[int, int, int]


class _Draft:
    """Columns of what rows have left, and what has been put there."""

    def __init__(self, layout: Layout, *, by_pieces: bool) -> None:
        self._layout, self._instance = layout, layout.instance
        self._by_pieces, self._slack = by_pieces, _SLACK if by_pieces else 2 * _SLACK
        self._columns = Columns(layout)
        self._put: dict[str, tuple[PodRequest, int, Shares]] = {}
        self._left: dict[int, list[PodRequest]] = {}
        self._position: dict[str, int] = {}
        self._served: list[int] | None = None

    def placements(self) -> list[Placement]:
        """Everything that was put somewhere."""
        state = self._layout.state
        memory = state.device_mem
        return [
            Placement(
                pod,
                state.node(row).name,
                tuple(
                    DeviceShare(d, milli, int(memory[row, d]) if milli == DEVICE_MILLI else mib)
                    for d, milli, mib in devices
                ),
            )
            for pod, row, devices in self._put.values()
        ]

    def place(self, priority: int) -> None:
        """Put pods of a priority somewhere, gangs whole or not at all."""
        types = self._types(priority)
        if not types:
            return
        for kind in (kind for one in types for kind in one.kinds):
            self._left[kind] = list(self._layout.unplaced[kind].values())
        classes = self._classes(types)
        stages = self._stages(types, classes) if self._instance.in_order else [None]
        kinds = [kind for one in types for kind in one.kinds]
        passes = [stage for stage in stages for _ in range(_PASSES)] + [stages[-1]]
        for number, self._served in enumerate(passes):
            last = number == len(passes) - 1
            self._pass(types, classes)
            if last:
                self._put_anywhere(types)
            # Gangs that are not whole give room back; the last time they leave it to others.
            if self._take_halves(kinds, give_up=last) and last:
                self._put_anywhere(types)
                self._take_halves(kinds, give_up=True)

    def _pass(self, types: Sequence[_Type], classes: Sequence[IntArray]) -> None:
        """Allot what is left to what is left, and put it there, large before small."""
        supply = [sum(len(self._left[kind]) for kind in one.kinds) for one in types]
        if self._served is not None:
            done = [sum(pod.uid in self._put for pod in self._pods_of(one)) for one in types]
            supply = [max(0, s - d) for s, d in zip(self._served, done, strict=True)]
        shares = self._allotment(types, classes).shares(supply)
        for number in sorted(range(len(types)), key=lambda n: types[n].size):
            for position, rows in enumerate(classes):
                count = int(shares[number, position])
                if count:
                    self._put_type(types[number], rows, count)

    def _put_anywhere(self, types: Sequence[_Type]) -> None:
        """Put what is left wherever room is left, what is worth most for its devices first."""
        rows = np.arange(len(self._layout.state))
        ordered = sorted(types, key=lambda one: (one.worth / (one.size[0] - 1), one.size))
        if self._instance.in_order:
            left = {one.first: self._waiting(one) for one in types}
            ordered = [one for one in types if left[one.first]]
            ordered.sort(key=lambda one: self._position[left[one.first][0].uid])
        for one in ordered:
            self._put_type(one, rows, len(rows) * DEVICE_MILLI)

    # -- in order ----------------------------------------------------------------------------

    def _stages(
        self, types: Sequence[_Type], classes: Sequence[IntArray]
    ) -> list[list[int] | None]:
        """Pods of each type that could be served in their order, were they to be split.

        As many of the first pods as there is room for; whoever is next waits, and all that are
        like it; of all others again as many, and so on. Before that a few less of the first ones
        than there is room for, so that what cannot be split does not leave the first ones out.
        """
        self._position = {pod.uid: at for at, pod in enumerate(self._instance.problem.pending)}
        allotment = self._allotment(types, classes)
        where = [np.array([self._position[pod.uid] for pod in self._waiting(one)]) for one in types]
        closed: dict[int, int] = {}

        def counts(end: int) -> list[int]:
            return [
                closed.get(number, int(np.searchsorted(at, end))) for number, at in enumerate(where)
            ]

        begin, end, full = 0, len(self._position), 0
        while len(closed) < min(len(types), _MOST_CLOSED) and not allotment.holds(counts(end)):
            step = 1
            while begin + step < end and allotment.holds(counts(begin + step)):
                begin, step = begin + step, 2 * step
            low, high = begin, min(end, begin + step)  # holds at low, not at high
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if allotment.holds(counts(middle)) else (low, middle)
            begin = low
            full = full or low
            stops = [n for n, at in enumerate(where) if n not in closed and low in at]
            closed.update({number: counts(low)[number] for number in stops})
            if not stops:
                break
        if not closed:
            return [counts(end)]
        served = counts(end if allotment.holds(counts(end)) else begin)
        first = [int(np.searchsorted(at, int(full * (1 - self._slack)))) for at in where]
        return [first, served]

    def _pods_of(self, one: _Type) -> list[PodRequest]:
        return [pod for kind in one.kinds for pod in self._layout.unplaced[kind].values()]

    def _waiting(self, one: _Type) -> list[PodRequest]:
        """Pods of a type that were put nowhere yet, in the order in which they are to be served."""
        pods = [pod for kind in one.kinds for pod in self._left[kind]]
        return sorted(pods, key=lambda pod: self._position[pod.uid]) if self._position else pods

    # -- kinds -------------------------------------------------------------------------------

    def _types(self, priority: int) -> list[_Type]:
        instance = self._instance
        gathered: dict[object, list[int]] = defaultdict(list)
        for code, kind in enumerate(instance.kinds):
            if kind.priority != priority or not self._layout.unplaced[code]:
                continue
            if self._is_drafted(code):
                key = (kind.shape, kind.selection, kind.candidates)
                gathered[key].append(code)
        return [self._type(kinds) for kinds in gathered.values()]

    def _is_drafted(self, code: int) -> bool:
        instance, kind = self._instance, self._instance.kinds[code]
        gpu = kind.shape.gpu
        if kind.disruption is not None or gpu.kind not in _DRAFTED or gpu.also:
            return False
        if kind.gang is not None and not drafts_gang(instance, kind.gang):
            return False
        return not kind.standing and bool(self._columns.rows(code).any())

    def _type(self, kinds: list[int]) -> _Type:
        instance = self._instance
        shape = instance.kinds[kinds[0]].shape
        worth = int(instance.levels[0].weights[kinds].max(initial=0))
        for level in instance.levels:
            worth = max(worth, int(level.weights[kinds].max(initial=0)))
        size = (-instance.gpu_milli(kinds[0]), -shape.cpu_milli, -shape.memory_bytes)
        # Gangs first: they need room that single pods would take.
        ordered = sorted(kinds, key=lambda k: instance.kinds[k].gang is None)
        return _Type(tuple(ordered), kinds[0], worth, size)

    def _classes(self, types: Sequence[_Type]) -> list[IntArray]:
        """Rows that are alike in what they let in and what they have, if there are few such."""
        state = self._layout.state
        admitted = np.array([self._columns.rows(one.first) for one in types], dtype=np.int64)
        columns = [state.cpu_alloc, state.mem_alloc, state.device_count, state.product]
        table = np.concatenate([admitted, np.array(columns, dtype=np.int64)]).T
        for seen in (table, admitted.T):
            _, codes = np.unique(seen, axis=0, return_inverse=True)
            codes = codes.reshape(-1)
            if int(codes.max(initial=0)) < _MOST_CLASSES:
                return [np.flatnonzero(codes == c) for c in range(int(codes.max(initial=0)) + 1)]
        return [np.arange(len(state))]

    # -- how many go where -------------------------------------------------------------------

    def _allotment(self, types: Sequence[_Type], classes: Sequence[IntArray]) -> Allotment:
        most = max(one.worth for one in types) or 1
        # Among equals those that ask for more devices, so that none is left idle.
        gains = [
            one.worth / most * (1.0 - _CUTTINGS * self._columns.is_piece(one.first))
            + _FOR_DEVICES * self._instance.gpu_milli(one.first) / DEVICE_MILLI
            for one in types
        ]
        return Allotment(gains, [self._class_room(types, rows) for rows in classes])

    def _class_room(self, types: Sequence[_Type], rows: IntArray) -> ClassRoom:
        """What some rows have together, and what pods of each type would take of it."""
        instance, columns = self._instance, self._columns
        rooms = [int(columns.room(one.first, rows).sum()) for one in types]
        most = {number: room for number, room in enumerate(rooms) if room}
        limits = [
            (
                {number: int(axis.need[types[number].first]) for number in most},
                int(np.maximum(free[rows], 0).sum()),
            )
            for axis, free in zip(instance.axes, columns.free, strict=True)
        ]
        whole = {n: instance.kinds[types[n].first].shape.gpu.count for n in most}
        milli = {
            n: c * DEVICE_MILLI + columns.piece(types[n].first, rows) for n, c in whole.items()
        }
        limits += [
            (whole, int(columns.whole[rows].sum())),
            (milli, int(columns.milli[rows].sum())),
        ]
        pieces = {n: milli[n] for n in most if not whole[n] and milli[n]}
        pieces = pieces if self._by_pieces else {}
        for step in sorted({*pieces.values(), DEVICE_MILLI // 2 + 1} if pieces else ()):
            # So many pieces of a size can be cut from devices at most, whatever else they hold.
            need = {n: c * (DEVICE_MILLI // step) for n, c in whole.items()}
            need |= {n: piece // step for n, piece in pieces.items()}
            limits.append((need, int((columns.milli[rows] // step).sum())))
        return ClassRoom(most, [(need, total) for need, total in limits if any(need.values())])

    # -- which rows --------------------------------------------------------------------------

    def _put_type(self, one: _Type, rows: IntArray, count: int) -> None:
        """Put at most so many pods of a type on these rows, one after another where they suit."""
        kind = one.first
        usable = rows[self._columns.room(kind, rows) > 0]
        if not len(usable):
            return
        pods = self._waiting(one)[:count]
        usual = self._columns.usual_cpu(rows)
        keys = self._columns.misplaced(kind, usable, usual)
        heap = list(zip(keys.tolist(), usable.tolist(), strict=True))
        heapq.heapify(heap)
        for pod in pods:
            while heap:
                row = heap[0][1]
                devices = self._columns.take(kind, row)
                if devices is not None:
                    break
                heapq.heappop(heap)
            else:
                break
            self._put[pod.uid] = (pod, row, devices)
            again = float(self._columns.misplaced(kind, np.array([row]), usual)[0])
            heapq.heapreplace(heap, (again, row))
        for k in one.kinds:
            self._left[k] = [pod for pod in self._left[k] if pod.uid not in self._put]

    def _take_halves(self, kinds: Sequence[int], *, give_up: bool) -> bool:
        """Take off gangs that are not whole; whether there were any."""
        instance, any_taken = self._instance, False
        for kind in kinds:
            gang = instance.kinds[kind].gang
            if gang is None or not self._is_half(gang, kind):
                continue
            for pod in self._layout.unplaced[kind].values():
                put = self._put.pop(pod.uid, None)
                if put is not None:
                    any_taken = True
                    self._columns.give_back(kind, put[1], put[2])
            pods = [] if give_up else list(self._layout.unplaced[kind].values())
            self._left[kind] = pods
        return any_taken

    def _is_half(self, gang: GangKey, kind: int) -> bool:
        there = sum(pod.uid in self._put for pod in self._layout.unplaced[kind].values())
        known = self._layout.placed(kind) + self._instance.fixed(gang) + there
        return known < self._instance.problem.minimum(gang)
