"""A complete answer to a problem: every pod in play on a row, or unplaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from scheduler.core.errors import CapacityConflict
from scheduler.core.model import GangKey, Placement, PodRequest, Release
from scheduler.planner.instance import Instance

__all__ = ["Layout", "Value"]

Value = tuple[int, ...]
"""Levels in order, then the negative disruption: larger is better, compared left to right."""


class Layout:
    """The working state of a plan. Starts with running pods in place and pending ones unplaced.

    Attributes
    ----------
    state : ClusterState
        A fork with everything placed.
    unplaced : list of dict
        Per kind: pods without a row, by uid, in the order in which they were given.
    neighbours : Neighbours or None
        Who is where, as rules between pods tell; None if there are no such rules.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.state = instance.state.fork()
        self.unplaced: list[dict[str, PodRequest]] = [
            {pod.uid: pod for pod in pods if pod.uid not in instance.origin}
            for pods in instance.pods
        ]
        self.neighbours = instance.neighbours and instance.neighbours.fork()

    def copy(self) -> Layout:
        """A copy that shares nothing mutable."""
        twin = Layout.__new__(Layout)
        twin.instance = self.instance
        twin.state = self.state.fork()
        twin.unplaced = [dict(pods) for pods in self.unplaced]
        twin.neighbours = self.neighbours and self.neighbours.fork()
        return twin

    def in_play(self, row: int) -> list[Placement]:
        """Placements of pods in play on a row."""
        kind_of = self.instance.kind_of
        return [placed for placed in self.state.pods_on(row) if placed.pod.uid in kind_of]

    def placed(self, kind: int) -> int:
        """Pods of a kind that have a row."""
        return len(self.instance.pods[kind]) - len(self.unplaced[kind])

    def value(self) -> Value:
        """Objective of this layout."""
        counts = [self.placed(kind) for kind in range(len(self.instance.kinds))]
        levels = (
            sum(int(w) * n for w, n in zip(level.weights.tolist(), counts, strict=True))
            for level in self.instance.levels
        )
        return (*levels, -self.disruption())

    def disruption(self) -> int:
        """Total cost of the running pods that are not where they were, or whose gang restarts.

        A member that is itself moved costs 1 more than the others: no more are moved than need be.
        """
        stopped = {uid for unit in self.stopped() for uid in self.instance.units[unit]}
        total = 0
        for uid in self.instance.origin:
            costs = self.instance.kinds[self.instance.kind_of[uid]].disruption
            assert costs is not None  # kinds of running pods have costs
            target = self.state.placements.get(uid)
            if target is None:
                total += costs.evict or 0
            elif uid in stopped:
                total += costs.move + self.moved(uid)
            elif self.moved(uid):
                total += costs.move
        return total

    def stopped(self) -> set[GangKey]:
        """Units of which somebody is moved or evicted, so that all of them restart."""
        units = self.instance.units
        return {unit for unit, uids in units.items() if any(map(self.moved, uids))}

    def moved(self, uid: str) -> bool:
        """Whether a running pod in play has to be restarted: other node, or other devices."""
        target = self.state.placements.get(uid)
        origin = self.instance.origin[uid]
        return target is None or (target.node, target.devices) != (origin.node, origin.devices)

    def disturbed(self, budget: int) -> int:
        """Pods of a disruption budget that are moved or evicted."""
        uids = self.instance.problem.budgets[budget].uids
        return sum(self.moved(uid) for uid in uids if uid in self.instance.origin)

    def open(self, pod: PodRequest, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Those of these rows where rules between pods let in a pod that has no row, (N,)."""
        suits = None if self.neighbours is None else self.neighbours.open(pod)
        return rows if suits is None else rows & suits

    def open_elsewhere(self, pod: PodRequest, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """As :meth:`open`, for a pod that would leave its row, (N,)."""
        if self.neighbours is None:
            return rows
        row = self.state.row_of[self.state.placements[pod.uid].node]
        self.neighbours.remove(pod, row)
        suits = self.open(pod, rows)
        self.neighbours.add(pod, row)
        return suits

    def place(self, placement: Placement) -> None:
        """Place a pod that is unplaced; :class:`CapacityConflict` if it does not fit.

        That rules between pods let it in is for the caller to see to: :meth:`open`.
        """
        self.state.apply((placement,))
        if self.neighbours is not None:
            self.neighbours.add(placement.pod, self.state.row_of[placement.node])
        del self.unplaced[self.instance.kind_of[placement.pod.uid]][placement.pod.uid]

    def take(self, uid: str) -> None:
        """Take a pod in play off its row."""
        placement = self.state.placements[uid]
        pod = placement.pod
        self.state.apply((Release(uid),))
        if self.neighbours is not None:
            self.neighbours.remove(pod, self.state.row_of[placement.node])
        self._back([pod])

    def exchange(
        self, released: Iterable[str], placements: Iterable[Placement], *, back: bool = False
    ) -> bool:
        """Release these pods, then place those: all, or nothing and False if they do not fit.

        Pods that come to another row have to be let in by the rules between pods, in some order;
        not if the layout goes ``back`` to what it was.
        """
        before = [self.state.placements[uid] for uid in released]
        out = [placed.pod for placed in before]
        into = list(placements)
        if not self._join(before, into, back=back):
            return False
        try:
            self.state.apply([*(Release(pod.uid) for pod in out), *into])
        except CapacityConflict:
            self._join(into, before, back=True)
            return False
        placed = {placement.pod.uid for placement in into}
        self._back([pod for pod in out if pod.uid not in placed])
        for uid in placed:
            self.unplaced[self.instance.kind_of[uid]].pop(uid, None)
        return True

    def _join(self, before: list[Placement], into: list[Placement], *, back: bool) -> bool:
        """Tell the rules that pods leave and come; False, and nothing told, if they object."""
        there, row_of = self.neighbours, self.state.row_of
        if there is None:
            return True
        rows = {placed.pod.uid: row_of[placed.node] for placed in before}
        for placed in before:
            there.remove(placed.pod, rows[placed.pod.uid])
        coming = []
        for placed in into:
            row = row_of[placed.node]
            if back or rows.get(placed.pod.uid) == row:
                there.add(placed.pod, row)
            else:
                coming.append((placed.pod, row))
        done, left = there.bring(coming)
        if not left:
            return True
        for placed in into:
            if not back and rows.get(placed.pod.uid) == row_of[placed.node]:
                there.remove(placed.pod, row_of[placed.node])
        for pod, row in done:
            there.remove(pod, row)
        for placed in before:
            there.add(placed.pod, rows[placed.pod.uid])
        return False

    def _back(self, pods: list[PodRequest]) -> None:
        touched: dict[int, set[str]] = defaultdict(set)
        for pod in pods:
            touched[self.instance.kind_of[pod.uid]].add(pod.uid)
        for kind, uids in touched.items():
            waiting = uids | self.unplaced[kind].keys()
            listed = self.instance.pods[kind]
            self.unplaced[kind] = {pod.uid: pod for pod in listed if pod.uid in waiting}
