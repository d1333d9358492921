"""What the cluster's pods typically look like: given, counted from a trace, or learnt online.

Fragmentation has no meaning without a workload: a free half GPU is worth nothing to a cluster
that runs only 8-GPU jobs. The mix is that workload. Following FGD (Weng et al., USENIX ATC'23),
the most popular shapes are kept until they cover 95 % of the pods; memory does not tell shapes
apart. Weights are integers, so that everything computed from a mix is exact.

Whoever creates pods decides how many shapes there are, so their number is bounded: of very many
the popular ones stay as they are, and the others are counted together, each as a somewhat larger
one. No cluster that was looked at has a tenth of as many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import log

from scheduler.core.errors import InvalidInput
from scheduler.core.model import DEVICE_MILLI, GpuKind, GpuRequest, PodRequest

__all__ = ["Learnt", "MixLearner", "TypicalMix", "TypicalShape"]

_Key = tuple[int, GpuRequest]

_MOST_POPULAR = 192
_MOST_RARE = 400
_MOST_LEARNT = 1024
_STEP_MILLI = 100


@dataclass(frozen=True, slots=True)
class TypicalShape:
    """A popular pod shape; ``memory_bytes`` is the mean of the pods seen, in whole MiB."""

    cpu_milli: int
    memory_bytes: int
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
            counts[key] = (seen + 1, memory + request.memory_bytes)
        means = {key: memory // seen >> 20 << 20 for key, (seen, memory) in counts.items()}
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
            larger = _larger(key)
            self._weights[larger] = self._weights.get(larger, 0.0) + weight
            self._memory[larger] = max(memory, self._memory.get(larger, 0))
        excess = len(self._weights) - 7 * _MOST_LEARNT // 8
        for key in self._least_popular(max(0, excess)):
            del self._weights[key], self._memory[key]

    def _least_popular(self, count: int) -> list[_Key]:
        return sorted(self._weights, key=self._weights.__getitem__)[:count]

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
        return self.learnt().mix()

    def learnt(self) -> Learnt:
        """All that is known now, for a mix to be made of it elsewhere."""
        return Learnt(dict(self._weights), dict(self._memory), self._coverage, self.observed)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a :class:`MixLearner` knew at some time."""

    weights: Mapping[_Key, float]
    memory: Mapping[_Key, int]
    coverage: float
    observed: int

    def mix(self) -> TypicalMix:
        """The mix that follows; empty before the first pod."""
        total = sum(self.weights.values())
        if not total:
            return TypicalMix()
        counts = {
            key: scaled
            for key, weight in self.weights.items()
            if (scaled := round(weight / total * 1_000_000)) > 0
        }
        return _most_popular(counts, self.memory, self.coverage, self.observed)


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
    if len(kept) > _MOST_POPULAR:
        kept, more = _condensed(kept)
        rare = more + rare
    return TypicalMix(tuple(kept), tuple(rare[:_MOST_RARE]), observed)


def _condensed(shapes: list[TypicalShape]) -> tuple[list[TypicalShape], list[TypicalShape]]:
    """No more shapes than are computed with, most popular first, and those for which no room is.

    Half of them stay as they are; the others are counted together, each as one that is larger, so
    that what is usable is never overstated.
    """
    half = _MOST_POPULAR // 2
    found = {(shape.cpu_milli, shape.gpu): shape for shape in shapes[:half]}
    for shape in shapes[half:]:
        key = _larger((shape.cpu_milli, shape.gpu))
        before = found.get(key)
        weight = shape.weight + (before.weight if before else 0)
        memory = max(shape.memory_bytes, before.memory_bytes if before else 0)
        found[key] = TypicalShape(key[0], memory, key[1], weight)
    ordered = sorted(found.values(), key=lambda s: (-s.weight, _order((s.cpu_milli, s.gpu))))
    return ordered[:_MOST_POPULAR], ordered[_MOST_POPULAR:]


def _larger(key: _Key) -> _Key:
    """A shape that is at least as large in everything; there are few of them."""
    cpu, gpu = key
    if gpu.kind is GpuKind.FRACTION:
        milli = -(-gpu.milli // _STEP_MILLI) * _STEP_MILLI
        if milli == DEVICE_MILLI:
            gpu = replace(gpu, milli=0, memory_mib=0, count=1)
        else:
            gpu = replace(gpu, milli=milli, memory_mib=_rounded_up(gpu.memory_mib))
    elif gpu.kind is GpuKind.SHARED:
        gpu = replace(gpu, replicas=_rounded_up(gpu.replicas))
    return _rounded_up(cpu), gpu


def _rounded_up(value: int) -> int:
    """To two binary digits: 1, 2, 3, 4, 6, 8, 12, ..."""
    step = 1 << max(0, value.bit_length() - 2)
    return -(-value // step) * step


def _order(key: _Key) -> tuple[object, ...]:
    """A total order over shapes, so that equal popularity is never decided by chance."""
    cpu, gpu = key
    return (-cpu, -gpu.milli, -gpu.count, gpu.memory_mib, gpu.replicas, gpu.mig, gpu.products)
