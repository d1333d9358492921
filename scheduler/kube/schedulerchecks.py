"""Traps in a KubeSchedulerConfiguration that calls an extender.

Most of them are legal: kube-scheduler starts, says nothing, and places pods badly or not at all.
Each rule is a function from a file to findings; :data:`RULES` lists them by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from scheduler.core.errors import nearest
from scheduler.kube.schedulerconfig import API_VERSION, DEFAULT_SCHEDULER, KIND, needs_bind
from scheduler.kube.yamlfile import Path, YamlFile

__all__ = ["RULES", "Finding", "check"]

_LEAST_TIMEOUT_S = 0.5
_MOST_TIMEOUT_S = 3.0
_POINTS_PER_WEIGHT = 100  # 10 x (100 / 10) for the best node
_VERBS = {
    "filterVerb": "filter",
    "prioritizeVerb": "prioritize",
    "preemptVerb": "preempt",
    "bindVerb": "bind",
}
_EXTENDER_KEYS = frozenset(
    {
        *_VERBS,
        "urlPrefix",
        "weight",
        "enableHTTPS",
        "tlsConfig",
        "httpTimeout",
        "nodeCacheCapable",
        "managedResources",
        "ignorable",
    }
)
_TLS_KEYS = frozenset(
    {"insecure", "serverName", "certFile", "keyFile", "caFile", "certData", "keyData", "caData"}
)
_TOP_KEYS = frozenset(
    {
        "apiVersion",
        "kind",
        "parallelism",
        "leaderElection",
        "clientConnection",
        "enableProfiling",
        "enableContentionProfiling",
        "percentageOfNodesToScore",
        "podInitialBackoffSeconds",
        "podMaxBackoffSeconds",
        "profiles",
        "extenders",
        "delayCacheUntilActive",
    }
)
_SCORE_WEIGHTS: Mapping[str, int] = MappingProxyType(
    {
        "TaintToleration": 3,
        "NodeAffinity": 2,
        "PodTopologySpread": 2,
        "InterPodAffinity": 2,
        "DynamicResources": 2,
        "NodeResourcesFit": 1,
        "NodeResourcesBalancedAllocation": 1,
        "ImageLocality": 1,
    }
)
"""In-tree score plugins that are on by default, 1.35 and later."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One trap: which rule, where, what happens, what to write instead."""

    rule: str
    path: str
    line: int
    problem: str
    remedy: str


Rule = Callable[[YamlFile], Iterator[tuple[Path, str, str]]]


def check(file: YamlFile) -> list[Finding]:
    """All traps of one configuration, in the order of its lines."""
    findings = [
        Finding(name, file.written(path), file.line(path), problem, remedy)
        for name, rule in RULES.items()
        for path, problem, remedy in rule(file)
    ]
    return sorted(findings, key=lambda f: (f.line, f.path, f.rule))


# -- reading -----------------------------------------------------------------------------------


def _extenders(file: YamlFile) -> Iterator[tuple[Path, dict[str, Any]]]:
    for index, entry in enumerate(_items(file.get(("extenders",)))):
        if isinstance(entry, dict):
            yield ("extenders", index), entry


def _profiles(file: YamlFile) -> Iterator[tuple[Path, dict[str, Any]]]:
    found: list[tuple[Path, dict[str, Any]]] = [
        (("profiles", i), p)
        for i, p in enumerate(_items(file.get(("profiles",))))
        if isinstance(p, dict)
    ]
    yield from found or [(("profiles",), {})]


def _names(file: YamlFile) -> set[str]:
    return {str(p.get("schedulerName") or DEFAULT_SCHEDULER) for _, p in _profiles(file)}


def _resources(entry: dict[str, Any]) -> Iterator[tuple[int, str, bool]]:
    for index, item in enumerate(_items(entry.get("managedResources"))):
        if isinstance(item, dict):
            yield index, str(item.get("name", "")), bool(item.get("ignoredByScheduler"))


def _url(entry: dict[str, Any]) -> tuple[str, str]:
    """Scheme and host."""
    try:
        parts = urlsplit(str(entry.get("urlPrefix") or ""))
    except ValueError:
        return "", ""  # such as half an IPv6 address; the rule on addresses names it
    return parts.scheme, parts.hostname or ""


def _secure(entry: dict[str, Any]) -> bool:
    return _url(entry)[0] == "https" or bool(entry.get("enableHTTPS"))


def _tls(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("tlsConfig")
    return found if isinstance(found, dict) else {}


def _has(entry: dict[str, Any], what: str) -> bool:
    return bool(_tls(entry).get(what + "File") or _tls(entry).get(what + "Data"))


def _seconds(text: object) -> float | None:
    """A Go duration in seconds, None if it is none."""
    units = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    if not isinstance(text, str) or not re.fullmatch(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+", text):
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    return sum(float(number) * units[unit] for number, unit in parts)


def _items(listed: object) -> list[Any]:
    """A list, if it is one; whatever else stands there is kube-scheduler's to refuse."""
    return listed if isinstance(listed, list) else []


def _mappings(listed: object) -> list[dict[str, Any]]:
    """The mappings in a list."""
    return [item for item in _items(listed) if isinstance(item, dict)]


def _plugin_sets(profile: dict[str, Any], point: str) -> tuple[dict[str, Any], set[str]]:
    """Enabled plugins by name, and names of disabled ones, at one extension point."""
    plugins = profile.get("plugins")
    at = plugins.get(point) if isinstance(plugins, dict) else None
    at = at if isinstance(at, dict) else {}
    enabled = {str(p["name"]): p for p in _mappings(at.get("enabled")) if "name" in p}
    disabled = {str(p.get("name")) for p in _mappings(at.get("disabled"))}
    return enabled, disabled


def _in_tree_points(profile: dict[str, Any]) -> int:
    """Most points that score plugins of a profile can give one node."""
    weights = dict(_SCORE_WEIGHTS)
    for point in ("multiPoint", "score"):
        enabled, disabled = _plugin_sets(profile, point)
        if "*" in disabled:
            weights = {}
        weights = {name: w for name, w in weights.items() if name not in disabled}
        for name, plugin in enabled.items():
            if point == "score" or name in _SCORE_WEIGHTS:
                weight = plugin.get("weight")
                weights[name] = weight if isinstance(weight, int) and weight > 0 else 1
    return 100 * sum(weights.values())


# -- the file as a whole -----------------------------------------------------------------------


def _version(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    if file.get(("kind",)) != KIND:
        yield ("kind",), f"is no {KIND}", f"write kind: {KIND}"
    if file.get(("apiVersion",)) != API_VERSION:
        yield ("apiVersion",), "is not served any more, or never was", f"write {API_VERSION}"


def _unknown_field(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    def strange(path: Path, known: frozenset[str]) -> Iterator[tuple[Path, str, str]]:
        mapping = file.get(path)
        for key in mapping if isinstance(mapping, dict) else ():
            if key not in known:
                yield (
                    (*path, key),
                    "is no field; kube-scheduler refuses to start",
                    f"did you mean {nearest(str(key), known)}?",
                )

    yield from strange((), _TOP_KEYS)
    for path, entry in _extenders(file):
        yield from strange(path, _EXTENDER_KEYS)
        yield from strange((*path, "tlsConfig"), _TLS_KEYS)
        for index, _, _ in _resources(entry):
            yield from strange(
                (*path, "managedResources", index), frozenset({"name", "ignoredByScheduler"})
            )


def _no_extender(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    if not list(_extenders(file)):
        yield (
            ("extenders",),
            "lists none: nobody is ever asked",
            "add one",
        )


def _node_sample(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    problem = (
        "the extender sees a rotating sample of the nodes: packing fails, and a pod is called "
        "unschedulable although nodes outside of the sample would do"
    )
    general = file.get(("percentageOfNodesToScore",))
    for path, profile in _profiles(file):
        own = profile.get("percentageOfNodesToScore")
        if (general if own is None else own) != 100:
            where = ("percentageOfNodesToScore",) if own is None else (*path, *_SAMPLE)
            yield where, problem, "write percentageOfNodesToScore: 100"
            if own is None:
                return


_SAMPLE = ("percentageOfNodesToScore",)


def _lease(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    election = file.get(("leaderElection",))
    election = election if isinstance(election, dict) else {}
    lease = election.get("resourceName", "kube-scheduler")
    if election.get("leaderElect") is False:
        yield (
            ("leaderElection", "leaderElect"),
            "two replicas, also the two of a rolling update, would act at once",
            "write leaderElect: true",
        )
    elif DEFAULT_SCHEDULER not in _names(file) and lease == "kube-scheduler":
        yield (
            ("leaderElection", "resourceName"),
            "is the control plane's lease: this scheduler waits until that one dies",
            f"write resourceName: {min(_names(file))}",
        )


def _two_schedulers(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    election = file.get(("leaderElection",))
    lease = election.get("resourceName") if isinstance(election, dict) else None
    if DEFAULT_SCHEDULER in _names(file) and lease not in (None, "kube-scheduler"):
        yield (
            ("leaderElection", "resourceName"),
            (
                f"with lease {lease} this is a second scheduler, but a profile is named "
                f"{DEFAULT_SCHEDULER}: both would place the same pods"
            ),
            "name the profile otherwise, or leave resourceName away in the control plane's own",
        )


def _resource_twice(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    seen: set[str] = set()
    for path, entry in _extenders(file):
        for index, name, _ in _resources(entry):
            if name in seen:
                yield (
                    (*path, "managedResources", index),
                    f"{name} stands in the file twice; kube-scheduler refuses to start",
                    "list each resource once over all extenders",
                )
            seen.add(name)


def _binders(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    binding = [path for path, entry in _extenders(file) if entry.get("bindVerb")]
    for path in binding if len(binding) > 1 else ():
        yield (
            (*path, "bindVerb"),
            "only one extender may bind; kube-scheduler refuses to start",
            "leave bindVerb to the extender that writes devices",
        )


def _uncounted(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    managed = {name for _, entry in _extenders(file) for _, name, _ in _resources(entry)}
    problem = (
        "kube-scheduler no longer counts it: pods that cannot fit keep asking us, and preemption "
        "and autoscalers see no shortage"
    )
    for path, entry in _extenders(file):
        for index, _, ignored in _resources(entry):
            if ignored:
                where = (*path, "managedResources", index, "ignoredByScheduler")
                yield where, problem, "write ignoredByScheduler: false"
    for path, profile in _profiles(file):
        for point in ("filter", "multiPoint"):
            enabled, disabled = _plugin_sets(profile, point)
            if {"*", "NodeResourcesFit"} & disabled and "NodeResourcesFit" not in enabled:
                yield (
                    (*path, "plugins", point, "disabled"),
                    "without the filter NodeResourcesFit kube-scheduler counts no resource at all",
                    "leave NodeResourcesFit enabled",
                )
        for index, config in enumerate(_items(profile.get("pluginConfig"))):
            args = config.get("args") if isinstance(config, dict) else None
            args = args if isinstance(args, dict) else {}
            groups = {str(g) for g in _items(args.get("ignoredResourceGroups"))}
            hidden = {str(r) for r in _items(args.get("ignoredResources"))} & managed
            if hidden or groups & {name.split("/")[0] for name in managed}:
                yield (*path, "pluginConfig", index), problem, "leave the managed resources out"


# -- each extender -----------------------------------------------------------------------------


def _address(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    for path, entry in _extenders(file):
        scheme, host = _url(entry)
        if scheme not in ("http", "https") or not host:
            yield (
                (*path, "urlPrefix"),
                "is no http:// or https:// URL",
                "write http://127.0.0.1:10262",
            )
        elif scheme == "http" and entry.get("enableHTTPS"):
            yield (
                (*path, "urlPrefix"),
                "says http, and the scheme decides: enableHTTPS changes nothing about that",
                "write https://",
            )
        elif scheme == "http" and not (host == "localhost" or host in ("::1", "127.0.0.1")):
            yield (
                (*path, "urlPrefix"),
                (
                    "sends pods over the network in the clear; and whoever reaches "
                    "the extender may bind pods"
                ),
                "use https:// with tlsConfig, or run the extender beside kube-scheduler",
            )


def _unverified(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    for path, entry in _extenders(file):
        if not _secure(entry):
            continue
        insecure = _tls(entry).get("insecure")
        if insecure and _has(entry, "ca"):
            yield (
                (*path, "tlsConfig", "insecure"),
                "contradicts the CA; kube-scheduler refuses to start",
                "leave insecure away",
            )
        elif insecure or not _has(entry, "ca"):
            where = (*path, "tlsConfig", "insecure") if insecure else (*path, "tlsConfig")
            yield (
                where,
                "the extender's certificate is not verified: enableHTTPS without a CA accepts any"
                if entry.get("enableHTTPS")
                else "the extender's certificate is not verified against its own CA",
                "name the CA in tlsConfig.caFile",
            )


def _client_certificate(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    for path, entry in _extenders(file):
        if _secure(entry) and not (_has(entry, "cert") and _has(entry, "key")):
            yield (
                (*path, "tlsConfig"),
                (
                    "kube-scheduler shows no certificate and sends no token: we cannot tell "
                    "it from anybody else"
                ),
                "name tlsConfig.certFile and keyFile",
            )


def _whole_nodes(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    for path, entry in _extenders(file):
        if entry.get("nodeCacheCapable") is not True:
            yield (
                (*path, "nodeCacheCapable"),
                (
                    "whole nodes are sent with every call (megabytes), and since 1.34 later score "
                    "plugins see empty nodes"
                ),
                "write nodeCacheCapable: true",
            )


def _weight(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    most = max(_in_tree_points(profile) for _, profile in _profiles(file))
    for path, entry in _extenders(file):
        if not entry.get("prioritizeVerb"):
            continue
        weight = entry.get("weight")
        if not isinstance(weight, int) or weight <= 0:
            yield (
                (*path, "weight"),
                "has to be above 0 with a prioritizeVerb; kube-scheduler refuses to start",
                "write weight: 15",
            )
        elif weight * _POINTS_PER_WEIGHT <= most:
            yield (
                (*path, "weight"),
                (
                    f"gives the best node {weight * _POINTS_PER_WEIGHT} points, in-tree plugins up "
                    f"to {most}: they spread, and outvote packing"
                ),
                f"write {most // _POINTS_PER_WEIGHT + 1} or more, or disable score plugins",
            )


def _timeout(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    for path, entry in _extenders(file):
        written = entry.get("httpTimeout")
        seconds = 5.0 if written is None else _seconds(written)
        where = (*path, "httpTimeout")
        if seconds is None:
            yield where, f"{written!r} is no duration", "write httpTimeout: 2s"
        elif seconds == 0 or seconds > _MOST_TIMEOUT_S:
            yield (
                where,
                "a call that hangs holds up every pod of this scheduler for "
                f"{seconds or 5.0:g} s per verb" + ("" if written else " (the default)"),
                "write httpTimeout: 2s",
            )
        elif seconds < _LEAST_TIMEOUT_S:
            yield where, "a short pause of the extender already fails pods", "write httpTimeout: 2s"


def _ignorable(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    for path, entry in _extenders(file):
        if entry.get("ignorable"):
            yield (
                (*path, "ignorable"),
                "while the extender is away pods are bound without device accounting",
                "write ignorable: false",
            )


def _every_pod(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    for path, entry in _extenders(file):
        if not list(_resources(entry)):
            yield (
                (*path, "managedResources"),
                (
                    "is empty: every pod is sent, also the extender's own, which then cannot start "
                    "while it is away"
                ),
                "list the GPU resources",
            )


def _resource_name(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    for path, entry in _extenders(file):
        for index, name, _ in _resources(entry):
            domain, _, rest = name.partition("/")
            where = (*path, "managedResources", index, "name")
            if "*" in name or rest.endswith(("-", ".")):
                yield where, f"{name!r} matches nothing: names are exact", "list each name in full"
            elif not rest or domain.endswith("kubernetes.io") or name.startswith("requests."):
                yield (
                    where,
                    f"{name!r} is no extended resource; kube-scheduler refuses to start",
                    "use names such as nvidia.com/gpu",
                )


def _verb(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    for path, entry in _extenders(file):
        for field, verb in _VERBS.items():
            written = entry.get(field)
            if written and written != verb:
                yield (
                    (*path, field),
                    f"the extender serves no {written!r}: every call ends in 404",
                    f"write {field}: {verb}",
                )


def _missing_verb(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    losses = {
        "filterVerb": "nodes without a free device of the right kind are not ruled out",
        "prioritizeVerb": "nothing is packed",
        "preemptVerb": "victims are evicted by counts alone, on nodes that we then reject",
    }
    for path, entry in _extenders(file):
        for field, loss in losses.items():
            if not entry.get(field):
                yield (*path, field), f"is missing: {loss}", f"write {field}: {_VERBS[field]}"


def _device_binding(file: YamlFile) -> Iterator[tuple[Path, str, str]]:
    for path, entry in _extenders(file):
        listed = [name for _, name, _ in _resources(entry)]
        own = [name for name in listed if needs_bind(name)]
        if own and not entry.get("bindVerb"):
            yield (
                (*path, "bindVerb"),
                f"is missing: pods that ask for {own[0]} are bound without their device",
                "write bindVerb: bind",
            )
        elif listed and not own and entry.get("bindVerb"):
            yield (
                (*path, "bindVerb"),
                "is not needed here, and costs kube-scheduler's own retries of failed bindings",
                "leave bindVerb away",
            )


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "version": _version,
        "unknown-field": _unknown_field,
        "no-extender": _no_extender,
        "node-sample": _node_sample,
        "lease": _lease,
        "two-schedulers": _two_schedulers,
        "resource-twice": _resource_twice,
        "binders": _binders,
        "uncounted": _uncounted,
        "address": _address,
        "unverified": _unverified,
        "client-certificate": _client_certificate,
        "whole-nodes": _whole_nodes,
        "weight": _weight,
        "timeout": _timeout,
        "ignorable": _ignorable,
        "every-pod": _every_pod,
        "resource-name": _resource_name,
        "verb": _verb,
        "missing-verb": _missing_verb,
        "device-binding": _device_binding,
    }
)
"""Every rule by name."""
