"""What a benchmark has found so far, and how it is told: a table, JSON, a results file."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from bench.machine import commit, machine, versions
from bench.results import record, table_name
from scheduler.cli.interrupts import heard_by
from scheduler.cli.options import pool_options, rows_options
from scheduler.cli.output import (
    EXIT_BAD_INPUT,
    complain,
    message,
    one_line,
    print_json,
    print_table,
    progress,
    say,
)
from scheduler.cli.pools import pool_of, row_file
from scheduler.simulator.sweep.row_file import Row
from scheduler.simulator.sweep.runner import Runner

__all__ = ["Report", "benchmark"]

J = TypeVar("J")
EXIT_FAILED = 1
EXIT_STOPPED = 130


@dataclass
class Report:
    """The findings of one run; filled while it runs, so that Ctrl-C loses none that is complete.

    Attributes
    ----------
    title
        Of the table.
    rows
        Figures by name, flat; the rows of one report may have different names.
    facts
        Figures of the whole run.
    failures
        Expectations that did not hold; the exit code is 1 then.
    refused
        Input that could not be used and was left out; the exit code is 2 then.
    stopped
        Whether the run was ended by Ctrl-C.
    runner
        Where the rows of a grid are run and kept.
    """

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    stopped: bool = False
    done: int = 0
    total: int = 0
    runner: Runner = field(default_factory=Runner)
    _bar: Callable[[int, int], None] | None = None

    def add(self, **figures: Any) -> None:  # noqa: ANN401 - JSON values
        """One more row."""
        self.rows.append(figures)

    def progress(self, done: int, total: int) -> None:
        """So many of the steps are done."""
        self.done, self.total = done, total
        if self._bar is not None:
            self._bar(done, total)

    def sweep(self, work: Callable[[J], dict[str, Any]], jobs: Sequence[J]) -> Iterator[Row]:
        """The rows of a grid in its order, each as soon as those before it are there."""
        return self.runner.in_order(work, jobs, self.progress)

    def say(self, text: str) -> None:
        """A line on stderr, for long runs."""
        message(text)

    def run(self, body: Callable[..., None], settings: dict[str, Any]) -> None:
        """Measure until it is done or somebody has had enough."""
        try:
            with progress(self.title) as bar, heard_by(bar) as told:
                self._bar = told
                body(self, **settings)
        except KeyboardInterrupt:
            self.stopped = True

    @property
    def exit_code(self) -> int:
        """As :mod:`bench.runner` states them."""
        if self.stopped:
            return EXIT_STOPPED
        if self.refused:
            return EXIT_BAD_INPUT
        return EXIT_FAILED if self.failures else 0

    def how_far(self) -> str:
        """For a run that was stopped."""
        steps = f"{self.done} of {self.total} steps" if self.total else "the first step"
        return f"stopped after {steps}; complete rows: {len(self.rows)}"


def benchmark(
    name: str, *, grid: bool = False, one_at_a_time: bool = False
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function ``(report, **options)`` that fills its report.

    The docstring of the function's module is the help text. Options that every benchmark has are
    ``--json`` and ``--record``.

    Parameters
    ----------
    name
        Of the benchmark.
    grid
        Its rows come from :meth:`Report.sweep`, and may be run elsewhere, kept and gone on with.
    one_at_a_time
        What is run beside others would take part of their time: by default nothing is, in a process
        of its own, since a solver keeps Ctrl-C from the process that it runs in.
    """

    def wrap(body: Callable[..., None]) -> click.Command:
        if grid:
            body = rows_options(pool_options(body))

        def call(*, as_json: bool, table: str | None, **settings: Any) -> None:  # noqa: ANN401 - options
            if table is not None:
                table_name(name, table)  # refused before hours of work, not after
            report = Report(name)
            if grid:
                processes, ray = settings.pop("processes"), settings.pop("ray")
                if one_at_a_time and ray is None:
                    processes = processes or 1
                pool = pool_of(processes, ray, apart=one_at_a_time)
                kept = row_file(settings.pop("rows"), resume=settings.pop("resume"))
                report.runner = Runner(pool, kept)
            source = _source(settings)
            with report.runner.pool:
                report.run(body, settings)
            _publish(name, report, source, table, as_json=as_json)
            raise click.exceptions.Exit(report.exit_code)

        own: list[click.Parameter] = getattr(body, "__click_params__", [])  # last one first
        return click.Command(
            name,
            params=[*reversed(own), *_output_options()],
            callback=call,
            help=sys.modules[body.__module__].__doc__,
        )

    return wrap


def _output_options() -> tuple[click.Option, click.Option]:
    """What every benchmark has."""
    return (
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of a table."),
        click.Option(
            ["--record", "table"],
            metavar="TABLE",
            help="Keep the rows in bench/results/TABLE.json; see bench/README.md.",
        ),
    )


_WHERE = ("--record", "--rows", "--processes", "--ray")
"""Options that change no row."""


def _source(settings: dict[str, Any]) -> dict[str, Any]:
    """Where the figures of a run that begins now come from."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(),
        "command": shlex.join(["python", "-m", "bench", *_retold(_without_output(sys.argv[1:]))]),
        "settings": {key: _plain(value) for key, value in settings.items()},
    }


def _without_output(arguments: Sequence[str]) -> list[str]:
    """The arguments but for those that say where rows are run, and what becomes of them."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*kept, argument, *rest]
        if argument in _WHERE:
            next(rest, None)
        elif argument not in ("--json", "--resume") and argument.partition("=")[0] not in _WHERE:
            kept.append(argument)
    return kept


def _retold(arguments: Sequence[str]) -> list[str]:
    """The arguments with files by name alone."""
    return [Path(one).name if "/" in one and Path(one).is_absolute() else one for one in arguments]


def _plain(value: object) -> object:
    """A setting as JSON."""
    if isinstance(value, Path):
        return value.name  # where it lay says something about one machine only
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value


def _publish(
    name: str, report: Report, run: dict[str, Any], table: str | None, *, as_json: bool
) -> None:
    if report.stopped:
        message(report.how_far())
    for text in report.refused:
        complain(one_line(f"bench: {text}"))
    if as_json:
        print_json(
            {
                "benchmark": name,
                "title": report.title,
                **run,
                "rows": report.rows,
                "facts": report.facts,
                "failures": report.failures,
                "refused": report.refused,
                "stopped": report.stopped,
            }
        )
    else:
        _print(report)
    if table is None:
        return
    if report.exit_code:
        message(f"not recorded: exit code {report.exit_code}")
        return
    message(f"recorded in {record(name, table, report, run)}")


def _print(report: Report) -> None:
    columns = list(dict.fromkeys(key for row in report.rows for key in row))
    if columns:
        print_table(
            report.title,
            [column.replace("_", " ") for column in columns],
            [_cells(row, columns) for row in report.rows],
        )
    for key, value in report.facts.items():
        say(f"{key.replace('_', ' ')}: {value}")
    for failure in report.failures:
        say(f"FAILED: {failure}")


def _cells(row: dict[str, Any], columns: Sequence[str]) -> list[object]:
    return [row.get(column) for column in columns]
