"""Reservations end in the order of their times, and nothing of what was replaced is left."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.errors import UnknownPod
from scheduler.core.state import ClusterState
from tests.builders import node, pod

_TIMES = st.one_of(st.integers(0, 9).map(float), st.just(math.inf))
_EVENTS = st.lists(
    st.tuples(st.sampled_from(("reserve", "drop", "end", "place", "expire")), st.integers(0, 5),
              _TIMES), max_size=40,
)  # fmt: skip


def _engine() -> Engine:
    return Engine(ClusterState([node("a", gpus=4), node("b", gpus=4)]))


@given(events=_EVENTS)
def test_as_a_list_that_is_searched(events: list[tuple[str, int, float]]) -> None:
    engine, expected = _engine(), dict[str, float]()
    reservations = engine.reservations
    placed: set[str] = set()
    for event, which, at in events:
        request = pod(f"p{which}", count=1)
        uid = request.uid
        if event == "reserve" and uid not in placed:
            engine.reserve_until(request, "a" if which % 2 else "b", at)
            expected[uid] = at
        elif event == "place":
            engine.place_on(request, "a" if which % 2 else "b")
            placed.add(uid)
            expected.pop(uid, None)
        elif event in ("drop", "end") and uid not in expected:
            with pytest.raises(UnknownPod):
                reservations.drop(uid) if event == "drop" else reservations.end(uid)
        elif event == "drop":
            reservations.drop(uid)
            del expected[uid]
        elif event == "end":
            reservations.end(uid)
            expected[uid] = -math.inf
        elif event == "expire" and at < math.inf:
            over = {uid for uid, until in expected.items() if until <= at and uid != "p0"}
            assert reservations.expire(at, spare=lambda uid: uid == "p0") == len(over)
            expected = {uid: until for uid, until in expected.items() if uid not in over}
        assert {uid: each.until for uid, each in reservations.items()} == expected
        assert len(reservations) == len(expected)
        assert set(engine.state.placements) == placed | set(expected)


def test_the_first_to_end_go_first_and_those_spared_are_looked_at_again() -> None:
    engine = _engine()
    for number, until in enumerate((5.0, 3.0, 4.0, 9.0)):
        engine.reserve_until(pod(f"p{number}", count=1), "a", until)
    assert engine.reservations.expire(6.0, spare=lambda uid: uid == "p1", most=1) == 1
    assert set(engine.reservations) == {"p0", "p1", "p3"}
    assert engine.reservations.expire(6.0) == 2
    assert set(engine.reservations) == {"p3"}


def test_many_renewals_do_not_pile_up() -> None:
    engine = _engine()
    for at in range(5000):
        engine.reserve_until(pod("p", count=1), "a", float(at))
    assert len(engine.reservations._ends) < 200
    assert engine.reservations.expire(4998.0) == 0
    assert engine.reservations.expire(4999.0) == 1
