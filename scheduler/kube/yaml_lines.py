"""YAML that remembers on which line each value stands, so that a finding can point at it.

What it costs to read is bounded before anything is built: an alias counts as what it stands for, so
that a few lines cannot unfold into billions. Only plain values are understood, as in JSON.

A file for kube-scheduler is read as kube-scheduler reads it: by the rules of its YAML library for
plain words and merged mappings, and by those of JSON if the text begins with a brace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from scheduler.core.errors import InvalidInput

__all__ = ["Path", "YamlFile", "bounded_yaml", "yaml_files", "yaml_mapping", "yaml_values"]

Path = tuple[str | int, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_VALUES = 100_000
_MOST_LISTED = 20_000_000
"""Values of a file that a program has written, such as all objects of a large cluster."""
_LONG_VALUE = 64
"""Characters beyond which a value counts as several, since an alias may repeat it."""
_DEEPEST = 100
_LONGEST_LINE = 4 << 20
"""Characters of a line or value; the API server takes no object of so many bytes."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TOO_DEEP = f"is nested more than {_DEEPEST} deep"
_LONGEST_NUMBER = 60
_RESOLVER: Any = yaml.resolver.Resolver()
_COLLECTIONS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq")}
_PLAIN = {f"tag:yaml.org,2002:{kind}": kind for kind in ("null", "bool", "int", "float", "str")}
_MERGE = "tag:yaml.org,2002:merge"
_TIME = "tag:yaml.org,2002:timestamp"


def _forms(word: str) -> tuple[str, str, str]:
    """The spellings in which YAML 1.1 knows a word."""
    return word, word.capitalize(), word.upper()


_MEANT = re.compile(
    r"kubescheduler\.config\.k8s\.io|KubeSchedulerConfiguration|\bkind\W{1,4}Policy\b"
)
_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **{form: True for word in ("y", "yes", "true", "on") for form in _forms(word)},
    **{form: False for word in ("n", "no", "false", "off") for form in _forms(word)},
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_INTEGER = re.compile(
    r"[-+]?(0|0[xX][0-9a-fA-F]{1,40}|0[bB][01]{1,60}|0[oO]?[0-7]{1,60}|[1-9][0-9]{0,59})"
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]{1,60}(\.[0-9]{0,60})?)([eE][-+]?[0-9]{1,4})?")


class YamlFile:
    """One document.

    Parameters
    ----------
    content
        What it says.
    lines
        Line (from 1) by path.
    repeated
        Keys that stand twice in their mapping, and on which line they do so again.
    ordinal
        Of the document in its text: 0 for the first one, the only one that kube-scheduler reads.
    is_json
        The text begins with a brace: kube-scheduler reads it as JSON, not as YAML.
    fault
        Why it is not JSON then, and on which line.
    behind
        Why the text behind this document cannot be read; kube-scheduler does not read it either.
    unread
        Why the document, one of several, cannot be read itself.
    """

    def __init__(
        self,
        content: Any,  # noqa: ANN401 - YAML
        lines: dict[Path, int],
        *,
        repeated: tuple[tuple[Path, int], ...] = (),
        ordinal: int = 0,
        is_json: bool = False,
        fault: tuple[str, int] | None = None,
        behind: str = "",
        unread: str = "",
    ) -> None:
        self.content = content
        self.repeated = repeated
        self.ordinal = ordinal
        self.is_json = is_json
        self.fault = fault
        self.behind = behind
        self.unread = unread
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

    def on_line(self, line: int) -> YamlFile:
        """The same document where all of it stands on one line of the file, in quotes."""
        return YamlFile(
            self.content,
            dict.fromkeys(self._lines, line),
            repeated=tuple((path, line) for path, _ in self.repeated),
            ordinal=self.ordinal,
            is_json=self.is_json,
            fault=(self.fault[0], line) if self.fault else None,
            behind=self.behind,
            unread=self.unread,
        )

    @staticmethod
    def written(path: Path) -> str:
        """A path as people write it: ``extenders[0].weight``."""
        text = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path)
        return text.removeprefix(".") or "(file)"


def yaml_files(text: str, name: str) -> list[YamlFile]:
    """Every document in a text, as kube-scheduler would read it.

    What a ConfigMap carries counts as documents of its own, and so do the items of a List.

    Parameters
    ----------
    text
        YAML or JSON.
    name
        Of the file, for errors.

    Raises
    ------
    InvalidInput
        It is not YAML.
    """
    found = list(_scheduler_files(text, name, 0))
    if not found:
        raise InvalidInput(name, "is empty", "name a KubeSchedulerConfiguration")
    return found


def yaml_mapping(text: str, name: str) -> Mapping[str, Any]:
    """Settings: the one mapping in a text, or nothing if it is empty.

    Raises
    ------
    InvalidInput
        As :func:`yaml_files`, or the text is not a mapping, or several documents.
    """
    documents = [_settings(node, name) for node in _nodes(text, name)]
    if len(documents) > 1:
        raise InvalidInput(name, "holds several documents", "give one")
    content = documents[0] if documents else None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidInput(name, "is not a mapping of keys to values", "write `key: value`")
    return content


class _Plain(_Loader):  # type: ignore[misc]
    """Builds plain values only; a time is the text that it is written as."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in found if tag != _TIME]
        for first, found in _Loader.yaml_implicit_resolvers.items()
    }


def yaml_values(text: str, name: str) -> list[Any]:
    """The values of all documents in a long text, without the lines where they stand.

    Raises
    ------
    InvalidInput
        It is not YAML, or unfolds into more than any cluster has.
    """
    _look_over(text, name)
    try:
        _measure(text, name, _MOST_LISTED)
        found = yaml.load_all(text, Loader=_Plain)
        return [value for value in found if value is not None]
    except (yaml.YAMLError, RecursionError, UnicodeError, ValueError, OverflowError) as error:
        raise _no_yaml(name, error) from error


def _look_over(text: str, name: str) -> None:
    """Refuse at a glance what no program has written as YAML, before a parser works on it."""
    odd = _CONTROL.search(text)
    if odd is not None:
        raise InvalidInput(
            name, f"is not YAML: control character {ord(odd[0]):#04x} at character {odd.start()}"
        )
    begins = 0
    while len(text) - begins > _LONGEST_LINE:
        ends = text.rfind("\n", begins, begins + _LONGEST_LINE)
        if ends < 0 and text[begins] not in "{[":
            line = text.count("\n", 0, begins) + 1
            raise InvalidInput(
                f"{name}:{line}", "is not YAML of objects: the line is longer than any of them"
            )
        ends = text.find("\n", begins) if ends < 0 else ends
        begins = ends + 1 if ends >= 0 else len(text)


def _settings(node: yaml.Node | None, name: str) -> Any:  # noqa: ANN401 - YAML
    if node is None:
        return None
    reader = _Reader(name, 0)
    content = reader.value(node, ())
    for path, line in reader.repeated:
        raise InvalidInput(f"{name}:{line}", f"the key {path[-1]} stands here twice", "drop one")
    return content


def _nodes(text: str, name: str) -> list[yaml.Node | None]:
    """The documents of a text."""
    try:
        _measure(text, name)
        return list(yaml.compose_all(text, Loader=_Loader))
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise _no_yaml(name, error) from error


def _scheduler_files(text: str, name: str, before: int) -> Iterator[YamlFile]:
    """Documents of a text that begins ``before`` lines after the file does."""
    nodes, behind = _readable(text, name)
    fault = _json_fault(text, before)  # what is nested too deeply has been refused by now
    for ordinal, node in enumerate(nodes):
        if node is None:
            continue
        reader = _Reader(name, before, scheduler=True)
        content = reader.value(node, ())
        inner = list(_unwrapped(node, content, reader, name, before, alone=len(nodes) == 1))
        if inner:
            yield from inner
            continue
        yield YamlFile(
            content,
            reader.lines,
            repeated=tuple(reader.repeated),
            ordinal=ordinal,
            is_json=_begins_json(text),
            fault=fault,
            behind=behind,
        )


def _readable(text: str, name: str) -> tuple[list[yaml.Node | None], str]:
    """Documents before the first mistake, and what that is; a text that begins with it is none."""
    try:
        return _nodes(text, name), ""
    except InvalidInput as error:
        if not isinstance(error.__cause__, yaml.YAMLError):
            raise
        found: list[yaml.Node | None] = []
        try:
            found.extend(yaml.compose_all(text, Loader=_Loader))  # keeps those before the mistake
        except yaml.YAMLError:
            if not any(node is not None for node in found):
                raise error from error.__cause__
        return found, error.problem


def _begins_json(text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n").startswith("{")


def _json_fault(text: str, before: int) -> tuple[str, int] | None:
    """What keeps a text that begins with a brace from being JSON."""
    if not _begins_json(text):
        return None
    try:
        json.loads(text.lstrip("\ufeff"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        return error.msg, error.lineno + before
    except ValueError as error:
        return str(error), 1 + before
    return None


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _unwrapped(
    node: yaml.Node,
    content: Any,  # noqa: ANN401 - YAML
    reader: _Reader,
    name: str,
    before: int,
    implied: str = "",
    *,
    alone: bool = False,
) -> Iterator[YamlFile]:
    """What stands inside of a List, or in the texts of a ConfigMap.

    Items of a list as the API serves it do not repeat their kind, which is ``implied``. A text that
    cannot be read stops no other; ``alone``, it is an error.
    """
    kind = (content.get("kind") or implied) if isinstance(content, dict) else None
    if not isinstance(kind, str) or not isinstance(node, yaml.MappingNode):
        return
    if kind == "ConfigMap":
        for value in _texts(node):
            block = value.style in ("|", ">")  # its text begins on the line after its mark
            start = before + value.start_mark.line + block
            try:
                files = list(_scheduler_files(value.value, name, start))
            except InvalidInput as error:
                if alone:
                    raise
                files = [YamlFile(None, {(): start + 1}, unread=str(error))]
            yield from files if block else [file.on_line(start + 1) for file in files]
    elif kind.endswith("List"):
        for index, item in enumerate(_items(node)):
            inner = content["items"][index]
            found = list(_unwrapped(item, inner, reader, name, before, kind.removesuffix("List")))
            yield from found or [reader.part(("items", index), inner)]


def _under(node: yaml.MappingNode, key: str) -> Iterator[yaml.Node]:
    yield from (value for name, value in node.value if name.value == key)


def _items(node: yaml.MappingNode) -> Iterator[yaml.Node]:
    for value in _under(node, "items"):
        yield from value.value if isinstance(value, yaml.SequenceNode) else ()


def _texts(node: yaml.MappingNode) -> Iterator[yaml.ScalarNode]:
    """Texts of a ConfigMap that configure a scheduler."""
    for data in _under(node, "data"):
        for _, value in data.value if isinstance(data, yaml.MappingNode) else ():
            if isinstance(value, yaml.ScalarNode) and _MEANT.search(value.value):
                yield value


@dataclass(slots=True)
class _Extent:
    """What a value unfolds into: how many values, on how many levels; and its anchor."""

    anchor: str | None = None
    values: int = 1
    depth: int = 1


class _Measure:
    """Follows a text without building anything, and refuses what would unfold into too much."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
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
            where = f"{self._name}:{event.start_mark.line + 1}"
            if kind is yaml.ScalarEvent and len(event.value) > _LONGEST_LINE:
                raise InvalidInput(where, "a value is longer than any object")
            self._add(self._ended(event), where)

    def _ended(self, event: Any) -> _Extent:  # noqa: ANN401 - as above
        if isinstance(event, yaml.CollectionEndEvent):
            return self._open.pop()
        if isinstance(event, yaml.ScalarEvent):
            return _Extent(event.anchor, 1 + len(event.value) // _LONG_VALUE)
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
        if values > self._most:
            raise InvalidInput(where, f"unfolds into more than {self._most:,} values", "write less")


def _measure(text: str, name: str, most: int = _MOST_VALUES) -> None:
    measure = _Measure(name, most)
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
    return InvalidInput(name, f"cannot be read as YAML: {problem}")


class _Reader:
    """Builds the content of one document.

    Parameters
    ----------
    name
        Of the file, for errors.
    before
        Lines of the file before the text.
    scheduler
        Read plain words and merged mappings as kube-scheduler does.
    """

    def __init__(self, name: str, before: int, *, scheduler: bool = False) -> None:
        self.lines: dict[Path, int] = {}
        self.repeated: list[tuple[Path, int]] = []
        self._name = name
        self._before = before
        self._scheduler = scheduler

    def value(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401 - YAML
        """The content of a node, whose place in the document is given.

        Raises
        ------
        InvalidInput
            Something else than plain values.
        """
        if not path:
            self.lines[()] = self._line(node)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
            raise InvalidInput(self._at(node), f"has the tag {node.tag}", "write plain values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.lines[*path, index] = self._line(item)
                items.append(self.value(item, (*path, index)))
            return items
        assert isinstance(node, yaml.ScalarNode)
        if _PLAIN.get(node.tag) in ("int", "float") and len(node.value) > _LONGEST_NUMBER:
            raise InvalidInput(self._at(node), f"is a number of {len(node.value)} characters")
        if self._scheduler and not node.style and not _tagged(node):
            return _plain_word(node.value)
        return _scalar(node, self._at(node))

    def part(self, path: Path, content: Any) -> YamlFile:  # noqa: ANN401 - YAML
        """A document that stands at a path of this one."""
        skip = len(path)
        return YamlFile(
            content,
            {where[skip:]: line for where, line in self.lines.items() if where[:skip] == path},
            repeated=tuple((p[skip:], n) for p, n in self.repeated if p[:skip] == path),
        )

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise InvalidInput(self._at(key_node), "a key is not a word", "write key: value")
            if key_node.tag == _MERGE:
                if not self._scheduler:
                    raise InvalidInput(self._at(key_node), "merges a mapping", "write its keys out")
                merged.append(value_node)
                continue
            self._entry(mapping, path, key_node, value_node)
        for source in merged:
            self._merge(mapping, path, source)
        return mapping

    def _merge(self, mapping: dict[Any, Any], path: Path, source: yaml.Node) -> None:
        """Take the keys of another mapping; for kube-scheduler one that is there stands twice."""
        several = isinstance(source, yaml.SequenceNode)
        for one in source.value if several else [source]:
            if not isinstance(one, yaml.MappingNode):
                raise InvalidInput(
                    self._at(one), "merges what is not a mapping", "write its keys out"
                )
            for key_node, value_node in one.value:
                if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
                    raise InvalidInput(
                        self._at(key_node), "merges twice over", "write its keys out"
                    )
                self._entry(mapping, path, key_node, value_node)

    def _entry(
        self, mapping: dict[Any, Any], path: Path, key_node: yaml.ScalarNode, value_node: yaml.Node
    ) -> None:
        key = key_node.value
        if key in mapping:
            self.repeated.append(((*path, key), self._line(key_node)))
            return
        self.lines[*path, key] = self._line(key_node)
        mapping[key] = self.value(value_node, (*path, key))

    def _line(self, node: yaml.Node) -> int:
        line: int = node.start_mark.line + 1 + self._before
        return line

    def _at(self, node: yaml.Node) -> str:
        return f"{self._name}:{self._line(node)}"


def _tagged(node: yaml.ScalarNode) -> bool:
    """Whether somebody wrote a tag: it is not what the word itself would be."""
    return bool(node.tag != _RESOLVER.resolve(yaml.ScalarNode, node.value, (True, False)))


def _plain_word(word: str) -> Any:  # noqa: ANN401 - YAML
    """A word without quotes, as the YAML library of Kubernetes takes it."""
    if word in _WORDS:
        return _WORDS[word]
    digits = word.replace("_", "")
    if _INTEGER.fullmatch(digits):
        octal = re.fullmatch(r"([-+]?)0([0-7]+)", digits)
        return int(f"{octal[1]}0o{octal[2]}", 0) if octal else int(digits, 0)
    if _FLOAT.fullmatch(digits) and word[0] != "_":
        return float(digits)
    return word


def _scalar(node: yaml.Node, where: str) -> Any:  # noqa: ANN401 - YAML
    """A plain value; a time is the text that it is written as."""
    if node.tag == _TIME:
        return node.value
    if node.tag not in _PLAIN:
        raise InvalidInput(where, f"has the tag {node.tag}", "write a plain value")
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(where, f"cannot be read: {error}", "write a plain value") from error
    return value
