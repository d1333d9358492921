"""Confidence intervals of figures that depend on a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["half_width", "student"]

_STEPS = 100_001


def half_width(values: Sequence[float]) -> float:
    """Half the 95 % confidence interval of the mean of values that scatter normally.

    By Student's distribution, since few seeds are run: a bootstrap of four values, or the normal
    quantile, would give an interval a third too narrow. 0 for a single value.
    """
    count = len(values)
    if count < 2:
        return 0.0
    return student(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, to three digits, by integrating its density.

    Parameters
    ----------
    freedom
        Degrees of freedom, 1 or more.
    """
    t = np.linspace(0.0, 13.0, _STEPS)  # one degree of freedom: 12.706
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    density = scale / math.sqrt(freedom * math.pi) * (1 + t * t / freedom) ** (-(freedom + 1) / 2)
    mass = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(t))))
    return float(np.interp(0.475, mass, t))
