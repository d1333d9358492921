"""Does a command hold on a machine that has other things to do?

    python -m bench.loaded --runs 20 --busy 4 --log loaded.jsonl -- make test
    python -m bench.loaded --runs 20 --busy 4 --log loaded.jsonl --batch 5 -- make test

Runs the command again and again beside busy loops, one process each. Every finished run is one line
of JSON in the log: when it began, seconds, exit code, which tests failed, the commit. The next call
goes on where the log ends, so that a series can be cut into batches; Ctrl-C keeps what is
done. The output of a run that failed is kept beside the log. Exit code 1 if any run of the series
failed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_COUNTS = re.compile(r"(\d+) (passed|failed|error|skipped|deselected)")


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--runs", default=20, show_default=True, help="Of the whole series.")
@click.option("--batch", default=0, help="At most so many now; 0: all that is left.")
@click.option("--busy", default=4, show_default=True, help="Busy loops beside each run.")
@click.option(
    "--log", type=click.Path(path_type=Path), default=Path("loaded.jsonl"), show_default=True
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(runs: int, batch: int, busy: int, log: Path, command: tuple[str, ...]) -> None:
    """Run, log, and sum up the series: the lines of the log with this command and as many loops."""
    series = {"command": list(command), "busy": busy}
    left = max(0, runs - len(_lines(log, series)))
    try:
        for _ in range(min(left, batch) if batch else left):
            number = len(_lines(log, series)) + 1
            line = series | {"run": number, "commit": _commit()} | _run(command, busy, log, number)
            with log.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
            sys.stderr.write(
                f"run {number} of {runs}: exit code {line['code']}, {line['seconds']:.0f} s"
                f"{'; ' if line['failed'] else ''}{', '.join(line['failed'])}\n"
            )
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the run under way does not count\n")
    done = _lines(log, series)
    json.dump(summary(done) | {"runs_left": max(0, runs - len(done))}, sys.stdout, indent=1)
    sys.stdout.write("\n")
    sys.exit(any(line["code"] for line in done))


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
    with _busy_loops(busy), said.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that all that it has started can be ended at once
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
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


@contextmanager
def _busy_loops(count: int) -> Iterator[None]:
    """Processes that compute nothing for as long as this lasts."""
    loop = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(loop, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in loops:
            process.kill()
            process.wait()


def _commit() -> str:
    """The commit, with a mark if files were changed since."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607 - the git of whoever measures
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip()


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What a series of runs came to."""
    seconds = [line["seconds"] for line in lines]
    failures = Counter(name for line in lines for name in line["failed"])
    return {
        "runs": len(lines),
        "green": sum(not line["code"] for line in lines),
        "seconds_min_median_max": (
            [min(seconds), round(statistics.median(seconds), 1), max(seconds)] if seconds else []
        ),
        "failures": dict(failures.most_common()),
        "commits": sorted({line["commit"] for line in lines}),
    }


if __name__ == "__main__":
    main()
