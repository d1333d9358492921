"""Gangs in plans: elastic ones, roles that each need somebody, and what is said to be missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.core.engine import Engine
from scheduler.core.errors import SolverFault
from scheduler.core.gangs.spec import GangSpec, Role
from scheduler.core.model import GangKey, Placement, PodRequest
from scheduler.core.state import ClusterState
from scheduler.planner.check import check
from scheduler.planner.effort import Budget
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, Plan, Problem, Status
from tests.builders import node, pod

KEY = GangKey("jobset", "default", "g")


def _members(number: int, role: str = "", **asks) -> list[PodRequest]:
    made = [pod(f"{role}{n}", gang=KEY, **(asks or {"count": 1})) for n in range(number)]
    return [replace(member, role=role) for member in made]


def _problem(pending, gpus: int, spec: GangSpec, running=(), **rest) -> Problem:
    engine = Engine(ClusterState([node("a", gpus=gpus)]), "first-fit")
    for request in running:
        engine.place_on(request, "a")
    return Problem(engine.state.snapshot(), tuple(pending), gangs={spec.key: spec}, **rest)


def _plan(*args, **rest) -> Plan:
    return plan(_problem(*args, **rest), Budget(2.0, deterministic=True))


@pytest.mark.parametrize(
    ("gpus", "running", "placed"),
    [(4, 0, 4), (3, 0, 3), (2, 0, 2), (1, 0, 0), (2, 1, 1), (3, 2, 1)],
)
def test_an_elastic_gang_gets_its_minimum_or_more(gpus: int, running: int, placed: int) -> None:
    there = [replace(member, uid=f"r{n}") for n, member in enumerate(_members(running))]
    made = _plan(_members(4), gpus, GangSpec(KEY, 2), running=there)
    assert len(made.placements) == placed
    assert made.status is (Status.PROVED if placed else Status.INFEASIBLE_PROVED)


ROLES = (Role("ps", 1, 1), Role("worker", 4, 3))


@pytest.mark.parametrize(("gpus", "placed"), [(3, 0), (4, 4), (5, 5)])
def test_some_of_each_role_are_among_those_that_start(gpus: int, placed: int) -> None:
    """Four workers alone would be as many as the gang needs, and are no gang."""
    pending = [*_members(4, "worker"), *_members(1, "ps", count=1, priority=0)]
    made = _plan(pending, gpus, GangSpec(KEY, 4, ROLES))
    assert len(made.placements) == placed
    roles = {p.pod.role for p in made.placements}
    assert roles == ({"ps", "worker"} if placed else set())


def test_where_the_role_of_a_member_is_unknown_any_will_do() -> None:
    pending = [*_members(4, "worker"), *_members(1, "other")]
    assert len(_plan(pending, 4, GangSpec(KEY, 4, ROLES)).placements) == 4


def test_the_validator_counts_roles() -> None:
    problem = _problem(_members(4, "worker"), 4, GangSpec(KEY, 4, ROLES))
    engine = Engine(problem.state.fork(), "first-fit")
    for request in problem.pending:
        engine.place_on(request, "a")
    with pytest.raises(SolverFault, match="runs 0 of 1 as ps"):
        check(problem, engine.state.placements)


@pytest.mark.parametrize(
    ("pending", "spec", "said"),
    [
        (_members(3), GangSpec(KEY, 4), "3 of 4 pods exist"),
        (_members(3), GangSpec(KEY, 4, gated=1),
         "3 of 4 pods exist; waiting for a scheduling gate: 1"),
        (_members(4, "worker"), GangSpec(KEY, 4, ROLES), "0 of 1 pods of role ps exist"),
        (_members(10), GangSpec(KEY, 10), "needs 2 more devices of any model"),
        (_members(4, cpu=40_000), GangSpec(KEY, 4), "needs places for 4 more members"),
        (_members(4, cpu=40_000, count=1), GangSpec(KEY, 4), "needs places for 4 more members"),
    ],
)  # fmt: skip
def test_the_reason_counts_what_is_missing(
    pending: list[PodRequest], spec: GangSpec, said: str
) -> None:
    made = _plan(pending, 8, spec)
    assert {one.reason for one in made.unplaced} == {f"gang does not fit: {said}"}
    assert made.placements == ()


def test_a_gang_of_one_holds_nobody_back() -> None:
    made = _plan(_members(3), 2, GangSpec(KEY, 1))
    assert len(made.placements) == 2 and isinstance(made.placements[0], Placement)


def _moved(spec: GangSpec, *, spare: bool = False) -> Plan:
    """A pod of two devices waits; on b a gang has three of four, and one of it runs on a."""
    nodes = [node("a", gpus=2), node("b", gpus=4), *([node("c", gpus=2)] if spare else [])]
    engine = Engine(ClusterState(nodes), "first-fit")
    members = _members(4)
    for member, where in zip(members, "abbb", strict=True):
        engine.place_on(member, where)
    single = pod("single", count=1)
    if spare:
        engine.place_on(single, "c")
    movable = {one.uid: Disruption(3) for one in (*members, *([single] if spare else []))}
    pending = (pod("waits", count=2),)
    problem = Problem(engine.state.snapshot(), pending, movable, gangs={spec.key: spec})
    return plan(problem, Budget(2.0, deterministic=True))


def test_whoever_moves_one_member_restarts_all() -> None:
    made = _moved(GangSpec(KEY, 4))
    assert len(made.moves) == 1 and made.restarts == ((KEY, 4),)
    assert (made.disruption, made.disruption_bound, made.status) == (13, 13, Status.PROVED)
    assert made.to_json()["restarts"] == [{"namespace": "default", "gang": "g", "pods": 4}]


def test_a_single_pod_is_moved_sooner_than_a_member() -> None:
    made = _moved(GangSpec(KEY, 4), spare=True)
    assert [move.pod.name for move in made.moves] == ["single"]
    assert made.restarts == () and made.disruption == 3


def test_members_that_count_alone_are_moved_alone() -> None:
    made = _moved(GangSpec(KEY, 1))
    assert len(made.moves) == 1 and made.restarts == () and made.disruption == 3


def test_a_gang_with_a_member_that_has_to_stay_stays() -> None:
    """One of another stage of it does: all of them would restart with it."""
    stage = replace(KEY, stage="driver")
    engine = Engine(ClusterState([node("a", gpus=2), node("b", gpus=4)]), "first-fit")
    workers = [replace(one, gang=replace(KEY, stage="worker")) for one in _members(3)]
    for member, where in zip(workers, "bbb", strict=True):
        engine.place_on(member, where)
    engine.place_on(pod("driver", count=1, gang=stage), "a")
    specs = {key: GangSpec(key, 1) for key in (stage, workers[0].gang)}
    for movable, moves in ((("driver", *(w.uid for w in workers)), 1), (workers[0].uid, 0)):
        uids = movable if isinstance(movable, tuple) else (movable,)
        costs = {uid: Disruption(3) for uid in uids}
        pending = (pod("x", count=2), pod("y", count=2))
        problem = Problem(engine.state.snapshot(), pending, costs, gangs=specs)
        made = plan(problem, Budget(2.0, deterministic=True))
        assert len(made.moves) == moves and made.disruption == 13 * moves


def test_nobody_is_evicted_for_a_later_stage_of_his_own_gang() -> None:
    """The workers would fit in place of their driver; another gang's do go there."""
    driver = pod("driver", count=1, gang=replace(KEY, stage="driver"))
    worker, other = replace(KEY, stage="worker"), replace(KEY, name="other")
    workers = tuple(replace(one, gang=worker) for one in _members(4))
    specs = {driver.gang: GangSpec(driver.gang), worker: GangSpec(worker, 4)}
    specs[other] = GangSpec(other, 4)
    engine = Engine(ClusterState([node("a", gpus=4)]), "first-fit")
    engine.place_on(driver, "a")
    movable = {"driver": Disruption(2, 1)}
    problem = Problem(engine.state.snapshot(), workers, movable, gangs=specs)
    assert plan(problem, Budget(2.0, deterministic=True)).placements == ()
    others = tuple(replace(one, gang=other) for one in workers)
    made = plan(replace(problem, pending=others), Budget(2.0, deterministic=True))
    assert len(made.placements) == 4 and [move.target for move in made.moves] == [None]
    final = {p.pod.uid: replace(p, pod=replace(p.pod, gang=worker)) for p in made.placements}
    with pytest.raises(SolverFault, match="starts as others of it are evicted"):
        check(problem, final)
