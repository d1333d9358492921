"""The metrics of the webhook, from the calls that make them.

The code is read, not run: some families exist only beside a live cluster. A name is a constant, or
made from a constant prefix and a row of the table that a loop goes over.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.generate.markdown import code, table

__all__ = ["Family", "families", "page"]

_PACKAGE = Path(__file__).parents[2] / "scheduler"
_KINDS = {
    "Counter": "counter",
    "CounterMetricFamily": "counter",
    "Gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "Histogram": "histogram",
}
_LABELS_AT = 2

_HEAD = """# Metrics

What `GET /metrics` exposes, in the format of Prometheus. Counters have the suffix `_total` in the
exposition. Families of the planner exist if a planner process runs, families of the live cluster
unless the cluster comes from a file. [Deployment](../operate/deployment.md#alerts) lists the alerts
of the chart and what to do about each.

"""


@dataclass(frozen=True)
class Family:
    """One family of samples."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def families() -> list[Family]:
    """Every family, by name."""
    found: dict[str, Family] = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "prometheus_client" in source:
            for family in _in(ast.parse(source), {}):
                found[family.name] = family
    return [found[name] for name in sorted(found)]


def page() -> str:
    """One row per family."""
    rows = ((code(f.name), f.kind, ", ".join(map(code, f.labels)), f.text) for f in families())
    return _HEAD + table(("name", "type", "labels", "meaning"), rows) + "\n"


def _in(node: ast.AST, known: dict[str, object]) -> Iterator[Family]:
    """Families made below a node, once for each row of the loops around it."""
    if isinstance(node, ast.Call):
        yield from _family(node, known)
    if isinstance(node, ast.For):
        for more in _rows(node.target, node.iter):
            for statement in node.body:
                yield from _in(statement, known | more)
        return
    if isinstance(node, ast.DictComp):
        loop = node.generators[0]
        for more in _rows(loop.target, loop.iter) or [{}]:
            yield from _in(node.value, known | more)
        return
    for child in ast.iter_child_nodes(node):
        yield from _in(child, known)


def _rows(target: ast.expr, source: ast.expr) -> list[dict[str, object]]:
    """What the names of a loop stand for; once with nothing known, if it is no literal table."""
    if not isinstance(source, ast.Tuple | ast.List) or not source.elts:
        return [{}]
    if isinstance(target, ast.Name):
        return [{target.id: _constant(row)} for row in source.elts]
    if not isinstance(target, ast.Tuple):
        return [{}]
    names = [name.id for name in target.elts if isinstance(name, ast.Name)]
    return [
        dict(zip(names, map(_constant, row.elts), strict=True))
        for row in source.elts
        if isinstance(row, ast.Tuple)
    ]


def _constant(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _family(call: ast.Call, known: dict[str, object]) -> Iterator[Family]:
    if not isinstance(call.func, ast.Name) or call.func.id not in _KINDS or not call.args:
        return
    name = _text(call.args[0], known)
    if name is None:
        raise LookupError(f"line {call.lineno}: the name of a metric cannot be read")
    labels = next((word.value for word in call.keywords if word.arg == "labels"), None)
    if labels is None and len(call.args) > _LABELS_AT:
        labels = call.args[_LABELS_AT]
    named = labels.elts if isinstance(labels, ast.List | ast.Tuple) else []
    text = _text(call.args[1], known)
    if text is None:
        raise LookupError(f"line {call.lineno}: the text of {name} cannot be read")
    yield Family(
        name, _KINDS[call.func.id], tuple(str(_text(label, known)) for label in named), text
    )


def _text(node: ast.expr, known: dict[str, object]) -> str | None:
    """A text, from constants and names of the loops around it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name):
        value = known.get(node.id)
        return None if value is None else str(value)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, known)
    if isinstance(node, ast.JoinedStr):
        parts = [_text(part, known) for part in node.values]
        return None if None in parts else "".join(part or "" for part in parts)
    return None
