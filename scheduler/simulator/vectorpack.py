"""Reader of vector bin packing instances (``.vbp``).

Whitespace-separated integers: dimensions, one capacity per dimension, number of rows, then per row
one size per dimension and a demand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scheduler.core.errors import InvalidInput

__all__ = ["VectorFile", "read"]


@dataclass(frozen=True, slots=True)
class VectorFile:
    """An instance as it stands in the file."""

    name: str
    capacity: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    demand: tuple[int, ...]


def read(path: Path) -> VectorFile:
    """Read one instance; :class:`InvalidInput` names the file and what is wrong."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(str(path), f"cannot be read: {error}") from error
    try:
        numbers = [int(word) for word in words]
    except ValueError as error:
        raise InvalidInput(str(path), f"holds something else than integers: {error}") from error
    if len(numbers) < 2 or numbers[0] < 1:
        raise InvalidInput(str(path), "states no dimensions", "begin with d and d capacities")
    dimensions = numbers[0]
    capacity, rest = tuple(numbers[1 : 1 + dimensions]), numbers[1 + dimensions :]
    if not rest:
        raise InvalidInput(str(path), "ends before the number of rows")
    count, rest = rest[0], rest[1:]
    wanted = count * (dimensions + 1)
    if count < 0 or len(rest) != wanted:
        raise InvalidInput(
            str(path), f"has {len(rest)} numbers for {count} rows", f"{wanted} are needed"
        )
    rows = [rest[i : i + dimensions + 1] for i in range(0, wanted, dimensions + 1)]
    return VectorFile(
        path.stem,
        capacity,
        tuple(tuple(row[:dimensions]) for row in rows),
        tuple(row[dimensions] for row in rows),
    )
