"""Published figures: one file of JSON per table, in ``bench/results``.

A file has ``benchmark``, ``title``, ``runs`` and how the page draws it (see ``bench/readme.py``). A
run has ``date``, ``commit``, ``machine`` (``model``, ``cores``, ``memory_gib``), ``load`` when it
began, ``command``, ``settings``, ``rows`` and ``facts``; what is not known is null. A run replaces
the earlier one of the same command, and stands beside those of other commands: the table shows the
rows of all of them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.core.errors import InvalidInput

if TYPE_CHECKING:
    from bench.report import Report

__all__ = ["FOLDER", "load", "record", "table_name", "tables"]

FOLDER = Path(__file__).with_name("results")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def tables(benchmark: str, folder: Path | None = None) -> list[str]:
    """The tables of a benchmark, in alphabetical order."""
    names = (path.stem for path in (folder or FOLDER).glob("*.json"))
    return sorted(name for name in names if _belongs(benchmark, name))


def load(table: str, folder: Path | None = None) -> dict[str, Any]:
    """One results file."""
    content: dict[str, Any] = json.loads(
        (folder or FOLDER).joinpath(f"{table}.json").read_text("utf-8")
    )
    return content


def table_name(benchmark: str, table: str) -> str:
    """The name, if a table of this benchmark may have it."""
    if not (_NAME.fullmatch(table) and _belongs(benchmark, table)):
        raise InvalidInput(
            "--record", f"{table!r} cannot name a table of {benchmark}",
            f"write {benchmark} or {benchmark}-something, in small letters",
        )  # fmt: skip
    return table


def record(
    benchmark: str, table: str, report: Report, run: dict[str, Any], folder: Path | None = None
) -> Path:
    """Keep a run in the file of its table."""
    folder = folder or FOLDER
    path = folder / f"{table_name(benchmark, table)}.json"
    known = load(table, folder) if path.exists() else {"runs": []}
    runs = [other for other in known["runs"] if other["command"] != run["command"]]
    runs.append({**run, "rows": report.rows, "facts": report.facts})
    content = {"benchmark": benchmark, "title": report.title} | known | {"runs": runs}
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def _belongs(benchmark: str, table: str) -> bool:
    return table == benchmark or table.startswith(f"{benchmark}-")
