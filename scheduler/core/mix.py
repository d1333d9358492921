"""What the cluster's pods typically look like: given, counted from a trace, or learnt online.

Fragmentation has no meaning without a workload: a free half GPU is worth nothing to a cluster
that runs only 8-GPU jobs. The mix is that workload. Following FGD (Weng et al., USENIX ATC'23),
the most popular shapes are kept until they cover 95 % of the pods; memory does not tell shapes
apart. Weights are integers, so that everything computed from a mix is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log

from scheduler.core.errors import InvalidInput
from scheduler.core.model import GpuRequest, PodRequest

__all__ = ["MixLearner", "TypicalMix", "TypicalShape"]

_Key = tuple[int, GpuRequest]

_MOST_RARE = 400


@dataclass(frozen=True, slots=True)
class TypicalShape:
    """A popular pod shape. ``memory_mib`` is the mean of the pods seen, for reports only."""

    cpu_milli: int
    memory_mib: int
    gpu: GpuRequest
    weight: int


@dataclass(frozen=True, slots=True)
class TypicalMix:
    """Popular shapes with integer weights, most popular first.

    Attributes
    ----------
    shapes
        Those that count for fragmentation.
    rare
        The others, most popular first; prices need them, for it is the rare pods that are picky
        about models.
    observed
        Pods that all this is known from: what none of them asked for may still come. 0 if it is
        said to be all that comes.
    """

    shapes: tuple[TypicalShape, ...] = ()
    rare: tuple[TypicalShape, ...] = ()
    observed: int = 0

    @property
    def all_shapes(self) -> tuple[TypicalShape, ...]:
        """Popular and rare shapes."""
        return self.shapes + self.rare

    @property
    def total_weight(self) -> int:
        """Sum of the weights of the popular shapes."""
        return sum(shape.weight for shape in self.shapes)

    @classmethod
    def from_requests(cls, requests: Iterable[PodRequest], *, coverage: float = 0.95) -> TypicalMix:
        """Count the shapes of these pods and keep the most popular ones.

        Parameters
        ----------
        requests
            The pods; order does not matter.
        coverage
            Share of the pods that the kept shapes must cover, in (0, 1].
        """
        counts: dict[_Key, tuple[int, int]] = {}
        for request in requests:
            key = (request.cpu_milli, request.gpu)
            seen, memory = counts.get(key, (0, 0))
            counts[key] = (seen + 1, memory + request.memory_mib)
        means = {key: memory // seen for key, (seen, memory) in counts.items()}
        seen_by_key = {key: seen for key, (seen, _) in counts.items()}
        return _most_popular(seen_by_key, means, coverage, sum(seen_by_key.values()))


class MixLearner:
    """Learns the mix from the pods seen, forgetting old ones; it has no clock.

    Parameters
    ----------
    half_life_pods
        After this many further pods an observation counts half.
    coverage
        As in :meth:`TypicalMix.from_requests`.
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
            raise InvalidInput("mix.half_life_pods", f"is {half_life_pods}", "use 1 or more")
        if not 0 < coverage <= 1:
            raise InvalidInput("mix.coverage", f"is {coverage}", "use a share in (0, 1]")
        self._growth = 2.0 ** (1.0 / half_life_pods)
        self._coverage = coverage
        self._weights: dict[_Key, float] = {}
        self._memory: dict[_Key, int] = {}
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
        self._memory[key] = request.memory_mib
        self.observed += 1

    def due(self, every: int) -> bool:
        """Whether the mix should be put in force now: every so many pods, early on more often.

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

    def mix(self) -> TypicalMix:
        """The mix as learnt so far; empty before the first pod."""
        total = sum(self._weights.values())
        if not total:
            return TypicalMix()
        counts = {
            key: scaled
            for key, weight in self._weights.items()
            if (scaled := round(weight / total * 1_000_000)) > 0
        }
        return _most_popular(counts, self._memory, self._coverage, self.observed)


def _most_popular(
    counts: Mapping[_Key, int], memory: Mapping[_Key, int], coverage: float, observed: int
) -> TypicalMix:
    if not 0 < coverage <= 1:
        raise InvalidInput("mix.coverage", f"is {coverage}", "use a share in (0, 1]")
    wanted = coverage * sum(counts.values())
    kept: list[TypicalShape] = []
    rare: list[TypicalShape] = []
    covered = 0
    for key in sorted(counts, key=lambda key: (-counts[key], _order(key))):
        shape = TypicalShape(key[0], memory[key], key[1], counts[key])
        (kept if covered < wanted else rare).append(shape)
        covered += counts[key]
    return TypicalMix(tuple(kept), tuple(rare[:_MOST_RARE]), observed)


def _order(key: _Key) -> tuple[object, ...]:
    """A total order over shapes, so that equal popularity is never decided by chance."""
    cpu, gpu = key
    return (-cpu, -gpu.milli, -gpu.count, gpu.memory_mib, gpu.replicas, gpu.mig, gpu.products)
