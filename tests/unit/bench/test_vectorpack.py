"""Vector bin packing: against every partition of tiny instances, and known optima."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.vectorpack.packer import VectorInstance, _check, pack_bins
from bench.vectorpack.reader import read
from scheduler.core.errors import InvalidInput, SolverFault
from scheduler.planner.effort import Budget
from tests.depth import examples


def _instance(capacity, items, demand=None) -> VectorInstance:
    sizes = np.array(items, dtype=np.int64).reshape(-1, len(capacity))
    counts = np.array(demand or [1] * len(sizes), dtype=np.int64)
    return VectorInstance(np.array(capacity, dtype=np.int64), sizes, counts)


def _optimum(capacity: tuple[int, ...], items: list[tuple[int, ...]]) -> int:
    """Fewest bins by dynamic programming over subsets."""
    fits = [
        all(
            sum(size[axis] for i, size in enumerate(items) if mask >> i & 1) <= room
            for axis, room in enumerate(capacity)
        )
        for mask in range(1 << len(items))
    ]

    @cache
    def fewest(mask: int) -> int:
        if not mask:
            return 0
        lowest, best, part = mask & -mask, len(items), mask
        while part:
            if part & lowest and fits[part]:
                best = min(best, 1 + fewest(mask & ~part))
            part = (part - 1) & mask
        return best

    return fewest((1 << len(items)) - 1)


@settings(
    max_examples=examples(15, 100),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    st.integers(1, 3).flatmap(
        lambda d: st.lists(st.tuples(*[st.integers(0, 10)] * d), min_size=1, max_size=8)
    )
)
def test_tiny_instances_against_every_partition(items: list[tuple[int, ...]]) -> None:
    capacity = (10,) * len(items[0])
    made = pack_bins(_instance(capacity, items), Budget(1.0, deterministic=True))
    best = _optimum(capacity, items)
    assert made.bound <= best <= made.bins
    if made.status == "PROVED":
        assert made.bins == best


def test_greedy_choices_are_overcome() -> None:
    """Items of 6, 5, 5, 4, 4, 3, 3 fill three bins of 10 only if 6 meets 4 and 5 meets 5."""
    made = pack_bins(_instance((10,), [6, 5, 5, 4, 4, 3, 3]), Budget(2.0, deterministic=True))
    assert (made.bins, made.status) == (3, "PROVED")


def test_demands_are_copies() -> None:
    made = pack_bins(_instance((10, 10), [(4, 1), (1, 4)], [4, 4]), Budget(1.0, deterministic=True))
    assert (made.bins, made.bound) == (2, 2)
    assert np.array(made.patterns).sum(axis=0).tolist() == [4, 4]


def test_nothing_to_pack() -> None:
    assert pack_bins(_instance((10,), [5], [0]), Budget(1.0, deterministic=True)).bins == 0


@pytest.mark.parametrize(
    ("capacity", "items", "says"),
    [((10,), [11], "larger than a bin"), ((10,), [-1], "negative"), ((0,), [0], "capacity")],
)
def test_impossible_instances_are_refused(capacity, items, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        _instance(capacity, items)


def test_the_check_rejects_wrong_packings() -> None:
    instance = _instance((10,), [6, 5])
    for patterns in ([(1, 1)], [(1, 0)]):
        with pytest.raises(SolverFault):
            _check(instance, patterns)


def test_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.vbp"
    path.write_text("2\n10 20\n2\n1 2 3\n4 5 6\n")
    content = read(path)
    assert (content.name, content.capacity) == ("x", (10, 20))
    assert (content.sizes, content.demand) == (((1, 2), (4, 5)), (3, 6))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("2 10 20", "number of rows"),
        ("2 10 20 1 1 2", "2 numbers for 1 rows"),
        ("2 10 x", "holds 'x'"),
    ],
)
def test_broken_files_are_explained(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.vbp"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        read(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(tmp_path / "absent.vbp")
