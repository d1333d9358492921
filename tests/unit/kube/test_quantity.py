"""Kubernetes quantities: the whole grammar, and rounding in the safe direction."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.errors import InvalidInput
from scheduler.kube.quantity import bounded, milli, parse, units, whole


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("0", 0),
        ("100m", Fraction(1, 10)),
        ("1.5", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("2Ki", 2048),
        ("1Mi", 1 << 20),
        ("1Gi", 1 << 30),
        ("1Ti", 1 << 40),
        ("1Pi", 1 << 50),
        ("1Ei", 1 << 60),
        ("3k", 3000),
        ("3M", 3_000_000),
        ("1G", 10**9),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12e-1", Fraction(12, 10)),
        ("5u", Fraction(5, 10**6)),
        ("5n", Fraction(5, 10**9)),
        ("-1", -1),
        ("+1", 1),
        (4, 4),
        (0.5, Fraction(1, 2)),
    ],
)
def test_values(text, value) -> None:
    assert parse(text) == value


@pytest.mark.parametrize("text", ["", "abc", "1mm", "1 Gi", "--1", "1e", "Gi", "1e9999", "1" * 65])
def test_nonsense_names_the_field(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"spec\.x: .*not a quantity"):
        parse(text, "spec.x")


def test_requests_round_up_and_capacity_rounds_down() -> None:
    assert milli("1n") == 1 and milli("0") == 0 and milli("1.0001") == 1001
    assert units("1m") == 1 and units("1048575.5") == 1 << 20
    assert units("1Gi") == 1 << 30 and units("1G") == 10**9
    assert milli("250m") == 250


def test_devices_are_whole() -> None:
    assert whole("2k") == 2000
    with pytest.raises(InvalidInput, match="not whole"):
        whole("1500m")


@given(st.integers(0, 10**12))
def test_integers_survive(value: int) -> None:
    assert parse(str(value)) == value and milli(f"{value}m") == value


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("7", 7), ("007", 7), ("100", 100), (0, 0), (100, 100)]
)
def test_a_bounded_integer_is_plain_digits_within_a_range(text: str | int, value: int) -> None:
    assert bounded(text, "label", 100) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "-1", "+1", " 1", "1 ", "1_0", "1.0", "1e1", "0x1", "101",
        "\u0661", "\uff11", "\u00b2", "\u2460", "\u0967", "1\n",
        "9" * 5_000, "0" * 5_000, "9" * 10**6, 101, -1, 10**5_000, True,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_anything_else_is_named_and_never_read(text: str | int) -> None:
    with pytest.raises(InvalidInput) as found:
        bounded(text, "metadata.labels[replicas]", 100)
    assert found.value.field == "metadata.labels[replicas]"
    assert len(str(found.value)) < 200


def test_a_bounded_integer_may_have_a_least_value() -> None:
    assert bounded("2", "count", 9, least=2) == 2
    with pytest.raises(InvalidInput):
        bounded("1", "count", 9, least=2)


@pytest.mark.parametrize(
    "text", ["9" * 65, " " * 10**6, "\u0661", 10**5_000, -(10**400), 1e400],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_quantity_without_end_is_no_quantity(text: str | float) -> None:
    with pytest.raises(InvalidInput) as found:
        parse(text, "status.allocatable.cpu")
    assert len(str(found.value)) < 200
