"""Which members of each gang run, and which are known to wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from scheduler.core.gangs import GangSpec, minimum_of
from scheduler.core.model import GangKey, Placement, PodRequest

__all__ = ["Members"]

_NONE: Mapping[str, PodRequest] = MappingProxyType({})


class Members:
    """Members by gang: no more of them than there are pods.

    Parameters
    ----------
    placements
        Pods that are placed already.
    """

    def __init__(self, placements: Iterable[Placement]) -> None:
        self._running: dict[GangKey, set[str]] = {}
        self._expected: dict[GangKey, dict[str, PodRequest]] = {}
        self._specs: dict[GangKey, GangSpec] = {}
        for placement in placements:
            if placement.pod.gang:
                self._running.setdefault(placement.pod.gang, set()).add(placement.pod.uid)

    def running(self, key: GangKey) -> frozenset[str]:
        """Uids of the gang's members that are placed for good."""
        return frozenset(self._running.get(key, ()))

    def describe(self, spec: GangSpec) -> bool:
        """What is known about a gang from now on; True if that is news."""
        news = minimum_of(self._specs, spec.key) != spec.minimum
        self._specs[spec.key] = spec
        return news

    def specs(self, keys: Iterable[GangKey]) -> dict[GangKey, GangSpec]:
        """What is known about these gangs."""
        return {key: self._specs[key] for key in keys if key in self._specs}

    def gathered(self, request: PodRequest) -> bool:
        """Whether the pod is a member of a gang that starts together."""
        return request.gang is not None and self.minimum(request.gang) > 1

    def minimum(self, key: GangKey) -> int:
        """How many members must start together."""
        return minimum_of(self._specs, key)

    def missing(self, key: GangKey) -> int:
        """How many do not run that have to."""
        return max(0, self.minimum(key) - len(self._running.get(key, ())))

    def expected(self, key: GangKey) -> Mapping[str, PodRequest]:
        """Members that exist and wait, by uid."""
        return self._expected.get(key, _NONE)

    def expect(self, key: GangKey, request: PodRequest) -> None:
        """A member exists and waits."""
        self._expected.setdefault(key, {})[request.uid] = request

    def runs(self, key: GangKey, uid: str) -> None:
        """A member is placed for good."""
        self._running.setdefault(key, set()).add(uid)
        self._expect_no_more(key, uid)

    def gone(self, key: GangKey, uid: str) -> None:
        """A member has ended or was deleted."""
        self._expect_no_more(key, uid)
        running = self._running.get(key, set())
        running.discard(uid)
        if not running:
            self._running.pop(key, None)
            if key not in self._expected:
                self._specs.pop(key, None)

    def _expect_no_more(self, key: GangKey, uid: str) -> None:
        expected = self._expected.get(key)
        if expected is not None:
            expected.pop(uid, None)
            if not expected:
                del self._expected[key]
