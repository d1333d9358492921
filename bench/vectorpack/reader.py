"""Reader of vector bin packing instances (``.vbp``).

Whitespace-separated integers: dimensions, one capacity per dimension, number of rows, then per row
one size per dimension and a demand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scheduler.core.errors import InvalidInput
from scheduler.core.reading import read_text

__all__ = ["VectorFile", "read"]

_LARGEST = 64 << 20
_LONGEST_NUMBER = 12
_MOST_DIMENSIONS = 64
_MOST_ITEMS = 100_000


@dataclass(frozen=True, slots=True)
class VectorFile:
    """An instance as it stands in the file."""

    name: str
    capacity: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    demand: tuple[int, ...]


def read(path: Path) -> VectorFile:
    """Read one instance; :class:`InvalidInput` names the file and what is wrong."""
    numbers = _numbers(path)
    if len(numbers) < 2 or not 1 <= numbers[0] <= _MOST_DIMENSIONS:
        raise InvalidInput(
            str(path), "states no dimensions", f"begin with d of 1..{_MOST_DIMENSIONS}"
        )
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
    _check(path, capacity, rows)
    return VectorFile(
        path.stem,
        capacity,
        tuple(tuple(row[:dimensions]) for row in rows),
        tuple(row[dimensions] for row in rows),
    )


def _numbers(path: Path) -> list[int]:
    """The words of the file as integers; those beyond any instance are refused unread."""
    numbers = []
    for word in read_text(path, _LARGEST).split():
        digits = word.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal()):
            raise InvalidInput(str(path), f"holds {word[:40]!r}", "use integers alone")
        if len(digits) > _LONGEST_NUMBER:
            raise InvalidInput(str(path), f"holds a number of {len(digits)} digits")
        numbers.append(int(word))
    return numbers


def _check(path: Path, capacity: tuple[int, ...], rows: list[list[int]]) -> None:
    """Names the first row that no bin can hold, or that is none."""
    if min(capacity) < 1:
        raise InvalidInput(str(path), f"has a bin of capacity {min(capacity)}", "use 1 or more")
    for index, (*sizes, demand) in enumerate(rows):
        where = f"{path}: row {index + 1}"
        if min(sizes) < 0 or demand < 0:
            raise InvalidInput(where, "has a negative size or demand", "use 0 or more")
        if any(size > most for size, most in zip(sizes, capacity, strict=True)):
            raise InvalidInput(where, "is larger than a bin", "a size may be up to the capacity")
    if sum(row[-1] for row in rows) > _MOST_ITEMS:
        raise InvalidInput(str(path), f"asks for more than {_MOST_ITEMS:,} items")
