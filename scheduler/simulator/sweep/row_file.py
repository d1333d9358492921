"""Rows of a sweep in a file of JSON lines, each written as soon as it is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from scheduler import __version__
from scheduler.core.errors import InvalidInput
from scheduler.core.reading import LARGEST_WORKLOAD, read_bytes, text_of
from scheduler.files.manifests import files_of
from scheduler.simulator.sweep.runs import stamp

__all__ = ["Row", "RowFile", "job_json", "key_of"]


class _Line(msgspec.Struct):
    key: str
    job: dict[str, Any]
    row: dict[str, Any]
    seconds: float


_decoder = msgspec.json.Decoder(_Line)
_BEGIN = '{"key": "'
_KEY_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Row:
    """What one job has come to.

    Attributes
    ----------
    key
        Hash of the job, the content of its files, what was done with it and the version of Snugfit.
    job
        The job as JSON; files by name.
    figures
        What it came to, as JSON: the same wherever it was run.
    seconds
        What it took there.
    """

    key: str
    job: dict[str, Any]
    figures: dict[str, Any]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """A line of the file."""
        return {"key": self.key, "job": self.job, "row": self.figures, "seconds": self.seconds}


def key_of(work: Callable[..., object], job: object) -> str:
    """The name of a row; see :class:`Row`."""
    told = [__version__, work.__module__, work.__qualname__, _plain(job, named=False)]
    canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_KEY_DIGITS]


def job_json(job: object) -> dict[str, Any]:
    """A job as JSON, for people: files by name, and without what is as ever."""
    plain = _plain(job, named=True)
    return plain if isinstance(plain, dict) else {"job": plain}


def _plain(value: object, *, named: bool) -> Any:  # noqa: ANN401 - JSON
    """A job as JSON; files by name, or by what is in them."""
    if isinstance(value, Path):
        return value.name if named else _digest(value)
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value):
        return {
            one.name: _plain(getattr(value, one.name), named=named)
            for one in fields(value)
            if not (named and getattr(value, one.name) == _default(one))
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(one, named=named) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, named=named) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a job holds {type(value).__name__}, of which no row can be named")


def _default(one: Field[Any]) -> object:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _digest(path: Path) -> str:
    """SHA-256 of what a file, or a folder, holds; of a path that leads nowhere."""
    seal = hashlib.sha256()
    for one in files_of([path]):
        seal.update(_content(*stamp(one)) if one.exists() else b"")
    return seal.hexdigest()


@lru_cache(maxsize=256)
def _content(path: Path, _changed_ns: int, _size: int) -> bytes:
    return hashlib.sha256(read_bytes(path)).digest()


class RowFile:
    """The rows that are there already, and those that come.

    Parameters
    ----------
    path
        The file, made when the first row comes; None keeps the rows in memory alone. A line at its
        end that was not written to its end is taken off.

    Raises
    ------
    InvalidInput
        The file holds something else than rows.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, Row] = {}
        if path is not None and path.exists():
            content = read_bytes(path, LARGEST_WORKLOAD, may_be_empty=True)
            whole, torn = _torn(content)
            for row in _rows(text_of(whole, str(path)), str(path)):
                self._known[row.key] = row
            if torn:
                with path.open("r+b") as file:
                    file.truncate(len(content) - len(torn))

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Row:
        return self._known[key]

    def add(self, row: Row) -> None:
        """Keep a row, in the file too."""
        self._known[row.key] = row
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row.to_json()) + "\n")


def _torn(content: bytes) -> tuple[bytes, bytes]:
    """The whole lines, and the beginning of one more row."""
    end = content.rfind(b"\n") + 1
    rest = content[end:]
    if rest and (rest.startswith(_BEGIN.encode()) or _BEGIN.encode().startswith(rest)):
        return content[:end], rest
    return content, b""


def _rows(text: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            said = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise InvalidInput(
                f"{name}:{number}", f"is not a row of a sweep: {error}", "name another file"
            ) from error
        yield Row(said.key, said.job, said.row, said.seconds)
