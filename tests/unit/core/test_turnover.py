"""Whether a cluster fills or holds its level."""

from __future__ import annotations

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.core.turnover import Turnover


def test_a_cluster_that_only_fills() -> None:
    turnover = Turnover()
    assert turnover.share == 0
    for _ in range(500):
        turnover.comes()
    assert turnover.share == 0


def test_a_running_cluster_holds_its_level_until_it_is_seen_to_fill() -> None:
    turnover = Turnover(running=10)
    assert turnover.share == 1
    for _ in range(900):
        turnover.comes()
    assert turnover.share < 0.15


def test_one_leaves_for_each_that_comes() -> None:
    turnover = Turnover()
    for _ in range(900):
        turnover.comes()
        turnover.leaves()
    assert 0.8 < turnover.share <= 1


def test_a_cluster_that_empties_counts_as_one_that_holds() -> None:
    turnover = Turnover(running=5)
    for _ in range(50):
        turnover.leaves()
    assert turnover.share == 1


def test_a_cluster_that_has_emptied_is_not_owed_pods() -> None:
    """It is seen to fill as soon as one that held its level is."""
    emptied, level = (Turnover(running=1, half_life_pods=500) for _ in range(2))
    for _ in range(10_000):
        emptied.leaves()
    assert emptied.share == level.share == 1.0
    for _ in range(500):
        emptied.comes()
        level.comes()
    assert emptied.share == level.share < 0.2


def test_what_was_long_ago_is_forgotten() -> None:
    turnover = Turnover(half_life_pods=100)
    for _ in range(1000):
        turnover.comes()
    for _ in range(1000):
        turnover.comes()
        turnover.leaves()
    assert turnover.share > 0.99
    with pytest.raises(InvalidInput, match="half_life_pods"):
        Turnover(half_life_pods=0)
