"""The README: one screen, and no figure that the published results do not have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from statistics import fmean
from typing import Any

import pytest

from docs.generate.chart import FILE, allocations, bars
from docs.generate.pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "bench" / "results"
Row = dict[str, Any]


def _rows(table: str, **wanted: object) -> list[Row]:
    content = json.loads((RESULTS / f"{table}.json").read_text(encoding="utf-8"))
    rows = [row for run in content["runs"] for row in run["rows"]]
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def _mean(policy: str, profile: str | None) -> float:
    rows = _rows("online-priced", policy=policy, profile=profile)
    assert len(rows) == 9
    return fmean(row["mean"] for row in rows)


def _webhook(percentile: str) -> float:
    (row,) = _rows("webhook", nodes=5000, call="filter + prioritize")
    return float(row[percentile])


def _priced_p99() -> float:
    rows = _rows("webhook-priced")
    return float(rows[0]["p99_ratio"])


def _throughput() -> float:
    (row,) = _rows("throughput", nodes=5000, policy="priced", case="stock")
    return float(row["percent_of_first"])


def _memory(key: str) -> float:
    return float(_rows("sync-memory")[0][key])


def _sync(key: str) -> float:
    return float(_rows("sync")[0][key])


def _policy(name: str) -> Callable[[], float]:
    return lambda: allocations()[name]


# Where the figure stands -> what it has to be, with how many digits.
FIGURES: list[tuple[str, Callable[[], float], int]] = [
    (r"\| (\S+) % \| \S+ % \| \S+ % \| \S+ % \| \S+ % \| \*\*", _policy("first-fit"), 1),
    (r"\| \S+ % \| (\S+) % \| \S+ % \| \S+ % \| \S+ % \| \*\*", _policy("kube-default"), 1),
    (r"\| \S+ % \| \S+ % \| (\S+) % \| \S+ % \| \S+ % \| \*\*", _policy("most-allocated"), 1),
    (r"\| \S+ % \| \S+ % \| \S+ % \| (\S+) % \| \S+ % \| \*\*", _policy("best-fit"), 1),
    (r"\| \S+ % \| \S+ % \| \S+ % \| \S+ % \| (\S+) % \| \*\*", _policy("fgd"), 1),
    (r"\| \*\*(\S+) %\*\* \|", _policy("priced"), 1),
    (r"%\*\* \| (\S+) % \|", _policy("bound"), 1),
    (r"allocates (\S+) % on average and published FGD", lambda: _mean("priced", "given"), 1),
    (r"published FGD (\S+) %", lambda: _mean("FGD, published", None), 1),
    (r"instead of given, Snugfit allocates (\S+) %", lambda: _mean("priced", "learnt"), 1),
    (r"prioritize (\S+) ms \(p50\)", lambda: _webhook("p50"), 1),
    (r"(\S+) ms \(p99\)", lambda: _webhook("p99"), 1),
    (r"p99 is (\S+) times", _priced_p99, 2),
    (r"binds (\S+) % of the pods", _throughput, 0),
    (r"(\S+) MiB after the first sync", lambda: _memory("resident_mib"), 0),
    (r"pods, (\S+) MiB for the process", lambda: _memory("planner_process_mib"), 0),
    (r"(\S+) s until that cluster is known", lambda: _sync("first_sync_s"), 1),
    (r"(\S+) s of one core", lambda: _sync("processor_s_until_ready"), 1),
]
MEASURED = re.compile(r"(?<![\w.])(\d[\d.,]*) ?(?:%|ms|MiB|GiB|MB|GB|s\b|times|x\b)")


def _prose() -> str:
    """The text without code, and without line ends within a paragraph."""
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    return re.sub(r"(?<!\|)\n(?![\n|#-])", " ", text)


@pytest.mark.parametrize(("where", "value", "digits"), FIGURES, ids=[f[0] for f in FIGURES])
def test_a_figure_is_that_of_the_results(
    where: str, value: Callable[[], float], digits: int
) -> None:
    found = re.findall(where, _prose())
    assert found == [f"{value():.{digits}f}"]


def test_every_measured_figure_is_checked() -> None:
    text = _prose()
    checked = [match.span(1) for where, _, _ in FIGURES for match in re.finditer(where, text)]
    loose = [m[0] for m in MEASURED.finditer(text) if m.span(1) not in checked]
    assert len(checked) == len(FIGURES) and not loose


def test_the_picture_is_that_of_the_results() -> None:
    """`python -m docs.generate.chart` makes it."""
    assert FILE.read_text(encoding="utf-8") == bars(allocations())


def test_it_is_one_screen() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)(#[^)]*)?\)", README)
    assert len(links) > 15
    assert not [path for path, _ in links if not (ROOT / path).exists()]


def test_rivals_are_named() -> None:
    for name in ("HAMi", "KAI", "Volcano", "Kueue", "descheduler", "first-fit"):
        assert name in README
