"""Where settings come from: defaults, then a YAML file, then environment, then flags.

An unknown key is an error that names the nearest valid one: a typo must never mean "default". An
old name is an error that says the new one.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scheduler.cluster.settings import RENAMED, SETTINGS, ExtenderConfig
from scheduler.core.errors import InvalidInput, nearest
from scheduler.core.reading import LARGEST_SETTINGS, read_bytes, text_of
from scheduler.kube.yaml_lines import yaml_mapping

__all__ = ["ENV_PREFIX", "as_yaml", "load"]

ENV_PREFIX = "SNUGFIT_"
_NOT_OURS = frozenset({"SNUGFIT_DATA", "SNUGFIT_DEBUG", "SNUGFIT_KUBE_ASSETS"})


def as_yaml(config: ExtenderConfig) -> str:
    """The settings file that gives this configuration, every setting with its meaning."""
    lines: list[str] = []
    group = ""
    for setting in SETTINGS.values():
        if setting.group != group:
            group = setting.group
            lines += ["", f"# -- {group}"]
        unit = f" [{setting.unit}]" if setting.unit else ""
        lines += ["", *(f"# {line}" for line in textwrap.wrap(setting.description + unit, 96))]
        lines.append(f"{setting.name}: {json.dumps(getattr(config, setting.name))}")
    return "\n".join(lines[1:]) + "\n"


def load(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> ExtenderConfig:
    """Merge the four sources.

    Parameters
    ----------
    path
        YAML file with one mapping, or None.
    environment
        Variables ``SNUGFIT_<KEY>``; others are ignored.
    flags
        Values given on the command line; None means not given.

    Raises
    ------
    InvalidInput
        Unknown key, wrong type or impossible value; names source, key and remedy.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        for written, value in _mapping(path).items():
            key = _known(str(written), str(path))
            merged[key] = _typed(key, value, str(path))
    for variable, value in sorted(environment.items()):
        if variable.startswith(ENV_PREFIX) and variable not in _NOT_OURS:
            key = _known(variable.removeprefix(ENV_PREFIX).lower(), f"environment {variable}")
            merged[key] = _typed(key, value, f"environment {variable}", text=True)
    for key, value in flags.items():
        if value is not None:
            merged[_known(key, "flags")] = value
    if merged.get("policy_file"):
        merged.setdefault("policy", "priced")
    config = ExtenderConfig(**merged)
    config.price_weights()  # a mistake in the file should show now
    return config


def _mapping(path: Path) -> Mapping[str, Any]:
    content = read_bytes(path, LARGEST_SETTINGS, may_be_empty=True)
    return yaml_mapping(text_of(content, str(path)), str(path))


def _known(key: str, source: str) -> str:
    if key in SETTINGS:
        return key
    if key in RENAMED:
        raise InvalidInput(f"{source}: {key}", "was renamed", f"write {RENAMED[key]}")
    meant = nearest(key, SETTINGS)
    raise InvalidInput(f"{source}: {key}", "is not a known setting", f"did you mean {meant!r}?")


def _typed(key: str, value: Any, source: str, *, text: bool = False) -> Any:  # noqa: ANN401 - YAML
    wanted = SETTINGS[key].type
    try:
        if text and wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        if text:
            return wanted(value)
        if wanted is float and type(value) is int:
            return float(value)
        if type(value) is wanted:
            return value
    except (ValueError, KeyError):
        pass
    raise InvalidInput(f"{source}: {key}", f"{value!r} is not of type {wanted.__name__}")
