"""Values of residual capacities: the knapsack against trying every multiset."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.price_tables import WORTH_SHAPE
from scheduler.planner.pricing.node_values import residual_values
from tests.depth import examples

_ITEMS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(0, 50)), min_size=0, max_size=3
)


@settings(max_examples=examples(15, 60), deadline=None)
@given(_ITEMS, st.integers(0, 12), st.integers(0, 10))
def test_the_best_multiset_that_fits(items: list[tuple[int, int, int]], row: int, col: int) -> None:
    best = 0
    for counts in product(range(row + 1), repeat=len(items)):
        down = sum(n * item[0] for n, item in zip(counts, items, strict=True))
        right = sum(n * item[1] for n, item in zip(counts, items, strict=True))
        if down <= row and right <= col:
            best = max(best, sum(n * item[2] for n, item in zip(counts, items, strict=True)))
    assert residual_values(items)[row, col] == best


def test_nothing_is_worth_nothing() -> None:
    assert residual_values([]).shape == WORTH_SHAPE
    assert not residual_values([(1, 1, 0), (0, 0, 5)]).any()


def test_more_is_never_worth_less() -> None:
    worth = residual_values([(3, 8, 100), (12, 10, 130), (5, 0, 20)])
    assert (np.diff(worth, axis=0) >= 0).all() and (np.diff(worth, axis=1) >= 0).all()
