"""Linear programmes for GLOP, handed over in one piece.

Adding coefficients one by one costs more time than solving these programmes; a message of whole
rows does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import linear_solver_pb2, pywraplp

__all__ = ["Program"]

FloatArray = NDArray[np.float64]

_INFINITY = float("inf")


class Program:
    """Maximise a sum over columns >= 0 under rows ``sum <= limit``.

    Parameters
    ----------
    limits
        One per row.
    """

    def __init__(self, limits: Sequence[float]) -> None:
        self._limits = list(limits)
        self._gains: list[float] = []
        self._indices: list[list[int]] = [[] for _ in limits]
        self._factors: list[list[float]] = [[] for _ in limits]
        self._solver: pywraplp.Solver | None = None

    def column(self, gain: float, rows: Sequence[int], factors: Sequence[float]) -> None:
        """Add a column: what one unit of it gains, and what it takes of these rows."""
        index = len(self._gains)
        self._gains.append(gain)
        for row, factor in zip(rows, factors, strict=True):
            self._indices[row].append(index)
            self._factors[row].append(factor)

    def solve(self, limits: Sequence[float] | None = None) -> tuple[float, FloatArray] | None:
        """Objective and duals of all rows, (rows,); None without a finite optimum.

        Parameters
        ----------
        limits
            Replace the limits of the first rows. Solving again starts from the last solution.
        """
        solver = self._solver or self._load()
        rows = solver.constraints()
        for row, limit in zip(rows, limits or (), strict=False):
            row.SetUb(limit)
        if solver.Solve() != pywraplp.Solver.OPTIMAL:
            return None
        duals = np.array([row.dual_value() for row in rows], dtype=np.float64)
        return (float(solver.Objective().Value()), duals) if np.isfinite(duals).all() else None

    def _load(self) -> pywraplp.Solver:
        message = linear_solver_pb2.MPModelProto(maximize=True)
        for gain in self._gains:
            message.variable.add(lower_bound=0.0, upper_bound=_INFINITY, objective_coefficient=gain)
        for limit, indices, factors in zip(self._limits, self._indices, self._factors, strict=True):
            row = message.constraint.add(lower_bound=-_INFINITY, upper_bound=limit)
            row.var_index.extend(indices)
            row.coefficient.extend(factors)
        self._solver = pywraplp.Solver.CreateSolver("GLOP")
        assert self._solver is not None  # GLOP is part of every OR-Tools build
        self._solver.LoadModelFromProto(message)
        return self._solver
