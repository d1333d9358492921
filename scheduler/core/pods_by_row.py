"""Placements by row, of which copies are cheap: a row is copied at the first write to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from scheduler.core.model import Placement

__all__ = ["PodsByRow"]


class PodsByRow:
    """Placements of each row by pod uid.

    Parameters
    ----------
    rows
        Placements of each row. What is handed in is never written to.
    """

    __slots__ = ("_lent", "_rows")

    def __init__(self, rows: Iterable[dict[str, Placement]] = ()) -> None:
        self._rows = list(rows)
        self._lent = bytearray(b"\1") * len(self._rows)  # 1 where somebody else has it, too

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Mapping[str, Placement]:
        return self._rows[row]

    def __iter__(self) -> Iterator[Mapping[str, Placement]]:
        return iter(self._rows)

    def copy(self) -> PodsByRow:
        """The same; what is written to one of them afterwards is not seen in the other."""
        self._lent = bytearray(b"\1") * len(self._rows)
        return PodsByRow(self._rows)

    def of(self, rows: Iterable[int]) -> PodsByRow:
        """Those of some rows, in this order; to be read until these are written to."""
        return PodsByRow(self._rows[row] for row in rows)

    def append(self) -> None:
        """One more row, without placements."""
        self._rows.append({})
        self._lent.append(0)

    def add(self, row: int, placement: Placement) -> None:
        """A placement is on the row."""
        self._own(row)[placement.pod.uid] = placement

    def remove(self, row: int, uid: str) -> None:
        """A pod is not on the row, if it ever was."""
        self._own(row).pop(uid, None)

    def empty(self, row: int) -> None:
        """No pod is on the row."""
        self._rows[row], self._lent[row] = {}, 0

    def _own(self, row: int) -> dict[str, Placement]:
        if self._lent[row]:
            self._rows[row], self._lent[row] = dict(self._rows[row]), 0
        return self._rows[row]
