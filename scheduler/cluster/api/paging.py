"""One complete list of a kind of object, read in pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import msgspec

from scheduler.core.errors import KubeApiError
from scheduler.kube.salvage import InPart, read_in_part

__all__ = ["Reads", "list_in_part", "list_objects", "pages"]

T = TypeVar("T")
_PAGE = 500


class Reads(Protocol):
    """The part of :class:`scheduler.cluster.api.client.KubeClient` that lists need."""

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
    chosen = {"labelSelector": selector} if selector else {}
    return [decoder.decode(raw) for page in pages(client, path, chosen) for raw in page]


def list_in_part(
    client: Reads, path: str, decoder: msgspec.json.Decoder[T], selector: str = ""
) -> list[InPart[T]]:
    """As :func:`list_objects`, but every object as far as it can be read."""
    chosen = {"labelSelector": selector} if selector else {}
    found = (read_in_part(decoder, raw) for page in pages(client, path, chosen) for raw in page)
    return [part for part in found if part is not None]


def pages(client: Reads, path: str, params: Mapping[str, str]) -> Iterator[list[msgspec.Raw]]:
    """The objects at a path as they come, a page at a time.

    Raises
    ------
    KubeApiError
        The API refused or did not answer; status 0 also where the answer is not a list.
    """
    asked = {"limit": str(_PAGE), **params}
    while True:
        try:
            page = _page_decoder.decode(client.get(path, asked))
        except msgspec.MsgspecError as error:
            raise KubeApiError(f"GET {path}", 0, f"the answer cannot be read: {error}") from error
        yield page.items or []
        if not page.metadata.continue_:
            return
        asked["continue"] = page.metadata.continue_
