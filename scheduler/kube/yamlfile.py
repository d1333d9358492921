"""YAML that remembers on which line each value stands, so that a finding can point at it.

What it costs to read is bounded before anything is built: an alias counts as what it stands for, so
that a few lines cannot unfold into billions. Only plain values are understood, as in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from scheduler.core.errors import InvalidInput

__all__ = ["Path", "YamlFile", "bounded_yaml", "yaml_files", "yaml_mapping"]

Path = tuple[str | int, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_VALUES = 100_000
_DEEPEST = 100
_TOO_DEEP = f"is nested more than {_DEEPEST} deep"
_LONGEST_NUMBER = 60
_COLLECTIONS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq")}
_PLAIN = {f"tag:yaml.org,2002:{kind}": kind for kind in ("null", "bool", "int", "float", "str")}
_MERGE = "tag:yaml.org,2002:merge"
_TIME = "tag:yaml.org,2002:timestamp"


class YamlFile:
    """One document.

    Parameters
    ----------
    content
        What it says.
    lines
        Line (from 1) by path.
    """

    def __init__(self, content: Any, lines: dict[Path, int]) -> None:  # noqa: ANN401 - YAML
        self.content = content
        self._lines = lines

    def get(self, path: Path) -> Any:  # noqa: ANN401 - YAML
        """The value at a path, None if there is none."""
        value = self.content
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def line(self, path: Path) -> int:
        """Where the value stands; for one that is missing, where its container does."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    @staticmethod
    def written(path: Path) -> str:
        """A path as people write it: ``extenders[0].weight``."""
        text = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path)
        return text.removeprefix(".") or "(file)"


def yaml_files(text: str, name: str) -> list[YamlFile]:
    """Every document in a text; what a ConfigMap carries counts as documents of its own.

    Parameters
    ----------
    text
        YAML or JSON.
    name
        Of the file, for errors.

    Raises
    ------
    InvalidInput
        It is no YAML, or a key stands twice in one mapping.
    """
    found = _read(text, name, 0)
    if not found:
        raise InvalidInput(name, "is empty", "name a KubeSchedulerConfiguration")
    return found


def yaml_mapping(text: str, name: str) -> Mapping[str, Any]:
    """Settings: the one mapping in a text, or nothing if it is empty.

    Raises
    ------
    InvalidInput
        As :func:`yaml_files`, or the text is no mapping or several documents.
    """
    documents = _read(text, name, 0)
    if len(documents) > 1:
        raise InvalidInput(name, "holds several documents", "give one")
    content = documents[0].content if documents else None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidInput(name, "is no mapping of keys to values", "write `key: value`")
    return content


def _read(text: str, name: str, before: int) -> list[YamlFile]:
    """Documents of a text that begins ``before`` lines after the file does."""
    try:
        _measure(text, name)
        return [
            document
            for node in yaml.compose_all(text, Loader=_Loader)
            if node is not None
            for document in _documents(node, name, before)
        ]
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise _no_yaml(name, error) from error


@dataclass(slots=True)
class _Extent:
    """What a value unfolds into: how many values, on how many levels; and its anchor."""

    anchor: str | None = None
    values: int = 1
    depth: int = 1


class _Measure:
    """Follows a text without building anything, and refuses what would unfold into too much."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._total = 0
        self._known: dict[str | None, _Extent] = {}
        self._open: list[_Extent] = []

    def take(self, event: Any) -> None:  # noqa: ANN401 - the library has no types for its events
        """One event of the parser.

        Raises
        ------
        InvalidInput
            Too many values or levels, aliases followed, or something that holds itself.
        """
        kind = type(event)
        if kind is yaml.DocumentStartEvent:
            self._known = {}
        elif issubclass(kind, yaml.CollectionStartEvent):
            self._open.append(_Extent(event.anchor))
            if len(self._open) > _DEEPEST:
                where = f"{self._name}:{event.start_mark.line + 1}"
                raise InvalidInput(where, _TOO_DEEP)
        elif issubclass(kind, yaml.CollectionEndEvent | yaml.AliasEvent | yaml.ScalarEvent):
            self._add(self._ended(event), f"{self._name}:{event.start_mark.line + 1}")

    def _ended(self, event: Any) -> _Extent:  # noqa: ANN401 - as above
        if isinstance(event, yaml.CollectionEndEvent):
            return self._open.pop()
        if isinstance(event, yaml.ScalarEvent):
            return _Extent(event.anchor)
        if any(one.anchor == event.anchor for one in self._open):
            where = f"{self._name}:{event.start_mark.line + 1}"
            raise InvalidInput(where, f"*{event.anchor} holds itself", "write it out")
        known = self._known.get(event.anchor, _Extent())  # an unknown one is found when composed
        return _Extent(None, known.values, known.depth)

    def _add(self, ended: _Extent, where: str) -> None:
        if ended.anchor is not None:
            self._known[ended.anchor] = ended
        if len(self._open) + ended.depth > _DEEPEST:
            raise InvalidInput(where, _TOO_DEEP)
        if self._open:
            around = self._open[-1]
            around.values += ended.values
            around.depth = max(around.depth, ended.depth + 1)
            values = around.values
        else:
            self._total += ended.values
            values = self._total
        if values > _MOST_VALUES:
            raise InvalidInput(
                where, f"unfolds into more than {_MOST_VALUES:,} values", "write less"
            )


def _measure(text: str, name: str) -> None:
    measure = _Measure(name)
    for event in yaml.parse(text, Loader=_Loader):
        measure.take(event)


def bounded_yaml(text: str, name: str) -> None:
    """Refuse YAML that somebody else will build where it would unfold into too much.

    Raises
    ------
    InvalidInput
        Too many values or levels, aliases followed, something that holds itself, or no YAML.
    """
    try:
        _measure(text, name)
    except (yaml.YAMLError, UnicodeError) as error:
        raise _no_yaml(name, error) from error


def _no_yaml(name: str, error: Exception) -> InvalidInput:
    problem = " ".join(str(error).split())  # theirs has several lines
    return InvalidInput(name, f"is no YAML that can be used: {problem}")


def _documents(node: yaml.Node, name: str, before: int) -> list[YamlFile]:
    lines: dict[Path, int] = {(): node.start_mark.line + 1 + before}
    content = _value(node, (), lines, before, name)
    if not (isinstance(content, dict) and content.get("kind") == "ConfigMap"):
        return [YamlFile(content, lines)]
    inner = []
    for data, value in _scalars(node, "data"):
        if "KubeSchedulerConfiguration" not in data:
            continue
        start = value.start_mark.line + 1 + before  # a block's text begins on the next line
        inner += _read(data, name, start)
    return inner or [YamlFile(content, lines)]


def _scalars(node: yaml.Node, key: str) -> list[tuple[str, yaml.Node]]:
    """Texts in the mapping that stands under a key."""
    assert isinstance(node, yaml.MappingNode)
    return [
        (value.value, value)
        for name, data in node.value
        if name.value == key and isinstance(data, yaml.MappingNode)
        for _, value in data.value
        if isinstance(value, yaml.ScalarNode)
    ]


def _value(node: yaml.Node, path: Path, lines: dict[Path, int], before: int, name: str) -> Any:  # noqa: ANN401
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
        at = node.start_mark.line + 1 + before
        raise InvalidInput(f"{name}:{at}", f"has the tag {node.tag}", "write plain values")
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                where = key_node.start_mark.line + 1 + before
                raise InvalidInput(f"{name}:{where}", "a key is no word", "write key: value")
            key = key_node.value
            if key_node.tag == _MERGE:
                where = key_node.start_mark.line + 1 + before
                raise InvalidInput(f"{name}:{where}", "merges a mapping", "write its keys out")
            at = key_node.start_mark.line + 1 + before
            if key in mapping:
                raise InvalidInput(f"{name}:{at}", f"the key {key} stands here twice", "drop one")
            lines[*path, key] = at
            mapping[key] = _value(value_node, (*path, key), lines, before, name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[*path, index] = item.start_mark.line + 1 + before
            items.append(_value(item, (*path, index), lines, before, name))
        return items
    return _scalar(node, f"{name}:{node.start_mark.line + 1 + before}")


def _scalar(node: yaml.Node, where: str) -> Any:  # noqa: ANN401 - YAML
    """A plain value; a time is the text that it is written as."""
    if node.tag == _TIME:
        return node.value
    if node.tag not in _PLAIN:
        raise InvalidInput(where, f"has the tag {node.tag}", "write a plain value")
    if _PLAIN[node.tag] in ("int", "float") and len(node.value) > _LONGEST_NUMBER:
        raise InvalidInput(where, f"is a number of {len(node.value)} characters")
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(where, f"cannot be read: {error}", "write a plain value") from error
    return value
