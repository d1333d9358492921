"""Soft node affinity: which nodes a pod would rather have, and how much that weighs.

Read from ``preferredDuringSchedulingIgnoredDuringExecution``. kube-scheduler weighs these itself;
the planner needs them because its plans take the choice away from it. A job that states a weight
for the cheap device models is kept off the expensive ones this way.
"""

from __future__ import annotations

from scheduler.core.model import NodeSelection, SelectorTerm
from scheduler.kube.objects import PodObject
from scheduler.kube.selectors import requirements

__all__ = ["Preference", "node_preferences"]

Preference = tuple[NodeSelection, int]
"""Nodes that are preferred, and the weight (1..100) that is lost on any other."""


def node_preferences(pod: PodObject) -> tuple[Preference, ...]:
    """Soft node affinity of a pod, in the order in which it is written; often empty.

    Terms without a weight or without any rule say nothing and are left out (API reference).
    """
    affinity = pod.spec.affinity and pod.spec.affinity.node_affinity
    preferred = (affinity.preferred or ()) if affinity else ()
    found: list[Preference] = []
    for entry in preferred:
        term = entry.preference
        if term is None or entry.weight < 1:
            continue
        rules = (requirements(term.match_expressions), requirements(term.match_fields))
        if any(rules):
            found.append((NodeSelection(terms=(SelectorTerm(*rules),)), entry.weight))
    return tuple(found)
