"""Gangs that keep a part of their places take turns, whatever else happens in the cluster."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.gangs.states import Life
from scheduler.core.model import PodRequest
from scheduler.core.state import ClusterState
from tests.builders import described, gang_key, node, pod

TTL = 60.0


class Cluster:
    """Two of four devices are in use, and each gang wants all four."""

    def __init__(self) -> None:
        self.engine = Engine(ClusterState([node("a", gpus=4)]), "best-fit")
        self.engine.place_on(pod("runs", count=2), "a")
        self.gangs = GangCoordinator(self.engine, ttl_s=TTL, reserve_after_s=TTL)
        self.now = 0.0

    def gang(self, name: str) -> list[PodRequest]:
        members = [pod(f"{name}-{n}", gang=gang_key(name, 4), count=1) for n in range(4)]
        described(self.gangs, *members)
        for member in members:
            self.gangs.on_pod_pending(member)
        return members

    def ask(self, request: PodRequest) -> int:
        return self.gangs.answer(request, np.arange(1), self.now).row

    def reserves(self, members: list[PodRequest]) -> bool:
        key = members[0].gang
        assert key is not None
        return self.gangs.state_of(key) is Life.RESERVED


@pytest.mark.parametrize("other_news", [False, True])
def test_a_reservation_in_part_gives_way_to_others_after_its_time(other_news: bool) -> None:
    """Members are asked about every few seconds, whether or not anything else happens."""
    cluster = Cluster()
    gangs = [cluster.gang(name) for name in "gh"]
    lives: list[list[bool]] = [[], []]
    for _ in range(200):
        for members in gangs:
            assert [cluster.ask(member) for member in members] == [-1] * 4
            if other_news:
                cluster.engine.place_on(pod("passes"), "a")
                cluster.engine.release("passes")
        for seen, members in zip(lives, gangs, strict=True):
            seen.append(cluster.reserves(members))
        cluster.now += 10.0
    for seen in lives:
        turns = [len(list(run)) for reserves, run in groupby(seen) if reserves]
        assert len(turns) >= 2
        assert all(turn == 5 * TTL / 10 for turn in turns[:-1]), turns


def test_a_reservation_in_part_that_members_come_late_for_gives_way_too() -> None:
    """Who is not asked about loses the place; whoever asks next does not begin at once anew."""
    cluster = Cluster()
    gang, others = cluster.gang("g"), cluster.gang("h")
    turns = set()
    for step in range(100):
        cluster.ask(gang[step // 6 % 2])
        for member in others:
            cluster.ask(member)
        turns |= {name for name, each in (("g", gang), ("h", others)) if cluster.reserves(each)}
        cluster.now += 10.0
    assert turns == {"g", "h"}
