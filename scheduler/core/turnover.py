"""How far a cluster holds its level: pods that leave for each that comes.

A cluster that only fills has to fill well; one that holds its level has to keep room for those to
come, the large ones above all. What prices charge for breaking up a node follows from that.
"""

from __future__ import annotations

from scheduler.core.errors import InvalidInput

__all__ = ["Turnover"]

_PRIOR = 100.0


class Turnover:
    """Counts who comes and who leaves, forgetting old ones; it has no clock.

    Parameters
    ----------
    running
        Pods that run at the start: with some the cluster is taken to hold its level, without any
        to fill, until so many have come that it can be told.
    half_life_pods
        After this many pods that came, earlier ones count half.
    """

    def __init__(self, running: int = 0, half_life_pods: int = 2000) -> None:
        if half_life_pods <= 0:
            raise InvalidInput("turnover.half_life_pods", f"is {half_life_pods}", "use 1 or more")
        self._keep = 0.5 ** (1.0 / half_life_pods)
        self._came = _PRIOR
        self._left = _PRIOR if running else 0.0

    def comes(self) -> None:
        """A pod was placed."""
        self._came = self._came * self._keep + 1.0
        self._left *= self._keep

    def leaves(self) -> None:
        """A pod that was placed is gone."""
        self._left = min(self._left + 1.0, self._came)  # a cluster that empties is not owed pods

    @property
    def share(self) -> float:
        """Pods that leave for each that comes, in 0..1."""
        return min(1.0, self._left / self._came)
