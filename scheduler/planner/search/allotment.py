"""How many pods of each type each class of rows should get: a linear programme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp

__all__ = ["Allotment", "ClassRoom"]

IntArray = NDArray[np.int64]

_WHOLE = 1e-6


@dataclass(frozen=True, slots=True)
class ClassRoom:
    """What a class of alike rows has, and what types would take of it.

    Attributes
    ----------
    most
        By type, pods that the rows could take if no other came.
    limits
        Per resource: what a pod of each type takes, and what the rows have of it in all.
    """

    most: Mapping[int, int]
    limits: Sequence[tuple[Mapping[int, int], int]]


class Allotment:
    """The programme: pooled capacity of each class, pods may be split.

    Parameters
    ----------
    gains
        Per type, what a placed pod is worth.
    rooms
        One per class.
    """

    def __init__(self, gains: Sequence[float], rooms: Sequence[ClassRoom]) -> None:
        solver = pywraplp.Solver.CreateSolver("GLOP")
        assert solver is not None  # GLOP is part of every OR-Tools build
        self._solver, self._shape = solver, (len(gains), len(rooms))
        minus = -solver.infinity()
        self._supply = [solver.Constraint(minus, 0.0) for _ in gains]
        self._columns: dict[tuple[int, int], pywraplp.Variable] = {}
        objective = solver.Objective()
        for position, room in enumerate(rooms):
            for number, most in room.most.items():
                column = solver.NumVar(0.0, float(most), "")
                self._columns[number, position] = column
                objective.SetCoefficient(column, gains[number])
                self._supply[number].SetCoefficient(column, 1.0)
            for need, total in room.limits:
                row = solver.Constraint(minus, float(total))
                for number, amount in need.items():
                    row.SetCoefficient(self._columns[number, position], float(amount))
        objective.SetMaximization()

    def shares(self, supply: Sequence[int]) -> IntArray:
        """Pods of each type for each class, rounded down, (T, C); none without an optimum."""
        shares = np.zeros(self._shape, dtype=np.int64)
        for key, value in self._solved(supply).items():
            shares[key] = int(value + _WHOLE)
        return shares

    def _solved(self, supply: Sequence[int]) -> dict[tuple[int, int], float]:
        for row, count in zip(self._supply, supply, strict=True):
            row.SetUb(float(count))
        if self._solver.Solve() != pywraplp.Solver.OPTIMAL:
            return {}
        return {key: column.solution_value() for key, column in self._columns.items()}

    def holds(self, supply: Sequence[int]) -> bool:
        """Whether there is room for all of these pods, were they to be split."""
        return sum(self._solved(supply).values()) > sum(supply) - 1e-4 * (1 + sum(supply) / 1000)
