"""Slots of running pods whose MIG instances cannot all be placed."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.mig import GEOMETRIES, MEDIA_BIT, MigType, claimed_slots, pack
from scheduler.core.model import Device, DeviceShare, Node, Release
from scheduler.core.occupancy import running
from scheduler.core.state import ClusterState
from tests.builders import pod

WHOLE = MigType("A100-40")
SEVEN = MigType("A100-40", tuple(("1g.5gb", start) for start in range(7)))
MIXED = MigType("A100-40", (("3g.20gb", 0), ("2g.10gb", 4), ("1g.5gb", 6)))
SMALL = MigType("A30")
TYPES = (WHOLE, SEVEN, MIXED, SMALL, None)
PROFILES = (*(p.name for p in GEOMETRIES["A100-40"].profiles), "1g.6gb", "2g.12gb+me", "9g.99gb")


def _slots(masks: tuple[int, ...]) -> list[int]:
    return [(mask & (MEDIA_BIT - 1)).bit_count() for mask in masks]


@pytest.mark.parametrize(
    ("types", "want", "slots"),
    [
        ((SEVEN,), {"1g.5gb": 7, "9g.99gb": 1}, [7]),
        ((SEVEN,), {"1g.5gb": 2, "3g.20gb": 1}, [2]),  # known, but on no device of the node
        ((SEVEN,), {"1g.5gb": 10**6}, [7]),
        ((SEVEN,), {"9g.99gb": 10**400}, [0]),
        ((SEVEN, None, SEVEN), {"1g.5gb": 8, "7g.40gb": 1}, [7, 0, 1]),
        ((WHOLE,), {"7g.40gb": 2, "1g.5gb": 1}, [8]),
        ((WHOLE,), {"3g.20gb": 1, "2g.10gb": 2, "9g.99gb": 1}, [8]),
        ((WHOLE,), {"1g.5gb+me": 2}, [2]),
        ((MIXED, SMALL), {"3g.20gb": 1, "1g.6gb": 2, "7g.40gb": 1}, [4, 2]),
        ((None,), {"1g.5gb": 1}, [0]),
        ((), {"1g.5gb": 1}, []),
    ],
)
def test_what_the_node_has_is_claimed_whatever_else_is_asked_for(types, want, slots) -> None:
    masks = tuple(mig.full_mask if mig else 0 for mig in types)
    assert _slots(claimed_slots(types, masks, tuple(want.items()))) == slots


def test_free_slots_are_claimed_before_those_of_others() -> None:
    only_last = (0, 1 << 3)
    assert claimed_slots((SEVEN, SEVEN), only_last, (("1g.5gb", 2),))[1] & only_last[1]
    assert claimed_slots((WHOLE, WHOLE), (0, WHOLE.full_mask), (("7g.40gb", 1), ("9g.9gb", 1))) == (
        0,
        0xFF,
    )


@pytest.mark.parametrize("order", list(permutations((("3g.20gb", 1), ("4g.20gb", 1)))))
def test_no_instance_takes_the_only_place_of_another(order) -> None:
    for free in range(256):
        assert claimed_slots((WHOLE,), (free,), order)[0] & 0xFF == 0xFF


def test_instances_that_cannot_have_free_places_have_legal_ones() -> None:
    """3g.20gb would have free slots at 0, and 2g.10gb then only one place left of two."""
    assert claimed_slots((WHOLE,), (0x0F,), (("2g.10gb", 2), ("3g.20gb", 1))) == (0xFF,)


def test_what_is_too_many_to_try_all_ways_is_charged_in_full_all_the_same() -> None:
    """Pairs of 3g.20gb come first, and leave one place too few of 1g.5gb."""
    want = (("1g.5gb", 40), ("2g.10gb", 40), ("3g.20gb", 30))
    for free in (0, WHOLE.full_mask):
        assert sum(_slots(claimed_slots((WHOLE,) * 32, (free,) * 32, want))) == 40 + 80 + 120


@given(
    st.lists(st.tuples(st.sampled_from(TYPES), st.integers(0, 511)), max_size=4),
    st.dictionaries(st.sampled_from(PROFILES), st.integers(1, 9), min_size=1, max_size=4),
)
def test_whoever_could_run_on_the_empty_node_is_charged_in_full(devices, want) -> None:
    types = tuple(mig for mig, _ in devices)
    free = tuple(mask & mig.full_mask if mig else 0 for mig, mask in devices)
    empty = tuple(mig.full_mask if mig else 0 for mig in types)
    wanted = tuple(want.items())
    claims = claimed_slots(types, free, wanted)
    assert all(claim & ~full == 0 for claim, full in zip(claims, empty, strict=True))
    packing = pack(types, free, wanted)
    if packing is not None:
        assert tuple(mask & ~claim for mask, claim in zip(free, claims, strict=True)) == (
            packing.after
        )
    packing = pack(types, empty, wanted)
    if packing is not None:
        sizes = [sum(_slots((mask,))[0] for _, mask in packing.instances)]
        assert sum(_slots(claims)) >= min(sizes)
    # A profile that no device has changes nothing.
    assert claimed_slots(types, free, (*wanted, ("0g.0gb", 5))) == claims


def _engine(*migs: MigType) -> Engine:
    devices = tuple(Device("A100", 40_960, mig=t.geometry, mig_layout=t.layout) for t in migs)
    return Engine(ClusterState([Node("a", 64_000, 262_144, 110, devices=devices)]))


def _run(engine: Engine, uid: str, *mig: tuple[str, int]) -> tuple[DeviceShare, ...]:
    placed = running(engine, pod(uid, mig=mig), "a")
    engine.state.apply([placed], enforce=False)
    return placed.devices


def test_a_slot_that_two_pods_claim_overdraws_the_row_until_one_has_left() -> None:
    engine = _engine(WHOLE)
    state = engine.state
    assert not state.overdrawn(0)
    first, second = (_run(engine, uid, ("7g.40gb", 1)) for uid in ("p1", "p2"))
    assert first == second == (DeviceShare(0, 1000, 0, 0xFF),)
    assert state.overdrawn(0) and state.check() == []
    state.apply([Release("p1")])
    assert not state.overdrawn(0) and state.slots_free[0, 0] & 0xFF == 0 and state.check() == []
    state.apply([Release("p2")])
    assert state.slots_free[0, 0] == WHOLE.full_mask


def test_neighbours_on_one_device_do_not_overdraw_it() -> None:
    engine = _engine(SEVEN, WHOLE)
    for number in range(7):
        _run(engine, f"p{number}", ("1g.5gb", 2))
        assert not engine.state.overdrawn(0)
    _run(engine, "more", ("1g.5gb", 1))
    assert engine.state.overdrawn(0)


def test_replicas_beyond_the_end_leave_none_free_on_other_devices() -> None:
    devices = (Device("T4", 16_384, replicas=2),) * 2
    engine = Engine(ClusterState([Node("a", 64_000, 262_144, 110, devices=devices)]))
    placed = running(engine, pod("p", replicas=5), "a")
    engine.state.apply([placed], enforce=False)
    assert engine.state.slots_free[0].tolist() == [-1, 0] and engine.state.overdrawn(0)
