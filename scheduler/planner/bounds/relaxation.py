"""Upper bounds on what any plan can place, proved by arithmetic and not by a solver's word.

A linear programme over kinds and groups of alike rows relaxes the problem: capacities of a group
are pooled, pods may be split. GLOP solves it; what counts is only its *dual* solution, which is
rounded to integers and turned into a bound by weak duality in exact arithmetic. Whatever the
solver returned, the bound holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp

from scheduler.core.devices import fraction_need
from scheduler.core.model import DEVICE_MILLI, GpuKind
from scheduler.planner.instance import Instance, Level

__all__ = ["Relaxation", "alike"]

IntArray = NDArray[np.int64]

_DUAL_SCALE = 1 << 60  # duals of byte-sized capacities are tiny; Python integers do not mind
_MOST_GROUPS = 200
_STEPS = (1, 2, 3, 4)
_PIECES = 8


@dataclass(frozen=True, slots=True)
class _Constraint:
    """Sum of ``terms`` over columns (kind, group) is at most ``limit``."""

    terms: Mapping[tuple[int, int], int]
    limit: int


def alike(table: NDArray[np.generic]) -> IntArray:
    """Code of each row of a table, equal for equal rows, in order of first appearance, (N,)."""
    codes: dict[bytes, int] = {}
    listed = np.ascontiguousarray(table)
    return np.array([codes.setdefault(row.tobytes(), len(codes)) for row in listed], dtype=np.int64)


class Relaxation:
    """The pooled problem; bounds level after level."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._first = _firsts(instance)
        self._supply = [0] * len(instance.kinds)
        self._most: dict[int, IntArray] = {}  # of first kinds, what each row could take, (N,)
        for code, first in enumerate(self._first):
            self._supply[first] += len(instance.pods[code])
            self._most[first] = self._most.get(first, 0) + instance.most[code]
        self.groups = self._groups()
        self.columns: list[tuple[int, int]] = [
            (kind, group)
            for group, rows in enumerate(self.groups)
            for kind, most in self._most.items()
            if most[rows].any()
        ]
        self._by_kind: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for kind, group in self.columns:
            self._by_kind[kind].append((kind, group))
        self.constraints = [c for group in range(len(self.groups)) for c in self._group(group)]
        self.constraints += self._exclusions()

    def bound(self, level: Level, achieved: Sequence[tuple[Level, int]]) -> int:
        """Most that a level can reach if the levels before it reach at least what they have.

        Parameters
        ----------
        level
            What is maximised.
        achieved
            Higher levels and values that the optimum is known to reach.
        """
        constraints = list(self.constraints)
        for other, value in achieved:
            weights = other.weights.tolist()
            terms = {c: -weights[c[0]] for c in self.columns if weights[c[0]]}
            constraints.append(_Constraint(terms, -value))
        weights = [int(weight) for weight in level.weights.tolist()]
        return self._bound(constraints, weights, self._supply)

    def holds(self, counts: Sequence[int]) -> bool:
        """Whether so many pods of each kind could all have a place, as far as this can tell."""
        supply = [0] * len(counts)
        for kind, count in enumerate(counts):
            supply[self._first[kind]] += count
        ones = [int(count > 0) for count in supply]
        return self._bound(self.constraints, ones, supply) >= sum(supply)

    def _bound(
        self, constraints: Sequence[_Constraint], weights: Sequence[int], supply: Sequence[int]
    ) -> int:
        trivial: int = sum(weights[k] * supply[k] for k in self._by_kind)
        duals = self._duals(constraints, weights, supply)
        if duals is None:
            return trivial
        bound = min(trivial, self._weak_duality(constraints, duals, weights, supply))
        unit = int(np.gcd.reduce([w for w in weights if w] or [1]))
        return max(0, bound // unit * unit)

    # -- the relaxation ----------------------------------------------------------------------

    def _groups(self) -> list[IntArray]:
        """Rows that may be pooled: the same kinds fit, as far as the number of groups allows."""
        instance = self.instance
        rows = np.flatnonzero(instance.most.any(axis=0))
        kinds = list(self._most)
        most = instance.most[kinds][:, rows]
        for table in (most, most > 0, instance.admissible[kinds][:, rows]):
            codes = alike(table.T)
            if int(codes.max(initial=-1)) < _MOST_GROUPS:
                return [rows[codes == code] for code in range(int(codes.max(initial=-1)) + 1)]
        return [rows]

    def _exclusions(self) -> list[_Constraint]:
        """Of pods that exclude each other from their domains there are no more than domains."""
        instance, made = self.instance, list[_Constraint]()
        together: dict[tuple[int, str], list[int]] = defaultdict(list)
        for kind in self._by_kind:
            for exclusion in instance.exclusions(kind):
                together[exclusion].append(kind)
        for (_, key), kinds in together.items():
            assert instance.neighbours is not None
            rows = instance.most[kinds].any(axis=0)
            domains = np.unique(instance.neighbours.rules.domain(key)[rows])
            if len(domains) and domains[0] >= 0:  # where nodes have no such label nothing excludes
                terms = {column: 1 for kind in kinds for column in self._by_kind[kind]}
                made.append(_Constraint(terms, len(domains)))
        return made

    def _group(self, group: int) -> list[_Constraint]:
        instance, rows = self.instance, self.groups[group]
        kinds = [kind for kind, at in self.columns if at == group]
        made = []
        for axis in instance.axes:
            made += self._volume(group, np.maximum(axis.room[rows], 0), axis.needs(kinds))
        made += self._on_devices(group, rows, kinds)
        for kind in kinds:
            made.append(_Constraint({(kind, group): 1}, int(self._most[kind][rows].sum())))
        return made

    def _volume(self, group: int, free: IntArray, need: Mapping[int, int]) -> list[_Constraint]:
        """Pooled capacity, and dual feasible functions where the rows are alike in it.

        The functions u_s(x) of Fekete and Schepers (x if (s+1)x is an integer, else
        floor((s+1)x)/s, for x = need/capacity) may replace the needs: any set that fits one row
        sums to at most 1 under each of them.
        """
        made = [_Constraint({(k, group): n for k, n in need.items() if n}, int(free.sum()))]
        capacity = int(free[0]) if len(free) else 0
        if capacity <= 0 or not (free == capacity).all():
            return made + self._pieces(group, free, need)
        for step in _STEPS:
            terms = {}
            for kind, n in need.items():
                scaled = (step + 1) * n
                # In units of 1/(step * capacity), so that everything stays an integer.
                value = step * n if scaled % capacity == 0 else scaled // capacity * capacity
                if value:
                    terms[kind, group] = value
            made.append(_Constraint(terms, step * capacity * len(free)))
        return made

    def _pieces(
        self,
        group: int,
        free: NDArray[np.integer],
        need: Mapping[int, int],
        whole: Mapping[int, int] | None = None,
    ) -> list[_Constraint]:
        """How many pieces of some sizes all parts of a capacity can be cut into.

        For any m, floor(x / m) is superadditive: what is cut from one part sums to no more under
        it than the part itself. ``free`` has an entry for each part, which may differ; ``whole``
        are those that take so many entire devices.
        """
        sizes = sorted({n for n in need.values() if n > 0})
        if not sizes:
            return []
        picked = {sizes[(len(sizes) - 1) * number // (_PIECES - 1)] for number in range(_PIECES)}
        made = []
        for step in sorted(picked):
            terms = {(kind, group): n // step for kind, n in need.items() if n >= step}
            for kind, count in (whole or {}).items():
                if step <= DEVICE_MILLI:
                    terms[kind, group] = count * (DEVICE_MILLI // step)
            made.append(_Constraint(terms, int((free // step).sum())))
        return made

    def _on_devices(self, group: int, rows: IntArray, kinds: Sequence[int]) -> list[_Constraint]:
        instance, base = self.instance, self.instance.base
        if instance.odd[rows].any():
            return self._on_odd_rows(group, rows, kinds)
        whole: dict[int, int] = {}
        milli: dict[int, int] = {}
        replicas: dict[int, int] = {}
        slots: dict[int, int] = {}
        for kind in kinds:
            gpu = instance.kinds[kind].shape.gpu
            match gpu.kind:
                case GpuKind.WHOLE:
                    whole[kind] = gpu.count
                    milli[kind] = gpu.count * DEVICE_MILLI
                case GpuKind.FRACTION:
                    milli[kind] = self._least_milli(kind, rows)
                case GpuKind.SHARED:
                    replicas[kind] = gpu.replicas
                case GpuKind.MIG:
                    slots[kind] = self._least_slots(gpu.mig, rows)
                case GpuKind.NONE:
                    pass
        free_slots = sum(
            int(mask & 0xFF).bit_count()
            for row in (rows.tolist() if slots else ())
            for mig, mask in zip(
                instance.state.mig_types_of(row), base.slots[row].tolist(), strict=False
            )
            if mig
        )
        made = self._volume(group, base.whole[rows], whole) if whole else []
        if milli:
            free = np.maximum(base.milli[rows], 0)
            made.append(_Constraint({(k, group): n for k, n in milli.items()}, int(free.sum())))
            fractions = {k: n for k, n in milli.items() if k not in whole}
            made += self._pieces(group, free, fractions, whole)
        if replicas:
            made += self._volume(group, base.replicas[rows], replicas)
        if slots:
            made.append(_Constraint({(k, group): n for k, n in slots.items()}, free_slots))
        return made

    def _on_odd_rows(self, group: int, rows: IntArray, kinds: Sequence[int]) -> list[_Constraint]:
        """Units by resource, and what fractions and replicas could take at most."""
        base, terms = self.instance.base, defaultdict[str, dict[tuple[int, int], int]](dict)
        for kind in kinds:
            gpu = self.instance.kinds[kind].shape.gpu
            for ask in (gpu, *gpu.also):
                if ask.kind is GpuKind.WHOLE:
                    terms[ask.resource][kind, group] = ask.count
        made = [
            _Constraint(needs, int(self._unit_room(resource)[rows].sum()))
            for resource, needs in terms.items()
        ]
        milli = {
            (kind, group): self._least_milli(kind, rows)
            for kind in kinds
            if self.instance.kinds[kind].shape.gpu.kind is GpuKind.FRACTION
        }
        if milli:
            made.append(_Constraint(milli, int(np.maximum(base.milli[rows], 0).sum())))
        return made

    def _unit_room(self, resource: str) -> IntArray:
        """Units of a resource on each row, at most: on usual rows, entirely free devices. (N,)"""
        instance = self.instance
        return np.where(instance.odd, instance.unit_room(resource), instance.base.whole)

    def _least_milli(self, kind: int, rows: IntArray) -> int:
        """Least milli-GPU that a fraction takes on any of these rows."""
        gpu = self.instance.kinds[kind].shape.gpu
        return int(fraction_need(self.instance.state, gpu, rows)[0].min())

    def _least_slots(self, wanted: tuple[tuple[str, int], ...], rows: IntArray) -> int:
        """Fewest slots that the instances take on any device type of these rows."""
        types = {mig for row in rows.tolist() for mig in self.instance.state.mig_types_of(row)}
        total = 0
        for profile, instances in wanted:
            sizes = [
                (mask & 0xFF).bit_count()
                for mig in types
                if mig
                for mask in mig.placements(profile)
            ]
            total += instances * min(sizes, default=0)
        return total

    # -- duals -------------------------------------------------------------------------------

    def _duals(
        self,
        constraints: Sequence[_Constraint],
        weights: Sequence[int],
        supply: Sequence[int],
    ) -> list[int] | None:
        """Rounded duals of the constraints, scaled; None if the solver found no optimum."""
        solver = pywraplp.Solver.CreateSolver("GLOP")
        assert solver is not None  # GLOP is part of every OR-Tools build
        column = {key: solver.NumVar(0.0, supply[key[0]], "") for key in self.columns}
        for kind, keys in self._by_kind.items():
            row = solver.Constraint(-solver.infinity(), supply[kind])
            for key in keys:
                row.SetCoefficient(column[key], 1.0)
        rows = []
        for constraint in constraints:
            row = solver.Constraint(-solver.infinity(), float(constraint.limit))
            for key, factor in constraint.terms.items():
                row.SetCoefficient(column[key], float(factor))
            rows.append(row)
        objective = solver.Objective()
        for (kind, _), var in column.items():
            objective.SetCoefficient(var, float(weights[kind]))
        objective.SetMaximization()
        if solver.Solve() != pywraplp.Solver.OPTIMAL:
            return None
        return [max(0, round(row.dual_value() * _DUAL_SCALE)) for row in rows]

    def _weak_duality(
        self,
        constraints: Sequence[_Constraint],
        duals: Sequence[int],
        weights: Sequence[int],
        supply: Sequence[int],
    ) -> int:
        """Bound from any non-negative duals: their cost, plus for each pod the best it can gain."""
        priced: dict[tuple[int, int], int] = defaultdict(int)
        total = 0
        for constraint, dual in zip(constraints, duals, strict=True):
            if dual:
                total += dual * constraint.limit
                for key, factor in constraint.terms.items():
                    priced[key] += dual * factor
        for kind, keys in self._by_kind.items():
            gain = max(weights[kind] * _DUAL_SCALE - priced[key] for key in keys) if keys else 0
            total += supply[kind] * max(0, gain)
        return int(Fraction(total, _DUAL_SCALE).__floor__())


def _firsts(instance: Instance) -> list[int]:
    """Per kind the first that differs in gang and disruption alone, which stands for it."""
    firsts: dict[object, int] = {}
    found = []
    for code, kind in enumerate(instance.kinds):
        weights = tuple(int(level.weights[code]) for level in instance.levels)
        key = (kind.shape, kind.selection, kind.candidates, kind.standing, weights)
        found.append(firsts.setdefault(key, code))
    return found
