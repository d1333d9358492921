"""When something that is reserved ends next: whoever has simulated time waits for it."""

from __future__ import annotations

import math

from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.state import ClusterState
from tests.builders import described, gang_key, node, pod


def test_the_reservation_that_ends_first_counts_and_dropped_ones_do_not() -> None:
    engine = Engine(ClusterState([node(gpus=4)]), "first-fit")
    held = engine.reservations
    assert held.ends() == math.inf
    for name, until in (("a", 5.0), ("b", 9.0), ("c", math.inf)):
        engine.reserve_until(pod(name, count=1), "n0", until)
    assert held.ends() == 5.0
    engine.reserve_until(pod("a", count=1), "n0", 20.0)  # asked for again
    assert held.ends() == 9.0
    held.drop("b")
    assert held.ends() == 20.0
    held.expire(20.0, spare=lambda _uid: True)
    assert held.ends() == -math.inf  # past its time, and still there
    held.expire(20.0)
    assert held.ends() == math.inf and set(held) == {"c"}


def test_places_of_a_gang_end_when_nobody_asks_for_them() -> None:
    engine = Engine(ClusterState([node(gpus=4)]), "first-fit")
    members = [pod(f"m{i}", count=1, gang=gang_key("g", 2)) for i in range(2)]
    gangs = described(GangCoordinator(engine, ttl_s=60.0), *members)
    assert gangs.ends() == math.inf
    for member in members:
        gangs.on_pod_pending(member)
    gangs.answer(members[0], engine.admitted(members[0]), 10.0)
    assert gangs.ends() == 70.0 and len(engine.reservations) == 2
    gangs.expire(gangs.ends())
    assert not engine.reservations
