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
    displaced : set of str
        Uids of running pods in play that have to be restarted: other node, other devices, or none.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.state = instance.state.fork()
        self.unplaced: list[dict[str, PodRequest]] = [
            {pod.uid: pod for pod in pods if pod.uid not in instance.origin}
            for pods in instance.pods
        ]
        self.neighbours = instance.neighbours and instance.neighbours.fork()
        self.displaced: set[str] = set()

    def copy(self) -> Layout:
        """A copy that shares nothing mutable."""
        twin = Layout.__new__(Layout)
        twin.instance = self.instance
        twin.state = self.state.fork()
        twin.unplaced = [dict(pods) for pods in self.unplaced]
        twin.neighbours = self.neighbours and self.neighbours.fork()
        twin.displaced = set(self.displaced)
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
            self.instance.queue.value(level.tier, counts)
            if level.queue
            else sum(int(w) * n for w, n in zip(level.weights.tolist(), counts, strict=True))
            for level in self.instance.levels
        )
        return (*levels, -self.disruption())

    def disruption(self) -> int:
        """Total cost of the running pods that are not where they were, or whose gang restarts.

        A member that is itself moved costs 1 more than the others: no more are moved than need be.
        """
        stopped, total = self.stopped(), 0
        for uid in self.displaced:
            kind = self.instance.kind_of[uid]
            costs = self.instance.kinds[kind].disruption
            assert costs is not None  # kinds of running pods have costs
            if uid not in self.state.placements:
                total += costs.evict or 0
            else:
                total += costs.move + (self.instance.unit_of(kind) in stopped)
        for unit in stopped:
            for uid in self.instance.units[unit]:
                costs = self.instance.kinds[self.instance.kind_of[uid]].disruption
                assert costs is not None
                total += 0 if uid in self.displaced else costs.move
        return total

    def stopped(self) -> set[GangKey]:
        """Units of which any pod is moved or evicted, so that all of them restart."""
        units = (self.instance.unit_of(self.instance.kind_of[uid]) for uid in self.displaced)
        return {unit for unit in units if unit is not None}

    def moved(self, uid: str) -> bool:
        """Whether a running pod in play has to be restarted: other node, or other devices."""
        return uid in self.displaced

    def _note(self, uids: Iterable[str]) -> None:
        """See again which of these pods are where they were."""
        for uid in uids:
            origin = self.instance.origin.get(uid)
            if origin is None:
                continue
            target = self.state.placements.get(uid)
            if target and (target.node, target.devices) == (origin.node, origin.devices):
                self.displaced.discard(uid)
            else:
                self.displaced.add(uid)

    def disturbed(self, budget: int) -> int:
        """Pods of a disruption budget that are moved or evicted."""
        return len(self.instance.problem.budgets[budget].uids & self.displaced)

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
        self._note((placement.pod.uid,))

    def take(self, uid: str) -> None:
        """Take a pod in play off its row."""
        placement = self.state.placements[uid]
        pod = placement.pod
        self.state.apply((Release(uid),))
        if self.neighbours is not None:
            self.neighbours.remove(pod, self.state.row_of[placement.node])
        self._back([pod])
        self._note((uid,))

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
        self._note(pod.uid for pod in out)
        self._note(placed)
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
        touched: dict[int, list[PodRequest]] = defaultdict(list)
        for pod in pods:
            touched[self.instance.kind_of[pod.uid]].append(pod)
        for kind, back in touched.items():
            waiting = [*self.unplaced[kind].values(), *back]
            waiting.sort(key=self._place_in_list)
            self.unplaced[kind] = {pod.uid: pod for pod in waiting}

    def _place_in_list(self, pod: PodRequest) -> int:
        return self.instance.position[pod.uid]
