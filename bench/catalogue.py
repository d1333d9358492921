"""Which benchmarks there are, and what each of them asks."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import click

__all__ = ["BENCHMARKS", "SECTIONS", "command", "protocol", "question"]

SECTIONS = {
    "Packing": ("online", "realism", "replay", "queue", "power", "weights", "smoke"),
    "Planning": ("backlog", "offline", "planscale", "vector"),
    "Speed": (
        "webhook", "compare", "storm", "sync", "throughput", "decisions", "holds", "speed",
        "servers",
    ),
    "Truth and endurance": ("reality", "crashes", "siege", "soak", "starts", "loaded"),
}  # fmt: skip
"""Names of benchmarks, which are the names of their modules, by what they are about."""

BENCHMARKS = tuple(name for names in SECTIONS.values() for name in names)


def command(name: str) -> click.Command:
    """The command of a benchmark; imports its module."""
    found: click.Command = importlib.import_module(f"bench.{name}").command
    return found


def protocol(name: str) -> str:
    """What the module of a benchmark says of itself, read without importing it."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source))
    assert text is not None
    return text


def question(name: str) -> str:
    """The first line of the protocol."""
    return protocol(name).splitlines()[0]
