"""What pods take of a row by number alone: cpu, memory, pod slots, and each counted resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import Placement, Shape
from scheduler.core.state import ClusterState

__all__ = ["POD_SLOTS", "Axis", "axes_of"]

IntArray = NDArray[np.int64]

POD_SLOTS = "pods"
"""Name of the axis of which every pod takes one."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One resource, and what kinds of pods take of it.

    Attributes
    ----------
    name
        ``cpu``, ``memory``, ``pods``, or that of a counted resource.
    room : (N,) int64
        What rows have without any pod in play; negative where they are over-full all the same.
    need : (K,) int64
        What a pod of each kind takes.
    scale
        Most that any row has in all, at least 1: makes what is left on different axes comparable.
    """

    name: str
    room: IntArray
    need: IntArray
    scale: float

    def free(self, state: ClusterState) -> IntArray:
        """What rows have left in this state, (N,)."""
        return _columns(state, self.name)[0]

    def needs(self, kinds: Sequence[int] | Mapping[int, object]) -> dict[int, int]:
        """What pods of these kinds take."""
        return {kind: int(self.need[kind]) for kind in kinds}


def _columns(state: ClusterState, name: str) -> tuple[IntArray, IntArray]:
    """What rows have left, and what they have in all."""
    match name:
        case "cpu":
            return state.cpu_free, state.cpu_alloc
        case "memory":
            return state.mem_free, state.mem_alloc
        case "pods":
            return state.pods_free, state.pods_alloc
    code, rows = state.counted.code(name), len(state)
    return state.counted.free[:rows, code], state.counted.offered[:rows, code]


def axes_of(
    state: ClusterState, shapes: Sequence[Shape], origins: Sequence[Placement]
) -> tuple[Axis, ...]:
    """The axes of a problem: cpu, memory, pod slots, and what its kinds ask for besides.

    Parameters
    ----------
    shapes
        Of the kinds.
    origins
        Running pods in play, which are taken off their rows.
    """
    asked = [dict(shape.counted) for shape in shapes]
    # What no node offers is on no row, or counted by somebody else.
    names = sorted({n for each in asked for n in each if state.counted.code(n) >= 0})
    needs = {
        "cpu": [shape.cpu_milli for shape in shapes],
        "memory": [shape.memory_bytes for shape in shapes],
        POD_SLOTS: [1] * len(shapes),
    } | {name: [each.get(name, 0) for each in asked] for name in names}
    made = []
    for name, need in needs.items():
        free, offered = _columns(state, name)
        room = free.astype(np.int64)
        for placement in origins:
            row, taken = state.row_of[placement.node], _taken(placement, name)
            if taken and (name not in names or offered[row]):
                room[row] += taken
        scale = float(max(1, offered.max(initial=1)))
        made.append(Axis(name, room, np.array(need, dtype=np.int64), scale))
    return tuple(made)


def _taken(placement: Placement, name: str) -> int:
    pod = placement.pod
    match name:
        case "cpu":
            return pod.cpu_milli
        case "memory":
            return pod.memory_bytes
        case "pods":
            return 1
    return dict(pod.counted).get(name, 0)
