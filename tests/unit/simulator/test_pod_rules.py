"""Simulations keep the rules between pods, whatever the protocol."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scheduler.core.engine import Engine
from scheduler.core.model import PodRequest, Requirement
from scheduler.core.peers import HostPort, Peer, PeerTerm, PodSelector, Spread
from scheduler.files.workload import Arrival, BoundPod, Workload
from scheduler.simulator.emulator import EmulatedScheduler, SchedulerProfile
from scheduler.simulator.inflation import Experiment, run
from scheduler.simulator.replay import replay
from tests.builders import node, pod

_WEB = PodSelector(("default",), (Requirement("app", "In", ("web",)),))
_LABELS = (("app", "web"),)
_NODES = tuple(node(f"n{i}", gpus=4, labels={"host": f"n{i}"}) for i in range(3))

ALONE = Peer(_LABELS, anti_affinity=(PeerTerm(_WEB, "host"),))
SPREAD = Peer(_LABELS, spread=(Spread(_WEB, "host"),))
PORT = Peer(ports=(HostPort(80),))
BESIDE_WEB = Peer(affinity=(PeerTerm(_WEB, "host"),))


def _pods(count: int, peer: Peer | None) -> tuple[PodRequest, ...]:
    return tuple(pod(f"p{i}", count=1, peer=peer) for i in range(count))


def _placed(workload: Workload, way: str) -> dict[str, str]:
    """Where pods are at the end, by uid."""
    seen: dict[str, str] = {}

    def look(_: object, __: object, engine: object) -> None:
        engine = engine if isinstance(engine, Engine) else __
        assert isinstance(engine, Engine)
        seen.update({uid: placed.node for uid, placed in engine.state.placements.items()})

    def emulated(engine: Engine) -> EmulatedScheduler:
        return EmulatedScheduler(engine, SchedulerProfile())

    selector: Callable[[Engine], EmulatedScheduler] | None = (
        emulated if way.endswith("emulated") else None
    )
    if way.startswith("replay"):
        end = Arrival(pod("end", cpu=1, memory=1), at_s=1000.0)
        timed = Workload(workload.nodes, (*workload.arrivals, end), workload.bound)
        replay(
            timed,
            Experiment("best-fit", 0),
            selector=selector,
            plan_every_s=60.0 if "planned" in way else 0.0,
            observe=look,
        )
        seen.pop("end", None)
    else:
        run(workload, Experiment("best-fit", 0, "as-listed"), selector=selector, observe=look)
    return seen


WAYS = ["listed", "listed emulated", "replay", "replay emulated", "replay planned"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("peer", [ALONE, PORT])
def test_pods_that_exclude_each_other_get_a_node_each(peer: Peer, way: str) -> None:
    found = _placed(Workload(_NODES, tuple(map(Arrival, _pods(5, peer)))), way)
    assert sorted(found.values()) == ["n0", "n1", "n2"]


@pytest.mark.parametrize("way", WAYS)
def test_pods_are_spread_beside_those_that_run(way: str) -> None:
    running = (BoundPod(pod("r", count=1, peer=Peer(_LABELS)), "n0"),)
    found = _placed(Workload(_NODES, tuple(map(Arrival, _pods(5, SPREAD))), running), way)
    assert sorted(found.values()) == ["n0", "n0", "n1", "n1", "n2", "n2"]


@pytest.mark.parametrize("way", ["replay", "replay emulated", "replay planned"])
def test_who_waits_for_company_comes_once_it_is_there(way: str) -> None:
    guest = Arrival(pod("guest", count=1, peer=BESIDE_WEB), at_s=0.0)
    host = Arrival(pod("host", count=1, peer=Peer(_LABELS)), at_s=100.0)
    found = _placed(Workload(_NODES, (guest, host)), way)
    assert found["guest"] == found["host"]


@pytest.mark.parametrize("way", ["replay", "replay emulated"])
def test_a_port_is_free_again_once_its_pod_has_gone(way: str) -> None:
    first, second = _pods(2, PORT)
    arrivals = (Arrival(first, 0.0, 50.0), Arrival(second, 10.0))
    assert _placed(Workload(_NODES[:1], arrivals), way)["p1"] == "n0"
