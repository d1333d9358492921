"""What has happened to a live cluster so far, for metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["AuditFigures", "LiveFigures"]


@dataclass
class AuditFigures:
    """What has been found so far, for metrics.

    Attributes
    ----------
    faults : int
        Events and objects that could not be applied because of a fault of ours.
    audits, rereads : int
        Comparisons with the API; objects read by themselves.
    mended : int
        Objects that were not known as the API has them, although no event was under way.
    """

    faults: int = 0
    audits: int = 0
    rereads: int = 0
    mended: int = 0


@dataclass
class LiveFigures(AuditFigures):
    """What has happened so far, for metrics.

    Attributes
    ----------
    drift : int
        Differences that the latest comparison of state and facts found; has to be 0.
    drifted : int
        Comparisons that found any.
    chore_faults : Counter of str
        What could not be looked after, by chore.
    requeues : int
        Refused pods that were requeued.
    gang_evictions : int
        Members of gangs that were evicted because others of theirs were.
    """

    events: int = 0
    recounts: int = 0
    drift: int = 0
    drifted: int = 0
    chore_faults: Counter[str] = field(default_factory=Counter)
    readings: int = 0
    requeues: int = 0
    gang_evictions: int = 0
    synced_s: float | None = None
