"""Kubernetes objects in files, in whichever of the usual forms somebody has them.

That is JSON or YAML; one document, several one after the other, or an array of them; a document is
an object, a ``List``, or the list of one kind as the API serves it, whose items do not repeat that
kind. A folder stands for all such files in it, as ``kubectl cluster-info dump`` writes them.

Nothing is understood of an object here but what kind it is.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.reading import LARGEST_WORKLOAD, read_bytes, text_of
from scheduler.kube.yaml_lines import yaml_values

__all__ = ["Manifest", "files_of", "manifests", "refuse_strangers"]

_SUFFIXES = (".json", ".yaml", ".yml")
_MOST_FILES = 10_000
_MOST_OBJECTS = 2_000_000
_DEEPEST_LIST = 4
_SHOWN = 5
_BETWEEN = re.compile(r"[\s\x1e]*(?:---[ \t]*\r?\n[\s\x1e]*)*")
"""What may stand between two documents of a stream of JSON."""
_FIRST = re.compile(r"(?:[ \t]*(?:#[^\n]*|---[ \t]*|%[^\n]*)?\r?\n){0,1000}([^\n]{1,4096})")
_OPENS = re.compile(r"\s*[-?{\[&!#%\ufeff]|.*:|\.\.\.|---")
"""How a first line begins or goes on that is more than a plain value."""
_NO_OBJECTS = "is neither JSON nor YAML of Kubernetes objects"
_REMEDY = "write it with kubectl get nodes,pods,pdb -A -o json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object as it came.

    Parameters
    ----------
    where
        File and place, for messages.
    kind, group
        Kind and API group, its own or those of the list that it stands in; empty if neither says.
    raw
        The object as JSON.
    problem
        Why its kind cannot be told; empty if it can.
    """

    where: str
    kind: str
    group: str
    raw: msgspec.Raw
    problem: str = ""


class _Head(msgspec.Struct, rename="camel"):
    kind: str | None = None
    api_version: str | None = None
    items: list[msgspec.Raw] | None = None


class _Name(msgspec.Struct, rename="camel"):
    kind: str | None = None
    api_version: str | None = None


_head_decoder = msgspec.json.Decoder(_Head)
_name_decoder = msgspec.json.Decoder(_Name)
_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_any_decoder = msgspec.json.Decoder(msgspec.Raw)


def files_of(paths: Iterable[Path]) -> list[Path]:
    """The files that paths stand for; of a folder all JSON and YAML files in it, in order.

    Raises
    ------
    InvalidInput
        A folder has no such file, or more than anybody means.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            Path(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if name.endswith(_SUFFIXES)
        )
        if not inside:
            raise InvalidInput(str(path), "holds no .json or .yaml file", _REMEDY)
        found += inside
    if len(found) > _MOST_FILES:
        raise InvalidInput(str(found[0].parent), f"{len(found):,} files are too many")
    return found


def manifests(paths: Sequence[Path]) -> list[Manifest]:
    """Every object in these files and folders.

    Raises
    ------
    InvalidInput
        A file cannot be read, is neither JSON nor YAML, or holds nothing that says what it is.
    """
    found: list[Manifest] = []
    files = files_of(paths)
    left = LARGEST_WORKLOAD
    for path in files:
        content = read_bytes(path, left)
        left -= len(content)
        name = str(path) if len(files) == 1 else path.name
        objects = list(_objects(content, name))
        if objects and all(one.problem for one in objects):
            raise InvalidInput(objects[0].where, objects[0].problem, _REMEDY)
        found += objects
        if len(found) > _MOST_OBJECTS:
            raise InvalidInput(str(path), f"more than {_MOST_OBJECTS:,} objects are too many")
    return found


def refuse_strangers(paths: Sequence[Path], found: Sequence[Manifest], wanted: set[str]) -> None:
    """Refuse files that list objects, but none of the kinds that somebody is looking for.

    Raises
    ------
    InvalidInput
        Names the kinds that are there instead.
    """
    if not found or any(one.kind in wanted for one in found):
        return
    counts = Counter(one.kind for one in found if one.kind)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common(_SHOWN))
    names = " or ".join(sorted(wanted))
    raise InvalidInput(", ".join(map(str, paths)), f"holds no {names}, but {kinds}", _REMEDY)


def _objects(content: bytes, name: str) -> Iterator[Manifest]:
    documents = _documents(content, name)
    if not documents:
        raise InvalidInput(name, "holds no object", _REMEDY)
    for number, raw in enumerate(documents):
        where = name if len(documents) == 1 else f"{name}: document {number + 1}"
        yield from _unfolded(raw, where, None, None, 0)


def _documents(content: bytes, name: str) -> Sequence[msgspec.Raw]:
    start = content.lstrip()[:1]
    if start not in (b"{", b"["):
        return _yaml_documents(content, name)
    try:
        if start == b"[":
            return _array_decoder.decode(content)
        _any_decoder.decode(content)
    except msgspec.DecodeError as error:
        problem = error
    except RecursionError as error:
        raise InvalidInput(name, "is nested too deeply") from error
    else:
        return [msgspec.Raw(content)]
    documents = _json_stream(text_of(content, name), name)
    if len(documents) == 1:  # what is wrong with it is best said by the reader of all of it
        raise InvalidInput(name, f"is not JSON: {problem}", "write it again") from problem
    return documents


def _json_stream(text: str, name: str) -> list[msgspec.Raw]:
    """JSON documents one after the other."""
    decoder, found = json.JSONDecoder(), list[msgspec.Raw]()
    at = _after(text, 0)
    while at < len(text):
        try:
            _, end = decoder.raw_decode(text, at)
            found.append(_any_decoder.decode(text[at:end]))
        except RecursionError as error:
            raise InvalidInput(f"{name}: document {len(found)}", "is nested too deeply") from error
        except (ValueError, msgspec.DecodeError) as error:
            if not found:
                return [msgspec.Raw(text)]
            where = f"{name}: document {len(found) + 1}"
            raise InvalidInput(where, f"is not JSON: {error}", "write it again") from error
        at = _after(text, end)
    return found


def _after(text: str, at: int) -> int:
    between = _BETWEEN.match(text, at)
    return between.end() if between else at


def _yaml_documents(content: bytes, name: str) -> list[msgspec.Raw]:
    found: list[msgspec.Raw] = []
    text = text_of(content, name)
    first = _FIRST.match(text)
    if first is not None and not _OPENS.match(first[1]):
        raise InvalidInput(name, _NO_OBJECTS, _REMEDY)
    for number, value in enumerate(yaml_values(text, name)):
        if not isinstance(value, dict):
            raise InvalidInput(name, _NO_OBJECTS, _REMEDY)
        try:
            found.append(msgspec.Raw(msgspec.json.encode(value)))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            where = f"{name}: document {number + 1}"
            raise InvalidInput(where, f"cannot be read: {error}", "write it as JSON") from error
    return found


def _unfolded(
    raw: msgspec.Raw, where: str, kind: str | None, version: str | None, depth: int
) -> Iterator[Manifest]:
    """The objects that a document holds; ``kind`` and ``version`` are those of its list."""
    items = None
    try:
        name = _name_decoder.decode(raw)
        kind, version = name.kind or kind, name.api_version or version
        if kind is None or kind.endswith("List"):
            items = _head_decoder.decode(raw).items
    except (msgspec.DecodeError, RecursionError) as error:
        yield Manifest(where, "", "", raw, f"is not a Kubernetes object: {error}")
        return
    is_list = bool(items) or (kind or "").endswith("List")
    if kind is None and not is_list:
        yield Manifest(where, "", "", raw, "has no kind")
    elif not is_list or depth >= _DEEPEST_LIST:
        group, _, _ = (version or "").rpartition("/")
        yield Manifest(where, kind or "", group, raw)
    else:
        inner = (kind or "").removesuffix("List") or None
        for index, item in enumerate(items or ()):
            place = f"{where}: items[{index}]" if depth == 0 else f"{where}.items[{index}]"
            yield from _unfolded(item, place, inner, version if inner else None, depth + 1)
