"""Who is evicted after others of the gang, and when."""

from __future__ import annotations

from scheduler.cluster.remainders import Remainder, Remainders
from tests.builders import pod

OTHERS = (pod("m2"), pod("m3"))


def _remainders(most: int = 10) -> Remainders:
    made = Remainders(most)
    made.name("high", {"a": Remainder(OTHERS, frozenset({"m0", "m1"})),
                       "b": Remainder(OTHERS[:1], frozenset({"m3"}))})  # fmt: skip
    return made


def _due(remainders: Remainders, now: float = 0.0) -> list[str]:
    return [member.uid for member in remainders.due(now)]


def test_nothing_is_due_before_a_node_is_chosen_and_a_victim_goes() -> None:
    for first, second in (("goes", "chosen"), ("chosen", "goes")):
        remainders = _remainders()
        acts = {
            "goes": lambda made=remainders: made.goes("m1", 0.0),
            "chosen": lambda made=remainders: made.chosen("high", "a", 0.0),
        }
        acts[first]()
        assert _due(remainders) == []
        acts[second]()
        assert _due(remainders) == ["m2", "m3"] and len(remainders) == 0


def test_a_victim_of_a_node_that_was_not_chosen_does_not_count() -> None:
    remainders = _remainders()
    remainders.chosen("high", "a", 0.0)
    remainders.goes("m3", 0.0)
    assert _due(remainders) == []
    remainders.chosen("high", "elsewhere", 0.0)
    remainders.goes("m0", 0.0)
    assert _due(remainders) == []


def test_a_pod_that_has_found_its_place_begins_nothing_any_more() -> None:
    remainders = _remainders()
    remainders.drop("high")
    remainders.goes("m0", 0.0)
    remainders.chosen("high", "a", 0.0)
    assert _due(remainders) == []


def test_what_is_done_or_has_been_tried_for_long_is_left_alone() -> None:
    remainders = _remainders()
    remainders.goes("m0", 0.0)
    remainders.chosen("high", "a", 0.0)
    remainders.done("m2")
    assert _due(remainders, 599.0) == ["m3"]
    assert _due(remainders, 600.0) == []


def test_so_many_are_remembered_and_no_more() -> None:
    remainders = _remainders(most=1)
    remainders.name("other", {"a": Remainder(OTHERS, frozenset({"m0"}))})
    assert len(remainders) == 1
    remainders.goes("m0", 0.0)
    remainders.chosen("high", "a", 0.0)
    assert _due(remainders) == []
    remainders.chosen("other", "a", 0.0)
    assert _due(remainders) == ["m2", "m3"]
