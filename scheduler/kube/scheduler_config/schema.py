"""Strict decoding of a KubeSchedulerConfiguration, as kube-scheduler itself does it.

:data:`FIELDS` is the API ``kubescheduler.config.k8s.io/v1`` of Kubernetes 1.37 as data: the fields
of each type, with their types. Whatever is not in it ends kube-scheduler at once.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import MappingProxyType

from scheduler.core.durations import go_duration
from scheduler.core.errors import nearest
from scheduler.kube.scheduler_config.findings import Level, Trap, refusal
from scheduler.kube.scheduler_config.write import API_VERSION, KIND
from scheduler.kube.yaml_lines import Path, YamlFile

__all__ = ["ARGUMENTS", "FIELDS", "Odd", "odd_fields"]

_POINTS = (
    *("preEnqueue", "queueSort", "preFilter", "filter", "postFilter", "preScore", "score"),
    *("reserve", "permit", "preBind", "bind", "postBind", "multiPoint"),
    *("placementGenerate", "placementScore", "podGroupPostFilter"),
)
FIELDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        KIND: {
            "apiVersion": "string",
            "kind": "string",
            "parallelism": "int32",
            "leaderElection": "LeaderElection",
            "clientConnection": "ClientConnection",
            "enableProfiling": "bool",
            "enableContentionProfiling": "bool",
            "percentageOfNodesToScore": "int32",
            "podInitialBackoffSeconds": "int64",
            "podMaxBackoffSeconds": "int64",
            "profiles": "[]Profile",
            "extenders": "[]Extender",
            "delayCacheUntilActive": "bool",
        },
        "LeaderElection": {
            "leaderElect": "bool",
            "leaseDuration": "duration",
            "renewDeadline": "duration",
            "retryPeriod": "duration",
            "resourceLock": "string",
            "resourceName": "string",
            "resourceNamespace": "string",
        },
        "ClientConnection": {
            "kubeconfig": "string",
            "acceptContentTypes": "string",
            "contentType": "string",
            "qps": "float32",
            "burst": "int32",
        },
        "Profile": {
            "schedulerName": "string",
            "percentageOfNodesToScore": "int32",
            "plugins": "Plugins",
            "pluginConfig": "[]PluginConfig",
        },
        "Plugins": dict.fromkeys(_POINTS, "PluginSet"),
        "PluginSet": {"enabled": "[]Plugin", "disabled": "[]Plugin"},
        "Plugin": {"name": "string", "weight": "int32"},
        "PluginConfig": {"name": "string", "args": "arguments"},
        "Extender": {
            "urlPrefix": "string",
            "filterVerb": "string",
            "preemptVerb": "string",
            "prioritizeVerb": "string",
            "weight": "int64",
            "bindVerb": "string",
            "enableHTTPS": "bool",
            "tlsConfig": "ExtenderTLSConfig",
            "httpTimeout": "duration",
            "nodeCacheCapable": "bool",
            "managedResources": "[]ManagedResource",
            "ignorable": "bool",
        },
        "ManagedResource": {"name": "string", "ignoredByScheduler": "bool"},
        "ExtenderTLSConfig": {
            "insecure": "bool",
            "serverName": "string",
            "certFile": "string",
            "keyFile": "string",
            "caFile": "string",
            "certData": "bytes",
            "keyData": "bytes",
            "caData": "bytes",
        },
        "DefaultPreemptionArgs": {
            "minCandidateNodesPercentage": "int32",
            "minCandidateNodesAbsolute": "int32",
        },
        "DynamicResourcesArgs": {"filterTimeout": "duration?", "bindingTimeout": "duration?"},
        "InterPodAffinityArgs": {
            "hardPodAffinityWeight": "int32",
            "ignorePreferredTermsOfExistingPods": "bool",
        },
        "NodeAffinityArgs": {"addedAffinity": "NodeAffinity"},
        "NodeResourcesBalancedAllocationArgs": {"resources": "[]ResourceSpec"},
        "NodeResourcesFitArgs": {
            "ignoredResources": "[]string",
            "ignoredResourceGroups": "[]string",
            "scoringStrategy": "ScoringStrategy",
        },
        "PodTopologySpreadArgs": {
            "defaultConstraints": "[]TopologySpreadConstraint",
            "defaultingType": "string",
        },
        "VolumeBindingArgs": {"bindTimeoutSeconds": "int64", "shape": "[]ShapePoint"},
        "ScoringStrategy": {
            "type": "string",
            "resources": "[]ResourceSpec",
            "requestedToCapacityRatio": "RequestedToCapacityRatio",
        },
        "ResourceSpec": {"name": "string", "weight": "int64"},
        "RequestedToCapacityRatio": {"shape": "[]ShapePoint"},
        "ShapePoint": {"utilization": "int32", "score": "int32"},
        "NodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": "NodeSelector",
            "preferredDuringSchedulingIgnoredDuringExecution": "[]PreferredTerm",
        },
        "NodeSelector": {"nodeSelectorTerms": "[]NodeSelectorTerm"},
        "PreferredTerm": {"weight": "int32", "preference": "NodeSelectorTerm"},
        "NodeSelectorTerm": {
            "matchExpressions": "[]Requirement",
            "matchFields": "[]Requirement",
        },
        "Requirement": {"key": "string", "operator": "string", "values": "[]string"},
        "TopologySpreadConstraint": {
            "maxSkew": "int32",
            "topologyKey": "string",
            "whenUnsatisfiable": "string",
            "labelSelector": "LabelSelector",
            "minDomains": "int32",
            "nodeAffinityPolicy": "string",
            "nodeTaintsPolicy": "string",
            "matchLabelKeys": "[]string",
        },
        "LabelSelector": {"matchLabels": "{}string", "matchExpressions": "[]Requirement"},
    }
)
"""Fields of each type: a plain type, another type of this table, or a list (``[]``) of one."""

ARGUMENTS = frozenset(name.removesuffix("Args") for name in FIELDS if name.endswith("Args"))
"""In-tree plugins that read ``args``."""

_SINCE: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("DynamicResourcesArgs", "filterTimeout"): "1.34",
        ("DynamicResourcesArgs", "bindingTimeout"): "1.35",
        ("Plugins", "placementGenerate"): "1.36",
        ("Plugins", "placementScore"): "1.36",
        ("Plugins", "podGroupPostFilter"): "1.37",
    }
)
"""Fields that kube-schedulers of this decade refuse before some version."""

_GATED: Mapping[tuple[str, str], tuple[str, str]] = MappingProxyType(
    {
        ("DynamicResourcesArgs", "bindingTimeout"): ("1.36", "DRADeviceBindingConditions"),
        ("VolumeBindingArgs", "shape"): ("1.37", "StorageCapacityScoring"),
    }
)
"""Fields that are refused while a feature gate is off, and since when it is on."""

_GONE: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        (KIND, "healthzBindAddress"): "use the flags --bind-address and --secure-port",
        (KIND, "metricsBindAddress"): "use the flags --bind-address and --secure-port",
        (KIND, "algorithmSource"): "write profiles",
        (KIND, "disablePreemption"): "disable DefaultPreemption at postFilter in the profile",
        (KIND, "bindTimeoutSeconds"): "write it into args of the plugin VolumeBinding",
        (KIND, "schedulerName"): "write it into profiles[0]",
        (KIND, "hardPodAffinitySymmetricWeight"): (
            "write hardPodAffinityWeight into args of the plugin InterPodAffinity"
        ),
        ("Plugins", "unreserve"): "plugins at reserve do both",
        ("LeaderElection", "lockObjectName"): "write resourceName",
        ("LeaderElection", "lockObjectNamespace"): "write resourceNamespace",
    }
)
"""Fields of versions that are served no more, and what took their place."""

Odd = tuple[str, Trap]
"""A rule of decoding, and what it finds."""

_INTEGERS = {"int32": 1 << 31, "int64": 1 << 63}
_FLOAT32_LIMIT = 3.4028236e38
_LEAST_ALIKE = 0.6


def odd_fields(file: YamlFile) -> Iterator[Odd]:
    """Every place at which strict decoding stops, and fields that older versions do not have.

    Each comes with its rule: ``unknown-field``, ``wrong-type`` or ``newer-field``.
    """
    if isinstance(file.content, dict):
        yield from _struct(file, (), file.content, KIND)


def _struct(file: YamlFile, path: Path, value: object, owner: str) -> Iterator[Odd]:
    if value is None:
        return
    if not isinstance(value, dict):
        yield _wrong(path, value, "a mapping of fields")
        return
    fields = FIELDS[owner]
    if owner.endswith("Args"):
        fields = {"apiVersion": "string", "kind": "string", **fields}
    for key, inner in value.items():
        where = (*path, key)
        if key not in fields:
            yield "unknown-field", _unknown(where, str(key), owner)
            continue
        yield from _value(file, where, inner, fields[key])
        if since := _SINCE.get((owner, key)):
            yield (
                "newer-field",
                Trap(
                    where,
                    f"is a field since {since}: an older kube-scheduler refuses the file",
                    "leave it away for those",
                    Level.NOTE,
                ),
            )
        if gated := _GATED.get((owner, key)):
            yield (
                "newer-field",
                Trap(
                    where,
                    f"needs the feature gate {gated[1]}, which is off before {gated[0]}",
                    "leave it away for those, or turn the gate on",
                    Level.NOTE,
                ),
            )


def _value(file: YamlFile, path: Path, value: object, kind: str) -> Iterator[Odd]:
    if kind == "arguments":
        yield from _arguments(file, path, value)
    elif kind.startswith("[]"):
        if value is not None and not isinstance(value, list):
            yield _wrong(path, value, "a list")
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from _value(file, (*path, index), item, kind[2:])
    elif kind.startswith("{}"):
        if value is not None and not isinstance(value, dict):
            yield _wrong(path, value, "a mapping")
        for key, item in (value if isinstance(value, dict) else {}).items():
            yield from _value(file, (*path, key), item, kind[2:])
    elif kind in FIELDS:
        yield from _struct(file, path, value, kind)
    else:
        test, what = _PLAIN[kind]
        # A duration has a reader of its own, which does not take null for "not written".
        if not (value is None and kind != "duration") and not test(value, json=file.is_json):
            yield _wrong(path, value, what)


def _arguments(file: YamlFile, path: Path, value: object) -> Iterator[Odd]:
    """Arguments are of a type of their own for each in-tree plugin; others may take anything."""
    plugin = file.get((*path[:-1], "name"))
    if not isinstance(plugin, str) or plugin not in ARGUMENTS or value is None:
        return
    kind = f"{plugin}Args"
    yield from _struct(file, path, value, kind)
    if not isinstance(value, dict):
        return
    if value.get("kind") not in (None, "", kind) and isinstance(value["kind"], str):
        yield (
            "wrong-type",
            refusal((*path, "kind"), f"is {value['kind']}, not {kind}", "leave it away"),
        )
    if value.get("apiVersion") not in (None, "", API_VERSION) and isinstance(
        value["apiVersion"], str
    ):
        yield "wrong-type", refusal((*path, "apiVersion"), f"is not {API_VERSION}", "leave it away")


def _wrong(path: Path, value: object, what: str) -> Odd:
    return "wrong-type", refusal(path, f"is {_said(value)}, not {what}", f"write {what}")


def _said(value: object) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return str(value)[:40]


# -- plain types ----------------------------------------------------------------------------------


def _integer(most: int) -> Callable[..., bool]:
    def test(value: object, *, json: bool) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, float) and (json or not value.is_integer() or abs(value) >= 1e21):
            return False
        return -most <= value < most

    return test


def _number(value: object, *, json: bool) -> bool:  # noqa: ARG001 - all kinds are asked alike
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) <= _FLOAT32_LIMIT


def _bytes(value: object, *, json: bool) -> bool:  # noqa: ARG001 - as _number
    if not isinstance(value, str):
        return False
    try:
        base64.b64decode(value.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


_PLAIN: Mapping[str, tuple[Callable[..., bool], str]] = MappingProxyType(
    {
        "string": (lambda value, json: isinstance(value, str), "a text"),  # noqa: ARG005
        "bool": (lambda value, json: isinstance(value, bool), "true or false"),  # noqa: ARG005
        "int32": (_integer(_INTEGERS["int32"]), "a whole number below 2^31"),
        "int64": (_integer(_INTEGERS["int64"]), "a whole number"),
        "float32": (_number, "a number"),
        "duration": (lambda value, json: go_duration(value) is not None, "a duration such as 2s"),  # noqa: ARG005
        "duration?": (lambda value, json: go_duration(value) is not None, "a duration such as 2s"),  # noqa: ARG005
        "bytes": (_bytes, "base64"),
    }
)


# -- where a field belongs ------------------------------------------------------------------------


@cache
def _places() -> Mapping[str, str]:
    """A place of each type, as people write it; of a type that stands at several, the first."""
    places = {KIND: "the top level"}
    todo = [KIND]
    while todo:
        owner = todo.pop(0)
        before = "" if owner == KIND else places[owner] + "."
        for field, kind in FIELDS[owner].items():
            inner = kind.removeprefix("[]")
            if inner in FIELDS and inner not in places:
                places[inner] = before + field + ("[]" if kind.startswith("[]") else "")
                todo.append(inner)
    for owner in FIELDS:
        if owner.endswith("Args"):
            places[owner] = f"the args of plugin {owner.removesuffix('Args')}"
            todo.append(owner)
    while todo:
        owner = todo.pop(0)
        for field, kind in FIELDS[owner].items():
            inner = kind.removeprefix("[]")
            if inner in FIELDS and inner not in places:
                places[inner] = f"{field} in {places[owner]}"
                todo.append(inner)
    return places


def _unknown(path: Path, key: str, owner: str) -> Trap:
    """An unknown field: misspelt here, known elsewhere, or gone."""
    if (owner, key) in _GONE:
        return refusal(
            path, "was a field of older versions and is not a field of v1", _GONE[owner, key]
        )
    here = FIELDS[owner]
    if alike := _alike(key, here):
        return refusal(path, "is not a field", f"did you mean {alike}?")
    meant, owners = key, [o for o, fields in FIELDS.items() if key in fields]
    if not owners:
        everywhere = {field for fields in FIELDS.values() for field in fields}
        meant = _alike(key, everywhere) or _begun(key, everywhere)
        owners = [o for o, fields in FIELDS.items() if meant in fields]
    if owners:
        place = _nearest_place(owner, owners)
        verb = "move it to" if meant == key else f"write {meant} at"
        return refusal(path, "is not a field here", f"{verb} {place}")
    return refusal(path, "is not a field", f"did you mean {nearest(key, here)}?")


def _alike(key: str, fields: Iterator[str] | Mapping[str, str] | set[str]) -> str:
    """The field that a mistyped one meant, if one of them is that near."""
    by_lower = {field.lower(): field for field in fields}
    found = difflib.get_close_matches(key.lower(), by_lower, n=1, cutoff=_LEAST_ALIKE)
    return by_lower[found[0]] if found else ""


def _begun(key: str, fields: set[str]) -> str:
    """A field of which the word is a longer or shorter form, such as extenderConfig."""
    lower = key.lower()
    found = [
        f for f in fields if lower.startswith(f.lower().rstrip("s")) or f.lower().startswith(lower)
    ]
    return max(found, key=lambda field: (len(field), field), default="")


def _nearest_place(owner: str, owners: list[str]) -> str:
    """Of several types that have a field, the one that stands least far from where it was put."""
    places = _places()
    here = places[owner].split(".")

    def depth(other: str) -> int:
        return 0 if other == KIND else 1 + places[other].count(".")

    def shared(other: str) -> int:
        return sum(a == b for a, b in zip(here, places[other].split("."), strict=False))

    return places[min(owners, key=lambda o: (-shared(o), depth(o), len(places[o])))]
