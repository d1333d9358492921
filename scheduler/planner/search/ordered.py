"""The search where pods are served in their order: who is next, and what is proved of those left.

A pod without a place is *hopeless* if it has none in any plan that serves those before it as this
one does. Up to the first that is not known to be, nothing better exists.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.planner.bounds.relaxation import Relaxation
from scheduler.planner.layout import Layout

__all__ = ["Ordered"]


class Ordered:
    """Keeps score of what is known of the order of a layout.

    Parameters
    ----------
    layout
        Of an instance that serves pods in their order.
    relaxation
        Of the same instance.
    """

    def __init__(self, layout: Layout, relaxation: Relaxation) -> None:
        self._layout, self._relaxation = layout, relaxation
        self._instance = layout.instance
        self._known: dict[tuple[int, tuple[int, ...]], bool] = {}

    def next_kinds(self, tier: int) -> list[int]:
        """Kinds of a tier with pods that wait, by the first of these."""
        instance, layout = self._instance, self._layout
        priority = instance.priorities[tier]
        kinds = [
            kind
            for kind, pods in enumerate(layout.unplaced)
            if pods and instance.kinds[kind].priority == priority
        ]
        return sorted(kinds, key=self.position)

    def position(self, kind: int) -> int:
        """Where the first pod of a kind stands that has no place."""
        return self._instance.queue.first_unplaced(kind, self._layout.placed(kind))

    def floors(self, kind: int) -> list[int]:
        """Per kind, how many pods come before the first pod of a kind that waits, and have a place.

        What makes room for that pod must leave these as they are.
        """
        instance, layout = self._instance, self._layout
        at, priority = self.position(kind), instance.kinds[kind].priority
        floors = []
        for other, described in enumerate(instance.kinds):
            placed = layout.placed(other)
            if described.priority < priority:
                placed = 0
            elif described.priority == priority:
                placed = min(placed, instance.queue.before(other, at))
            floors.append(placed)
        return floors

    def bound(self, tier: int, value: int) -> int:
        """Best value of a tier, if those before it are served as well as can be."""
        for kind in self.next_kinds(tier):
            if not self.is_hopeless(kind):
                return self._instance.queue.bound(tier, value, self.position(kind))
        return value

    def is_hopeless(self, kind: int) -> bool:
        """Whether it is proved that the first pod of a kind that waits can have no place."""
        instance = self._instance
        if not instance.most[kind].any():
            return True
        floors = self.floors(kind)
        key = kind, tuple(floors)
        if key not in self._known:
            floors[kind] += 1
            self._known[key] = not self._relaxation.holds(floors)
        return self._known[key]

    def rule_out(self, kind: int, floors: Sequence[int]) -> None:
        """Note that no plan with these floors serves one more of a kind."""
        self._known[kind, tuple(floors)] = True
