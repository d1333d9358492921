"""Published figures and the page that is made from them."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import pytest

from bench import catalogue, readme
from bench.figures import percentiles, slope
from bench.results import FOLDER, load, tables
from scheduler.simulator.intervals import half_width, student

RESULTS = sorted(FOLDER.glob("*.json"))


def test_the_page_is_what_is_made_from_the_results() -> None:
    made = "run `python -m bench readme`"
    assert readme.PAGE.read_text(encoding="utf-8") == readme.page(), made


def test_every_results_file_belongs_to_one_benchmark() -> None:
    listed = [table for name in catalogue.BENCHMARKS for table in tables(name)]
    assert sorted(listed) == sorted(path.stem for path in RESULTS)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_run_says_where_it_comes_from(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert path.stem in tables(content["benchmark"]) and content["title"] and content["runs"]
    for run in content["runs"]:
        assert run["rows"] and all(isinstance(row, dict) for row in run["rows"])
        assert set(run["machine"]) == {"model", "cores", "memory_gib"}
        assert {"command", "settings", "facts"} <= set(run)
        if run["date"] is not None:
            date.fromisoformat(run["date"])
        if run["commit"] is not None:
            assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?", run["commit"])


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_no_result_says_where_files_lay(path: Path) -> None:
    assert not re.search(r"[\" =]/(?!dev/)[a-z]", path.read_text(encoding="utf-8"))


def _results(folder: Path, **how: object) -> None:
    rows = [
        {"trace": trace, "policy": policy, "mean": mean, "ci95": ci95}
        for trace, policy, mean, ci95 in (
            ("a", "x", 91.5, 0.25), ("a", "y", 92.25, None), ("b", "x", 1000, None),
        )
    ]  # fmt: skip
    machine = {"model": "M", "cores": 2, "memory_gib": 7.5}
    run = {
        "date": "2026-01-02", "commit": "0123456789ab", "machine": machine,
        "command": "python -m bench smoke", "settings": {}, "facts": {"drift": 0}, "rows": rows,
    }  # fmt: skip
    content = {"benchmark": "smoke", "title": "T", **how, "runs": [run]}
    (folder / "smoke.json").write_text(json.dumps(content))


def _drawn(folder: Path, monkeypatch: pytest.MonkeyPatch, **how: object) -> str:
    monkeypatch.setattr("bench.results.FOLDER", folder)
    _results(folder, **how)
    return readme.page()


def test_rows_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(tmp_path, monkeypatch)
    assert "| trace | policy | mean | ci95 |" in drawn
    assert "| a | x | 91.50 | 0.25 |\n| a | y | 92.25 |  |\n| b | x | 1,000 |  |" in drawn
    source = "- `python -m bench smoke`: 2026-01-02, `0123456789ab`, M, 2 cores, 7.5 GiB, drift: 0"
    assert source in drawn


def test_rows_become_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pivot = {
        "rows": ["trace"], "columns": "policy", "mean": "mean",
        "cell": ["{mean:.1f} ±{ci95:.2f}", "{mean:.1f}"],
    }  # fmt: skip
    drawn = _drawn(tmp_path, monkeypatch, pivot=pivot)
    assert "| a | 91.5 ±0.25 | 92.2 | 91.88 |\n| b | 1000.0 |  | 1000.00 |" in drawn


def test_tables_of_earlier_versions_stay_off_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "**T**" not in _drawn(tmp_path, monkeypatch, page=False)
    assert load("smoke", tmp_path)["title"] == "T"


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.71), (3, 3.18), (9, 2.26), (1000, 1.96)])
def test_students_quantiles(freedom: int, quantile: float) -> None:
    assert round(student(freedom), 2) == quantile


def test_statistics() -> None:
    assert half_width([5.0]) == 0.0
    # Deviation 1, four values: Student's quantile over the root of four.
    assert half_width([-1.0, -1.0, 1.0, 1.0]) == pytest.approx(3.182 * 1.1547 / 2, rel=1e-3)
    assert percentiles(list(range(101)), 50, 99) == [50, 99]
    assert slope([0, 1800, 3600], [10, 11, 12]) == 2.0 and slope([0], [10]) == 0.0
