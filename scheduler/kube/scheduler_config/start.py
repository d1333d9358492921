"""What keeps kube-scheduler from starting although its configuration can be decoded.

These are the rules of kube-scheduler's own validation, and those by which it builds its profiles
and extenders. Files on the disk of kube-scheduler (kubeconfig, certificates) are not looked for.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import Any

from scheduler.core.durations import go_duration
from scheduler.core.errors import nearest
from scheduler.kube.scheduler_config.args import bad_arguments
from scheduler.kube.scheduler_config.findings import Level, Trap, refusal
from scheduler.kube.scheduler_config.plugins import EXTENDS, POINTS, REMOVED, entries, plugin_sets
from scheduler.kube.scheduler_config.schema import ARGUMENTS
from scheduler.kube.scheduler_config.write import API_VERSION, DEFAULT_SCHEDULER, KIND
from scheduler.kube.yaml_lines import Path, YamlFile

__all__ = ["STARTS", "profiles_of", "version"]

_JITTER = 1.2
_MOST_PERCENT = 100
_ALIKE = 0.8
_SCORE = 100
_MOST = (1 << 63) - 1
_LEASE_S = MappingProxyType({"leaseDuration": 15.0, "renewDeadline": 10.0, "retryPeriod": 2.0})
_OLDER = MappingProxyType(
    {
        "kubescheduler.config.k8s.io/v1beta3": "served by Kubernetes 1.28 last",
        "kubescheduler.config.k8s.io/v1beta2": "served by Kubernetes 1.27 last",
        "kubescheduler.config.k8s.io/v1beta1": "served by Kubernetes 1.24 last",
    }
)
_NAME_PART = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DOMAIN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
_QUALIFIED = re.compile(rf"(?P<domain>{_DOMAIN})/{_NAME_PART}")
_LONGEST_DOMAIN = 253
_QUOTA = "requests."


def version(file: YamlFile) -> Iterator[Trap]:
    """The file is read by another kind or version than the one that kube-scheduler serves."""
    kind, written = file.get(("kind",)), file.get(("apiVersion",))
    if kind != KIND:
        yield refusal(("kind",), f"is not a {KIND}", f"write kind: {KIND}")
    if written != API_VERSION:
        last = _OLDER.get(written, "") if isinstance(written, str) else ""
        problem = f"is not served any more: {last}" if last else "is not served, or never was"
        yield refusal(("apiVersion",), problem, f"write {API_VERSION}")


def profiles_of(file: YamlFile) -> list[tuple[Path, dict[str, Any]]]:
    """The profiles that are mappings; the default one if none is written."""
    listed = file.get(("profiles",))
    found: list[tuple[Path, dict[str, Any]]] = [
        (("profiles", index), profile or {})
        for index, profile in enumerate(listed if isinstance(listed, list) else ())
        if profile is None or isinstance(profile, dict)
    ]
    return found or [(("profiles",), {})]


def _extended_resource(name: str) -> bool:
    """Whether the name is one that an extender may manage."""
    match = _QUALIFIED.fullmatch(name)
    return (
        match is not None
        and len(_QUOTA + match["domain"]) <= _LONGEST_DOMAIN
        and "kubernetes.io/" not in name
        and not name.startswith(_QUOTA)
    )


# -- the file as a whole --------------------------------------------------------------------------


def _written_twice(file: YamlFile) -> Iterator[Trap]:
    for path, line in file.repeated:
        yield refusal(path, f"stands there twice, again on line {line}", "drop one")


def _no_json(file: YamlFile) -> Iterator[Trap]:
    if file.fault is not None:
        problem, line = file.fault
        yield refusal(
            (),
            f"begins with a brace and is not JSON, line {line}: {problem}",
            "write JSON, or YAML without the outer braces",
        )


def _general(file: YamlFile) -> Iterator[Trap]:
    if _below(file.get(("parallelism",)), 1):
        yield refusal(("parallelism",), "has to be above 0", "leave it away")
    for path in ((), *(path for path, _ in profiles_of(file))):
        yield from _percentage(file, (*path, "percentageOfNodesToScore"))
    first = file.get(("podInitialBackoffSeconds",))
    last = file.get(("podMaxBackoffSeconds",))
    if _below(first, 1):
        yield refusal(("podInitialBackoffSeconds",), "has to be above 0", "leave it away")
    if _number(last, 10) < _number(first, 1):
        where = ("podInitialBackoffSeconds",) if last is None else ("podMaxBackoffSeconds",)
        yield refusal(
            where,
            f"podMaxBackoffSeconds ({_number(last, 10):g}) is below podInitialBackoffSeconds",
            "write both, the larger last",
        )
    if _below(file.get(("clientConnection", "burst")), 0):
        yield refusal(("clientConnection", "burst"), "is below 0", "leave it away")


def _percentage(file: YamlFile, path: Path) -> Iterator[Trap]:
    value = file.get(path)
    if _below(value, 0) or _number(value, 0) > _MOST_PERCENT:
        yield refusal(path, f"{value} is not a percentage", "write 100")


def _leader_election(file: YamlFile) -> Iterator[Trap]:
    election = file.get(("leaderElection",))
    election = election if isinstance(election, dict) else {}
    if election.get("leaderElect") is False:
        return
    path = ("leaderElection",)
    lock = election.get("resourceLock")
    if isinstance(lock, str) and lock not in ("", "leases"):
        yield refusal((*path, "resourceLock"), f"{lock} is gone", "write leases")
    times = {name: _period(election, name) for name in _LEASE_S}
    for name, seconds in times.items():
        if seconds is not None and seconds < 0:
            yield refusal((*path, name), "has to be above 0", f"write {_LEASE_S[name]:g}s")
    lease, renew, retry = times.values()
    if lease is not None and renew is not None and 0 <= lease <= renew:
        yield refusal(
            (*path, "leaseDuration"),
            f"{lease:g} s is not above renewDeadline ({renew:g} s)",
            "write leaseDuration: 15s, renewDeadline: 10s, retryPeriod: 2s",
        )
    elif renew is not None and retry is not None and 0 < renew <= _JITTER * retry:
        yield refusal(
            (*path, "renewDeadline"),
            f"{renew:g} s is not above retryPeriod ({retry:g} s) times {_JITTER}",
            "write leaseDuration: 15s, renewDeadline: 10s, retryPeriod: 2s",
        )


def _period(election: dict[str, Any], name: str) -> float | None:
    """Seconds; the default where nothing, or zero, is written. None for what is not a duration."""
    written = election.get(name)
    if name not in election:
        return _LEASE_S[name]
    seconds = go_duration(written)
    return _LEASE_S[name] if seconds == 0 else seconds


# -- profiles -------------------------------------------------------------------------------------


def _profile_names(file: YamlFile) -> Iterator[Trap]:
    profiles = profiles_of(file)
    first: dict[str, Path] = {}
    for path, profile in profiles:
        name = profile.get("schedulerName")
        where = (*path, "schedulerName")
        if name == "" or (name is None and len(profiles) > 1):
            yield refusal(
                where, "is missing: only a profile that stands alone has a default", "name it"
            )
            name = ""
        name = DEFAULT_SCHEDULER if name is None else name
        if isinstance(name, str) and name in first and name:
            yield refusal(
                where,
                f"duplicate profile: {name} is the name of {file.written(first[name])} already",
                "give each profile a name of its own",
            )
        first.setdefault(str(name), path)


def _plugin_names(_file: YamlFile, path: Path, profile: dict[str, Any]) -> Iterator[Trap]:
    """Plugins that do not exist, or do nothing at the point where they are named."""
    for point in (*POINTS, "multiPoint"):
        for where, name, _ in entries(profile, point, "enabled"):
            if name in EXTENDS:
                if point != "multiPoint" and point not in EXTENDS[name]:
                    does = ", ".join(sorted(EXTENDS[name]))
                    yield refusal(
                        (*path, *where), f"{name} does not extend {point}", f"it extends {does}"
                    )
            else:
                yield from _no_plugin((*path, *where), name)
        for where, name, _ in entries(profile, point, "disabled"):
            if meant := _misspelt(name):
                yield Trap(
                    (*path, *where),
                    f"disables nothing: there is no plugin {name}",
                    f"did you mean {meant}?",
                )


def _no_plugin(path: Path, name: str) -> Iterator[Trap]:
    """A plugin that is enabled, and that Kubernetes does not have."""
    if name in REMOVED:
        yield refusal(path, f"the plugin {name} was removed", f"use {REMOVED[name]}")
    elif name in ("", "*"):
        yield refusal(path, "names no plugin", "name one")
    elif meant := _misspelt(name):
        yield refusal(path, f"there is no plugin {name}", f"did you mean {meant}?")
    else:
        yield Trap(
            path,
            f"the plugin {name} is not of Kubernetes: only a build that has it starts",
            "use the image of that build",
            Level.NOTE,
        )


def _misspelt(name: str) -> str:
    """The in-tree plugin that a name most likely meant, if it is none itself."""
    if not name or name == "*" or name in EXTENDS or name in REMOVED:
        return ""
    lower = {plugin.lower(): plugin for plugin in EXTENDS}
    likely = nearest(name, lower)
    same = _likeness(name.lower(), likely) >= _ALIKE
    return lower[likely] if same else ""


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _enabled_twice(_file: YamlFile, path: Path, profile: dict[str, Any]) -> Iterator[Trap]:
    sets = plugin_sets(profile)
    for point in POINTS:
        seen: set[str] = set()
        for where, name, _ in entries(profile, point, "enabled"):
            if name in seen:
                yield refusal((*path, *where), f"enables {name} again at {point}", "drop one")
            seen.add(name)
    named = [(where, name) for where, name, _ in entries(profile, "multiPoint", "enabled")]
    for index, (where, name) in enumerate(named):
        again = name in [other for _, other in named[:index]]
        # It counts as enabled twice only where it runs by multiPoint alone.
        if again and any(list(sets.runs(point)).count(name) > 1 for point in POINTS):
            yield refusal((*path, *where), f"enables {name} again", "drop one")


def _queue_and_binder(_file: YamlFile, path: Path, profile: dict[str, Any]) -> Iterator[Trap]:
    sets = plugin_sets(profile)
    strange = any(name not in EXTENDS for name in sets.multi)
    sorts = list(sets.runs("queueSort"))
    if len(sorts) > 1 or (not sorts and not strange):
        yield refusal(
            (*path, "plugins"),
            f"one plugin has to sort the queue, here {len(sorts)} do",
            "leave queueSort alone",
        )
    if not strange and not list(sets.runs("bind")):
        yield refusal(
            (*path, "plugins"), "no plugin binds pods", "leave DefaultBinder enabled at bind"
        )


def _score_weights(_file: YamlFile, path: Path, profile: dict[str, Any]) -> Iterator[Trap]:
    """The sum of the scores is kept in 64 bits, and one below zero makes its check go wrong."""
    sets = plugin_sets(profile)
    for point in ("score", "placementScore"):
        weights: dict[str, int] = {}
        for _, name, weight in entries(profile, point, "enabled"):
            weights.setdefault(name, (weight if isinstance(weight, int) else 0) or 1)
        for name in sets.multi:
            weights.setdefault(name, sets.weights[name] or 1)
        total = 0
        for name, weight in weights.items():
            if point not in EXTENDS.get(name, ()):
                continue
            if weight * _SCORE > _wrapped(_MOST - total):
                yield refusal(
                    (*path, "plugins"),
                    f"the weights at {point} are below 0, or too large",
                    "write weights from 1 on",
                )
                break
            total += weight * _SCORE


def _wrapped(number: int) -> int:
    """A number as 64 bits hold it."""
    return (number + _MOST + 1) % (2 * _MOST + 2) - _MOST - 1


def _no_arguments(_file: YamlFile, path: Path, profile: dict[str, Any]) -> Iterator[Trap]:
    """At this point alone, a plugin gets no arguments unless they are written."""
    sets = plugin_sets(profile)
    point = "podGroupPostFilter"
    elsewhere = {*sets.multi, *(n for p, names in sets.own.items() if p != point for n in names)}
    written = _configured(profile)
    for where, name, _ in entries(profile, point, "enabled"):
        if name in ARGUMENTS and name not in elsewhere and name not in written:
            yield refusal(
                (*path, *where),
                f"{name} has no arguments when it is enabled at {point} alone",
                f"write {{name: {name}, args: {{}}}} under pluginConfig",
            )


def _plugin_config(file: YamlFile, path: Path, profile: dict[str, Any]) -> Iterator[Trap]:
    used = plugin_sets(profile).used()
    listed, seen = profile.get("pluginConfig"), set()
    for index, config in enumerate(listed if isinstance(listed, list) else ()):
        where = (*path, "pluginConfig", index)
        name = config.get("name") if isinstance(config, dict) else None
        name = name if isinstance(name, str) else ""
        if name in seen:
            yield refusal(where, f"configures {name or 'no plugin'} again", "keep one entry")
        seen.add(name)
        if name.endswith("Limits") and name in REMOVED:
            yield refusal(where, f"the plugin {name} was removed", "drop the entry")
        elif meant := _misspelt(name):
            yield Trap(
                where,
                f"is never read: there is no plugin {name}",
                f"did you mean {meant}?",
            )
        elif name not in used and name not in REMOVED:
            yield Trap(
                where,
                f"is never read: this profile does not run the plugin {name}",
                "enable it, or drop the entry",
                Level.NOTE,
            )
        if name in ARGUMENTS:
            yield from bad_arguments(file, (*where, "args"), name, runs=name in used)


def _configured(profile: dict[str, Any]) -> set[str]:
    """Plugins that have an entry under ``pluginConfig``."""
    listed = profile.get("pluginConfig")
    return {
        str(config.get("name") or "")
        for config in (listed if isinstance(listed, list) else ())
        if isinstance(config, dict)
    }


def _queue_sort(file: YamlFile) -> Iterator[Trap]:
    """All profiles share one queue, and therefore what sorts it."""

    def sort(profile: dict[str, Any]) -> tuple[list[tuple[str, Any]], list[str]]:
        on = [(name, weight or 0) for _, name, weight in entries(profile, "queueSort", "enabled")]
        return on, [name for _, name, _ in entries(profile, "queueSort", "disabled")]

    profiles = profiles_of(file)
    first = sort(profiles[0][1])
    for path, profile in profiles[1:]:
        if sort(profile) != first:
            yield refusal(
                (*path, "plugins", "queueSort"),
                f"is not as in {file.written(profiles[0][0])}, and there is one queue",
                "write the same in all profiles",
            )


# -- extenders ------------------------------------------------------------------------------------


def _entries(file: YamlFile) -> list[tuple[Path, dict[str, Any]]]:
    listed = file.get(("extenders",))
    return [
        (("extenders", index), entry)
        for index, entry in enumerate(listed if isinstance(listed, list) else ())
        if isinstance(entry, dict)
    ]


def _managed(file: YamlFile) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, entry in _entries(file):
        listed = entry.get("managedResources")
        for index, resource in enumerate(listed if isinstance(listed, list) else ()):
            if resource is None or isinstance(resource, dict):
                yield (*path, "managedResources", index), resource or {}


def _binders(file: YamlFile) -> Iterator[Trap]:
    binding = [path for path, entry in _entries(file) if entry.get("bindVerb")]
    for path in binding if len(binding) > 1 else ():
        yield refusal(
            (*path, "bindVerb"), "only one extender may bind", "leave it to the one that has to"
        )


def _weights(file: YamlFile) -> Iterator[Trap]:
    for path, entry in _entries(file):
        if entry.get("prioritizeVerb") and _below(entry.get("weight") or 0, 1):
            yield refusal(
                (*path, "weight"), "has to be above 0 with a prioritizeVerb", "write weight: 15"
            )


def _resource_names(file: YamlFile) -> Iterator[Trap]:
    for path, resource in _managed(file):
        name = resource.get("name") or ""
        if isinstance(name, str) and not _extended_resource(name):
            yield refusal(
                (*path, "name"),
                f"{name!r} is not an extended resource",
                "list exact names such as nvidia.com/gpu",
            )


def _resource_twice(file: YamlFile) -> Iterator[Trap]:
    seen: set[str] = set()
    for path, resource in _managed(file):
        name = str(resource.get("name") or "")
        if name in seen:
            yield refusal(
                path,
                f"{name} stands in the file twice",
                "list each resource once over all extenders",
            )
        seen.add(name)


def _certificates(file: YamlFile) -> Iterator[Trap]:
    for path, entry in _entries(file):
        tls = entry.get("tlsConfig")
        tls = tls if isinstance(tls, dict) else {}
        if tls.get("insecure") is True and (tls.get("caFile") or tls.get("caData")):
            yield refusal(
                (*path, "tlsConfig", "insecure"), "contradicts the CA", "leave insecure away"
            )
        pair = all(tls.get(f"{part}File") or tls.get(f"{part}Data") for part in ("cert", "key"))
        for part, mark in (("ca", b"CERTIFICATE"), ("cert", b"CERTIFICATE"), ("key", b"KEY")):
            data = tls.get(f"{part}Data")
            if isinstance(data, str) and data and (pair or part == "ca") and not _pem(data, mark):
                yield refusal(
                    (*path, "tlsConfig", f"{part}Data"),
                    f"holds no PEM block of a {mark.decode().lower()}",
                    f"write base64 of the file, or name it in {part}File",
                )


def _pem(data: str, mark: bytes) -> bool:
    try:
        text = base64.b64decode(data)
    except ValueError:
        return True  # no base64 at all is named by strict decoding
    return b"-----BEGIN " in text and mark in text


def _ignored_resources(file: YamlFile) -> Iterator[Trap]:
    """kube-scheduler writes ignored resources into the arguments of NodeResourcesFit."""
    ignored = [path for path, found in _managed(file) if found.get("ignoredByScheduler") is True]
    for path, profile in profiles_of(file) if ignored else ():
        if "NodeResourcesFit" not in _configured(profile) | plugin_sets(profile).used():
            yield refusal(
                (*ignored[0], "ignoredByScheduler"),
                f"needs the plugin NodeResourcesFit, which {file.written(path)} does not run",
                "leave NodeResourcesFit enabled",
            )


def _per_profile(
    judge: Callable[[YamlFile, Path, dict[str, Any]], Iterator[Trap]],
) -> Callable[[YamlFile], Iterator[Trap]]:
    def rule(file: YamlFile) -> Iterator[Trap]:
        for path, profile in profiles_of(file):
            yield from judge(file, path, profile)

    return rule


STARTS: Mapping[str, Callable[[YamlFile], Iterator[Trap]]] = MappingProxyType(
    {
        "key-twice": _written_twice,
        "no-json": _no_json,
        "out-of-range": _general,
        "leader-election": _leader_election,
        "profile-name": _profile_names,
        "plugin": _per_profile(_plugin_names),
        "plugin-twice": _per_profile(_enabled_twice),
        "plugin-missing": _per_profile(_queue_and_binder),
        "plugin-weight": _per_profile(_score_weights),
        "plugin-arguments": _per_profile(_no_arguments),
        "plugin-config": _per_profile(_plugin_config),
        "queue-sort": _queue_sort,
        "binders": _binders,
        "weight-zero": _weights,
        "resource-name": _resource_names,
        "resource-twice": _resource_twice,
        "certificate-data": _certificates,
        "ignored-resource": _ignored_resources,
    }
)
"""Rules of kube-scheduler itself, by name; each judges a whole file."""


def _below(value: object, least: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < least


def _number(value: object, default: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else default  # type: ignore[arg-type]
