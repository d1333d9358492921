"""What can be read of an object that cannot be read.

An object whose one field is not what we expect exists all the same, and may hold a device. So its
parts are tried one by one, from the top down, and those that the decoder refuses are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["REQUEST", "InPart", "read_in_part", "salvage"]

REQUEST = (
    "spec.containers",
    "spec.initContainers",
    "spec.overhead",
    "spec.resources",
    "status.containerStatuses",
    "status.initContainerStatuses",
    "status.allocatedResources",
    "status.resources",
    "metadata.annotations",
)
"""Where a pod says what it asks for."""

T = TypeVar("T")
_UNREADABLE = (msgspec.MsgspecError, OverflowError, RecursionError, ValueError)
_NOTHING = object()
_DEEPEST = 32  # levels; what we read is less deep
_Wrap = Callable[[Any], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class InPart(Generic[T]):
    """An object without the parts that cannot be read.

    Parameters
    ----------
    obj
        What can be read.
    missing
        Where the other parts are, such as ``spec.containers.0.name``.
    """

    obj: T
    missing: tuple[str, ...]

    def lacks(self, *paths: str) -> bool:
        """Whether anything is missing at, above or below one of these places."""
        return any(
            f"{path}.".startswith(f"{missing}.") or f"{missing}.".startswith(f"{path}.")
            for path in paths
            for missing in self.missing
        )


def read_in_part(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw | bytes) -> InPart[T] | None:
    """The object, or what :func:`salvage` can read of it; None if it is not a JSON object."""
    try:
        return InPart(decoder.decode(raw), ())
    except _UNREADABLE:
        return salvage(decoder, raw)


def salvage(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw | bytes) -> InPart[T] | None:
    """The object without the parts that cannot be read; None if it is not a JSON object.

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
    missing: list[str] = []
    trial = _Trial(decoder, missing)
    kept = trial.readable(tree, lambda part: {"metadata": {}} | part, "")
    obj = None if kept is _NOTHING else trial.decoded({"metadata": {}} | kept)
    return None if obj is None else InPart(obj, tuple(missing))


@dataclass(frozen=True, slots=True)
class _Trial(Generic[T]):
    decoder: msgspec.json.Decoder[T]
    missing: list[str]

    def decoded(self, tree: dict[str, Any]) -> T | None:
        try:
            return self.decoder.decode(msgspec.json.encode(tree))
        except _UNREADABLE:
            return None

    def readable(self, value: Any, wrap: _Wrap, path: str) -> Any:  # noqa: ANN401 - JSON
        """A value without what cannot be read of it, where ``wrap`` puts it into an object."""
        if self.decoded(wrap(value)) is not None:
            return value
        kept: Any = _NOTHING
        if path.count(".") > _DEEPEST:
            pass
        elif isinstance(value, dict):
            parts = {
                key: self.readable(part, _within(wrap, key), f"{path}.{key}".lstrip("."))
                for key, part in value.items()
            }
            kept = {key: part for key, part in parts.items() if part is not _NOTHING}
        elif isinstance(value, list):
            items = [
                self.readable(item, lambda part: wrap([part]), f"{path}.{number}")
                for number, item in enumerate(value)
            ]
            kept = [item for item in items if item is not _NOTHING]
        if kept is _NOTHING or self.decoded(wrap(kept)) is None:
            self.missing.append(path)
            return _NOTHING
        return kept


def _within(wrap: _Wrap, key: str) -> _Wrap:
    return lambda part: wrap({key: part})
