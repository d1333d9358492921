"""The floors of the package, drawn from its imports and from the contract that a linter checks."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

from docs.generate.drawing import Box, Canvas
from docs.generate.markdown import code, prose, table

__all__ = ["arrows", "drawing", "floors", "ground", "page", "rooms"]

_ROOT = Path(__file__).parents[2]
_PACKAGE = "scheduler"
_WIDTH, _ROOM_WIDTH, _ROOM_HEIGHT, _FLOOR = 920.0, 190.0, 64.0, 128.0

_HEAD = """# Rooms and floors

The package `scheduler` has {rooms} rooms on {floors} floors. No import points up; `make lint` checks it,
and that some rooms of one floor do not import each other. The drawing is made from the code when this
page is built: an arrow says that modules of one room import modules of another, and its number says
how many such imports there are. There are {arrows} arrows between rooms; those to {ground}, which every
other room imports, are in the table only.

![Rooms of the package and the imports between them](floors.svg)

"""


@cache
def rooms() -> dict[str, str]:
    """Name of each room and what its docstring says."""
    found = {}
    for path in sorted((_ROOT / _PACKAGE).glob("*/__init__.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.parent.name] = text
    return found


def floors() -> list[list[str]]:
    """Rooms by floor, the top one first, as the import contract lists them."""
    content = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = content["tool"]["importlinter"]["contracts"]
    layers = next(
        contract["layers"]
        for contract in contracts
        if contract["type"] == "layers" and f"{_PACKAGE}.core" in contract["layers"]
    )
    return [
        [name.strip().removeprefix(f"{_PACKAGE}.") for name in layer.replace(":", "|").split("|")]
        for layer in layers
    ]


@cache
def arrows() -> Counter[tuple[str, str]]:
    """(importing room, imported room) -> number of imports."""
    found: Counter[tuple[str, str]] = Counter()
    known = rooms()
    for room in known:
        for path in (_ROOT / _PACKAGE / room).rglob("*.py"):
            for name in _imported(path):
                parts = name.split(".")
                if parts[0] == _PACKAGE and len(parts) > 1 and parts[1] in known:
                    found[room, parts[1]] += 1
    return Counter({pair: count for pair, count in found.items() if pair[0] != pair[1]})


@cache
def ground() -> set[str]:
    """Rooms that every other room imports."""
    counts, known = arrows(), set(rooms())
    return {end for end in known if all((start, end) in counts for start in known - {end})}


def _imported(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    ]
    names += [
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
        for alias in node.names
    ]  # fmt: skip
    return names


def _parts(room: str) -> list[str]:
    """Sub-rooms, and how many modules there are."""
    folder = _ROOT / _PACKAGE / room
    inner = sorted(p.parent.name for p in folder.glob("*/__init__.py"))
    count = sum(1 for _ in folder.rglob("*.py")) - 1 - len(inner)
    shown = [f"{count} modules"]
    if inner:
        shown.append(", ".join(inner) if len(inner) < 4 else f"{len(inner)} sub-rooms")
    return shown


def drawing() -> str:
    """The floors as SVG."""
    plan = floors()
    canvas = Canvas(_WIDTH, _FLOOR * len(plan) + 24, "Rooms of the package and their imports")
    boxes: dict[str, Box] = {}
    for level, names in enumerate(plan):
        gap = (_WIDTH - _ROOM_WIDTH * len(names)) / (len(names) + 1)
        y = 24 + _FLOOR * level
        for place, name in enumerate(names):
            x = gap + place * (_ROOM_WIDTH + gap)
            boxes[name] = Box(x, y, _ROOM_WIDTH, _ROOM_HEIGHT, (name, *_parts(name)))
    for (start, end), count in sorted(arrows().items()):
        if end in ground():
            continue
        canvas.arrow(
            boxes[start], boxes[end], bend=_bend(boxes, start, end), label=str(count),
            weight=1 + min(count, 200) / 80,
        )  # fmt: skip
    for box in boxes.values():
        canvas.box(box)
    return canvas.svg()


def _bend(boxes: dict[str, Box], start: str, end: str) -> float:
    """Arrows that skip a floor swing out, so that they do not run through what is between."""
    a, b = boxes[start], boxes[end]
    skipped = abs(b.y - a.y) / _FLOOR - 1
    (ax, _), (bx, _) = a.middle, b.middle
    side = 1 if ax + bx < _WIDTH else -1
    return side * (90.0 * skipped if skipped > 0 else 14.0)


def page() -> str:
    """The drawing, the arrows as a table, and what each room says of itself."""
    said, counts = rooms(), arrows()
    order = [name for floor in floors() for name in floor]
    head = _HEAD.format(
        rooms=len(said),
        floors=len(floors()),
        arrows=len(counts),
        ground=" and ".join(map(code, sorted(ground()))),
    )
    matrix = table(
        ("imports from", *map(code, order)),
        ((code(row), *(str(counts[row, column] or "") for column in order)) for row in order),
    )
    sections = "\n\n".join(f"## `{name}`\n\n{_quoted(said[name])}" for name in order)
    return f"{head}{matrix}\n\n{sections}\n"


def _quoted(docstring: str) -> str:
    """Paragraphs of a docstring; indented parts and drawings stay as they are."""
    lines = prose(docstring).splitlines()
    return "\n".join(lines)
