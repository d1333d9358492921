"""Values with units, as people write them on a command line."""

from __future__ import annotations

import re

import click

from scheduler.core.durations import go_duration

__all__ = ["DURATION", "PART", "seconds_of"]

_MOST_SECONDS = 1e9


def seconds_of(text: str) -> float | None:
    """Seconds of ``500ms``, ``10s``, ``1m30s`` or ``10``; None if it is not a duration above 0."""
    text = text.strip()
    plain = text if text.isascii() else ""
    seconds = go_duration(plain)
    if seconds is None:
        seconds = go_duration(f"{plain}s")
    return seconds if seconds is not None and 0 < seconds <= _MOST_SECONDS else None


class _Duration(click.ParamType[float]):
    """The type of an option that takes a duration."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds; says what would be right."""
        seconds = value if isinstance(value, float) else seconds_of(str(value))
        if seconds is None:
            self.fail(f"{value!r} is not a duration above 0; write 500ms, 10s or 2m", param, ctx)
        return seconds


DURATION = _Duration()


class _Part(click.ParamType[tuple[int, int]]):
    """One of so many parts, as K/N."""

    name = "k/n"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", str(value))
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"{value!r} is not a part; write 1/10 for the first of ten", param, ctx)
        return int(found[1]), int(found[2])


PART = _Part()
"""For options."""
