"""Make bench/README.md from the protocols and from bench/results.

Results files say how their table is drawn: `pivot` turns rows into columns, `page: false` keeps a
table of earlier versions off the page.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from bench import catalogue
from bench.results import FOLDER, load, tables
from scheduler.cli.output import say

__all__ = ["PAGE", "command", "page"]

PAGE = Path(__file__).with_name("README.md")
_WIDTH = 100
_PICTURES = {"weights": "One weight changed at a time; the built-in value in red"}
"""Drawn by a benchmark into ``results/NAME.svg``."""

_HEAD = """\
# Benchmarks

<!-- Made by `python -m bench readme`: change the protocols (first lines of bench/*.py) or
bench/results instead. -->

    python -m bench --list                  # what there is
    python -m bench online --help           # the protocol and the options of one
    python -m bench online --record online  # run it, and keep its rows in bench/results/online.json
    python -m bench readme                  # make this page from the results

Each benchmark asks one question and fixes its work, and the validator
(`scheduler/core/validator.py`) replays every decision of the simulator before a figure is printed.
`--json` prints the rows with commit, machine and settings. Ctrl-C ends a run and prints the rows
that are complete. The public traces are found through `SNUGFIT_DATA` (default `../shared/data`).
The command below a table gives its rows again: decisions are the same on every machine, times are
not. What the figures say, and which goals were missed, is in
[docs/research/benchmarks.md](../docs/research/benchmarks.md); tables of earlier versions are in
`bench/results/*-history.json`.

Results that were taken over from the page as it was kept by hand have the date and the commit that
added their rows; what was not written down then is left out.
"""


@click.command("readme")
@click.option("--check", is_flag=True, help="Only say whether the page is what would be made.")
def command(*, check: bool) -> None:
    """Make the page; exit code 1 if --check finds another one."""
    made = page()
    same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == made
    if not check:
        PAGE.write_text(made, encoding="utf-8")
    say(f"{PAGE}: {'as it should be' if same else 'not up to date' if check else 'made anew'}")
    if check and not same:
        raise click.exceptions.Exit(1)


def page() -> str:
    """The text of bench/README.md."""
    parts = [_HEAD]
    for section, names in catalogue.SECTIONS.items():
        parts.append(f"## {section}\n")
        parts += [_benchmark(name) for name in names]
    return "\n".join(parts)


def _benchmark(name: str) -> str:
    """Question, protocol and tables of one benchmark."""
    question, _, rest = catalogue.protocol(name).partition("\n")
    shown = [content for table in tables(name) if (content := load(table)).get("page", True)]
    parts = [f"### `{name}`\n", f"*{question}*", rest.strip("\n") and f"\n{rest.strip()}", ""]
    if not shown:
        parts += [f"    {_usage(name)}", ""]
    for content in shown:
        parts += [_table(content), ""]
    if (FOLDER / f"{name}.svg").exists():
        parts += [f"![{_PICTURES[name]}](results/{name}.svg)", ""]
    return "\n".join(part for part in parts if part is not None)


def _usage(name: str) -> str:
    """The shortest command that runs a benchmark."""
    wanted = []
    for parameter in catalogue.command(name).params:
        if isinstance(parameter, click.Argument):
            wanted.append(parameter.metavar or parameter.human_readable_name)
        elif parameter.required:
            wanted.append(f"{parameter.opts[0]} {parameter.human_readable_name.upper()}")
    return " ".join(("python -m bench", name, *wanted))


def _table(content: Mapping[str, Any]) -> str:
    rows = [row for run in content["runs"] for row in run["rows"]]
    lines = _pivoted(rows, content["pivot"]) if "pivot" in content else _listed(rows)
    return "\n".join([f"**{content['title']}**", "", *lines, "", *_sources(content["runs"])])


def _listed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per row, a column per name."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    heads = [column.replace("_", " ") for column in columns]
    digits = {column: _digits([row.get(column) for row in rows]) for column in columns}
    return _lines(
        heads, [[_cell(row.get(column), digits[column]) for column in columns] for row in rows]
    )


def _pivoted(rows: Sequence[Mapping[str, Any]], how: Mapping[str, Any]) -> list[str]:
    """A line per value of ``rows``, a column per value of ``columns``.

    ``cell`` lists formats: the first of which no field is missing is taken. ``mean`` names a field
    whose mean over the line is the last column.
    """
    across = list(dict.fromkeys(row[how["columns"]] for row in rows))
    down: dict[tuple[Any, ...], dict[Any, Mapping[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in how["rows"])
        down.setdefault(key, {})[row[how["columns"]]] = row
    heads = [*(name.replace("_", " ") for name in how["rows"]), *map(str, across)]
    table = []
    for key, cells in down.items():
        line = [*map(_cell, key), *(_formatted(cells.get(name), how["cell"]) for name in across)]
        if "mean" in how:
            line.append(f"{fmean(cell[how['mean']] for cell in cells.values()):.2f}")
        table.append(line)
    return _lines([*heads, "mean"] if "mean" in how else heads, table)


def _formatted(row: Mapping[str, Any] | None, formats: Iterable[str]) -> str:
    if row is None:
        return ""
    known = {key: value for key, value in row.items() if value is not None}
    for text in formats:
        try:
            return text.format(**known)
        except KeyError:
            continue
    return ""


def _lines(heads: Sequence[str], table: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *table)]


def _digits(values: Iterable[object]) -> int:
    """Digits after the point that tell all of these numbers apart."""
    return max((len(repr(v).partition(".")[2]) for v in values if isinstance(v, float)), default=0)


def _cell(value: object, digits: int = 0) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.{digits}f}"
        case _:
            return str(value)


def _sources(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the rows come from: runs of one command on one machine, a line each."""
    lines: dict[str, None] = {}
    for run in runs:
        told = [run["date"] or "date unknown"]
        if run["commit"]:
            told.append(f"`{run['commit']}`")
        machine = run["machine"]
        cores, memory = machine["cores"], machine["memory_gib"]
        told += [
            text
            for text in (
                machine["model"],
                cores and f"{cores} cores",
                memory and f"{memory:g} GiB",
                run.get("load") is not None and f"at a load of {run['load']:g}",
                run.get("note"),
            )
            if text
        ]
        told += [f"{key.replace('_', ' ')}: {_fact(value)}" for key, value in run["facts"].items()]
        how = f"`{run['command']}`: " if run["command"] else ""
        lines[f"- {how}{', '.join(told)}"] = None
    return [
        textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_long_words=False,
                      break_on_hyphens=False)
        for line in lines
    ]  # fmt: skip


def _fact(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")
