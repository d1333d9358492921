"""The list of decisions, from the files themselves."""

from __future__ import annotations

from pathlib import Path

__all__ = ["files", "page", "title"]

_FOLDER = Path(__file__).parents[1] / "decisions"

_HEAD = """# Decisions

Each page explains one decision that someone might reverse: the context, the decision, the evidence,
and the consequences. Half a page is enough. A decision that no longer holds keeps its page and its
number, and says which decision has replaced it.

"""


def files() -> list[Path]:
    """Every decision, in the order of the numbers."""
    return sorted(_FOLDER.glob("[0-9]*.md"))


def title(path: Path) -> str:
    """First line of a decision, without the mark of a heading."""
    return path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ").strip()


def page() -> str:
    """The list."""
    return _HEAD + "\n".join(f"- [{title(path)}]({path.name})" for path in files()) + "\n"
