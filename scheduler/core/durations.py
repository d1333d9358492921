"""Durations as Go writes them, such as ``1m30s``: kube-scheduler's, and those of a command line."""

from __future__ import annotations

import re

__all__ = ["go_duration"]

_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+")
_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}


def go_duration(text: object) -> float | None:
    """Seconds of a duration as Go writes it (``1m30s``), None if it is not one."""
    if not isinstance(text, str):
        return None
    if text.lstrip("+-") == "0" and len(text) <= len("-0"):
        return 0.0
    if not _DURATION.fullmatch(text):
        return None
    parts = re.findall(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return -seconds if text.startswith("-") else seconds
