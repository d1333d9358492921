"""Which rows have changed, in order: by it caches catch up at a cost that follows what changed."""

from __future__ import annotations

__all__ = ["Journal"]

_MOST = 1 << 12  # entries, or four per row: after more all rows may as well have changed


class Journal:
    """Changed rows.

    Parameters
    ----------
    base
        Position of the first entry.
    """

    __slots__ = ("_base", "_rows")

    def __init__(self, base: int = 0) -> None:
        self._base = base
        self._rows: list[int] = []

    @property
    def position(self) -> int:
        """Of the entry to come."""
        return self._base + len(self._rows)

    def since(self, position: int) -> list[int] | None:
        """Rows from a position on, possibly repeated; None where it no longer reaches back."""
        return None if position < self._base else self._rows[position - self._base :]

    def add(self, row: int, of: int) -> None:
        """A row, of so many, has changed."""
        self._rows.append(row)
        if len(self._rows) > max(_MOST, 4 * of):
            drop = len(self._rows) // 2
            del self._rows[:drop]
            self._base += drop
