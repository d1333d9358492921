"""Printing: tables and JSON on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from scheduler.cli.terminal import printable

__all__ = ["ProgressBar", "message", "print_json", "print_table", "progress"]

_out = Console(highlight=False, markup=False, emoji=False)
_err = Console(stderr=True, highlight=False, markup=False, emoji=False)
_DELETE = "\x7f"  # the one control character that JSON lets stand


class ProgressBar(Protocol):
    """Something that can be told how far the work is."""

    def __call__(self, done: int, total: int) -> None:
        """Show progress."""


def print_json(content: Any) -> None:  # noqa: ANN401 - any JSON value
    """One JSON document on stdout, in ASCII: whatever a terminal would carry out is escaped."""
    text = json.dumps(content, indent=2)
    sys.stdout.write(text.replace(_DELETE, f"\\u{ord(_DELETE):04x}") + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; numbers are aligned right."""
    table = Table(title=_plain(title), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(_plain(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_plain(_cell(value)) for value in row))
    _out.print(table)


def _plain(text: str) -> Text:
    """Printable, and no markup: brackets in a name are brackets."""
    return Text(printable(text))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or value is None


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def message(text: str) -> None:
    """A line for the user on stderr."""
    _err.print(_plain(text), soft_wrap=True)


@contextmanager
def progress(label: str) -> Iterator[ProgressBar]:
    """A progress bar on stderr, only if that is a terminal."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=_err,
        transient=True,
        disable=not _err.is_terminal,
    )
    with bar:
        task = bar.add_task(printable(label), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
