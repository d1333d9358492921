"""The picture of the README, from the published results: ``python -m docs.generate.chart``.

It is committed, since a README is read without a build; a test compares it with the results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs.generate.drawing import Canvas

__all__ = ["FILE", "allocations", "bars"]

_ROOT = Path(__file__).parents[2]
FILE = _ROOT / "docs" / "allocation.svg"
_RESULTS = _ROOT / "bench" / "results"

_NAMES: Mapping[str, str] = {
    "first-fit": "first-fit",
    "kube-default": "kube-scheduler's default",
    "most-allocated": "kube-scheduler's MostAllocated",
    "best-fit": "best-fit",
    "fgd": "FGD",
    "priced": "Snugfit (priced)",
}
"""Policy of the results -> its name in the picture."""

_LOWEST, _HIGHEST = 88.0, 98.0


def allocations() -> dict[str, float]:
    """Policy -> GPU allocated on the openb trace when as much is requested as there is, percent."""
    rows = [row for run in _results("online-rivals")["runs"] for row in run["rows"]]
    found = {row["policy"]: float(row["mean"]) for row in rows if row["trace"] == "default"}
    bound = [
        row
        for run in _results("online-priced")["runs"]
        for row in run["rows"]
        if row["policy"] == "fluid bound" and row["trace"] == "default"
    ]
    return {**{name: found[name] for name in _NAMES}, "bound": float(bound[0]["mean"])}


def _results(table: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((_RESULTS / f"{table}.json").read_text("utf-8"))
    return content


def bars(values: Mapping[str, float]) -> str:
    """One bar per policy, and the bound that nobody can exceed."""
    canvas = Canvas(760, 60 + 34 * len(_NAMES), "GPU allocated on the openb trace, by policy")
    canvas.text(
        10, 22, "GPU allocated on the openb trace, % of capacity, when 100 % is requested",
        anchor="start", bold=True,
    )  # fmt: skip
    left, width = 230.0, 440.0

    def place(value: float) -> float:
        return left + width * (value - _LOWEST) / (_HIGHEST - _LOWEST)

    for number, (policy, name) in enumerate(_NAMES.items()):
        y = 40 + 34 * number
        ours = policy == "priced"
        canvas.text(left - 10, y + 16, name, anchor="end", bold=ours)
        canvas.rect(left, y, place(values[policy]) - left, 22, "#4f46e5" if ours else "#c7d2fe")
        canvas.text(
            place(values[policy]) - 8, y + 16, f"{values[policy]:.1f}", anchor="end", bold=ours,
            color="#ffffff" if ours else "#1f2933",
        )  # fmt: skip
    edge, foot = place(values["bound"]), 44 + 34 * len(_NAMES)
    canvas.line((edge, 34), (edge, foot - 8), "#c2410c")
    canvas.text(
        edge, foot + 6, f"no scheduler exceeds {values['bound']:.1f}; the axis begins at {_LOWEST:.0f}",
        size=11, color="#c2410c", anchor="end",
    )  # fmt: skip
    return canvas.svg()


if __name__ == "__main__":
    FILE.write_text(bars(allocations()), encoding="utf-8")
