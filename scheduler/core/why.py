"""Reasons of many nodes in one line."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import PodRequest, Reason

__all__ = ["most_common", "reason_text"]

_MOST_NAMED = 4  # resources that one reason names
_MOST_REASONS = 3


def reason_text(reason: Reason, pod: PodRequest) -> str:
    """The reason, and which resources it may be about where it does not say so itself."""
    if reason in (Reason.RESOURCE_MISSING, Reason.INSUFFICIENT_RESOURCE):
        return f"{reason.text} ({', '.join(name for name, _ in pod.counted[:_MOST_NAMED])})"
    return reason.text


def most_common(codes: NDArray[np.int8], pod: PodRequest) -> str:
    """``n of m nodes: reason``, most frequent first, at most three.

    Parameters
    ----------
    codes : (M,) int8
        Codes of :class:`Reason`, one per node.
    pod
        Whose they are.
    """
    if not len(codes):
        return "the cluster has no node"
    counts = np.bincount(codes)
    found = [(int(counts[c]), reason_text(Reason.of(int(c)), pod)) for c in np.flatnonzero(counts)]
    ordered = sorted(found, key=lambda pair: (-pair[0], pair[1]))[:_MOST_REASONS]
    return ", ".join(f"{count} of {len(codes)} nodes: {text}" for count, text in ordered)
