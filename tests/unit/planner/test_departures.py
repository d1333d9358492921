"""Whether a cluster fills or holds its level."""

from __future__ import annotations

import pytest

from scheduler.planner.pricing.departures import DepartureRate
from tests.builders import pod

POD = pod(count=1)


def test_a_cluster_that_only_fills() -> None:
    turnover = DepartureRate()
    assert turnover.share == 0
    for _ in range(500):
        turnover.on_pod_placed(POD)
    assert turnover.share == 0


def test_a_running_cluster_holds_its_level_until_it_is_seen_to_fill() -> None:
    turnover = DepartureRate([POD] * 10)
    assert turnover.share == 1
    for _ in range(900):
        turnover.on_pod_placed(POD)
    assert turnover.share < 0.15


def test_one_leaves_for_each_that_comes() -> None:
    turnover = DepartureRate()
    for _ in range(900):
        turnover.on_pod_placed(POD)
        turnover.on_pod_left(POD)
    assert 0.8 < turnover.share <= 1


def test_a_cluster_that_empties_counts_as_one_that_holds() -> None:
    turnover = DepartureRate([POD] * 5)
    for _ in range(50):
        turnover.on_pod_left(POD)
    assert turnover.share == 1


def test_a_cluster_that_has_emptied_is_not_owed_pods() -> None:
    """It is seen to fill as soon as one that held its level is."""
    emptied, level = DepartureRate([POD] * 1000), DepartureRate([POD] * 1)
    for _ in range(1000):
        emptied.on_pod_left(POD)
    assert emptied.share == level.share == 1.0
    for _ in range(400):
        emptied.on_pod_placed(POD)
        level.on_pod_placed(POD)
    assert emptied.share == pytest.approx(level.share, rel=0.01) and level.share < 0.2


def test_what_was_long_ago_is_forgotten_as_the_cluster_is_renewed() -> None:
    """A cluster ten times as large takes ten times as many pods for that."""
    shares = []
    for running in (100, 1000):
        turnover = DepartureRate()
        for _ in range(running):
            turnover.on_pod_placed(POD)
        for _ in range(500):
            turnover.on_pod_placed(POD)
            turnover.on_pod_left(POD)
        shares.append(turnover.share)
    assert shares[0] > 0.9 and 0.2 < shares[1] < 0.5


def test_pods_without_devices_do_not_count() -> None:
    """Jobs without GPU come and go; the others only come."""
    job = pod()
    turnover = DepartureRate([job] * 50)
    for _ in range(200):
        turnover.on_pod_placed(POD)
        turnover.on_pod_placed(job)
        turnover.on_pod_left(job)
    assert turnover.share == 0
