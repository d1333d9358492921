"""Weights are charged in steps of 1/64: what is rounded is said, what would vanish is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from scheduler.core.errors import InvalidInput
from scheduler.core.price_weights import SMALLEST_WEIGHT, WEIGHT_SCALE, PriceWeights


def _policy(tmp_path: Path, **weights: float) -> Path:
    content = {"format": "snugfit-policy/v1", "policy": "priced", "weights": weights}
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", list(PriceWeights().to_json()))
@pytest.mark.parametrize("value", [0.005, 1e-9, 0.015])
def test_a_weight_that_would_vanish_is_refused(
    tmp_path: Path, snugfit, name: str, value: float
) -> None:
    path = _policy(tmp_path, **{name: value})
    for args in (
        ("simulate", "--policy-file", path),
        ("config", "check", path),
        ("serve", "--policy-file", path, "--print-config"),
    ):
        done = snugfit(*args)
        assert done.code == 2 and f"{path}: weights.{name}" in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize("name", ["splitting", "fragmentation", "contiguity", "tightness", "power"])
@pytest.mark.parametrize(("value", "in_force"), [(0.1, 0.09375), (0.3, 0.296875), (1.01, 1.015625)])
def test_a_rounded_weight_is_said_with_the_value_in_force(
    tmp_path: Path, snugfit, name: str, value: float, in_force: float
) -> None:
    path = _policy(tmp_path, **{name: value})
    served = snugfit("serve", "--policy-file", path, "--print-config")
    assert served.code == 0 and yaml.safe_load(served.out)["policy_file"] == str(path)
    checked = snugfit("config", "check", path)
    assert checked.code == 0 and "1 rounded weight" in checked.err
    assert f"weights.{name}: {value:g} counts as {in_force:g}" in served.err
    assert f"{in_force:g}" in checked.out
    said = json.loads(snugfit("config", "check", path, "--json").out)
    assert said["weights"][name] == value and said["in_force"][name] == in_force
    assert PriceWeights(**{name: value}).scaled[name] == in_force * WEIGHT_SCALE


def test_a_simulation_says_which_weights_it_runs_with(tmp_path: Path, snugfit) -> None:
    (tmp_path / "w.json").write_text(
        '{"format": "snugfit/v1", "nodes": [{"name": "n", "cpu_milli": 8000, "memory_mib": 8192,'
        ' "gpus": 1, "product": "T4"}], "pods": [{"name": "p", "gpu": {"milli": 300}}]}'
    )
    args = ("simulate", tmp_path / "w.json", "--policy", "priced", "--policy-file")
    done = snugfit(*args, _policy(tmp_path, power=0.1))
    assert done.code == 0 and "weights.power: 0.1 counts as 0.09375" in done.err
    quiet = snugfit(*args, _policy(tmp_path, power=0.25, scarcity=0.1))
    assert quiet.code == 0 and "counts as" not in quiet.err  # those of prices are exact


def test_the_smallest_weight_counts_and_nothing_is_rounded_by_default() -> None:
    assert PriceWeights(power=SMALLEST_WEIGHT).scaled["power"] == 1
    assert not PriceWeights().rounded and not PriceWeights(power=0.0).rounded
    with pytest.raises(InvalidInput, match="would count as 0"):
        PriceWeights(power=SMALLEST_WEIGHT * 0.999)
