"""Kubernetes quantities as integers, rounded up as kube-scheduler rounds requests and capacity.

Whatever others write is read digits first, then by its length, then by its range: ``int()`` alone
takes the digits of every script, and any number of them.

The grammar is that of ``k8s.io/apimachinery/pkg/api/resource``: a signed decimal number and a
suffix that is binary (Ki..Ei), decimal (n u m k M G T P E) or an exponent (e3, E3).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import ceil

from scheduler.core.errors import InvalidInput

__all__ = ["bounded", "milli", "parse", "units", "whole"]

_PATTERN = re.compile(
    r"(?P<sign>[+-]?)(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)"
    r"(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,3})?"
)
_BINARY = {suffix: Fraction(1 << (10 * (i + 1))) for i, suffix in enumerate(("Ki", "Mi", "Gi"))}
_BINARY |= {suffix: Fraction(1 << (10 * (i + 4))) for i, suffix in enumerate(("Ti", "Pi", "Ei"))}
_DECIMAL = {
    suffix: Fraction(10) ** power
    for suffix, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)
}
_MAX_LENGTH = 64
_MAX_BITS = 200
_MAX_DIGITS = 20
_SHOWN = 40


def bounded(text: str | int, field: str, most: int, *, least: int = 0) -> int:
    """A plain integer from an annotation, a label or JSON, within a range.

    Parameters
    ----------
    text
        ASCII digits alone: no sign, no space, no point, no digits of other scripts.
    field
        What it is called in errors.
    most, least
        The range, both ends included; neither is negative.

    Raises
    ------
    InvalidInput
        It is not such a number. Names ``field``; costs the same however long the text is.
    """
    if isinstance(text, str):
        plain = len(text) <= _MAX_DIGITS and text.isascii() and text.isdecimal()
        value = int(text) if plain else -1
    else:
        value = -1 if isinstance(text, bool) else text
    if not least <= value <= most:
        raise InvalidInput(field, f"{_shown(text)} is not a whole number from {least} to {most}")
    return value


def _shown(text: str | float) -> str:
    """A value as messages quote it: cut, and never a number of thousands of digits."""
    if isinstance(text, str):
        return repr(text[:_SHOWN])
    if isinstance(text, int) and text.bit_length() > _MAX_LENGTH:
        return f"a number of {text.bit_length()} bits"
    return repr(text)


def parse(text: str | float, field: str = "quantity") -> Fraction:
    """Exact value of a quantity in its base unit; :class:`InvalidInput` names ``field``."""
    if isinstance(text, int) and text.bit_length() > _MAX_BITS:
        value = None
    else:
        written = str(text)
        value = _value(written.strip()) if len(written) <= _MAX_LENGTH else None
    if value is None:
        raise InvalidInput(field, f"{_shown(text)} is not a quantity", "write it like 500m or 2Gi")
    return value


@lru_cache(maxsize=4096)
def _value(written: str) -> Fraction | None:
    match = _PATTERN.fullmatch(written)
    if match is None:
        return None
    value = Fraction(match["number"].rstrip(".") or "0")
    suffix = match["suffix"] or ""
    if suffix in _BINARY:
        value *= _BINARY[suffix]
    elif suffix in _DECIMAL:
        value *= _DECIMAL[suffix]
    elif suffix:
        value *= Fraction(10) ** int(suffix[1:])
    return -value if match["sign"] == "-" else value


def milli(text: str | float, field: str = "quantity") -> int:
    """Thousandths of the base unit, such as milli-CPU."""
    return ceil(parse(text, field) * 1000)


def units(text: str | float, field: str = "quantity") -> int:
    """Base units, such as bytes."""
    return ceil(parse(text, field))


def whole(text: str | float, field: str = "quantity") -> int:
    """A number of indivisible things; :class:`InvalidInput` if it is not a whole one."""
    value = parse(text, field)
    if value.denominator != 1:
        raise InvalidInput(
            field, f"{_shown(text)} is not whole", "extended resources are whole numbers"
        )
    return int(value)
