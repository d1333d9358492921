"""Gangs in plans: elastic ones, roles that each need somebody, and what is said to be missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.core.engine import Engine
from scheduler.core.errors import SolverFault
from scheduler.core.gangs import GangSpec, Role
from scheduler.core.model import GangKey, Placement, PodRequest
from scheduler.core.state import ClusterState
from scheduler.planner.budget import Budget
from scheduler.planner.check import check
from scheduler.planner.model import Plan, Problem, Status
from scheduler.planner.planner import plan
from tests.builders import node, pod

KEY = GangKey("jobset", "default", "g")


def _members(number: int, role: str = "", **asks) -> list[PodRequest]:
    made = [pod(f"{role}{n}", gang=KEY, **(asks or {"count": 1})) for n in range(number)]
    return [replace(member, role=role) for member in made]


def _problem(pending, gpus: int, spec: GangSpec, running=(), **rest) -> Problem:
    engine = Engine(ClusterState([node("a", gpus=gpus)]), "first-fit")
    for request in running:
        engine.reserve(request, "a")
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


def test_the_referee_counts_roles() -> None:
    problem = _problem(_members(4, "worker"), 4, GangSpec(KEY, 4, ROLES))
    engine = Engine(problem.state.fork(), "first-fit")
    for request in problem.pending:
        engine.reserve(request, "a")
    with pytest.raises(SolverFault, match="runs 0 of 1 as ps"):
        check(problem, engine.state.placements)


@pytest.mark.parametrize(
    ("pending", "spec", "said"),
    [
        (_members(3), GangSpec(KEY, 4), "3 of 4 pods exist"),
        (_members(3), GangSpec(KEY, 4, gated=1),
         "3 of 4 pods exist; 1 more wait for a scheduling gate"),
        (_members(4, "worker"), GangSpec(KEY, 4, ROLES), "0 of 1 pods of role ps exist"),
        (_members(10), GangSpec(KEY, 10), "needs 2 more devices of any model"),
        (_members(4, cpu=40_000), GangSpec(KEY, 4), "4 more members need a place"),
        (_members(4, cpu=40_000, count=1), GangSpec(KEY, 4), "4 more members need a place"),
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
