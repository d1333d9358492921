"""What each class of requests gets of a plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from scheduler.core.model import GpuKind, PodRequest

__all__ = ["Served", "served"]

_ORDER = {GpuKind.NONE: 0, GpuKind.FRACTION: 1, GpuKind.SHARED: 2, GpuKind.MIG: 3, GpuKind.WHOLE: 4}
_NAMES = {
    GpuKind.NONE: "cpu only",
    GpuKind.FRACTION: "fractions",
    GpuKind.SHARED: "replicas",
    GpuKind.MIG: "MIG",
}


@dataclass(frozen=True, slots=True)
class Served:
    """Pending pods of a class, and how many of them have a place.

    Members of gangs are counted with what they ask for, and once more by themselves.
    """

    name: str
    pods: int
    placed: int


def served(pending: Iterable[PodRequest], placed: Collection[str]) -> tuple[Served, ...]:
    """By class, those of few devices first; classes without pods are left out.

    Parameters
    ----------
    pending
        Pods that wait.
    placed
        Uids of pods that have a place.
    """
    counts: dict[tuple[int, int], list[int]] = {}
    names: dict[tuple[int, int], str] = {}
    for pod in pending:
        gpu = pod.gpu
        keys = {(_ORDER[gpu.kind], gpu.count): _name(gpu.kind, gpu.count)}
        if pod.gang is not None:
            keys[len(_ORDER), 0] = "in gangs"
        for key, name in keys.items():
            names[key] = name
            entry = counts.setdefault(key, [0, 0])
            entry[0] += 1
            entry[1] += pod.uid in placed
    return tuple(Served(names[key], *counts[key]) for key in sorted(counts))


def _name(kind: GpuKind, count: int) -> str:
    return _NAMES.get(kind) or f"{count} GPU{'s' * (count > 1)}"
