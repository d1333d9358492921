"""The order in which a plan can be carried out.

First all that moves is evicted; then pods are placed one after another, and each has to be let in
by the rules between pods as things are then. Conflicts do not depend on the order; spread and
affinity do.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.model import PodRequest
from scheduler.planner.layout import Layout
from scheduler.planner.search.greedy import gang_missing

__all__ = ["arrivals", "settle"]


def arrivals(layout: Layout) -> Iterator[tuple[PodRequest, int]]:
    """Pods that the plan puts somewhere, with their rows: first those that move, by uid."""
    instance, state = layout.instance, layout.state
    moved = [uid for uid in sorted(instance.origin) if layout.moved(uid)]
    for uid in (*moved, *(pod.uid for pod in instance.problem.pending)):
        placed = state.placements.get(uid)
        if placed is not None:
            yield placed.pod, state.row_of[placed.node]


def settle(layout: Layout) -> list[str] | None:
    """Uids in an order in which everybody is let in.

    Pending pods that no order lets in lose their place, gangs whole. None if that is not enough:
    somebody who moves would be let in nowhere.
    """
    while True:
        wanted = list(arrivals(layout))
        if layout.neighbours is None:
            return [pod.uid for pod, _ in wanted]
        assert layout.instance.settled is not None
        there = layout.instance.settled.fork()
        for uid, home in layout.instance.origin.items():
            if not layout.moved(uid):
                there.add(home.pod, layout.state.row_of[home.node])
        done, left = there.bring(wanted)
        if not left:
            return [pod.uid for pod, _ in done]
        if any(pod.uid in layout.instance.origin for pod, _ in left):
            return None
        for pod, _ in left:
            layout.take(pod.uid)
        _take_halves(layout)


def _take_halves(layout: Layout) -> None:
    """Take off what is left of gangs that are no longer whole."""
    for pod in layout.instance.problem.pending:
        placed = pod.uid in layout.state.placements
        if placed and pod.gang is not None and gang_missing(layout, pod.gang):
            layout.take(pod.uid)
