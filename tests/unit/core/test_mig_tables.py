"""Many devices at once give what `scheduler.core.mig` says of each row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.mig import SLOT_MASKS, UNIT, MigType, geometry_named, pack
from scheduler.core.mig_tables import counts_by_mask, milli_by_mask, packed, tables_of

A100, A30 = MigType("A100-40"), MigType("A30")
FIXED = MigType("A100-40", (("3g.20gb", 0), ("2g.10gb", 4), ("1g.5gb", 6)))
AS_TOLD = MigType("as:1g.5gb,1g.5gb,2g.10gb")
TYPES = (A100, A30, FIXED, AS_TOLD)
PROFILES = ("1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb",
            "1g.6gb", "2g.12gb", UNIT, "9g.99gb")  # fmt: skip

_DEVICE = st.tuples(st.sampled_from((-1, 0, 0, 0, 1, 2, 3)), st.integers(0, SLOT_MASKS - 1))
_WANT = st.dictionaries(st.sampled_from(PROFILES), st.integers(1, 3), min_size=1, max_size=3).map(
    lambda counts: tuple(sorted(counts.items()))
)


def _within(code: int, mask: int) -> int:
    """Slots that such a device may have free."""
    return mask & TYPES[code].full_mask if code >= 0 else 0


@pytest.mark.parametrize("mig", TYPES, ids=lambda mig: mig.geometry)
def test_tables_are_the_functions_of_every_mask(mig: MigType) -> None:
    geometry = geometry_named(mig.geometry)
    assert geometry is not None
    for profile in (*(each.name for each in geometry.profiles), UNIT):
        counts = counts_by_mask(mig, profile)
        assert counts.tolist() == [mig.count(mask, profile) for mask in range(SLOT_MASKS)]
    assert milli_by_mask(mig).tolist() == [mig.milli(mask) for mask in range(SLOT_MASKS)]


def test_nothing_is_kept_of_profiles_that_no_type_has() -> None:
    assert tables_of(TYPES, "9g.99gb") is None and tables_of((), "1g.5gb") is None
    tables = tables_of(TYPES, "1g.5gb")
    assert tables is not None
    assert tables.each.tolist() == [125, 0, 125, 333, 0]
    assert tables.entire.tolist() == [7, 0, 1, 2, 0] and tables.unlike


@given(
    rows=st.lists(st.lists(_DEVICE, min_size=4, max_size=4), min_size=1, max_size=24), want=_WANT
)
def test_rows_are_packed_as_each_by_itself(
    rows: list[list[tuple[int, int]]], want: tuple[tuple[str, int], ...]
) -> None:
    codes = np.array([[code for code, _ in row] for row in rows])
    masks = np.array([[_within(code, mask) for code, mask in row] for row in rows])
    fits, after = packed(TYPES, codes, masks, want)
    for at, row in enumerate(rows):
        there = tuple(TYPES[code] if code >= 0 else None for code, _ in row)
        alone = pack(there, tuple(masks[at].tolist()), want)
        assert bool(fits[at]) == (alone is not None)
        assert after[at].tolist() == list(alone.after if alone else masks[at].tolist())


def test_rows_on_which_one_after_another_gets_stuck() -> None:
    """The largest goes where it costs least; where that ends nowhere, another way is found."""
    rng = np.random.default_rng(7)
    masks = rng.integers(0, A100.full_mask + 1, size=(3000, 2)) & A100.full_mask
    codes = np.zeros_like(masks)
    stuck = 0
    for want in ((("1g.10gb", 1), ("3g.20gb", 1)), (("1g.5gb+me", 2), ("4g.20gb", 1)),
                 (("1g.10gb", 2), ("2g.10gb", 2), ("3g.20gb", 1))):  # fmt: skip
        fits, after = packed((A100,), codes, masks, want)
        alone = [pack((A100, A100), tuple(row), want) for row in masks.tolist()]
        assert fits.tolist() == [found is not None for found in alone]
        expected = [found.after if found else tuple(row) for found, row in
                    zip(alone, masks.tolist(), strict=True)]  # fmt: skip
        assert after.tolist() == [list(row) for row in expected]
        stuck += sum(found is None for found in alone)
    assert stuck
