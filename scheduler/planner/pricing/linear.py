"""Linear programmes for GLOP, handed over in one piece.

Adding coefficients one by one costs more time than solving these programmes; a message of whole
rows does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import linear_solver_pb2, pywraplp

__all__ = ["Program"]

FloatArray = NDArray[np.float64]


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

    def columns(self, gain: float, taken: Iterable[tuple[Sequence[int], float]]) -> None:
        """Add alike columns: what one unit of each gains, and what it takes of which rows.

        Parameters
        ----------
        taken
            A row for each of the columns, and how much of it one unit takes.
        """
        first = count = len(self._gains)
        indices, factors = self._indices, self._factors
        for rows, factor in taken:
            count = first + len(rows)
            for index, row in enumerate(rows, first):
                indices[row].append(index)
                factors[row].append(factor)
        self._gains += [gain] * (count - first)

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
        # Bounds that are not given are infinite.
        for gain in self._gains:
            message.variable.add(lower_bound=0.0, objective_coefficient=gain)
        for limit, indices, factors in zip(self._limits, self._indices, self._factors, strict=True):
            row = message.constraint.add(upper_bound=limit)
            row.var_index.extend(indices)
            row.coefficient.extend(factors)
        self._solver = pywraplp.Solver.CreateSolver("GLOP")
        assert self._solver is not None  # GLOP is part of every OR-Tools build
        self._solver.LoadModelFromProto(message)
        return self._solver
