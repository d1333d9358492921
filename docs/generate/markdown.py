"""Markdown from data: tables and code that cannot be broken by what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["block", "code", "prose", "table"]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars and line ends in a cell are escaped."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def code(text: object) -> str:
    """Text in the font of code, or nothing."""
    return f"`{text}`" if str(text) else ""


def block(text: str, language: str = "") -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def prose(docstring: str) -> str:
    """A docstring as Markdown: roles and double backquotes become the font of code."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", docstring)
    return re.sub(r"``([^`]*)``", r"`\1`", text).strip()
