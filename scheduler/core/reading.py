"""How a file that somebody names is read: bounded, without waiting, and as text that is text.

Whatever a path leads to, the answer comes soon: a pipe without a writer, a device, a folder, a file
of any size, of another encoding or of none. Every reader of the house begins here, so that each of
them says the same about the same file.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from scheduler.core.errors import InvalidInput

__all__ = [
    "LARGEST_SETTINGS",
    "LARGEST_WORKLOAD",
    "json_of",
    "read_bytes",
    "read_stream",
    "read_text",
    "text_of",
]

LARGEST_SETTINGS = 4 << 20
"""Bytes of a file that people write: settings, policies, weights, lists."""

LARGEST_WORKLOAD = 1 << 30
"""Bytes of a file that programs write: dumps of clusters, traces."""

_MIB = 1 << 20
_GLANCE = 4096
_WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\0\0\xfe\xff": "UTF-32"}
_MARK = b"\xef\xbb\xbf"
_LONGEST_NUMBER = 40


def read_bytes(path: Path, most: int = LARGEST_WORKLOAD, *, may_be_empty: bool = False) -> bytes:
    """All of a regular file, without a byte order mark.

    Raises
    ------
    InvalidInput
        It cannot be read, is not a regular file, is empty where it may not be, or
        has more than ``most`` bytes.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InvalidInput(str(path), "is not a regular file", "write it to a file first")
            if found.st_size > most:
                raise _too_large(str(path), most)
            return read_stream(file, str(path), most, may_be_empty=may_be_empty)
    except (OSError, ValueError) as error:  # ValueError: a path with NUL in it
        problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidInput(
            str(path), f"cannot be read: {problem}", "name a readable file"
        ) from error


def _at_once(path: str, flags: int) -> int:
    """Opens a pipe without waiting for its writer, only for it to be refused."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_stream(
    file: BinaryIO, name: str, most: int = LARGEST_SETTINGS, *, may_be_empty: bool = False
) -> bytes:
    """All of an open file, such as standard input; :class:`InvalidInput` as :func:`read_bytes`."""
    content = file.read(min(_GLANCE, most + 1)) or b""  # None where there is nothing yet
    if not content.startswith(tuple(_WIDE)) and b"\0" in content:
        text_of(content[: content.index(b"\0") + 1], name)  # the rest need not be read for that
    content += file.read(most + 1 - len(content)) or b""
    if len(content) > most:
        raise _too_large(name, most)
    content = content.removeprefix(_MARK)
    if not may_be_empty and not content.strip():
        raise InvalidInput(name, "is empty")
    wide = next((kind for mark, kind in _WIDE.items() if content.startswith(mark)), "")
    if wide:
        raise InvalidInput(name, f"is {wide}", "save it as UTF-8")
    return content


def read_text(path: Path, most: int = LARGEST_SETTINGS) -> str:
    """A file that holds text; :class:`InvalidInput` as :func:`read_bytes` and :func:`text_of`."""
    return text_of(read_bytes(path, most), str(path))


def text_of(content: bytes, name: str) -> str:
    """UTF-8 as text; :class:`InvalidInput` if it is something else."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            name, f"is not UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8"
        ) from error
    if "\0" in text:
        raise InvalidInput(
            name, f"is not text: NUL at character {text.index(chr(0))}", "save it as UTF-8"
        )
    return text


def json_of(text: str, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON document; :class:`InvalidInput` also for what JSON leaves to the reader.

    That is: a key that stands twice, numbers that are none or have no end, and endless nesting.
    """

    def refused(word: str) -> float:
        raise InvalidInput(name, f"holds {word}", "JSON has no such number")

    def whole(digits: str) -> int:
        if len(digits) > _LONGEST_NUMBER:
            raise InvalidInput(name, f"holds a number of {len(digits)} digits")
        return int(digits)

    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InvalidInput(f"{name}: {twice}", "stands twice in one object", "drop one")
        return made

    try:
        return json.loads(text, parse_constant=refused, parse_int=whole, object_pairs_hook=once)
    except RecursionError as error:
        raise InvalidInput(name, "is nested too deeply") from error
    except ValueError as error:
        raise InvalidInput(name, f"is not JSON: {error}") from error


def _too_large(name: str, most: int) -> InvalidInput:
    limit = f"{most // _MIB} MiB" if most >= _MIB else f"{most} bytes"
    return InvalidInput(name, f"has more than {limit}", "is it the file that you meant?")
