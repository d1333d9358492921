"""The settings of the webhook, from the one definition of each."""

from __future__ import annotations

from docs.generate.markdown import code, table
from scheduler.cluster.settings import SETTINGS, Setting
from scheduler.cluster.settings_file import ENV_PREFIX

__all__ = ["page"]

_HEAD = f"""# Settings

Settings of `snugfit serve`. Each source overrides the one before it: built-in defaults, the YAML
file of `--config`, environment variables, flags. An unknown key is an error that names the nearest
valid one. `snugfit serve --print-config` prints the settings in force. The chart takes the same keys
under `extender.settings`.

The environment variable of a setting is `{ENV_PREFIX}` and its name in capitals: `{ENV_PREFIX}PORT`.
"""


def page() -> str:
    """One table per group, in the order of the definitions."""
    groups = dict.fromkeys(setting.group for setting in SETTINGS.values())
    heads = ("setting", "type", "default", "values", "meaning")
    tables = (
        f"## {group}\n\n"
        + table(heads, (_row(each) for each in SETTINGS.values() if each.group == group))
        for group in groups
    )
    return f"{_HEAD}\n" + "\n\n".join(tables) + "\n"


def _row(setting: Setting) -> tuple[str, str, str, str, str]:
    default = setting.default
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    kind = setting.type.__name__ + (f", {setting.unit}" if setting.unit else "")
    name = f'<a id="{setting.name}"></a>{code(setting.name)}'
    return name, kind, code(shown) or "empty", _values(setting), setting.description


def _values(setting: Setting) -> str:
    """Limits or choices, if there are any."""
    if setting.choices:
        return ", ".join(map(code, setting.choices))
    low, high = setting.low, setting.high
    if low is None and high is None:
        return ""
    if high is None:
        return f"at least {low:g}"
    return f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
