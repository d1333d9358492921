"""The departure rate of a cluster: pods that leave for each pod that is placed.

A cluster that only fills has to fill well; a cluster in steady state has to keep room for the pods
to come, the large ones above all. What prices charge for splitting a node follows from that.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.core.model import GpuKind, PodRequest

__all__ = ["DepartureRate"]

_PRIOR = 100.0
_LEAST_HALF_LIFE = 100


class DepartureRate:
    """Counts pods with devices that are placed and that leave; it has no clock.

    Pods without devices do not count: their departures make no room for a pod with devices.

    Old events are forgotten as pods are placed: after as many pods as run, and at least after 100,
    the events before count half. In that time a cluster in steady state is renewed.

    Parameters
    ----------
    running
        Pods that run at the start. With any that count, the cluster is taken to be in steady state
        until enough pods have been placed to tell; without any, it is taken to fill.
    """

    def __init__(self, running: Iterable[PodRequest] = ()) -> None:
        self._running = sum(map(_counts, running))
        self._came = _PRIOR
        self._left = _PRIOR if self._running else 0.0

    def on_pod_placed(self, request: PodRequest) -> None:
        """A pod was placed."""
        if not _counts(request):
            return
        keep = 0.5 ** (1.0 / max(_LEAST_HALF_LIFE, self._running))
        self._came = self._came * keep + 1.0
        self._left *= keep
        self._running += 1

    def on_pod_left(self, request: PodRequest) -> None:
        """A pod that was placed is gone."""
        if not _counts(request):
            return
        # A cluster that empties is not owed pods: the rate never exceeds 1.
        self._left = min(self._left + 1.0, self._came)
        self._running = max(0, self._running - 1)

    @property
    def share(self) -> float:
        """Pods that leave for each pod that is placed, in 0..1."""
        return min(1.0, self._left / self._came)


def _counts(request: PodRequest) -> bool:
    return request.gpu.kind is not GpuKind.NONE
