"""Policy files, from the weights and boards that the code knows."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

from docs.generate.markdown import block, code, prose, table
from scheduler.core.power import BOARDS
from scheduler.core.price_weights import POLICY_FORMAT, WEIGHT_SCALE, PriceWeights

__all__ = ["page"]

_HEAD = """# Policy files

A policy file has the weights of policy `priced`. `snugfit tune` writes one; people may write one by
hand. It is read by `snugfit serve --policy-file` (setting
[`policy_file`](settings.md#policy_file)), `simulate --policy-file` and `tune --policy-file`, and
`snugfit config check FILE` shows the weights in force. [Prices](../concepts/prices.md#use-it) says when
to change them.

"""


def page() -> str:
    """The built-in file, every weight, and the power of boards."""
    meanings = _meanings()
    defaults = PriceWeights().to_json()
    if set(meanings) != set(defaults):
        raise LookupError(f"weights {sorted(set(meanings) ^ set(defaults))} are not described")
    weights = table(
        ("weight", "default", "meaning"),
        ((code(name), f"{value:g}", meanings[name]) for name, value in defaults.items()),
    )
    watts = table(
        ("key", "idle (W)", "busy (W)"),
        ((code(name), str(board.idle), str(board.busy)) for name, board in BOARDS.items()),
    )
    return (
        f"{_HEAD}{block(PriceWeights().to_policy_file(), 'json')}\n\n"
        f"`format` is always `{POLICY_FORMAT}`, `policy` always `priced`. Weights that are missing keep "
        f"their defaults. Some are charged in steps of 1/{WEIGHT_SCALE}; a smaller value other than 0 is "
        f"refused.\n\n{weights}\n\n## Power\n\n`watts` maps a word of the label `nvidia.com/gpu.product` "
        "to the idle and the busy power of one device; `cpu` is a socket of 32 threads. What a file does "
        "not name keeps the built-in value. `GET /debug/prices` shows under `watts` what is known of the "
        f"boards of your cluster.\n\n{watts}\n"
    )


def _meanings() -> dict[str, str]:
    """Weight -> text, from the docstring of the class."""
    text = (inspect.getdoc(PriceWeights) or "").split("Parameters\n----------\n", 1)[1]
    found = {}
    for entry in re.split(r"\n(?=\S)", text):
        name, _, meaning = entry.partition("\n")
        found[name.strip()] = prose(" ".join(meaning.split()))
    return {each.name: found[each.name] for each in fields(PriceWeights) if each.name != "watts"}
