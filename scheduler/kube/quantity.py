"""Kubernetes quantities as integers: requests round up, capacity rounds down.

The grammar is that of ``k8s.io/apimachinery/pkg/api/resource``: a signed decimal number and a
suffix that is binary (Ki..Ei), decimal (n u m k M G T P E) or an exponent (e3, E3).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from scheduler.core.errors import InvalidInput

__all__ = ["mebibytes", "milli", "parse", "whole"]

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
_MEBI = Fraction(1 << 20)
_MAX_LENGTH = 64


def parse(text: str | float, field: str = "quantity") -> Fraction:
    """Exact value of a quantity in its base unit; :class:`InvalidInput` names ``field``."""
    written = str(text).strip()
    value = _value(written) if len(written) <= _MAX_LENGTH else None
    if value is None:
        raise InvalidInput(field, f"{written[:40]!r} is no quantity", "write it like 500m or 2Gi")
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


def _rounded(value: Fraction, *, up: bool) -> int:
    return -((-value).__floor__()) if up else value.__floor__()


def milli(text: str | float, field: str = "quantity", *, up: bool) -> int:
    """Thousandths of the base unit, such as milli-CPU."""
    return _rounded(parse(text, field) * 1000, up=up)


def mebibytes(text: str | float, field: str = "quantity", *, up: bool) -> int:
    """MiB."""
    return _rounded(parse(text, field) / _MEBI, up=up)


def whole(text: str | float, field: str = "quantity") -> int:
    """A number of indivisible things; :class:`InvalidInput` if it is not a whole one."""
    value = parse(text, field)
    if value.denominator != 1:
        raise InvalidInput(field, f"{text} is not whole", "extended resources are whole numbers")
    return int(value)
