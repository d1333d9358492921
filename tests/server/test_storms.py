"""kube-scheduler's group cycles as storms: members x placements, rolled back, repeated, concurrent.

Whatever is asked, ``/debug/state`` is checked by arithmetic of its own: nothing is over-committed,
and no gang is bound in part without places for the rest.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest

from scheduler.core.model import PodRequest
from scheduler.files.dump_writer import pod_json
from scheduler.simulator.kube_scheduler_client import ExtenderClient
from tests.builders import gang_key, gangs_of, node, pod
from tests.depth import examples
from tests.server.conftest import Running

pytestmark = pytest.mark.server

SIZE = 4


def _gang(name: str, size: int = SIZE, **gpu: Any) -> list[PodRequest]:
    key = gang_key(name, size)
    return [pod(f"{name}-{n}", gang=key, **(gpu or {"count": 2})) for n in range(size)]


def _gang_of(name: str) -> str:
    """Gang of a member, or of what stands for one."""
    return name.rsplit("-", 1)[0]


def _body(request: PodRequest) -> bytes:
    return msgspec.json.encode(pod_json(request, gangs=gangs_of(request)))


def _names(server: Running) -> list[str]:
    return [n.name for n in server.engine.state.nodes if n is not None]


def _ask(client: ExtenderClient, request: PodRequest, names: list[str]) -> list[str]:
    passing, failed = client.filter(_body(request), names)
    assert sorted([*passing, *failed]) == sorted(names)
    return passing


def _gather(server: Running, members: list[PodRequest]) -> None:
    """Ask about all of them, who exist by that."""
    for member in members:
        _ask(server.client, member, _names(server))


def _violations(state: dict[str, Any]) -> list[str]:
    """Everything that is wrong with a state, from nothing but its list of pods."""
    wrong = list(state["recount_differences"])
    bound: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for n in state["nodes"]:
        for what in ("cpu_milli", "memory_bytes"):
            if sum(p[what] for p in n["pods"]) > n[what]:
                wrong.append(f"{n['name']}: more {what} than there is")
        used: Counter[int] = Counter()
        for p in n["pods"]:
            gang = _gang_of(p["name"])
            (kept if p["reserved"] else bound)[gang] += 1
            for share in p["devices"]:
                used[share["index"]] += share["milli"]
        if any(not 0 <= i < len(n["devices"]) or milli > 1000 for i, milli in used.items()):
            wrong.append(f"{n['name']}: a device is claimed twice: {used}")
    for gang, count in bound.items():
        if gang.startswith("gang") and count + kept[gang] < SIZE:
            wrong.append(f"{gang}: {count} bound, {kept[gang]} places kept")
    for gang, count in kept.items():
        if gang.startswith("gang") and count + bound[gang] != SIZE:
            wrong.append(f"{gang}: {count} places kept of {SIZE - bound[gang]}")
    return wrong


class Caller(threading.Thread):
    """A kube-scheduler that runs group cycles at random and takes nothing of it seriously."""

    def __init__(
        self, server: Running, gangs: list[list[PodRequest]], seed: int, cycles: int
    ) -> None:
        super().__init__(daemon=True)
        self.client = ExtenderClient(server.url, timeout_s=60)
        self.random = random.Random(seed)
        names = _names(server)
        half = len(names) // 2
        self.placements = [names, names[:half], names[half:]]
        self.gangs, self.cycles = gangs, cycles
        self.error: BaseException | None = None
        self.passed = 0

    def run(self) -> None:
        try:
            for _ in range(self.cycles):
                self._cycle()
        except BaseException as error:  # noqa: BLE001 - raised again by the test's own thread
            self.error = error
        finally:
            self.client.close()

    def _cycle(self) -> None:
        draw = self.random
        members = draw.choice(self.gangs)
        for placement in draw.sample(self.placements, draw.randint(1, 3)):
            for member in draw.sample(members, draw.randint(1, SIZE)):
                passing = _ask(self.client, member, draw.sample(placement, len(placement)))
                assert len(passing) <= 1
                self.passed += len(passing)


@contextmanager
def _storm(
    server: Running, gangs: list[list[PodRequest]], *, callers: int = 3, cycles: int = 60
) -> Iterator[None]:
    """Callers at work; at the end they must all have come through, and some got a place."""
    storm = [Caller(server, gangs, seed, cycles) for seed in range(callers)]
    for caller in storm:
        caller.start()
    yield
    for caller in storm:
        caller.join(timeout=120)
        assert not caller.is_alive()
        if caller.error is not None:
            raise caller.error
    assert sum(caller.passed for caller in storm)


def _bind_whole(server: Running, members: list[PodRequest]) -> bool:
    """One group cycle that is meant: all members pass, then all are bound; else none is."""
    places = [_ask(server.client, member, _names(server)) for member in members]
    if not all(places):
        return False
    for member, place in zip(members, places, strict=True):
        assert server.client.bind(member, place[0]) == ""
    return True


@pytest.fixture
def server(start: Callable[..., Running]) -> Running:
    """Room for three gangs of four pods with two devices each."""
    return start([node(f"n{i}", gpus=4) for i in range(6)], gang_ttl_s=30.0, threads=8)


GANGS = [_gang(f"gang{letter}") for letter in "abcd"]


@pytest.mark.scaled
@pytest.mark.parametrize("seed", range(3))
def test_the_same_question_has_the_same_answer(server, seed: int) -> None:
    names, rng = _names(server), random.Random(seed)
    placements = [names, names[:3], names[3:]]
    members = _gang("gang")
    _gather(server, members)
    answers: dict[tuple[str, int], list[str]] = {}
    for _ in range(examples(100, 1000)):
        member, which = rng.choice(members), rng.randrange(3)
        offered = rng.sample(placements[which], len(placements[which]))
        passing = _ask(server.client, member, offered)
        assert len(passing) == 1 and set(passing) <= set(offered)
        assert answers.setdefault((member.uid, which), passing) == passing
        scores = server.client.prioritize(_body(member), passing)
        assert scores == {passing[0]: 10}
    assert _violations(server.client.get("/debug/state")) == []


def test_concurrent_storms_leave_nothing_behind(server) -> None:
    with _storm(server, GANGS):
        for _ in range(20):
            assert _violations(server.client.get("/debug/state")) == []
            time.sleep(0.02)
    assert _violations(server.client.get("/debug/state")) == []
    server.skipped_s += 31.0
    state = server.client.get("/debug/state")
    assert all(not n["pods"] for n in state["nodes"]) and not server.engine.reservations


def test_whole_gangs_are_bound_in_the_middle_of_storms(server) -> None:
    """Three of the four fit; the fourth waits whole, and comes when one has gone."""
    bound: list[list[PodRequest]] = []
    with _storm(server, GANGS, cycles=80):
        deadline = time.monotonic() + 60
        while len(bound) < 3 and time.monotonic() < deadline:
            for members in GANGS:
                if members not in bound and _bind_whole(server, members):
                    bound.append(members)
                assert _violations(server.client.get("/debug/state")) == []
    assert len(bound) == 3
    waiting = next(members for members in GANGS if members not in bound)
    for member in waiting:
        assert _ask(server.client, member, _names(server)) == []
    state = server.client.get("/debug/state")
    running = [p for n in state["nodes"] for p in n["pods"]]
    assert len(running) == 3 * SIZE and not any(p["reserved"] for p in running)
    for member in bound[0]:
        server.client.release(member.uid)
    assert _bind_whole(server, waiting)
    assert _violations(server.client.get("/debug/state")) == []


def test_the_planner_is_killed_again_and_again_in_the_middle(start) -> None:
    server = start(
        [node(f"n{i}", gpus=4) for i in range(6)],
        threads=8,
        planner=True,
        planner_debounce_s=0.05,
        planner_budget_s=30.0,
        reservation_ttl_s=600.0,
        gang_ttl_s=600.0,
    )
    planner, killed, done = server.planner, [], threading.Event()

    def kill() -> None:
        while not done.wait(0.15):
            pid = planner.pid
            if pid is not None and pid not in killed:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    deadline = time.monotonic() + 150
    while len(killed) < 3:
        assert time.monotonic() < deadline, "no planner was there to be killed"
        with _storm(server, GANGS, cycles=20):
            # Another pod changes the backlog, so that there is something to plan.
            _ask(server.client, pod(f"lone-{len(killed)}-{time.monotonic()}", count=1), ["n0"])
        assert _violations(server.client.get("/debug/state")) == []
    done.set()
    killer.join()
    assert planner.figures.faults["crashed"] + planner.figures.faults["failed"] > 0
    # Which of the gangs came first is the callers' luck; who has places now can be bound.
    state = server.client.get("/debug/state")
    kept = {_gang_of(p["name"]) for n in state["nodes"] for p in n["pods"] if p["reserved"]}
    whole = [members for members in GANGS if _gang_of(members[0].name) in kept]
    assert len(whole) >= 2
    for members in [*whole, *(members for members in GANGS if members not in whole)]:
        assert _bind_whole(server, members) == (members in whole)
    assert _violations(server.client.get("/debug/state")) == []


def test_a_gang_that_cannot_fit_never_holds_anything(server) -> None:
    giant = _gang("giant", 13, count=2)
    _gather(server, giant)
    small = [pod(f"small-{i}", count=2) for i in range(12)]
    for member, request in zip(giant, [*small, None], strict=True):
        body = _body(member)
        passing, failed = server.client.filter(body, _names(server))
        assert passing == []
        places = 12 - len(_bound(server))
        needs = f"needs {2 * (13 - places)} more devices of any model"
        found = f"{places} of 13 missing members have a place"
        assert set(failed.values()) == {f"gang does not fit: {needs}; {found}"}
        assert not server.engine.reservations
        if request is not None:
            place = _best(server, request)
            assert server.client.bind(request, place) == ""
    assert len(_bound(server)) == 12


def _bound(server: Running) -> set[str]:
    return set(server.engine.state.placements) - set(server.engine.reservations)


def _let_in(server: Running, request: PodRequest) -> list[str]:
    """Nodes that kube-scheduler's own filters leave: those of a model that the pod selects."""
    wanted = request.gpu.products
    nodes = [node for node in server.engine.state.nodes if node is not None]
    return [node.name for node in nodes if not wanted or node.product in wanted]


def _best(server: Running, request: PodRequest) -> str:
    """Node of one ordinary cycle; empty if there is none."""
    passing = _ask(server.client, request, _let_in(server, request))
    if len(passing) > 1:
        scores = server.client.prioritize(_body(request), passing)
        return max(passing, key=lambda name: scores.get(name, 0))
    return passing[0] if passing else ""


def test_a_big_gang_is_not_starved_by_small_pods(start) -> None:
    """Small pods come without end; after a wait what comes free is kept for the gang.

    Pods that fit around it go on: those of another model lose nothing.
    """
    label = "nvidia.com/gpu.product"
    nodes = [node(f"t4-{i}", gpus=2, labels={label: "T4"}) for i in range(2)]
    nodes.append(node("a10", gpus=4, product="A10", labels={label: "A10"}))
    server = start(nodes, gang_reserve_after_s=60.0, gang_ttl_s=600.0)
    gang = _gang("gang", count=1, products=("T4",))
    _gather(server, gang[1:])
    running = []
    for number in range(4):
        request = pod(f"first-{number}", count=1, products=("T4",))
        assert server.client.bind(request, _best(server, request)) == ""
        running.append(request)
    assert _ask(server.client, gang[0], _let_in(server, gang[0])) == []
    around, number = 0, 0
    for step in range(12):
        server.skipped_s += 10.0
        server.client.release(running.pop(0).uid)
        for member in gang:
            _ask(server.client, member, _let_in(server, member))
        late = pod(f"late-{step}", count=1, products=("T4",))
        place = _best(server, late)
        if place:  # the gang has not waited long enough
            assert step < 6 and server.client.bind(late, place) == ""
            running.append(late)
        else:
            assert step >= 5
            number += 1
        elsewhere = pod(f"elsewhere-{step}", count=1, products=("A10",))
        if around < 4:
            assert server.client.bind(elsewhere, _best(server, elsewhere)) == ""
            around += 1
        if not running:
            break
    assert number >= 4 and around >= 4
    assert _bind_whole(server, gang)


def test_a_last_member_that_has_one_node_left(start) -> None:
    """In-tree filters have taken the others away, and prioritize is skipped."""
    server = start([node(f"n{i}", gpus=4) for i in range(3)])
    members = _gang("gang", count=1)
    _gather(server, members)
    for member in members[:3]:
        assert len(_ask(server.client, member, _names(server))) == 1
    for name in ("n2", "n0", "n2"):
        assert _ask(server.client, members[3], [name]) == [name]
    assert server.client.bind(members[3], "n2") == ""
    assert all(_ask(server.client, member, _names(server)) for member in members[:3])
    assert _violations(server.client.get("/debug/state")) == []
    for member in members[:3]:
        place = _ask(server.client, member, _names(server))
        assert server.client.bind(member, place[0]) == ""
    state = server.client.get("/debug/state")
    assert not any(p["reserved"] for n in state["nodes"] for p in n["pods"])


def test_a_member_that_fails_in_tree_rolls_the_others_back(start) -> None:
    """Nobody tells us. The cycle that comes again gets the answers of before, for some time."""
    server = start([node(f"n{i}", gpus=2) for i in range(4)], gang_ttl_s=20.0)
    members = _gang("gang", 5, count=1)
    _gather(server, [*members[:4], members[4]])
    server.skipped_s += 20.5  # and is not asked about again
    _gather(server, members[:4])
    said = []
    for _ in range(8):
        said.append([_ask(server.client, member, _names(server)) for member in members[:4]])
        server.skipped_s += 5.5
    assert said[0] == said[1] == said[2] and all(said[0])
    assert said[4] == said[7] == [[], [], [], []]
    state = server.client.get("/debug/state")
    assert all(not n["pods"] for n in state["nodes"])
