"""An emulated kube-scheduler around the engine, so that what it costs can be measured.

One cycle, as ``schedule_one.go`` does it: find feasible nodes from a rotating start until enough
are found, score them in-tree, add the extender's 0..10 times weight times 10, take the best, break
ties at random. Each deviation from the engine's own order is a setting of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import PodRequest
from scheduler.core.ranking import best_first, ranks

__all__ = ["EmulatedScheduler", "SchedulerProfile", "nodes_to_find"]

IntArray = NDArray[np.int64]

_MIN_FEASIBLE = 100
# What kube-scheduler counts for a pod that requests nothing (NonZeroRequested).
_DEFAULT_CPU_MILLI = 100
_DEFAULT_MEMORY_BYTES = 200 << 20


@dataclass(frozen=True, slots=True)
class SchedulerProfile:
    """Settings of the emulated kube-scheduler.

    Parameters
    ----------
    percentage_of_nodes
        ``percentageOfNodesToScore``; 0 is the adaptive default of kube-scheduler.
    extender_weight
        Weight of the extender's scores; 0 means that no extender scores.
    least_allocated, balanced
        Weights of the in-tree scores NodeResourcesFit and NodeResourcesBalancedAllocation.
    random_ties
        Whether ties are broken at random, else by row.
    extender_scores
        ``ranks`` (a unique winner, as Snugfit answers), ``scaled`` (raw scores scaled to 0..10,
        as a naive extender would) or ``exact`` (the engine's own order, which no extender can
        send).
    named
        Nodes that the extender's filter leaves, its best ones (``answer_top_k``); 0 leaves all.
    seed
        Of the ties.
    """

    percentage_of_nodes: int = 100
    extender_weight: int = 15
    least_allocated: int = 1
    balanced: int = 1
    random_ties: bool = True
    extender_scores: str = "ranks"
    named: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.percentage_of_nodes <= 100:
            raise InvalidInput(
                "percentage_of_nodes", f"is {self.percentage_of_nodes}", "use 0..100"
            )
        if self.extender_scores not in ("ranks", "scaled", "exact"):
            raise InvalidInput(
                "extender_scores", f"is {self.extender_scores!r}", "use ranks, scaled or exact"
            )


def nodes_to_find(nodes: int, percentage: int) -> int:
    """Feasible nodes after which kube-scheduler stops looking.

    Fewer than 100 nodes are all looked at. The default percentage is 50 - nodes/125, at least 5.
    """
    if nodes < _MIN_FEASIBLE or percentage >= 100:
        return nodes
    adaptive = percentage or max(5, 50 - nodes // 125)
    return max(_MIN_FEASIBLE, nodes * adaptive // 100)


class EmulatedScheduler:
    """Chooses rows for pods as kube-scheduler would with this engine as its extender."""

    def __init__(self, engine: Engine, profile: SchedulerProfile) -> None:
        self._engine = engine
        self._profile = profile
        self._random = random.Random(f"ties/{profile.seed}")  # noqa: S311 - reproducible
        self._start = 0

    def best(self, request: PodRequest) -> int:
        """Row of the node that kube-scheduler would pick, or -1."""
        rows = self._named(request, self._feasible(request))
        if len(rows) <= 1:  # with one survivor scoring is skipped
            return int(rows[0]) if len(rows) else -1
        profile = self._profile
        total = np.zeros(len(rows), dtype=np.int64)
        if profile.least_allocated or profile.balanced:
            total += self._in_tree(request, rows)
        if profile.extender_weight:
            total += self._extender(request, rows)
        best = np.flatnonzero(total == total.max())
        chosen = self._random.randrange(len(best)) if profile.random_ties else 0
        return int(rows[best[chosen]])

    def _feasible(self, request: PodRequest) -> IntArray:
        """Feasible rows within the window, sorted; moves the window on."""
        codes = self._engine.filter(request, selection=True)
        count = len(codes)
        enough = nodes_to_find(count, self._profile.percentage_of_nodes)
        feasible = np.flatnonzero(codes == 0)
        if enough >= count:
            return feasible
        order = np.concatenate(
            (feasible[feasible >= self._start], feasible[feasible < self._start])
        )
        found = order[:enough]
        looked_at = count if len(found) < enough else (int(found[-1]) - self._start) % count + 1
        self._start = (self._start + looked_at) % count
        return np.sort(found)

    def _named(self, request: PodRequest, rows: IntArray) -> IntArray:
        """Rows that the extender's filter names, sorted."""
        most = self._profile.named
        if not self._profile.extender_weight or not most or len(rows) <= most:
            return rows
        return np.sort(rows[best_first(self._engine.scores(request, rows), rows, most)])

    def _in_tree(self, request: PodRequest, rows: IntArray) -> IntArray:
        state, profile = self._engine.state, self._profile
        cpu = request.cpu_milli or _DEFAULT_CPU_MILLI
        memory = request.memory_bytes or _DEFAULT_MEMORY_BYTES
        cpu_all, memory_all = (
            np.maximum(column[rows], 1) for column in (state.cpu_alloc, state.mem_alloc)
        )
        cpu_left = np.maximum(state.cpu_free[rows] - cpu, 0)
        memory_left = np.maximum(state.mem_free[rows] - memory, 0)
        least = (cpu_left * 100 // cpu_all + memory_left * 100 // memory_all) // 2
        spread = np.abs(cpu_left / cpu_all - memory_left / memory_all) / 2
        balanced = ((1 - spread) * 100).astype(np.int64)
        return np.asarray(least * profile.least_allocated + balanced * profile.balanced)

    def _extender(self, request: PodRequest, rows: IntArray) -> IntArray:
        scores = self._engine.scores(request, rows)
        weight = self._profile.extender_weight * 10
        match self._profile.extender_scores:
            case "exact":
                # A dense rank without quantisation: far above anything in-tree, ties only if equal.
                return np.unique(scores, return_inverse=True)[1].astype(np.int64) * 10_000
            case "scaled":
                low, high = int(scores.min()), int(scores.max())
                span = max(1, high - low)
                return np.asarray((scores - low) // max(1, span // 10)).clip(0, 10) * weight
            case _:
                return ranks(scores, rows) * weight
