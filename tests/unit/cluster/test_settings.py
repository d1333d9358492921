"""Settings: precedence, and errors that name the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.cluster.settings import SETTINGS, ExtenderConfig
from scheduler.cluster.settings_file import as_yaml, load
from scheduler.core.errors import InvalidInput
from scheduler.core.price_weights import PriceWeights


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "snugfit.yaml"
    path.write_text(text)
    return path


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    path = _file(tmp_path, "port: 1\nthreads: 2\nseed: 3\nreservation_ttl_s: 5\n")
    config = load(
        path, {"SNUGFIT_PORT": "4", "SNUGFIT_THREADS": "5", "HOME": "x"}, {"port": 6, "seed": None}
    )
    assert (config.port, config.threads, config.seed, config.reservation_ttl_s) == (6, 5, 3, 5.0)
    assert config.policy == ExtenderConfig().policy
    assert load(_file(tmp_path, ""), {"SNUGFIT_LOG_JSON": "true"}, {}).log_json


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prot: 1", "prot.*did you mean 'port'"),
        ("reservationTTL: 1", "did you mean 'reservation_ttl_s'"),
        ("port: many", "port: 'many' is not of type int"),
        ("port: true", "port: True is not of type int"),
        ("port: 99999", "use 0..65535"),
        ("policy: fdg", "did you mean 'fgd'"),
        ("log_level: loud", "debug, info"),
        ("tls_cert: x", "give both"),
        ("tls_client_ca: x", "give all three"),
        ("{tls_cert: x, tls_key: x, tls_client_ca: x, tls_client_subjects: ' ,'}", "is empty"),
        ("metrics_listen: :10264", "metrics_cert"),
        ("metrics_cert: x", "metrics_key.*give both"),
        ("- 1", "not a mapping"),
        ("a: [", "cannot be read as YAML"),
        ("hold_ttl_s: 1", "hold_ttl_s: was renamed.*write reservation_ttl_s"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        load(_file(tmp_path, text), {}, {})


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("SNUGFIT_MIX_FILE", "a", "SNUGFIT_MIX_FILE: mix_file: was renamed.*workload_profile_file"),
        ("SNUGFIT_PORTT", "1", "SNUGFIT_PORTT.*did you mean 'port'"),
        ("SNUGFIT_PORT", "x", "not of type int"),
        ("SNUGFIT_LOG_JSON", "maybe", "not of type bool"),
    ],
)
def test_mistakes_in_the_environment_are_named(variable: str, value: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        load(None, {variable: value}, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load(tmp_path / "absent.yaml", {}, {})


def test_a_profile_that_is_given_is_never_learnt_anew() -> None:
    assert ExtenderConfig(relearn_every=7).relearns_every == 7
    assert ExtenderConfig(relearn_every=7, workload_profile_file="mix.json").relearns_every == 0


def test_a_policy_file_brings_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(PriceWeights(scarcity=9.0).to_policy_file())
    config = load(None, {}, {"policy_file": str(path)})
    assert config.policy == "priced" and config.price_weights().scarcity == 9.0
    assert ExtenderConfig().price_weights() == PriceWeights()
    with pytest.raises(InvalidInput, match="goes with policy `priced`"):
        load(None, {}, {"policy_file": str(path), "policy": "fgd"})
    path.write_text("{}")
    with pytest.raises(InvalidInput, match="format"):
        load(None, {}, {"policy_file": str(path)})
    with pytest.raises(InvalidInput, match="cannot be read"):
        load(None, {}, {"policy_file": str(tmp_path / "absent.json")})


def test_the_settings_printed_are_a_settings_file(tmp_path: Path) -> None:
    config = load(None, {}, {"port": 1, "host_names": 'a "b", c\\d', "reservation_ttl_s": 2.5})
    printed = as_yaml(config)
    assert load(_file(tmp_path, printed), {}, {}) == config
    assert printed.count("\n# -- ") + 1 == len({setting.group for setting in SETTINGS.values()})
    assert max(map(len, printed.splitlines())) <= 120


def test_every_setting_says_what_it_means() -> None:
    for name, setting in SETTINGS.items():
        assert setting.description.endswith(".") and setting.description[0].isupper(), name
        assert type(setting.default) is setting.type, name
        assert (setting.low is None) == (setting.high is None), name
