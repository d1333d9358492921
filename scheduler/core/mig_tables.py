"""MIG arithmetic for many devices at once: what :mod:`scheduler.core.mig` says, as arrays.

A free mask has nine bits, so that everything which depends on one device is a table over 512 masks,
made once for each type of partition and profile. Rows are then looked up, not computed: how many
instances fit, where one costs least capability, and what is left after it. Devices are pairs of
type and free mask; -1 as a type stands for a device that is not partitioned.

Only where placing instances one after another gets stuck are rows searched one by one, as
:func:`scheduler.core.mig.pack` does for a single row; both find the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from scheduler.core.mig import MEDIA_BIT, SLOT_MASKS, MigType, geometry_named, pack

__all__ = ["MigTables", "counts_by_mask", "milli_by_mask", "packed", "tables_of"]

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Want = tuple[tuple[str, int], ...]

_MASKS = np.arange(SLOT_MASKS)
_BITS = np.array([(mask & (MEDIA_BIT - 1)).bit_count() for mask in range(SLOT_MASKS)])
_NOWHERE = np.iinfo(np.int64).max
_MOST_COMBINATIONS = 62  # bits of a set of combinations
_FIRST_SEARCHED = 8  # rows that are searched before others are checked for having no solution


@cache
def counts_by_mask(mig: MigType, profile: str) -> IntArray:
    """Most instances of a profile by mask of free slots, (SLOT_MASKS,); not to be written to."""
    counts = np.zeros(SLOT_MASKS, dtype=np.int64)
    places = mig.placements(profile)
    while True:  # ends after as many rounds as instances fit at most
        before = counts.copy()
        for need in places:
            fits = (_MASKS & need) == need
            counts[fits] = np.maximum(counts, 1 + counts[_MASKS & ~need])[fits]
        if np.array_equal(before, counts):
            break
    counts.flags.writeable = False
    return counts


@cache
def milli_by_mask(mig: MigType) -> IntArray:
    """Milli-GPU by mask of free slots, (SLOT_MASKS,); not to be written to."""
    milli = np.array([mig.milli(mask) for mask in range(SLOT_MASKS)], dtype=np.int64)
    milli.flags.writeable = False
    return milli


@cache
def _capabilities(mig: MigType) -> IntArray:
    """:meth:`MigType.capability` by mask, (SLOT_MASKS,)."""
    geometry = geometry_named(mig.geometry)
    assert geometry is not None  # checked when the type was made
    value = np.zeros(SLOT_MASKS, dtype=np.int64)
    for profile in geometry.profiles:
        value = value * 9 + counts_by_mask(mig, profile.name)
    return value


@cache
def _cheapest(mig: MigType, profile: str) -> tuple[IntArray, IntArray]:
    """Least capability that an instance costs, and the slots that it takes then, by mask."""
    value = _capabilities(mig)
    losses = np.full(SLOT_MASKS, _NOWHERE, dtype=np.int64)
    needs = np.zeros(SLOT_MASKS, dtype=np.int64)
    for need in sorted(mig.placements(profile)):
        fits = (_MASKS & need) == need
        loss = value - value[_MASKS & ~need]
        better = fits & (loss < losses)
        losses[better], needs[better] = loss[better], need
    return losses, needs


@dataclass(frozen=True, slots=True)
class MigTables:
    """Tables of one profile for the types of a state; the last row is of all other devices.

    Attributes
    ----------
    counts : (T + 1, SLOT_MASKS)
        Instances that fit.
    each : (T + 1,)
        Milli-GPU of one instance; 0 where a type lacks the profile.
    entire : (T + 1,)
        Instances that fit on an empty device.
    sizes : (T + 1,)
        Slots of one instance.
    losses, needs : (T + 1, SLOT_MASKS)
        Of the cheapest place: capability that it costs, and its slots.
    """

    counts: IntArray
    each: IntArray
    entire: IntArray
    sizes: IntArray
    losses: IntArray
    needs: IntArray

    @property
    def unlike(self) -> bool:
        """Whether an instance stands for different milli-GPU on different types."""
        return len(set(self.each[self.each > 0].tolist())) > 1


def tables_of(types: Sequence[MigType], profile: str) -> MigTables | None:
    """Tables of a profile; None if no type has it, and then nothing is kept of its name."""
    if not any(mig.placements(profile) for mig in types):
        return None
    return _tables_of(tuple(types), profile)


@lru_cache(maxsize=512)
def _tables_of(types: tuple[MigType, ...], profile: str) -> MigTables:
    shape = (len(types) + 1, SLOT_MASKS)
    found = MigTables(
        np.zeros(shape, dtype=np.int64),
        np.zeros(len(types) + 1, dtype=np.int64),
        np.zeros(len(types) + 1, dtype=np.int64),
        np.zeros(len(types) + 1, dtype=np.int64),
        np.full(shape, _NOWHERE, dtype=np.int64),
        np.zeros(shape, dtype=np.int64),
    )
    for code, mig in enumerate(types):
        places = mig.placements(profile)
        if not places:
            continue
        found.counts[code] = counts_by_mask(mig, profile)
        found.each[code] = mig.milli(places[0])
        found.entire[code] = mig.count(mig.full_mask, profile)
        found.sizes[code] = _BITS[places[0]]
        found.losses[code], found.needs[code] = _cheapest(mig, profile)
    return found


def packed(
    types: Sequence[MigType], codes: IntArray, masks: IntArray, want: Want
) -> tuple[BoolArray, IntArray]:
    """What :func:`scheduler.core.mig.pack` finds for the devices of every row.

    Parameters
    ----------
    types
        Types of partitions that there are.
    codes : (R, D)
        Position in ``types`` of each device, -1 where it is not partitioned.
    masks : (R, D)
        Its free slots.
    want
        Pairs of profile and number of instances.

    Returns
    -------
    fits : (R,) bool
        Whether all instances have a place.
    after : (R, D) int64
        Free slots of each device then; where they do not fit, as they are.
    """
    after = masks.copy()
    fits = np.zeros(len(codes), dtype=bool)
    tables = {name: tables_of(types, name) for name, _ in want}
    known = {name: table for name, table in tables.items() if table is not None}
    if len(known) < len(tables) or not codes.size:
        return fits, after
    sizes = {name: table.sizes[codes].max(axis=1) for name, table in known.items()}
    open_rows = np.ones(len(codes), dtype=bool)
    for name, instances in want:
        open_rows &= known[name].counts[codes, masks].sum(axis=1) >= instances
    needed = np.sum([sizes[name] * instances for name, instances in want], axis=0)
    open_rows &= needed <= _BITS[masks].sum(axis=1)
    rows = np.flatnonzero(open_rows)
    for same, todo in _orders(rows, sizes, want):
        fits[same], after[same] = _one_by_one(codes[same], masks[same], todo, known)
        stuck = same[~fits[same]]
        if len(stuck):
            _search(types, codes, masks, want, stuck, fits, after)
    return fits, after


def _orders(
    rows: IntArray, sizes: dict[str, IntArray], want: Want
) -> list[tuple[IntArray, list[str]]]:
    """Rows that place instances in the same order: the largest first, then by name."""
    if not len(rows):
        return []
    names = sorted(sizes)
    if all((sizes[name][rows] == sizes[name][rows[0]]).all() for name in names):
        return [(rows, _order(want, {name: int(sizes[name][rows[0]]) for name in names}))]
    by_size = np.array([sizes[name][rows] for name in names])
    kinds, which = np.unique(by_size, axis=1, return_inverse=True)
    made = []
    for number, kind in enumerate(kinds.T.tolist()):
        todo = _order(want, dict(zip(names, kind, strict=True)))
        made.append((rows[which.ravel() == number], todo))
    return made


def _order(want: Want, sizes: dict[str, int]) -> list[str]:
    order = sorted(want, key=lambda pair: (-sizes[pair[0]], pair[0]))
    return [name for name, instances in order for _ in range(instances)]


def _one_by_one(
    codes: IntArray, masks: IntArray, todo: list[str], tables: dict[str, MigTables]
) -> tuple[BoolArray, IntArray]:
    """Each instance where it costs least, on the first of such devices; no way back."""
    after, every = masks.copy(), np.arange(len(codes))
    fits = np.ones(len(codes), dtype=bool)
    for name in todo:
        losses = tables[name].losses[codes, after]
        device = losses.argmin(axis=1)
        fits &= losses[every, device] != _NOWHERE
        code, free = codes[every, device], after[every, device]
        after[every, device] = free & ~tables[name].needs[code, free]
    after[~fits] = masks[~fits]
    return fits, after


def _search(
    types: Sequence[MigType],
    codes: IntArray,
    masks: IntArray,
    want: Want,
    rows: IntArray,
    fits: BoolArray,
    after: IntArray,
) -> None:
    """Look for places on these rows, going back where there is no way on."""
    if len(rows) > _FIRST_SEARCHED:
        rows = rows[_solvable(types, codes[rows], masks[rows], want)]
    for row in rows.tolist():
        there = tuple(types[code] if code >= 0 else None for code in codes[row].tolist())
        packing = pack(there, tuple(masks[row].tolist()), want)
        if packing is not None:
            fits[row], after[row] = True, packing.after


def _solvable(types: Sequence[MigType], codes: IntArray, masks: IntArray, want: Want) -> BoolArray:
    """Rows on which all instances have a place in some way, (R,); all where that is not known.

    Device by device, the set of combinations of instances that the devices so far can have; a
    combination is a digit per profile, and a set of them the bits of an integer.
    """
    limits = [instances for _, instances in want]
    count = int(np.prod([limit + 1 for limit in limits]))
    if count > _MOST_COMBINATIONS or len({name for name, _ in want}) < len(want):
        return np.ones(len(codes), dtype=bool)
    combinations = list(product(*(range(limit + 1) for limit in limits)))
    number = {each: at for at, each in enumerate(combinations)}
    hosted = np.zeros((len(types) + 1, SLOT_MASKS), dtype=np.int64)
    hosted[:] = 1  # no instance at all
    names = tuple(name for name, _ in want)
    for code, mig in enumerate(types):
        hosted[code] = _hosted(mig, names, tuple(limits))
    reached = np.ones(len(codes), dtype=np.int64)
    for device in range(codes.shape[1]):
        more = hosted[codes[:, device], masks[:, device]]
        combined = np.zeros_like(reached)
        for each in combinations:
            fitting = [c for c in combinations if all(
                a + b <= limit for a, b, limit in zip(c, each, limits, strict=True))]  # fmt: skip
            may = sum(1 << number[c] for c in fitting)
            has = (more >> number[each]) & 1
            combined |= np.where(has == 1, (reached & may) << number[each], 0)
        reached = combined
    return np.asarray(((reached >> (count - 1)) & 1) == 1)


@lru_cache(maxsize=1024)
def _hosted(mig: MigType, names: tuple[str, ...], limits: tuple[int, ...]) -> IntArray:
    """Combinations of instances that one device can have, by mask, as sets; see above."""
    strides = [int(np.prod([limit + 1 for limit in limits[at + 1 :]])) for at in range(len(limits))]
    combinations = list(product(*(range(limit + 1) for limit in limits)))
    found = np.ones(SLOT_MASKS, dtype=np.int64)
    while True:
        before = found.copy()
        for name, stride, at in zip(names, strides, range(len(limits)), strict=True):
            below = sum(1 << n for n, each in enumerate(combinations) if each[at] < limits[at])
            for need in mig.placements(name):
                fits = (_MASKS & need) == need
                found = np.where(fits, found | ((found[_MASKS & ~need] & below) << stride), found)
        if np.array_equal(before, found):
            return found
