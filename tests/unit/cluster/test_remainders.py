"""Who is evicted after others of the gang, and when."""

from __future__ import annotations

from scheduler.cluster.named_victims import NamedVictims, OnNode
from tests.builders import pod

OTHERS = (pod("m2"), pod("m3"))


def _named(most: int = 10) -> NamedVictims:
    made = NamedVictims(most)
    on_a = OnNode(("m0", "m1"), OTHERS, frozenset({"m0", "m1"}))
    made.record("high", {"a": on_a, "b": OnNode(("m3",), OTHERS[:1], frozenset({"m3"}))})
    return made


def _due(victims: NamedVictims, now: float = 0.0) -> list[str]:
    return [member.uid for member in victims.due(now)]


def test_nothing_is_due_before_a_node_is_chosen_and_a_victim_goes() -> None:
    for first, second in (("goes", "chosen"), ("chosen", "goes")):
        victims = _named()
        acts = {
            "goes": lambda made=victims: made.on_pod_leaving("m1", 0.0),
            "chosen": lambda made=victims: made.on_pod_nominated("high", "a", 0.0),
        }
        acts[first]()
        assert _due(victims) == []
        acts[second]()
        assert _due(victims) == ["m2", "m3"]


def test_a_victim_of_a_node_that_was_not_chosen_does_not_count() -> None:
    victims = _named()
    victims.on_pod_nominated("high", "a", 0.0)
    victims.on_pod_leaving("m3", 0.0)
    assert _due(victims) == []
    victims.on_pod_nominated("high", "elsewhere", 0.0)
    victims.on_pod_leaving("m0", 0.0)
    assert _due(victims) == []


def test_a_pod_that_has_found_its_place_begins_nothing_any_more() -> None:
    victims = _named()
    victims.drop("high")
    victims.on_pod_leaving("m0", 0.0)
    victims.on_pod_nominated("high", "a", 0.0)
    assert _due(victims) == []


def test_what_is_done_or_has_been_tried_for_long_is_left_alone() -> None:
    victims = _named()
    victims.on_pod_leaving("m0", 0.0)
    victims.on_pod_nominated("high", "a", 0.0)
    victims.done("m2")
    assert _due(victims, 599.0) == ["m3"]
    assert _due(victims, 600.0) == []


def test_so_many_are_remembered_and_no_more() -> None:
    victims = _named(most=1)
    victims.record("other", {"a": OnNode(("m0",), OTHERS, frozenset({"m0"}))})
    assert len(victims) == 1
    victims.on_pod_leaving("m0", 0.0)
    victims.on_pod_nominated("high", "a", 0.0)
    assert _due(victims) == []
    victims.on_pod_nominated("other", "a", 0.0)
    assert _due(victims) == ["m2", "m3"]
