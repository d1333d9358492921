"""The runner of loaded series: every finished run is kept, and the next call goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# Fails in every second run, as pytest would say it.
_COMMAND = """
import pathlib, sys
runs = pathlib.Path(sys.argv[1])
number = int(runs.read_text()) + 1 if runs.exists() else 1
runs.write_text(str(number))
if number % 2 == 0:
    print("FAILED tests/a.py::test_b[1] - AssertionError: no")
    print("==== 1 failed, 2 passed in 3.00s ====")
    sys.exit(1)
print("==== 3 passed in 3.00s ====")
"""


def _loaded(folder: Path, *options: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [
            sys.executable, "-m", "bench", "loaded", "--json", "--log", str(folder / "log.jsonl"),
            "--busy", "1", *options, "--", sys.executable, "-c", _COMMAND, str(folder / "runs"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)["facts"]


def test_a_series_is_cut_into_batches_and_its_failures_are_named(tmp_path: Path) -> None:
    code, said = _loaded(tmp_path, "--runs", "3", "--batch", "1")
    assert code == 0 and (said["runs"], said["green"], said["runs_left"]) == (1, 1, 2)
    code, said = _loaded(tmp_path, "--runs", "3")
    assert code == 1 and (said["runs"], said["green"], said["runs_left"]) == (3, 2, 0)
    assert said["failures"] == {"tests/a.py::test_b[1]": 1}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["run"] for line in lines] == [1, 2, 3]
    assert [line["code"] for line in lines] == [0, 1, 0]
    assert lines[1]["tests"] == {"failed": 1, "passed": 2}
    kept = [line["output"] for line in lines if line["output"]]
    assert len(kept) == 1 and "FAILED" in Path(kept[0]).read_text()
    assert _loaded(tmp_path, "--runs", "3") == (1, said)  # nothing is left to run


def test_another_command_or_load_is_another_series(tmp_path: Path) -> None:
    _loaded(tmp_path, "--runs", "1")
    _, said = _loaded(tmp_path, "--runs", "1", "--busy", "0")
    assert said["runs"] == 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
