"""The order in which kube-scheduler serves pods: by priority, then as they have been waiting.

A plan is better in this order if of the first pod that only one of two plans serves it is the one
that does. What runs already comes before all that waits. Pods of a kind are interchangeable, so
that of so many that have a place it is always the first ones that have it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduler.core.model import PodRequest
    from scheduler.planner.instance import Instance

__all__ = ["Queue"]


class Queue:
    """Positions of the pods of each tier.

    A gang stands where the first of its members does.

    Attributes
    ----------
    positions : list of list of int
        Per kind, ascending.
    lengths : list of int
        Pods in play of each tier.
    """

    def __init__(self, instance: Instance) -> None:
        self.positions: list[list[int]] = [[] for _ in instance.kinds]
        self.lengths: list[int] = []
        self._instance = instance
        tiers: dict[int, list[tuple[int, PodRequest]]] = defaultdict(list)
        first: dict[object, int] = {}
        for number, pod in enumerate(instance.problem.pending):
            at = number if pod.gang is None else first.setdefault(pod.gang, number)
            tiers[pod.priority].append((at, pod))
        for priority in instance.priorities:
            running = [
                (kind, pod)
                for kind, described in enumerate(instance.kinds)
                if described.priority == priority and described.disruption is not None
                for pod in instance.pods[kind]
            ]
            for number, (kind, _) in enumerate(running):
                self.positions[kind].append(number)
            waiting = sorted(tiers[priority], key=lambda one: one[0])
            for number, (_, pod) in enumerate(waiting, len(running)):
                self.positions[instance.kind_of[pod.uid]].append(number)
            self.lengths.append(len(running) + len(waiting))

    def value(self, tier: int, placed: Sequence[int]) -> int:
        """How well a tier is served, if so many pods of each kind have a place.

        At most 0; of two values the larger one is that of the plan that is better in order.
        """
        instance, length = self._instance, self.lengths[tier]
        missing = 0
        for kind, positions in enumerate(self.positions):
            if instance.kinds[kind].priority != instance.priorities[tier]:
                continue
            for position in positions[placed[kind] :]:
                missing |= 1 << (length - 1 - position)
        return -missing

    def bound(self, tier: int, value: int, position: int) -> int:
        """Most that a tier is served, if up to a position nobody is served better than by this."""
        length = self.lengths[tier]
        return -((-value) >> (length - position) << (length - position))

    def first_unplaced(self, kind: int, placed: int) -> int:
        """Position of the first pod of a kind without a place, if so many have one."""
        return self.positions[kind][placed]

    def before(self, kind: int, position: int) -> int:
        """Pods of a kind before a position of its tier."""
        return sum(one < position for one in self.positions[kind])
