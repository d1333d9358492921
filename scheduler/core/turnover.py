"""How far a cluster holds its level: pods that leave for each that comes.

A cluster that only fills has to fill well; one that holds its level has to keep room for those to
come, the large ones above all. What prices charge for breaking up a node follows from that.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.core.model import GpuKind, PodRequest

__all__ = ["Turnover"]

_PRIOR = 100.0
_LEAST_HALF_LIFE = 100


class Turnover:
    """Counts which pods with devices come and leave; it has no clock.

    Others do not count: jobs without GPU that come and go make no room for any with.

    Older ones are forgotten by the pods that come: after as many as run, and at least after 100,
    those before count half. That is the time in which a cluster that holds its level is renewed.

    Parameters
    ----------
    running
        Pods that run at the start: with some that count the cluster is taken to hold its level,
        without any to fill, until so many have come that it can be told.
    """

    def __init__(self, running: Iterable[PodRequest] = ()) -> None:
        self._running = sum(map(_counts, running))
        self._came = _PRIOR
        self._left = _PRIOR if self._running else 0.0

    def comes(self, request: PodRequest) -> None:
        """A pod was placed."""
        if not _counts(request):
            return
        keep = 0.5 ** (1.0 / max(_LEAST_HALF_LIFE, self._running))
        self._came = self._came * keep + 1.0
        self._left *= keep
        self._running += 1

    def leaves(self, request: PodRequest) -> None:
        """A pod that was placed is gone."""
        if not _counts(request):
            return
        self._left = min(self._left + 1.0, self._came)  # a cluster that empties is not owed pods
        self._running = max(0, self._running - 1)

    @property
    def share(self) -> float:
        """Pods that leave for each that comes, in 0..1."""
        return min(1.0, self._left / self._came)


def _counts(request: PodRequest) -> bool:
    return request.gpu.kind is not GpuKind.NONE
