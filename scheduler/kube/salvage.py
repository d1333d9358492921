"""What can be read of an object that cannot be read.

An object whose one field is not what we expect exists all the same, and may hold a device. So its
parts are tried one by one, from the top down, and those that the decoder refuses are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

__all__ = ["salvage"]

T = TypeVar("T")
_UNREADABLE = (msgspec.MsgspecError, OverflowError, RecursionError, ValueError)
_NOTHING = object()
_Wrap = Callable[[Any], dict[str, Any]]


def salvage(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw | bytes) -> T | None:
    """The object without the parts that cannot be read; None if it is no JSON object.

    Parameters
    ----------
    decoder
        Of a struct whose fields have defaults, ``metadata`` apart, which may be empty.
    raw
        The object as it came.
    """
    try:
        tree = msgspec.json.decode(raw)
    except _UNREADABLE:
        return None
    if not isinstance(tree, dict):
        return None
    kept = _readable(decoder, tree, lambda part: {"metadata": {}} | part)
    return None if kept is _NOTHING else _decoded(decoder, {"metadata": {}} | kept)


def _decoded(decoder: msgspec.json.Decoder[T], tree: dict[str, Any]) -> T | None:
    try:
        return decoder.decode(msgspec.json.encode(tree))
    except _UNREADABLE:
        return None


def _readable(decoder: msgspec.json.Decoder[T], value: Any, wrap: _Wrap) -> Any:  # noqa: ANN401 - JSON
    """A value without what cannot be read of it, where ``wrap`` puts it into an object."""
    if _decoded(decoder, wrap(value)) is not None:
        return value
    kept: Any
    if isinstance(value, dict):
        parts = {k: _readable(decoder, v, _within(wrap, k)) for k, v in value.items()}
        kept = {key: part for key, part in parts.items() if part is not _NOTHING}
    elif not isinstance(value, list):
        return _NOTHING
    else:
        items = [_readable(decoder, item, lambda part: wrap([part])) for item in value]
        kept = [item for item in items if item is not _NOTHING]
    return kept if _decoded(decoder, wrap(kept)) is not None else _NOTHING


def _within(wrap: _Wrap, key: str) -> _Wrap:
    return lambda part: wrap({key: part})
