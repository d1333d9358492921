"""MIG slot geometry: legal positions, what a placement destroys, exact packing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidInput
from scheduler.core.mig import GEOMETRIES, MEDIA_BIT, MigType, geometry_for, layout_for, pack

A100 = MigType("A100-40")
FULL = A100.full_mask


@pytest.mark.parametrize(
    ("product", "memory", "geometry"),
    [
        ("NVIDIA-A30", 24_576, "A30"),
        ("NVIDIA-A100-SXM4-40GB", 40_536, "A100-40"),
        ("NVIDIA-A100-SXM4-80GB", 81_920, "A100-80"),
        ("NVIDIA-A100-PCIE", 81_920, "A100-80"),
        ("NVIDIA-H100-80GB-HBM3", 81_559, "H100-80"),
        ("NVIDIA-GH200-480GB", 97_871, "H100-96"),
        ("NVIDIA-H200", 143_771, "H200"),
        ("NVIDIA-B200", 183_359, "B200"),
        ("Tesla-T4", 15_360, ""),
        ("NVIDIA-A3000", 0, ""),
    ],
)
def test_geometry_follows_from_the_product_label(product: str, memory: int, geometry: str) -> None:
    assert geometry_for(product, memory) == geometry


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=lambda g: g.name)
def test_every_profile_stays_on_the_device(geometry) -> None:
    for profile in geometry.profiles:
        for start in profile.starts:
            assert profile.mask_at(start) & ~geometry.full_mask == 0


@pytest.mark.parametrize(
    ("profile", "most"),
    [("1g.5gb", 7), ("1g.10gb", 4), ("2g.10gb", 3), ("3g.20gb", 2), ("4g.20gb", 1), ("7g.40gb", 1)],
)
def test_known_maxima_of_an_a100(profile: str, most: int) -> None:
    assert A100.count(FULL, profile) == most


def test_only_one_instance_has_the_media_engines() -> None:
    assert A100.count(FULL, "1g.5gb+me") == 1
    assert pack((A100,), (FULL,), (("1g.5gb+me", 2),)) is None
    assert pack((A100, A100), (FULL, FULL), (("1g.5gb+me", 2),)) is not None


def test_a_small_instance_goes_where_it_destroys_least() -> None:
    """On an empty A100 the only harmless place for 1g.5gb is slot 6: 4g and 3g both survive."""
    packing = pack((A100,), (FULL,), (("1g.5gb", 1),))
    assert packing is not None
    ((device, mask),) = packing.instances
    assert (device, mask) == (0, 1 << 6)
    assert A100.count(packing.after[0], "4g.20gb") == 1


def test_a_broken_device_is_used_before_a_whole_one() -> None:
    used = FULL & ~(1 << 6)
    packing = pack((A100, A100), (FULL, used), (("1g.5gb", 1),))
    assert packing is not None and packing.instances[0][0] == 1


def test_mixed_profiles_are_packed_exactly() -> None:
    """3g + 3g fills an A100; greedy left-to-right 2g placement would have to leave room for 3g."""
    assert pack((A100,), (FULL,), (("3g.20gb", 2),)) is not None
    assert pack((A100,), (FULL,), (("2g.10gb", 2), ("3g.20gb", 1))) is not None
    assert pack((A100,), (FULL,), (("2g.10gb", 1), ("3g.20gb", 2))) is None
    assert pack((A100, None), (FULL, 0), (("4g.20gb", 2),)) is None
    assert pack((A100,), (FULL,), (("1g.6gb", 1),)) is None


def test_a_fixed_layout_allows_its_own_instances_only() -> None:
    fixed = MigType("A100-40", (("3g.20gb", 0), ("1g.5gb", 4), ("1g.5gb", 5)))
    assert fixed.count(fixed.full_mask, "1g.5gb") == 2
    assert fixed.count(fixed.full_mask, "3g.20gb") == 1
    assert fixed.count(fixed.full_mask, "2g.10gb") == 0
    assert fixed.full_mask & MEDIA_BIT == 0


@pytest.mark.parametrize(
    ("geometry", "layout", "word"),
    [
        ("A10", (), "unknown geometry"),
        ("A100-40", (("3g.20gb", 2),), "cannot start"),
        ("A100-40", (("9g.1gb", 0),), "cannot start"),
        ("A100-40", (("3g.20gb", 0), ("1g.5gb", 3)), "overlaps"),
    ],
)
def test_impossible_layouts_are_refused(geometry: str, layout, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        MigType(geometry, layout)


def test_a_layout_is_found_for_advertised_counts() -> None:
    layout = layout_for("A100-40", {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 1})
    assert layout is not None
    fixed = MigType("A100-40", layout)
    assert {p: fixed.count(fixed.full_mask, p) for p in ("3g.20gb", "2g.10gb", "1g.5gb")} == {
        "3g.20gb": 1,
        "2g.10gb": 1,
        "1g.5gb": 1,
    }
    assert layout_for("A100-40", {"7g.40gb": 2}) is None


@given(
    st.lists(st.sampled_from([p.name for p in GEOMETRIES["A100-40"].profiles]), max_size=8),
)
def test_what_is_packed_is_disjoint_and_legal(names: list[str]) -> None:
    want = tuple((name, names.count(name)) for name in sorted(set(names)))
    packing = pack((A100, A100), (FULL, FULL), want)
    if packing is None:
        return
    taken = [0, 0]
    for device, mask in packing.instances:
        assert taken[device] & mask == 0
        taken[device] |= mask
    assert [FULL & ~t for t in taken] == list(packing.after)
    assert len(packing.instances) == len(names)


def test_usable_milli_counts_whole_instances() -> None:
    assert A100.usable_milli(FULL, "3g.20gb") == 1000
    assert A100.usable_milli(FULL & ~1, "3g.20gb") == 500
    assert A100.usable_milli(FULL, "1g.6gb") == 0
    assert A100.milli(FULL) == 1000


@pytest.mark.parametrize(
    "want",
    [
        {"4g.20gb": 10, "3g.20gb": 14, "2g.10gb": 20, "1g.5gb": 20, "1g.10gb": 5},
        {"4g.20gb": 8, "3g.20gb": 8, "2g.10gb": 15, "1g.10gb": 6, "1g.5gb": 19},
        {"3g.20gb": 15, "2g.10gb": 15, "1g.10gb": 6, "1g.5gb": 20, "1g.5gb+me": 5},
        {"7g.40gb": 1, "4g.20gb": 7, "3g.20gb": 8, "2g.10gb": 13, "1g.5gb": 30},
    ],
)
@pytest.mark.parametrize("devices", [8, 16, 32])
def test_requests_that_are_hard_on_purpose_are_decided_in_few_steps(
    want: dict[str, int], devices: int
) -> None:
    mig = MigType("A100-40")
    found = pack((mig,) * devices, (mig.full_mask,) * devices, tuple(sorted(want.items())))
    if found is not None:
        taken = [0] * devices
        for device, mask in found.instances:
            assert not taken[device] & mask
            taken[device] |= mask
        assert len(found.instances) == sum(want.values())
    else:
        assert devices < 32  # with so much room nothing has to be tried twice
