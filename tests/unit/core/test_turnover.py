"""Whether a cluster fills or holds its level."""

from __future__ import annotations

import pytest

from scheduler.core.turnover import Turnover
from tests.builders import pod

POD = pod(count=1)


def test_a_cluster_that_only_fills() -> None:
    turnover = Turnover()
    assert turnover.share == 0
    for _ in range(500):
        turnover.comes(POD)
    assert turnover.share == 0


def test_a_running_cluster_holds_its_level_until_it_is_seen_to_fill() -> None:
    turnover = Turnover([POD] * 10)
    assert turnover.share == 1
    for _ in range(900):
        turnover.comes(POD)
    assert turnover.share < 0.15


def test_one_leaves_for_each_that_comes() -> None:
    turnover = Turnover()
    for _ in range(900):
        turnover.comes(POD)
        turnover.leaves(POD)
    assert 0.8 < turnover.share <= 1


def test_a_cluster_that_empties_counts_as_one_that_holds() -> None:
    turnover = Turnover([POD] * 5)
    for _ in range(50):
        turnover.leaves(POD)
    assert turnover.share == 1


def test_a_cluster_that_has_emptied_is_not_owed_pods() -> None:
    """It is seen to fill as soon as one that held its level is."""
    emptied, level = Turnover([POD] * 1000), Turnover([POD] * 1)
    for _ in range(1000):
        emptied.leaves(POD)
    assert emptied.share == level.share == 1.0
    for _ in range(400):
        emptied.comes(POD)
        level.comes(POD)
    assert emptied.share == pytest.approx(level.share, rel=0.01) and level.share < 0.2


def test_what_was_long_ago_is_forgotten_as_the_cluster_is_renewed() -> None:
    """A cluster ten times as large takes ten times as many pods for that."""
    shares = []
    for running in (100, 1000):
        turnover = Turnover()
        for _ in range(running):
            turnover.comes(POD)
        for _ in range(500):
            turnover.comes(POD)
            turnover.leaves(POD)
        shares.append(turnover.share)
    assert shares[0] > 0.9 and 0.2 < shares[1] < 0.5


def test_pods_without_devices_do_not_count() -> None:
    """Jobs without GPU come and go; the others only come."""
    job = pod()
    turnover = Turnover([job] * 50)
    for _ in range(200):
        turnover.comes(POD)
        turnover.comes(job)
        turnover.leaves(job)
    assert turnover.share == 0
