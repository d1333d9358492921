"""The backlog generator: the published check rows."""

from __future__ import annotations

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.simulator.backlog import BacklogCase, default_schedule, replica_sets


@pytest.mark.parametrize(
    ("seed", "cpu", "memory", "pending"),
    [
        (484806185843093489, 1942, 2246695890, [2, 2]),
        (4219457405427907235, 1703, 2205016742, [1, 1, 1]),
    ],
)
def test_published_check_rows(seed: int, cpu: int, memory: int, pending: list[int]) -> None:
    nodes, pods = replica_sets(BacklogCase(seed, 8, 4, 4, 0.95))
    assert {(node.cpu_milli, node.memory_bytes) for node in nodes} == {(cpu, memory)}
    assert (len(nodes), len(pods)) == (8, 32)
    state, left = default_schedule(nodes, pods)
    assert [pod.priority for pod in left] == pending
    assert len(state.placements) == 32 - len(pending) and state.check() == []


@pytest.mark.parametrize("field", ["nodes", "pods_per_node", "priorities", "utilisation"])
def test_impossible_cases_are_refused(field: str) -> None:
    values = {"nodes": 4, "pods_per_node": 4, "priorities": 1, "utilisation": 0.9, field: 0}
    with pytest.raises(InvalidInput, match=field):
        BacklogCase(1, **values)
