"""Statistics of measured values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["percentiles", "slope"]


def percentiles(values: Sequence[float], *percents: float, digits: int = 3) -> list[float]:
    """These percentiles of the values, in their unit, rounded."""
    return [round(float(value), digits) for value in np.percentile(values, percents)]


def slope(seconds: Sequence[float], mib: Sequence[float]) -> float:
    """MiB per hour, by least squares; 0 for a single sample."""
    if len(seconds) < 2:
        return 0.0
    return round(float(np.polyfit(np.array(seconds) / 3600, np.array(mib), 1)[0]), 2)
