"""Which extenders of a KubeSchedulerConfiguration are ours, and whether their calls reach us."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scheduler.core.errors import InvalidInput
from scheduler.kube.scheduler_config.findings import Trap
from scheduler.kube.scheduler_config.write import managed_resources, needs_bind
from scheduler.kube.yaml_lines import Path, YamlFile

__all__ = ["VERBS", "Checked", "Entry", "called", "extenders_of", "misses", "place", "resources_of"]

VERBS = {
    "filterVerb": "filter",
    "prioritizeVerb": "prioritize",
    "preemptVerb": "preempt",
    "bindVerb": "bind",
}
"""What we serve, by the field that names it."""

Entry = tuple[Path, dict[str, Any]]
"""Place and content of an extender."""

_PORT = 10262
_HOST = "snugfit"
_DOMAIN = "snugfit.io/"
_MIG = "nvidia.com/mig-"


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration, and what in it is ours.

    Parameters
    ----------
    file
        The configuration.
    prefix
        Path under which we answer verbs, without its outer slashes; empty for none.
    url
        Where we are called, if somebody says so.
    ours
        Our entries.
    doubtful
        Entries that manage our resources and call what we do not serve: ours, with a mistake, or
        those of another extender. There are none if some entry is ours.
    """

    file: YamlFile
    prefix: str
    url: str
    ours: tuple[Entry, ...]
    doubtful: tuple[Entry, ...]


def called(file: YamlFile, *, url: str, prefix: str) -> Checked:
    """Tell our entries from those of other extenders.

    Parameters
    ----------
    file
        The configuration.
    url
        Where we are called: ours are the entries with this scheme, host and port. If empty, ours
        are those that call port 10262 or a host of our name, or manage resources of
        snugfit.io, or manage our resources only and call nothing that we do not serve.
    prefix
        Path under which we answer verbs.

    Raises
    ------
    InvalidInput
        The URL has no host.
    """
    prefix = prefix.strip("/")
    listed = list(extenders_of(file))
    if url:
        wanted = place(url)
        if not wanted[1]:
            raise InvalidInput("--url", f"{url!r} has no host", "write http://127.0.0.1:10262")
        named = tuple(one for one in listed if place(one[1].get("urlPrefix")) == wanted)
        return Checked(file, prefix, url, named, ())
    known = frozenset(managed_resources())
    alike = [one for one in listed if _manages_ours(one[1], known)]
    ours = tuple(
        one
        for one in listed
        if _at_home(one[1]) or (one in alike and not list(misses(one, prefix)))
    )
    return Checked(file, prefix, url, ours, () if ours else tuple(alike))


def extenders_of(file: YamlFile) -> Iterator[Entry]:
    """Every entry, as far as it is one."""
    listed = file.get(("extenders",))
    for index, entry in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(entry, dict):
            yield ("extenders", index), entry


def resources_of(entry: dict[str, Any]) -> Iterator[tuple[int, str, bool]]:
    """Index, name and ``ignoredByScheduler`` of each managed resource."""
    listed = entry.get("managedResources")
    for index, item in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(item, dict):
            yield index, str(item.get("name") or ""), bool(item.get("ignoredByScheduler"))


def place(url: object) -> tuple[str, str, int]:
    """Scheme, host and port of a URL; empty where there are none."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:  # such as half an IPv6 address; a rule on addresses names it
        return "", "", 0
    return parts.scheme, parts.hostname or "", port


def misses(entry: Entry, prefix: str) -> Iterator[Trap]:
    """Calls of an entry that we would answer with 404."""
    path, content = entry
    url = content.get("urlPrefix")
    base = (url if isinstance(url, str) else "").rstrip("/")
    if not place(url)[1]:
        return  # no URL at all, which is another finding
    wrong = []
    for field, verb in VERBS.items():
        written = content.get(field)
        if not isinstance(written, str) or not written:
            continue
        asked, right = _path(f"{base}/{written}"), _joined(prefix, verb)
        if asked != right:
            wrong.append((field, written, asked, right))
    here = _path(base).rstrip("/")
    if here == _joined(prefix).rstrip("/") and "?" not in base and "#" not in base:
        for field, written, asked, _ in wrong:
            yield Trap(
                (*path, field),
                f"we serve no {written!r}: every call ends in 404 at {asked}",
                f"write {field}: {VERBS[field]}",
            )
    elif wrong:
        field, _, asked, right = wrong[0]
        end = f"end it in /{prefix}" if prefix else "end it after the port"
        others = [f"{f}: {VERBS[f]}" for f, written, _, _ in wrong if written != VERBS[f]]
        also = f", and write {', '.join(others)}" if others else ""
        serve = f"; or let us serve there: url_prefix {here}" if here and not others else ""
        yield Trap(
            (*path, "urlPrefix"),
            f"every call ends in 404: we answer {right}, and are asked for {asked}",
            f"{end}{also}{serve}",
        )


def _path(url: str) -> str:
    """What a server is asked for by a URL: its path, with whatever is behind it."""
    _, _, rest = url.partition("://")
    slash = min((i for i in (rest.find("/"), rest.find("?"), rest.find("#")) if i >= 0), default=-1)
    return rest[slash:] if slash >= 0 else ""


def _joined(*parts: str) -> str:
    return "/" + "/".join(part for part in parts if part)


def _at_home(entry: dict[str, Any]) -> bool:
    """Whether the entry calls an address, or manages a resource, that only we have."""
    _, host, port = place(entry.get("urlPrefix"))
    return (
        port == _PORT
        or _HOST in host.split(".")[0].split("-")
        or any(name.startswith(_DOMAIN) for _, name, _ in resources_of(entry))
    )


def _manages_ours(entry: dict[str, Any], known: frozenset[str]) -> bool:
    names = [name for _, name, _ in resources_of(entry)]
    return bool(names) and all(
        name in known or name.startswith(_MIG) or needs_bind(name) for name in names
    )
