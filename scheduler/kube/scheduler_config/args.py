"""Arguments of in-tree plugins with which kube-scheduler does not start.

What is of the wrong type altogether is named by strict decoding and passed over here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from scheduler.core.durations import go_duration
from scheduler.kube.scheduler_config.findings import Trap, items_of, refusal
from scheduler.kube.yaml_lines import Path, YamlFile

__all__ = ["bad_arguments", "qualified"]

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LONGEST_DOMAIN = 253
_MOST_PERCENT = 100
_MOST_SCORE = 10
_STRATEGIES = ("LeastAllocated", "MostAllocated", "RequestedToCapacityRatio")
_RATIO = "requestedToCapacityRatio"
_NUMBERS = ("Gt", "Lt")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", *_NUMBERS)


def qualified(name: str) -> bool:
    """Whether it is a name as labels and resources have: an optional domain, a slash, a word."""
    domain, slash, word = name.rpartition("/")
    good = bool(_DOMAIN.fullmatch(domain)) and len(domain) <= _LONGEST_DOMAIN if slash else True
    return good and bool(_NAME.fullmatch(word))


def bad_arguments(file: YamlFile, path: Path, plugin: str, *, runs: bool) -> Iterator[Trap]:
    """What is wrong with the arguments of one plugin.

    Parameters
    ----------
    file
        The configuration.
    path
        Where the arguments stand in it.
    plugin
        In-tree plugin that reads them.
    runs
        Whether the profile runs the plugin; some arguments are judged only then.
    """
    args = file.get(path)
    if isinstance(args, dict) and (runs or plugin != "NodeResourcesFit"):
        yield from _RULES[plugin](path, args)


def _preemption(path: Path, args: Mapping[str, Any]) -> Iterator[Trap]:
    share, least = "minCandidateNodesPercentage", "minCandidateNodesAbsolute"
    percent, nodes = _whole(args.get(share), 10), _whole(args.get(least), 100)
    if not 0 <= percent <= _MOST_PERCENT:
        yield refusal((*path, share), f"{percent} is not a percentage", "write 10")
    if nodes < 0:
        yield refusal((*path, least), "is below 0", "write 100")
    if percent == 0 and nodes == 0:
        yield refusal((*path, share), f"is 0, and {least} is, too", "write one of them")


def _pod_affinity(path: Path, args: Mapping[str, Any]) -> Iterator[Trap]:
    weight = _whole(args.get("hardPodAffinityWeight"), 1)
    if not 0 <= weight <= _MOST_PERCENT:
        yield refusal((*path, "hardPodAffinityWeight"), f"{weight} is not in 0..100", "write 1")


def _volume_binding(path: Path, args: Mapping[str, Any]) -> Iterator[Trap]:
    if _whole(args.get("bindTimeoutSeconds"), 600) < 0:
        yield refusal((*path, "bindTimeoutSeconds"), "is below 0", "write 600")
    if args.get("shape"):
        yield from _shape((*path, "shape"), args["shape"])


def _dynamic_resources(path: Path, args: Mapping[str, Any]) -> Iterator[Trap]:
    for field, least, what in (
        ("filterTimeout", 0.0, "is below 0"),
        ("bindingTimeout", 1.0, "is below 1 s"),
    ):
        seconds = go_duration(args.get(field))
        if seconds is not None and seconds < least:
            yield refusal((*path, field), what, "write 10s" if least == 0 else "write 600s")


def _balanced(path: Path, args: Mapping[str, Any]) -> Iterator[Trap]:
    seen: set[str] = set()
    for index, resource in _mappings(args.get("resources")):
        where = (*path, "resources", index)
        name = str(resource.get("name") or "")
        if name in seen:
            yield refusal(where, f"{name} stands there twice", "drop one")
        seen.add(name)
        if (_whole(resource.get("weight"), 1) or 1) != 1:
            yield refusal((*where, "weight"), "has to be 1 for this plugin", "leave it away")


def _fit(path: Path, args: Mapping[str, Any]) -> Iterator[Trap]:
    for field in ("ignoredResources", "ignoredResourceGroups"):
        group = field.endswith("Groups")
        for index, listed in enumerate(items_of(args.get(field))):
            name = "" if listed is None else listed
            if isinstance(name, str) and (not qualified(name) or (group and "/" in name)):
                what = "no domain" if group else "no name of a resource"
                remedy = "write such as example.com" if group else "write such as example.com/fpga"
                yield refusal((*path, field, index), f"{name!r} is {what}", remedy)
    strategy = args.get("scoringStrategy")
    if not isinstance(strategy, dict):
        return
    where = (*path, "scoringStrategy")
    kind = strategy.get("type")
    if kind not in _STRATEGIES and (kind is None or isinstance(kind, str)):
        yield refusal(
            (*where, "type"), f"{kind or 'nothing'!r} is not a scoring strategy", _one(_STRATEGIES)
        )
    for index, resource in _mappings(strategy.get("resources")):
        weight = _whole(resource.get("weight"), 1) or 1
        if not 0 < weight <= _MOST_PERCENT:
            yield refusal(
                (*where, "resources", index, "weight"), f"{weight} is not in 1..100", "write 1"
            )
    ratio = strategy.get(_RATIO)
    if kind != "RequestedToCapacityRatio":
        if ratio is not None:
            yield refusal((*where, _RATIO), f"goes with another type than {kind}", "drop it")
    elif ratio is None:
        yield refusal((*where, _RATIO), "is missing, which this type reads", "write its shape")
    elif isinstance(ratio, dict):
        yield from _shape((*where, _RATIO, "shape"), ratio.get("shape"))


def _shape(path: Path, shape: object) -> Iterator[Trap]:
    points = dict(_mappings(shape))
    if not items_of(shape):
        yield refusal(path, "has no point", "write {utilization: 0, score: 0} and one at 100")
    before = None
    for index, point in points.items():
        used, score = _whole(point.get("utilization"), 0), _whole(point.get("score"), 0)
        if not 0 <= used <= _MOST_PERCENT:
            yield refusal((*path, index, "utilization"), f"{used} is not in 0..100", "write 0..100")
        if not 0 <= score <= _MOST_SCORE:
            yield refusal((*path, index, "score"), f"{score} is not in 0..10", "write 0..10")
        if before is not None and before >= used:
            yield refusal((*path, index, "utilization"), "does not rise", "sort the points")
        before = used


def _topology(path: Path, args: Mapping[str, Any]) -> Iterator[Trap]:
    kind = args.get("defaultingType") or "System"
    constraints = list(_mappings(args.get("defaultConstraints")))
    if isinstance(kind, str) and kind not in ("System", "List"):
        yield refusal((*path, "defaultingType"), f"is {kind!r}", "write List")
    elif kind == "System" and items_of(args.get("defaultConstraints")):
        yield refusal(
            (*path, "defaultingType"),
            "is System, with which no constraints may be listed",
            "write defaultingType: List",
        )
    seen: set[tuple[Any, Any]] = set()
    for index, constraint in constraints:
        where = (*path, "defaultConstraints", index)
        key, action = constraint.get("topologyKey"), constraint.get("whenUnsatisfiable")
        if _whole(constraint.get("maxSkew"), 0) < 1:
            yield refusal((*where, "maxSkew"), "has to be above 0", "write maxSkew: 1")
        if key is None or (isinstance(key, str) and not qualified(key)):
            yield refusal(
                (*where, "topologyKey"), f"{key or ''!r} is not a label key", "name the label"
            )
        if action not in ("DoNotSchedule", "ScheduleAnyway"):
            yield refusal(
                (*where, "whenUnsatisfiable"),
                f"is {action or 'missing'}",
                "write DoNotSchedule or ScheduleAnyway",
            )
        if constraint.get("labelSelector") is not None:
            yield refusal(
                (*where, "labelSelector"), "is taken from each pod, not from here", "drop it"
            )
        if (str(key), str(action)) in seen:
            yield refusal(where, f"is there already for {key} and {action}", "drop one")
        seen.add((str(key), str(action)))


def _node_affinity(path: Path, args: Mapping[str, Any]) -> Iterator[Trap]:
    added = args.get("addedAffinity")
    added = added if isinstance(added, dict) else {}
    path = (*path, "addedAffinity")
    name = "requiredDuringSchedulingIgnoredDuringExecution"
    required = added.get(name)
    if isinstance(required, dict):
        terms = required.get("nodeSelectorTerms")
        if not items_of(terms):
            return
        for index, term in _mappings(terms):
            yield from _term((*path, name, "nodeSelectorTerms", index), term)
    name = "preferredDuringSchedulingIgnoredDuringExecution"
    for index, preferred in _mappings(added.get(name)):
        preference = preferred.get("preference")
        if _whole(preferred.get("weight"), 0) and isinstance(preference, dict):
            yield from _term((*path, name, index, "preference"), preference)


def _term(path: Path, term: Mapping[str, Any]) -> Iterator[Trap]:
    for index, wanted in _mappings(term.get("matchExpressions")):
        where = (*path, "matchExpressions", index)
        operator, values = str(wanted.get("operator") or ""), items_of(wanted.get("values"))
        if operator not in _OPERATORS:
            yield refusal((*where, "operator"), f"is {operator!r}", _one(_OPERATORS))
            continue
        if not qualified(str(wanted.get("key") or "")):
            yield refusal((*where, "key"), "is not a label key", "name the label")
        if operator in ("In", "NotIn") and not values:
            yield refusal((*where, "values"), f"is empty, with {operator}", "name the values")
        elif operator in ("Exists", "DoesNotExist") and values:
            yield refusal((*where, "values"), f"is not read by {operator}", "drop it")
        elif operator in _NUMBERS and (len(values) != 1 or not _integer(str(values[0]))):
            yield refusal((*where, "values"), f"has to be one number, with {operator}", "write it")
        for number, value in enumerate(values):
            if isinstance(value, str) and value and not _NAME.fullmatch(value):
                yield refusal((*where, "values", number), "is not a label value", "correct it")
    for index, wanted in _mappings(term.get("matchFields")):
        where = (*path, "matchFields", index)
        if wanted.get("operator") not in ("In", "NotIn"):
            yield refusal((*where, "operator"), "is neither In nor NotIn", "write In")
        elif len(items_of(wanted.get("values"))) != 1:
            yield refusal((*where, "values"), "has to be one name", "write a term for each")


_RULES: Mapping[str, Callable[[Path, Mapping[str, Any]], Iterator[Trap]]] = MappingProxyType(
    {
        "DefaultPreemption": _preemption,
        "DynamicResources": _dynamic_resources,
        "InterPodAffinity": _pod_affinity,
        "NodeAffinity": _node_affinity,
        "NodeResourcesBalancedAllocation": _balanced,
        "NodeResourcesFit": _fit,
        "PodTopologySpread": _topology,
        "VolumeBinding": _volume_binding,
    }
)


def _one(choices: tuple[str, ...]) -> str:
    return f"write {', '.join(choices[:-1])} or {choices[-1]}"


def _mappings(listed: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The mappings in a list with their places; nothing at all is one with all its defaults."""
    for index, item in enumerate(items_of(listed)):
        if item is None or isinstance(item, dict):
            yield index, item or {}


def _whole(value: object, default: int) -> int:
    """A number, or the default where none is written; a fraction is named by strict decoding."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return default
    return int(value) if abs(value) < 1 << 63 else default


def _integer(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?[0-9]{1,19}", text)) and abs(int(text)) < 1 << 63
