"""Pods of a run by size, and those that stayed pending, each with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scheduler.core.engine import Engine
from scheduler.core.model import GpuKind, PodRequest, Reason
from scheduler.core.why import most_common

__all__ = ["CLASSES", "PendingPod", "by_class", "pending_pods", "pod_class"]

CLASSES = ("cpu", "fraction", "1 GPU", "2-7 GPUs", "8+ GPUs", "mig", "shared")
"""Sizes of pods in the order in which they are shown."""


def pod_class(request: PodRequest) -> str:
    """One of :data:`CLASSES`."""
    match request.gpu.kind:
        case GpuKind.NONE:
            return "cpu"
        case GpuKind.WHOLE:
            count = request.gpu.count
            return "1 GPU" if count == 1 else "2-7 GPUs" if count < 8 else "8+ GPUs"
        case kind:
            return kind.name.lower()


@dataclass(frozen=True, slots=True)
class PendingPod:
    """A pod without a node at the end of a run."""

    pod: PodRequest
    reason: str

    def to_json(self) -> dict[str, str]:
        """Plain JSON values."""
        return {
            "namespace": self.pod.namespace,
            "name": self.pod.name,
            "size": pod_class(self.pod),
            "reason": self.reason,
        }


def pending_pods(engine: Engine, requests: Iterable[PodRequest]) -> tuple[PendingPod, ...]:
    """Why each of these pods has no node as things are: nodes counted by reason."""
    known: dict[Any, str] = {}
    found = []
    for request in requests:
        rules = request.uid if engine.neighbours is not None else ""
        key = (request.shape, request.selection, rules)
        if key not in known:
            known[key] = _why(engine, request)
        found.append(PendingPod(request, known[key]))
    return tuple(found)


def _why(engine: Engine, request: PodRequest) -> str:
    there = np.array([node is not None for node in engine.state.nodes], dtype=bool)
    codes = engine.filter(request, selection=True)[there]
    if (codes == Reason.FITS.code).any():
        return "it fits by now, and nobody has tried it again"
    return most_common(codes, request)


def by_class(
    pods: Iterable[PodRequest], pending: Sequence[PendingPod]
) -> dict[str, dict[str, int]]:
    """Pods and placed pods of each size, of those that were tried.

    Parameters
    ----------
    pods
        All of them.
    pending
        Those without a node.
    """
    all_of = Counter(map(pod_class, pods))
    without = Counter(pod_class(one.pod) for one in pending)
    return {
        name: {"pods": all_of[name], "placed": all_of[name] - without[name]}
        for name in CLASSES
        if all_of[name]
    }
