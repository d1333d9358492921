"""What the cluster's pods typically look like: given, counted from a trace, or learnt online.

Fragmentation has no meaning without a workload: a free half GPU is worth nothing to a cluster
that runs only 8-GPU jobs. The profile is that workload. Following FGD (Weng et al., USENIX ATC'23),
the most popular shapes are kept until they cover 95 % of the pods; memory does not tell shapes
apart. Weights are integers, so that everything computed from a profile is exact.

Users decide by their pods how many shapes there are, so their number is bounded: of very many
the popular ones stay as they are, and the others are counted together, each as a somewhat larger
one. No cluster that was looked at has a tenth of as many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from scheduler.core.errors import InvalidInput
from scheduler.core.model import DEVICE_MILLI, GpuKind, GpuRequest, PodRequest

__all__ = ["ShapeKey", "TypicalShape", "WorkloadProfile", "larger_shape", "most_popular"]

ShapeKey = tuple[int, GpuRequest]
"""What tells the shapes of pods apart: milli-CPU and the request for devices."""

_MOST_POPULAR = 192
_MOST_RARE = 400
_STEP_MILLI = 100


@dataclass(frozen=True, slots=True)
class TypicalShape:
    """A popular pod shape; ``memory_bytes`` is the mean of the pods seen, in whole MiB."""

    cpu_milli: int
    memory_bytes: int
    gpu: GpuRequest
    weight: int


@dataclass(frozen=True, slots=True)
class WorkloadProfile:
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
    def from_requests(
        cls, requests: Iterable[PodRequest], *, coverage: float = 0.95
    ) -> WorkloadProfile:
        """Count the shapes of these pods and keep the most popular ones.

        Parameters
        ----------
        requests
            The pods; order does not matter.
        coverage
            Share of the pods that the kept shapes must cover, in (0, 1].
        """
        counts: dict[ShapeKey, tuple[int, int]] = {}
        for request in requests:
            key = (request.cpu_milli, request.gpu)
            seen, memory = counts.get(key, (0, 0))
            counts[key] = (seen + 1, memory + request.memory_bytes)
        means = {key: memory // seen >> 20 << 20 for key, (seen, memory) in counts.items()}
        seen_by_key = {key: seen for key, (seen, _) in counts.items()}
        return most_popular(seen_by_key, means, coverage, sum(seen_by_key.values()))


def most_popular(
    counts: Mapping[ShapeKey, int], memory: Mapping[ShapeKey, int], coverage: float, observed: int
) -> WorkloadProfile:
    """The profile of shapes counted, those that cover so much of them as popular ones.

    Parameters
    ----------
    counts
        How often each shape was seen.
    memory
        Bytes of memory of a pod of each shape.
    coverage
        Share of the pods that the popular shapes must cover, in (0, 1].
    observed
        Pods seen in all.
    """
    if not 0 < coverage <= 1:
        raise InvalidInput("workload_profile.coverage", f"is {coverage}", "use a share in (0, 1]")
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
    return WorkloadProfile(tuple(kept), tuple(rare[:_MOST_RARE]), observed)


def _condensed(shapes: list[TypicalShape]) -> tuple[list[TypicalShape], list[TypicalShape]]:
    """No more shapes than are computed with, most popular first, and those for which no room is.

    Half of them stay as they are; the others are counted together, each as one that is larger, so
    that what is usable is never overstated.
    """
    half = _MOST_POPULAR // 2
    found = {(shape.cpu_milli, shape.gpu): shape for shape in shapes[:half]}
    for shape in shapes[half:]:
        key = larger_shape((shape.cpu_milli, shape.gpu))
        before = found.get(key)
        weight = shape.weight + (before.weight if before else 0)
        memory = max(shape.memory_bytes, before.memory_bytes if before else 0)
        found[key] = TypicalShape(key[0], memory, key[1], weight)
    ordered = sorted(found.values(), key=lambda s: (-s.weight, _order((s.cpu_milli, s.gpu))))
    return ordered[:_MOST_POPULAR], ordered[_MOST_POPULAR:]


def larger_shape(key: ShapeKey) -> ShapeKey:
    """A shape at least as large in every dimension; few different shapes come out of this."""
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


def _order(key: ShapeKey) -> tuple[object, ...]:
    """A total order over shapes, so that equal popularity is never decided by chance."""
    cpu, gpu = key
    return (-cpu, -gpu.milli, -gpu.count, gpu.memory_mib, gpu.replicas, gpu.mig, gpu.products)
