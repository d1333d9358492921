"""Reason codes, from the one vocabulary of verdicts."""

from __future__ import annotations

from docs.generate.markdown import code, table
from scheduler.core.model import Reason

__all__ = ["page"]

_HEAD = """# Reason codes

Why a node cannot host a pod. The same vocabulary stands in the answers of `/filter`, in
`/debug/decisions`, in plans, in simulations and in the label `reason` of `snugfit_verdicts_total`.
If several reasons hold, the one with the lowest code is reported.

*Eviction helps* says where the answer of `/filter` puts the node: in `FailedNodes`, where preemption
looks for victims, or in `FailedAndUnresolvableNodes`, where it does not.

"""


def page() -> str:
    """One row per reason."""
    rows = (
        (str(r.code), code(r.name.lower()), r.text, "yes" if r.resolvable else "no")
        for r in sorted(Reason, key=lambda reason: reason.code)
        if r is not Reason.FITS
    )
    return _HEAD + table(("code", "name", "message", "eviction helps"), rows) + "\n"
