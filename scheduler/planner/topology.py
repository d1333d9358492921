"""Domains of the topology (rack, zone, ...): how near to each other the members of a gang are.

Being near is a wish, not a condition: a gang that no domain of the narrowest key can hold goes into
one of the next, at last into the whole cluster. The plan says so. What is placed near is not torn
apart again by the search.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import GangKey
from scheduler.planner.layout import Layout

__all__ = ["domains", "gang_levels", "splits_gang", "widened"]

BoolArray = NDArray[np.bool_]


def domains(layout: Layout, gang: GangKey) -> Iterator[BoolArray]:
    """Row masks to try for a gang, (N,): domains of each key, then the whole cluster.

    Of one key, domains where members run already come first, then those with least room, so that
    large ones are kept for large gangs.
    """
    state = layout.state
    present = np.array([node is not None for node in state.nodes], dtype=bool)
    keys = layout.instance.problem.topology
    hosting = set(_rows_of(layout).get(gang, ())) if keys else set()
    for key in keys:
        by_value: dict[str, list[int]] = defaultdict(list)
        for row, node in enumerate(state.nodes):
            if node is not None and key in node.labels:
                by_value[node.labels[key]].append(row)
        room = {value: int(state.gpu_left[rows].sum()) for value, rows in by_value.items()}
        far = {value: hosting.isdisjoint(rows) for value, rows in by_value.items()}
        for value in sorted(by_value, key=lambda value: (far[value], room[value], value)):
            mask = np.zeros(len(state), dtype=bool)
            mask[by_value[value]] = True
            yield mask
    yield present


def gang_levels(layout: Layout) -> dict[GangKey, int]:
    """Per gang with a place: the first topology key of which one domain holds it whole.

    The number of keys stands for the whole cluster. Empty if the problem names no keys.
    """
    keys = layout.instance.problem.topology
    if not keys:
        return {}
    found = {}
    for gang, rows in _rows_of(layout).items():
        found[gang] = len(keys)
        for level, key in enumerate(keys):
            nodes = [layout.state.nodes[row] for row in rows]
            values = {node.labels.get(key) for node in nodes if node is not None}
            if len(values) == 1 and None not in values:
                found[gang] = level
                break
    return found


def splits_gang(before: Mapping[GangKey, int], after: Mapping[GangKey, int]) -> bool:
    """Whether some gang is less near together than before."""
    return any(after.get(gang, level) > level for gang, level in before.items())


def widened(layout: Layout) -> Iterator[str]:
    """A line for each gang that is not within one domain of the narrowest key."""
    keys = layout.instance.problem.topology
    pending = {pod.gang for pod in layout.instance.problem.pending}
    for gang, level in gang_levels(layout).items():
        if level and gang in pending:
            name = gang.label
            where = f"one {keys[level]}" if level < len(keys) else "the whole cluster"
            yield f"gang {name} found no single {keys[0]} and is spread over {where}"


def _rows_of(layout: Layout) -> dict[GangKey, list[int]]:
    rows: dict[GangKey, list[int]] = defaultdict(list)
    for placement in layout.state.placements.values():
        if placement.pod.gang is not None:
            rows[placement.pod.gang].append(layout.state.row_of[placement.node])
    return rows
