"""Everything that the command line writes: text, tables and JSON on stdout, the rest on stderr.

Names and values come from files, clusters and servers. Written as they are, control characters in
them would be carried out: clear the screen, set its title, forge a line or turn it around. Every
line goes through :func:`printable`.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "EXIT_BAD_INPUT",
    "EXIT_INTERRUPTED",
    "ProgressBar",
    "complain",
    "message",
    "one_line",
    "print_json",
    "print_table",
    "printable",
    "progress",
    "say",
    "writable",
]

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

# Control, format (bidirectional overrides, invisible characters), surrogate, private and
# unassigned characters; separators of lines and of paragraphs.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LONGEST_LINE = 2000
_DELETE = "\x7f"  # the one control character that JSON lets stand
_UNLIMITED = 100_000
_NARROWEST = 20  # columns for the values of a record
_PROGRESS_EVERY_S = 10.0


# -- lines ---------------------------------------------------------------------------------------


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with every character that a terminal would carry out or hide written as ``\x1b``.

    Parameters
    ----------
    text
        From anywhere.
    keep
        Characters that stay as they are, such as the newlines of a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(character)
        if unicodedata.category(character) in _ESCAPED and character not in keep
        else character
        for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """Printable, and without its middle if it is longer than anybody reads."""
    shown = printable(text)
    if len(shown) <= _LONGEST_LINE:
        return shown
    half = _LONGEST_LINE // 2
    return f"{shown[:half]} ... {shown[-half:]}"


def say(text: str, *, keep: str = "") -> None:
    """A line on stdout."""
    click.echo(printable(text, keep=keep))


def complain(text: str, *, keep: str = "") -> None:
    """A line on stderr."""
    click.echo(printable(text, keep=keep), err=True)


def message(text: str) -> None:
    """A remark for the user on stderr, above a progress bar if there is one."""
    _console(stderr=True).print(_plain(text), soft_wrap=True)


def print_json(content: Any) -> None:  # noqa: ANN401 - any JSON value
    """One JSON document on stdout, in ASCII: whatever a terminal would carry out is escaped."""
    text = json.dumps(content, indent=2)
    sys.stdout.write(text.replace(_DELETE, f"\\u{ord(_DELETE):04x}") + "\n")


# -- tables --------------------------------------------------------------------------------------


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; numbers are aligned right.

    In a file or a pipe it is as wide as it needs to be. In a terminal that is too narrow texts are
    wrapped between words; where not even the longest words fit side by side, each row becomes a
    paragraph of its own.
    """
    console = _console()
    heads = [printable(column) for column in columns]
    cells = [[printable(_cell(value)) for value in row] for row in rows]
    words = [
        max((len(word) for text in column for word in text.split()), default=0)
        for column in zip(heads, *cells, strict=True)
    ]
    console.print(_plain(title), style="bold", soft_wrap=True)
    if sum(words) + 3 * len(words) + 1 > console.width:
        for row in cells:
            _print_record(heads, row, console.width)
        return
    table = _table()
    for index, head in enumerate(heads):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        justify: JustifyMethod = "right" if numeric else "left"
        table.add_column(_plain(head), justify=justify, min_width=words[index])
    for row in cells:
        table.add_row(*map(_plain, row))
    console.print(table)


def _print_record(heads: Sequence[str], row: Sequence[str], width: int) -> None:
    indent = max(map(len, heads)) + 4
    click.echo()
    for head, text in zip(heads, row, strict=True):
        if not text:
            continue
        label = f"  {head}{':' if head else ''}"
        lines = textwrap.wrap(
            text, max(_NARROWEST, width - indent), break_long_words=False, break_on_hyphens=False
        )
        for number, line in enumerate(lines or [""]):
            click.echo(f"{'' if number else label:<{indent}}{line}".rstrip())


def _plain(text: str) -> Text:
    """Printable, and no markup: brackets in a name are brackets."""
    from rich.text import Text

    return Text(printable(text))


def _table() -> Table:
    from rich.table import Table

    return Table()


def _console(*, stderr: bool = False) -> Console:
    """Of the stream as it is now; without limit of width where that is not a terminal."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or value is None


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


# -- progress ------------------------------------------------------------------------------------


class ProgressBar(Protocol):
    """Something that can be told how far the work is."""

    def __call__(self, done: int, total: int) -> None:
        """Show progress."""


@contextmanager
def progress(label: str, every_s: float = _PROGRESS_EVERY_S) -> Iterator[ProgressBar]:
    """A progress bar on stderr; where that is not a terminal, a line every now and then.

    Parameters
    ----------
    label
        What is done.
    every_s
        Seconds between two lines; work that is over before the first one says nothing.
    """
    console = _console(stderr=True)
    if not console.is_terminal:
        yield _Lines(label, every_s)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(printable(label), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Progress for a log."""

    def __init__(self, label: str, every_s: float) -> None:
        self._label, self._every_s = label, every_s
        self._next = time.monotonic() + every_s
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done, now  # what was done before takes no time now
        if now >= self._next:
            self._next = now + self._every_s
            complain(f"{self._label}: {done:,} of {total:,}{self._left(now, done, total)}")

    def _left(self, now: float, done: int, total: int) -> str:
        """How long the rest takes if it goes on like this."""
        assert self._first is not None
        before, began = self._first
        if done <= before:
            return ""
        seconds = (now - began) / (done - before) * (total - done)
        return f", {timedelta(seconds=round(seconds))} left"


# -- files ---------------------------------------------------------------------------------------


def writable(path: Path | None, option: str) -> None:
    """Make sure that a file can be written before the work that will fill it; None is fine.

    Raises
    ------
    InvalidInput
        Names the option, and what keeps the file from being written.
    """
    from scheduler.core.errors import InvalidInput

    if path is None:
        return
    try:
        there = path.exists()
        with open(path, "ab", opener=_at_once):
            pass
        if not there:
            path.unlink()
    except (OSError, ValueError) as error:  # ValueError: a path with NUL in it
        problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidInput(
            f"{option} {path}", f"cannot be written: {problem}", "name a file in a writable folder"
        ) from error


def _at_once(path: str, flags: int) -> int:
    """Opens a pipe without waiting for its reader."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)
