"""Learns the workload profile from the pods seen; it has no clock and takes no lock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log

from scheduler.core.errors import InvalidInput
from scheduler.core.model import PodRequest
from scheduler.core.workload_profile import ShapeKey, WorkloadProfile, larger_shape, most_popular

__all__ = ["Learnt", "ProfileLearner"]

_MOST_LEARNT = 1024


class ProfileLearner:
    """Learns the profile from the pods seen, forgetting old ones; it has no clock.

    Parameters
    ----------
    half_life_pods
        After this many further pods an observation counts half.
    coverage
        As in :meth:`WorkloadProfile.from_requests`.
    running
        Pods to begin with, in no order: together they count as much as pods seen one by one ever
        do, and so are forgotten like those.
    """

    def __init__(
        self,
        half_life_pods: int = 2000,
        coverage: float = 0.95,
        running: Iterable[PodRequest] = (),
    ) -> None:
        if half_life_pods <= 0:
            raise InvalidInput(
                "workload_profile.half_life_pods", f"is {half_life_pods}", "use 1 or more"
            )
        if not 0 < coverage <= 1:
            raise InvalidInput(
                "workload_profile.coverage", f"is {coverage}", "use a share in (0, 1]"
            )
        self._growth = 2.0 ** (1.0 / half_life_pods)
        self._coverage = coverage
        self._weights: dict[ShapeKey, float] = {}
        self._memory: dict[ShapeKey, int] = {}
        self._increment = 1.0
        self.observed = 0
        self._begin(running, most=half_life_pods / log(2))

    def _begin(self, running: Iterable[PodRequest], most: float) -> None:
        pods = list(running)
        each = min(1.0, most / len(pods)) if pods else 0.0
        for request in pods:
            self._count(request, each)

    def observe(self, request: PodRequest) -> None:
        """Count one pod. Cost does not depend on the number of shapes known."""
        self._count(request, self._increment)
        # Growing the increment ages all older observations at once; rescale before it overflows.
        self._increment *= self._growth
        if self._increment > 1e12:
            self._rescale()

    def _count(self, request: PodRequest, weight: float) -> None:
        key = (request.cpu_milli, request.gpu)
        self._weights[key] = self._weights.get(key, 0.0) + weight
        self._memory[key] = request.memory_bytes
        self.observed += 1
        if len(self._weights) > _MOST_LEARNT:
            self._condense()

    def _condense(self) -> None:
        """Count the least popular quarter together, as larger shapes; forget what is too many yet.

        The cost is spread over as many new shapes as go.
        """
        for key in self._least_popular(_MOST_LEARNT // 4):
            weight, memory = self._weights.pop(key), self._memory.pop(key)
            larger = larger_shape(key)
            self._weights[larger] = self._weights.get(larger, 0.0) + weight
            self._memory[larger] = max(memory, self._memory.get(larger, 0))
        excess = len(self._weights) - 7 * _MOST_LEARNT // 8
        for key in self._least_popular(max(0, excess)):
            del self._weights[key], self._memory[key]

    def _least_popular(self, count: int) -> list[ShapeKey]:
        return sorted(self._weights, key=self._weights.__getitem__)[:count]

    def due(self, every: int) -> bool:
        """Whether the profile should be put in force now: every so many pods, early on more often.

        At first each pod changes the picture, so the powers of two come before.
        """
        count = self.observed
        return bool(every) and (count % every == 0 or (count < every and count & (count - 1) == 0))

    def _rescale(self) -> None:
        scale = 1.0 / self._increment
        self._increment = 1.0
        aged = {key: weight * scale for key, weight in self._weights.items()}
        self._weights = {key: weight for key, weight in aged.items() if weight > 1e-6}
        self._memory = {key: self._memory[key] for key in self._weights}

    def profile(self) -> WorkloadProfile:
        """The profile as learnt so far; empty before the first pod."""
        return self.learnt().profile()

    def learnt(self) -> Learnt:
        """All that is known now, for a profile to be made of it elsewhere."""
        return Learnt(dict(self._weights), dict(self._memory), self._coverage, self.observed)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a :class:`ProfileLearner` knew at some time."""

    weights: Mapping[ShapeKey, float]
    memory: Mapping[ShapeKey, int]
    coverage: float
    observed: int

    def profile(self) -> WorkloadProfile:
        """The profile that follows; empty before the first pod."""
        total = sum(self.weights.values())
        if not total:
            return WorkloadProfile()
        counts = {
            key: scaled
            for key, weight in self.weights.items()
            if (scaled := round(weight / total * 1_000_000)) > 0
        }
        return most_popular(counts, self.memory, self.coverage, self.observed)
