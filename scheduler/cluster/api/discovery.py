"""Which version of an API group serves a resource."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from scheduler.cluster.api.client import KubeClient
from scheduler.core.errors import InvalidInput, NotFound

__all__ = ["Served", "find", "find_kind"]


@dataclass(frozen=True, slots=True)
class Served:
    """A resource as it is served: path to list it, kind, and ``group/version``."""

    path: str
    kind: str
    api_version: str


class _Version(msgspec.Struct, rename="camel"):
    group_version: str = ""


class _Group(msgspec.Struct, rename="camel"):
    versions: list[_Version] = []
    preferred_version: _Version | None = None


class _Resource(msgspec.Struct):
    name: str = ""
    kind: str = ""


class _Resources(msgspec.Struct):
    resources: list[_Resource] | None = None


_group_decoder = msgspec.json.Decoder(_Group)
_resources_decoder = msgspec.json.Decoder(_Resources)


def find(client: KubeClient, name: str) -> Served | None:
    """The resource ``plural.api-group``, in the version that the server prefers among those that
    have it, or None if there is none.

    Raises
    ------
    InvalidInput
        The name has no group.
    NotFound
        The server could not be asked.
    """
    plural, _, group = name.partition(".")
    if not plural or not group:
        raise InvalidInput("watch_groups", f"{name!r} names no API group", "write plural.group")
    return _find(client, group, lambda resource: resource.name == plural)


def find_kind(client: KubeClient, kind: str, group: str) -> Served | None:
    """The resource of a kind; otherwise as :func:`find`."""
    return _find(client, group, lambda resource: resource.kind == kind and "/" not in resource.name)


def _find(client: KubeClient, group: str, meant: Callable[[_Resource], bool]) -> Served | None:
    try:
        known = client.read(f"/apis/{group}", _group_decoder)
    except NotFound:
        return None
    versions = [known.preferred_version] if known.preferred_version else []
    for version in dict.fromkeys(v.group_version for v in [*versions, *known.versions]):
        try:
            listed = client.read(f"/apis/{version}", _resources_decoder)
        except NotFound:  # named, but not served
            continue
        for resource in listed.resources or ():
            if meant(resource):
                return Served(f"/apis/{version}/{resource.name}", resource.kind, version)
    return None
