"""YAML that remembers on which line each value stands, so that a finding can point at it."""

from __future__ import annotations

from typing import Any

import yaml

from scheduler.core.errors import InvalidInput

__all__ = ["Path", "YamlFile", "yaml_files"]

Path = tuple[str | int, ...]


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
    try:
        found = [
            document
            for node in yaml.compose_all(text, Loader=yaml.SafeLoader)
            if node is not None
            for document in _documents(node, name, 0)
        ]
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidInput(name, f"is no YAML that can be used: {error}") from error
    if not found:
        raise InvalidInput(name, "is empty", "name a KubeSchedulerConfiguration")
    return found


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
        for part in yaml.compose_all(data, Loader=yaml.SafeLoader):
            if part is not None:
                inner += _documents(part, name, start)
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
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                where = key_node.start_mark.line + 1 + before
                raise InvalidInput(f"{name}:{where}", "a key is no word", "write key: value")
            key = key_node.value
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
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    finally:
        loader.dispose()
