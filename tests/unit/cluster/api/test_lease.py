"""The lease: one acts, never two, and somebody soon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.cluster.api.lease import LeaseHolder
from testbed.fake_api import (
    LEASES,
    FakeApi,
    carry_out_and_drop,
    drop,
    eventually,
    refuse,
    say,
    serving,
)
from tests.depth import examples

SECONDS = 15.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server() -> Iterator[FakeApi]:
    with serving() as made:
        yield made


@pytest.fixture
def api(server) -> FakeApi:
    server.objects[LEASES].clear()
    server.script.clear()
    return server


def _holder(api: FakeApi, name: str, clock: Clock) -> LeaseHolder:
    return LeaseHolder(api.client(), "ns", "snugfit", name, seconds=SECONDS, clock=clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def two(api, clock) -> tuple[LeaseHolder, LeaseHolder]:
    """The first holds it."""
    first, second = _holder(api, "first", clock), _holder(api, "second", clock)
    first.attempt()
    second.attempt()
    assert first.held and not second.held
    return first, second


def test_the_holder_renews_and_the_other_waits(api, clock, two) -> None:
    first, second = two
    for _ in range(10):
        clock.now += SECONDS / 3
        first.attempt()
        second.attempt()
        assert first.held and not second.held
    spec = api.objects[LEASES]["snugfit"]["spec"]
    assert spec["holderIdentity"] == "first" and spec["leaseTransitions"] == 0


def test_a_holder_that_falls_silent_stops_before_the_other_begins(api, clock, two) -> None:
    first, second = two
    seconds = 0
    while not second.held:
        clock.now += 1
        seconds += 1
        second.attempt()
        assert not (first.held and second.held)
    assert SECONDS <= seconds <= SECONDS + 1
    first.attempt()
    assert not first.held and api.objects[LEASES]["snugfit"]["spec"]["leaseTransitions"] == 1


def test_it_is_handed_over_at_once_when_its_holder_stops(clock, two) -> None:
    first, second = two
    first.stop()
    assert not first.held
    second.attempt()
    assert second.held


def test_without_the_api_a_holder_stops_acting_and_takes_up_again(api, clock, two) -> None:
    first, _ = two
    for action in (drop, refuse(500), say("<html>"), say("[]")):
        api.next("GET", LEASES, action)
        clock.now += SECONDS / 4
        first.attempt()
    assert not first.held
    first.attempt()
    assert first.held


def test_a_renewal_without_an_answer_counts_only_once_it_is_confirmed(api, clock, two) -> None:
    first, _ = two
    clock.now += SECONDS / 2
    api.next("PUT", LEASES, carry_out_and_drop)
    first.attempt()
    clock.now += SECONDS / 4
    assert not first.held
    first.attempt()
    assert first.held


def test_of_two_that_reach_for_it_together_one_gets_it(api, clock) -> None:
    first, second = _holder(api, "first", clock), _holder(api, "second", clock)
    first.attempt()
    first.stop()  # free, and both have read it when the first of them writes

    def faster(handler) -> bool:
        second.attempt()
        return False

    api.next("PUT", LEASES, faster)
    first.attempt()
    assert second.held and not first.held


def test_a_deleted_lease_is_not_taken_from_under_its_holder(api, clock, two) -> None:
    first, second = two
    del api.objects[LEASES]["snugfit"]
    second.attempt()
    assert not second.held
    first.attempt()
    assert first.held and not second.held
    del api.objects[LEASES]["snugfit"]
    while not second.held:
        clock.now += 1
        second.attempt()
        assert not (first.held and second.held)


def test_the_thread_outlives_whatever_it_meets(api) -> None:
    holder = LeaseHolder(api.client(), "ns", "snugfit", "first", seconds=0.3)
    api.put(LEASES, {"metadata": {"name": "snugfit"}, "spec": {"leaseTransitions": "many"}})
    holder.start()
    eventually(lambda: api.count(LEASES) >= 3)
    del api.objects[LEASES]["snugfit"]
    eventually(lambda: holder.held)
    holder.stop()


@settings(max_examples=examples(10, 50), deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(("first", "second", "third")),
            st.floats(0, 7),
            st.sampled_from((None, None, None, "drop", "lost", "busy")),
        ),
        max_size=30,
    )
)
def test_never_two(server, steps) -> None:
    server.objects[LEASES].clear()
    server.script.clear()
    clock = Clock()
    holders = {name: _holder(server, name, clock) for name in ("first", "second", "third")}
    actions = {
        "drop": ("GET", drop), "lost": ("PUT", carry_out_and_drop), "busy": ("PUT", refuse(500))
    }  # fmt: skip
    for name, wait, trouble in steps:
        clock.now += wait
        server.script.clear()
        if trouble:
            method, action = actions[trouble]
            server.next(method, LEASES, action)
        holders[name].attempt()
        assert sum(holder.held for holder in holders.values()) <= 1
