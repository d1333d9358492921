"""Rows of a sweep, averaged over their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from scheduler.simulator.intervals import half_width

__all__ = ["columns", "label_of", "means"]


def label_of(row: dict[str, Any]) -> str:
    """What a row is about, whatever its seed: the policy, and whether a planner helps it."""
    return f"{row['policy']}{' + planner' if row.get('planned') else ''}"


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per policy: mean and half of the 95 % interval of each figure.

    Parameters
    ----------
    rows
        As of :func:`scheduler.simulator.sweep.runs.row_of`.
    """
    groups: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        groups.setdefault(label_of(row), []).append(_figures(row))
    return [
        {"policy": label, "seeds": len(group)}
        | {
            name: {
                "mean": round(fmean(values), 4),
                "half_width": round(half_width(values), 4),
            }
            for name in group[0]
            for values in [[figures[name] for figures in group]]
        }
        for label, group in groups.items()
    ]


def columns(found: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of a table of means: a column per policy, a row per figure."""
    heads = ("", *(str(mean["policy"]) for mean in found))
    names = [name for name in found[0] if name not in ("policy", "seeds")]
    return heads, [
        (
            name.replace("_", " "),
            *(f"{mean[name]['mean']:,.2f} ± {mean[name]['half_width']:,.2f}" for mean in found),
        )
        for name in names
    ]


def _figures(row: dict[str, Any]) -> dict[str, float]:
    """What is averaged."""
    if row["protocol"] == "replay":
        allocated = row["allocation_percent"]
        at_full = {}
    else:
        allocated = 100 * row["allocated_gpu_milli"] / (row["capacity_gpu_milli"] or 1)
        at_full = {"allocated_percent_at_100": row["allocation_at"].get("1.00", allocated)}
    return {
        **at_full,
        "allocated_percent": allocated,
        "pods_placed": row["placed"],
        "pods_pending": row["pending"],
        "power_kw": row["power_kw"],
    }
