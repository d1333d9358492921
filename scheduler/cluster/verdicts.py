"""What is asked about nodes and what is answered, as rows and codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["WINNER", "Ranking", "RequestedNodes", "Verdicts"]

IntArray = NDArray[np.int64]

WINNER = 10
"""Score of the node that the pod should go to; no other node has it."""


@dataclass(frozen=True, slots=True)
class RequestedNodes:
    """The nodes that a call asks about, each once.

    Attributes
    ----------
    rows : (R,) int64
        Row of each, -1 if the name is unknown.
    unknown : mapping of int to str
        Name of each position whose row is -1. The others' names are those of their rows.
    """

    rows: IntArray
    unknown: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """A filter answer about R nodes.

    Attributes
    ----------
    nodes
        The nodes asked about.
    codes : (R,) int8
        Reason codes, 0 passes.
    preemptible : (R,) bool
        Whether a rejected node goes to ``FailedNodes`` (eviction may help) or to
        ``FailedAndUnresolvableNodes``.
    message : str
        Replaces the reason's text if not empty.
    named : (K,) int64, optional
        Positions of the passing nodes to name; None names all of them. The others are neither
        among those that pass nor among those that failed.
    resources : tuple of str
        Counted resources that the pod asks for.
    short : (R,) int64, optional
        Position in ``resources`` of the one that a node has too little of, -1 for other reasons.
    """

    nodes: RequestedNodes
    codes: NDArray[np.int8]
    preemptible: NDArray[np.bool_]
    message: str = ""
    named: IntArray | None = None
    resources: tuple[str, ...] = ()
    short: IntArray | None = None

    @property
    def passing(self) -> IntArray:
        """Rows of the nodes that are named as passing, (K,)."""
        named = np.flatnonzero(self.codes == 0) if self.named is None else self.named
        rows: IntArray = self.nodes.rows[named]
        return rows


@dataclass(frozen=True, slots=True)
class Ranking:
    """A prioritize answer: R nodes and their scores 0..10, (R,) int64."""

    nodes: RequestedNodes
    scores: IntArray
