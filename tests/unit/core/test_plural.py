"""Numbers with their noun."""

from __future__ import annotations

import pytest

from scheduler.core.plural import plural


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 pods"), (1, "1 pod"), (2, "2 pods"), (-1, "-1 pods")]
)
def test_only_one_is_singular(number: int, text: str) -> None:
    assert plural(number, "pod") == text


def test_an_irregular_plural_is_given() -> None:
    assert [plural(n, "policy", "policies") for n in (1, 3)] == ["1 policy", "3 policies"]
