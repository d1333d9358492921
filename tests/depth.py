"""How deep properties look: quickly for every change, thoroughly before it is merged.

``HYPOTHESIS_PROFILE=deep`` tries many examples, others in every run; ``SNUGFIT_EXAMPLES=N`` tries
any number. The quick profile tries the same few each time, so that a change alone decides what
fails.
"""

from __future__ import annotations

import os

__all__ = ["DEEP", "examples", "stated"]

DEEP = os.environ.get("HYPOTHESIS_PROFILE", "") == "deep"


def examples(quick: int, deep: int) -> int:
    """How many examples a property is tried with."""
    if stated():
        return int(os.environ["SNUGFIT_EXAMPLES"])
    return deep if DEEP else quick


def stated() -> bool:
    """Whether somebody asked for a number of examples."""
    return bool(os.environ.get("SNUGFIT_EXAMPLES", ""))
