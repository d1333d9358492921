"""Counted resources: what a node offers a number of, besides cpu, memory, pods and devices.

Extended resources that nobody models (Gaudi, Neuron, TPU, EFA, RDMA, ...), hugepages and ephemeral
storage. kube-scheduler counts them all alike, and so does this: required, charged, and nothing
more. There is one column for each name that some node has ever offered; a cluster without any has
none, and a pod that asks for none never looks here.

A pod is charged for what its node offers alone. What a node does not offer it cannot run out of,
and so a name that becomes known later needs no looking back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from scheduler.core.columns import counted_bytes
from scheduler.core.model import MAX_MEMORY_BYTES, Node, PodRequest

__all__ = ["CountedColumns", "amounts", "offered_by"]

IntArray = NDArray[np.int64]

_MOST_NAMES = 1 << 10  # of a cluster; those beyond are offered by nobody


def amounts(pod: PodRequest) -> list[tuple[str, int]]:
    """What a pod counts for by name."""
    return [(name, counted_bytes(amount)) for name, amount in pod.counted]


def offered_by(node: Node) -> Mapping[str, int]:
    """What a node offers; of what others count there, as much as can be counted."""
    if not node.by_dra:
        return node.counted
    return {**node.counted, **dict.fromkeys(node.by_dra, MAX_MEMORY_BYTES)}


class CountedColumns:
    """Per name and row: what is offered, and what is left of it.

    Attributes
    ----------
    names : tuple of str
        Name of each column.
    offered, free : (N, X) int64
        Rows beyond those in use are 0.
    elsewhere_counts : bool
        Whether a name that no node offers is counted by somebody else: so it is where
        kube-scheduler has been asked before. Otherwise nobody has any.
    """

    __slots__ = ("_codes", "elsewhere_counts", "free", "names", "offered")

    def __init__(self, rows: int = 0, names: tuple[str, ...] = ()) -> None:
        self.names = names
        self._codes = {name: code for code, name in enumerate(names)}
        self.offered: IntArray = np.zeros((rows, len(names)), dtype=np.int64)
        self.free: IntArray = np.zeros((rows, len(names)), dtype=np.int64)
        self.elsewhere_counts = False

    # -- reading -----------------------------------------------------------------------------

    def code(self, name: str) -> int:
        """Column of a name, -1 if no node offers it."""
        code = self._codes.get(name, -1)
        return code if code >= 0 and self.offered[:, code].any() else -1

    def too_small(self, asked: Iterable[tuple[str, int]], rows: int) -> NDArray[np.bool_]:
        """(N,) whether a row offers less than that in all."""
        found = np.zeros(rows, dtype=bool)
        for name, amount in asked:
            code = self.code(name)
            if code >= 0:
                found |= self.offered[:rows, code] < amount
            elif not self.elsewhere_counts:
                found[:] = True
        return found

    def short(self, asked: Iterable[tuple[str, int]], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(R,) whether these rows, which are large enough, have less than that left."""
        found = np.zeros(len(rows), dtype=bool)
        for name, amount in asked:
            code = self.code(name)
            if code >= 0:
                column = self.offered[rows, code] > 0
                found |= column & (self.free[rows, code] < amount)
        return found

    def first_short(self, asked: Iterable[tuple[str, int]], missing: NDArray[np.bool_]) -> IntArray:
        """Position in ``asked`` of the first that each row has too little of, -1 if of none.

        Parameters
        ----------
        missing : (N,)
            Rows that offer too little in all; the others have too little left.
        """
        found = np.full(len(missing), -1, dtype=np.int64)
        for position, (name, amount) in enumerate(asked):
            code = self.code(name)
            if code < 0:
                short = missing & (not self.elsewhere_counts)
            else:
                offered, free = self.offered[: len(missing), code], self.free[: len(missing), code]
                short = np.where(missing, offered < amount, (offered > 0) & (free < amount))
            found[(found < 0) & short] = position
        return found

    def misfit(self, asked: Iterable[tuple[str, int]], row: int) -> str:
        """What a row has too little of, in words; empty if it suffices."""
        for name, amount in asked:
            code = self.code(name)
            left = int(self.free[row, code]) if code >= 0 else 0
            if left < amount and not (code < 0 and self.elsewhere_counts):
                return f"{amount} {name} requested, {left} free"
        return ""

    def fit(self, asked: Iterable[tuple[str, int]], rows: int, *, empty: bool) -> list[IntArray]:
        """How many such pods each of the first rows has room for, (N,), by each name.

        Parameters
        ----------
        empty
            As if no pod ran anywhere.
        """
        found: list[IntArray] = []
        for name, amount in asked:
            code = self.code(name)
            if code < 0:
                if not self.elsewhere_counts:
                    found.append(np.zeros(rows, dtype=np.int64))
                continue
            column = self.offered if empty else self.free
            found.append(np.asarray(np.maximum(column[:rows, code], 0) // amount))
        return found

    def total(self, name: str) -> int:
        """What all rows offer of something; more than anybody asks for if it counts elsewhere."""
        code = self.code(name)
        if code >= 0:
            return int(self.offered[:, code].sum())
        return 1 << 62 if self.elsewhere_counts else 0

    def overdrawn(self, rows: int) -> NDArray[np.bool_]:
        """(N,) whether pods have more of something than their row offers."""
        return np.asarray((self.free[:rows] < 0).any(axis=1))

    def same_rows(self, other: CountedColumns, rows: int) -> NDArray[np.bool_]:
        """(N,) whether rows are alike in both, which have the same names."""
        offered = (self.offered[:rows] == other.offered[:rows]).all(axis=1)
        free = (self.free[:rows] == other.free[:rows]).all(axis=1)
        return np.asarray(offered & free)

    # -- writing -----------------------------------------------------------------------------

    def describe(
        self, row: int, offered: Mapping[str, int], pods: Iterable[PodRequest] = ()
    ) -> None:
        """A row offers these amounts, and these pods have some of them."""
        self.offered[row] = self.free[row] = 0
        for name in sorted(offered):
            if offered[name] > 0 and self._learn(name):
                code = self._codes[name]
                self.offered[row, code] = self.free[row, code] = counted_bytes(offered[name])
        for pod in pods:
            self.charge(row, amounts(pod), 1)

    def charge(self, row: int, taken: Iterable[tuple[str, int]], sign: int) -> None:
        """Take amounts from a row, or with -1 give them back."""
        for name, amount in taken:
            code = self._codes.get(name, -1)
            if code >= 0 and self.offered[row, code]:
                self.free[row, code] -= sign * amount

    def _learn(self, name: str) -> bool:
        if name in self._codes:
            return True
        if len(self.names) >= _MOST_NAMES:
            self._forget_unused()
        if len(self.names) >= _MOST_NAMES:
            return False
        self._codes[name] = len(self.names)
        self.names = (*self.names, name)
        column = np.zeros((len(self.free), 1), dtype=np.int64)
        self.offered = np.concatenate((self.offered, column), axis=1)
        self.free = np.concatenate((self.free, column), axis=1)
        return True

    def _forget_unused(self) -> None:
        used = np.flatnonzero(self.offered.any(axis=0))
        self.names = tuple(self.names[code] for code in used.tolist())
        self._codes = {name: code for code, name in enumerate(self.names)}
        self.offered, self.free = self.offered[:, used].copy(), self.free[:, used].copy()

    def resize(self, rows: int) -> None:
        """Have so many rows."""
        more = rows - len(self.free)
        if more > 0:
            self.offered = np.pad(self.offered, ((0, more), (0, 0)))
            self.free = np.pad(self.free, ((0, more), (0, 0)))

    def copy(self) -> CountedColumns:
        """The same, sharing nothing that is written to."""
        made = CountedColumns(0, self.names)
        made.offered, made.free = self.offered.copy(), self.free.copy()
        made.elsewhere_counts = self.elsewhere_counts
        return made

    def emptied(self, rows: int) -> CountedColumns:
        """The same names, and so many rows, which offer nothing."""
        made = CountedColumns(rows, self.names)
        made.elsewhere_counts = self.elsewhere_counts
        return made

    def freeze(self) -> None:
        """Refuse every write from now on."""
        self.offered.flags.writeable = self.free.flags.writeable = False
