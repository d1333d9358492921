"""Does a command hold on a machine that has other things to do?

The command runs again and again beside busy loops, one process each. Every finished run is one line
of JSON in the log: when it began, seconds, exit code, which tests failed, the commit. The next call
goes on where the log ends, so that a series can be split into batches; Ctrl-C keeps what is done.
The output of a run that failed is kept beside the log. Exit code 1 if any run of the series failed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench.machine import commit
from bench.report import Report, benchmark
from testbed.busy import busy_loops

__all__ = ["command"]

_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_COUNTS = re.compile(r"(\d+) (passed|failed|error|skipped|deselected)")
_GRACE_S = 1.0


@benchmark("loaded")
@click.option(
    "--runs", type=click.IntRange(1), default=20, show_default=True, help="Of the whole series."
)
@click.option(
    "--batch", type=click.IntRange(0), default=0, help="At most so many now.  [default: all]"
)
@click.option(
    "--busy", type=click.IntRange(0), default=4, show_default=True, help="Busy loops beside."
)
@click.option(
    "--log", type=click.Path(path_type=Path), default=Path("loaded.jsonl"), show_default=True
)
@click.argument("argv", metavar="-- COMMAND...", nargs=-1, required=True)
def command(
    report: Report, runs: int, batch: int, busy: int, log: Path, argv: tuple[str, ...]
) -> None:
    """A row per run of the series: the lines of the log with this command and as many loops."""
    report.title = f"{shlex.join(argv)}, beside {busy} busy loops"
    series: dict[str, Any] = {"command": list(argv), "busy": busy}
    done = _lines(log, series)
    left = max(0, runs - len(done))
    try:
        for _ in range(min(left, batch) if batch else left):
            _sum_up(report, done, runs)
            line: dict[str, Any] = series | {"run": len(done) + 1, "commit": commit()}
            line |= _run(argv, busy, log, len(done) + 1)
            done.append(line)
            with log.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
            report.say(
                f"run {len(done)} of {runs}: exit code {line['code']}, {line['seconds']:.0f} s"
                f"{'; ' if line['failed'] else ''}{', '.join(line['failed'])}"
            )
    finally:
        _sum_up(report, done, runs)


def _sum_up(report: Report, lines: list[dict[str, Any]], runs: int) -> None:
    """What the series has come to so far."""
    report.progress(len(lines), runs)
    report.rows = [
        {
            "run": line["run"],
            "start": line["start"],
            "seconds": line["seconds"],
            "code": line["code"],
            "failed": ", ".join(line["failed"]),
            "commit": line["commit"],
        }
        for line in lines
    ]
    seconds = [line["seconds"] for line in lines]
    failures = Counter(name for line in lines for name in line["failed"])
    report.facts = {
        "runs": len(lines),
        "green": sum(not line["code"] for line in lines),
        "runs_left": max(0, runs - len(lines)),
        "failures": dict(failures.most_common()),
    }
    if seconds:
        middle = round(statistics.median(seconds), 1)
        report.facts["seconds_min_median_max"] = [min(seconds), middle, max(seconds)]
    report.failures = [f"run {line['run']}" for line in lines if line["code"]]


def _lines(log: Path, series: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of one series that are done."""
    if not log.exists():
        return []
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if series.items() <= line.items()]


def _run(command: tuple[str, ...], busy: int, log: Path, number: int) -> dict[str, Any]:
    """One run: its outcome, and its output in a file if it failed."""
    began = datetime.now(UTC)
    clock = time.monotonic()
    said = log.with_name(f"{log.stem}-{began:%Y%m%dT%H%M%S}-{number}.txt")
    with busy_loops(busy), said.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all that it has started can be ended at once
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            _end(process)
            raise
    seconds = time.monotonic() - clock
    text = _COLOUR.sub("", said.read_text(encoding="utf-8", errors="replace"))
    if not code:
        said.unlink()
    return {
        "start": began.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "code": code,
        "failed": sorted(set(_FAILED.findall(text))),
        "tests": _counts(text),
        "load": round(os.getloadavg()[0], 1),
        "output": str(said) if code else None,
    }


def _counts(text: str) -> dict[str, int]:
    """What pytest says in its closing line, of all that ran in a row."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if " in " in line and line.startswith("=") and line.endswith("="):
            for count, what in _COUNTS.findall(line):
                found[what] += int(count)
    return dict(found)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and all that it has started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
