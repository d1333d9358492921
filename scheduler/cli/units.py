"""Values with units, as people write them on a command line."""

from __future__ import annotations

import click

from scheduler.core.durations import go_duration

__all__ = ["DURATION", "seconds_of"]

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
