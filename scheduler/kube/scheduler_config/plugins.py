"""Plugins of kube-scheduler: which there are, what each extends, and which a profile runs.

The table is that of Kubernetes 1.37 with its feature gates as they are by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from scheduler.kube.yaml_lines import Path

__all__ = ["DEFAULTS", "EXTENDS", "POINTS", "REMOVED", "PluginSets", "entries", "plugin_sets"]

_FILTERS = ("preFilter", "filter")
_SCORES = ("preScore", "score")
EXTENDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        name: frozenset(points)
        for name, points in {
            "SchedulingGates": ("preEnqueue",),
            "PrioritySort": ("queueSort",),
            "NodeName": _FILTERS,
            "NodeUnschedulable": _FILTERS,
            "TaintToleration": (*_FILTERS, *_SCORES),
            "NodeAffinity": (*_FILTERS, *_SCORES),
            "NodePorts": _FILTERS,
            "NodeResourcesFit": (*_FILTERS, *_SCORES, "placementScore"),
            "VolumeRestrictions": _FILTERS,
            "NodeVolumeLimits": _FILTERS,
            "VolumeBinding": (*_FILTERS, *_SCORES, "reserve", "preBind"),
            "VolumeZone": _FILTERS,
            "PodTopologySpread": (*_FILTERS, *_SCORES),
            "InterPodAffinity": (*_FILTERS, *_SCORES),
            "DynamicResources": (
                *("preEnqueue", *_FILTERS, "postFilter", "score", "reserve", "preBind"),
                "podGroupPostFilter",
            ),
            "DefaultPreemption": ("preEnqueue", "postFilter", "podGroupPostFilter"),
            "NodeResourcesBalancedAllocation": _SCORES,
            "ImageLocality": ("score",),
            "DefaultBinder": ("bind",),
            "NodeDeclaredFeatures": _FILTERS,
            "DeferredPodScheduling": (*_FILTERS, "permit"),
            "GangScheduling": ("preEnqueue", "permit"),
            "TopologyPlacementGenerator": ("placementGenerate",),
            "PodGroupPodsCount": ("placementScore",),
        }.items()
    }
)
"""Extension points of every in-tree plugin."""

DEFAULTS: Mapping[str, int] = MappingProxyType(
    {
        name: {
            "TaintToleration": 3,
            "NodeAffinity": 2,
            "NodeResourcesFit": 1,
            "PodTopologySpread": 2,
            "InterPodAffinity": 2,
            "DynamicResources": 2,
            "NodeResourcesBalancedAllocation": 1,
            "ImageLocality": 1,
        }.get(name, 0)
        for name in EXTENDS
        if name
        not in (
            *("DeferredPodScheduling", "GangScheduling"),
            *("TopologyPlacementGenerator", "PodGroupPodsCount"),
        )
    }
)
"""Plugins that run unless they are disabled, with the weight of their scores."""

REMOVED: Mapping[str, str] = MappingProxyType(
    {
        "NodeResourcesLeastAllocated": "NodeResourcesFit with scoringStrategy LeastAllocated",
        "NodeResourcesMostAllocated": "NodeResourcesFit with scoringStrategy MostAllocated",
        "RequestedToCapacityRatio": (
            "NodeResourcesFit with scoringStrategy RequestedToCapacityRatio"
        ),
        "NodeLabel": "NodeAffinity",
        "ServiceAffinity": "InterPodAffinity",
        "NodePreferAvoidPods": "TaintToleration",
        "SelectorSpread": "PodTopologySpread",
        "AzureDiskLimits": "NodeVolumeLimits",
        "CinderLimits": "NodeVolumeLimits",
        "EBSLimits": "NodeVolumeLimits",
        "GCEPDLimits": "NodeVolumeLimits",
    }
)
"""In-tree plugins of older versions, and what does their work now."""

POINTS = (
    *("preFilter", "filter", "postFilter", "reserve", "preScore", "score", "preBind", "bind"),
    *("postBind", "permit", "preEnqueue", "queueSort"),
    *("placementGenerate", "placementScore", "podGroupPostFilter"),
)
"""Extension points that plugins are enabled at one by one."""


@dataclass(slots=True)
class PluginSets:
    """Plugins of one profile, the defaults taken in.

    Parameters
    ----------
    multi
        Names at ``multiPoint`` in their order, the defaults first.
    own
        Names by extension point, as the profile enables them there.
    off
        Names by extension point that are disabled there; ``*`` is all.
    weights
        Of the plugins at ``multiPoint``; 0 where none is written.
    """

    multi: list[str]
    weights: dict[str, int]
    own: dict[str, list[str]] = field(default_factory=dict)
    off: dict[str, set[str]] = field(default_factory=dict)

    def runs(self, point: str) -> Iterator[str]:
        """Names that run at a point; one that is enabled twice comes twice.

        What an unknown plugin extends is not known: it counts where it is named.
        """
        own, off = self.own.get(point, []), self.off.get(point, set())
        yield from own
        if "*" in off:
            return
        for name in self.multi:
            if point in EXTENDS.get(name, ()) and name not in off and name not in own:
                yield name

    def used(self) -> set[str]:
        """Every plugin that the profile makes, wherever it runs."""
        return {*self.multi, *(name for names in self.own.values() for name in names)}


def entries(profile: Mapping[str, Any], point: str, key: str) -> Iterator[tuple[Path, str, Any]]:
    """Place in the profile, name and weight of each plugin that is ``enabled`` or ``disabled``."""
    plugins = profile.get("plugins")
    at = plugins.get(point) if isinstance(plugins, dict) else None
    listed = at.get(key) if isinstance(at, dict) else None
    for index, plugin in enumerate(listed if isinstance(listed, list) else ()):
        inner = plugin if isinstance(plugin, dict) else {}
        yield ("plugins", point, key, index), str(inner.get("name") or ""), inner.get("weight")


def plugin_sets(profile: Mapping[str, Any]) -> PluginSets:
    """What runs in a profile."""
    written = {name: weight for _, name, weight in entries(profile, "multiPoint", "enabled")}
    named = _names(entries(profile, "multiPoint", "enabled"))
    off = {name for _, name, _ in entries(profile, "multiPoint", "disabled")}
    stay = [] if "*" in off else [name for name in DEFAULTS if name not in off]
    # The last mention of a default plugin takes that plugin's place, any other comes on top.
    spare = list(named)
    for name in stay:
        if name in spare:
            del spare[len(spare) - 1 - spare[::-1].index(name)]
    return PluginSets(
        multi=[*stay, *spare],
        weights={
            name: _whole(written[name] if name in written else DEFAULTS.get(name))
            for name in (*stay, *spare)
        },
        own={point: _names(entries(profile, point, "enabled")) for point in POINTS},
        off={point: set(_names(entries(profile, point, "disabled"))) for point in POINTS},
    )


def _names(found: Iterable[tuple[Path, str, Any]]) -> list[str]:
    return [name for _, name, _ in found]


def _whole(weight: object) -> int:
    return weight if isinstance(weight, int) else 0
