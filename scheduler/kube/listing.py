"""One complete list of a kind of object, read in pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

import msgspec

__all__ = ["Reads", "list_objects"]

T = TypeVar("T")
_PAGE = 500


class Reads(Protocol):
    """The part of :class:`scheduler.kube.client.KubeClient` that lists need."""

    def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """Body of a GET."""


class _Meta(msgspec.Struct, rename="camel"):
    continue_: str | None = msgspec.field(default=None, name="continue")


class _Page(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    items: list[msgspec.Raw] | None = None


_page_decoder = msgspec.json.Decoder(_Page)


def list_objects(
    client: Reads, path: str, decoder: msgspec.json.Decoder[T], selector: str = ""
) -> list[T]:
    """Every object at a path, optionally only those with certain labels.

    Raises
    ------
    KubeApiError
        The API refused or did not answer.
    """
    found: list[T] = []
    params = {"limit": str(_PAGE)} | ({"labelSelector": selector} if selector else {})
    while True:
        page = _page_decoder.decode(client.get(path, params))
        found += [decoder.decode(raw) for raw in page.items or ()]
        if not page.metadata.continue_:
            return found
        params["continue"] = page.metadata.continue_
