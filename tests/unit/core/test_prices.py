"""Weights, policy files and the tables that prices are looked up in."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.core.errors import InvalidInput
from scheduler.core.power import PowerModel
from scheduler.core.price_tables import EFFECTIVE_SCALE, NO_DEVICES, WORTH_SHAPE, Prices
from scheduler.core.price_weights import PriceWeights


def test_a_policy_file_is_read_as_it_was_written() -> None:
    weights = PriceWeights(scarcity=7.5, splitting=0.0)
    assert PriceWeights.from_policy_file(weights.to_policy_file(source="mine")) == weights
    watts = PowerModel.from_mapping({"L40S": [40, 360], "cpu": [10, 90]})
    weights = PriceWeights(power=0.3, watts=watts)
    assert PriceWeights.from_policy_file(weights.to_policy_file()) == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "format"),
        ('{"format": "snugfit-policy/v2"}', "format"),
        ('{"format": "snugfit-policy/v1", "policy": "fgd"}', "only `priced`"),
        ('{"format": "snugfit-policy/v1", "policy": "priced"}', "not a mapping"),
        (
            '{"format": "snugfit-policy/v1", "policy": "priced", "weights": {"scarcty": 1}}',
            "did you mean 'scarcity'",
        ),
        (
            '{"format": "snugfit-policy/v1", "policy": "priced", "weights": {"scarcity": "1"}}',
            "not a number",
        ),
        (
            '{"format": "snugfit-policy/v1", "policy": "priced", "weights": {"scarcity": -1}}',
            "use 0..100",
        ),
        (
            '{"format": "snugfit-policy/v1", "policy": "priced", "weights": {"scarcity": NaN}}',
            "no such number",
        ),
        (
            '{"format": "snugfit-policy/v1", "policy": "priced", "weights": {"watts": 3}}',
            "not a weight of `priced`",
        ),
        (
            '{"format": "snugfit-policy/v1", "policy": "priced", "weights": {}, "watts": 3}',
            "map boards",
        ),
        (
            '{"format":"snugfit-policy/v1", "policy":"priced", "weights":{}, "watts":{"T4":7}}',
            "watts.T4",
        ),
    ],
)
def test_mistakes_in_a_policy_file_are_named(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        PriceWeights.from_policy_file(text)


def test_values_between_the_steps_and_beyond_the_table() -> None:
    rows, columns = WORTH_SHAPE
    worth = (np.arange(rows)[:, None] * 1000 + np.arange(columns) * 100)[None].astype(np.int64)
    made = Prices(
        0,
        (NO_DEVICES,),
        np.arange(1001) * EFFECTIVE_SCALE,
        {},
        worth,
        np.arange(rows * 65).reshape(1, rows, 65),
        1000,
        100,
        PriceWeights(),
        0.0,
        1,
        1,
        sliced=False,
        any_sets=True,
    )
    code = np.zeros(1, dtype=np.int64)

    def value(cpu: int, milli: int) -> int:
        return int(made.value(code, np.array([cpu]), np.array([milli * EFFECTIVE_SCALE]))[0])

    assert value(2000, 300) == 2300 and value(2500, 350) == 2850 and value(0, 0) == 0
    assert value(-5, -5) == 0
    sets = made.set_value(code, np.array([[-1], [1999], [10**9]]), np.array([2, 8]))
    assert sets.tolist() == [[2, 8], [67, 73], [65 * (rows - 1) + 2, 65 * (rows - 1) + 8]]
    assert value(10**9, 10**6) == value(rows * 1000, columns * 100) >= 127_999


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("near", "scarcity"),
        ("far", "stranding"),
        ("far_demand", "stranding_demand"),
        ("cut", "splitting"),
        ("unseen", "prior_pods"),
    ],
)
def test_an_old_name_of_a_weight_is_refused_by_the_new_one(old: str, new: str) -> None:
    with pytest.raises(InvalidInput, match=f"weights.{old}: is called '{new}' now"):
        PriceWeights.from_mapping({old: 2.0})
    assert PriceWeights.from_mapping({new: 2.0}).to_json()[new] == 2.0
