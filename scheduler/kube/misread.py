"""What has become of objects of a live cluster that are not as they should be, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from scheduler.core.errors import InvalidInput
from scheduler.core.omissions import NotUnderstood
from scheduler.kube.nodes import node_of
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.kube.pod_requests import charge_of
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.salvage import REQUEST, InPart

__all__ = ["in_part", "misread_nodes", "misread_pods", "named"]

_NO_DEVICES = "none of its devices are handed out"
_CHARGED = "it runs, and is charged what it asks for"
_WAITS = "it fits nowhere"
_BEFORE = "what was known of it before counts"
_IN_PART = {
    "Node": _BEFORE,
    "Pod": "what can be read of it counts; while it runs and its request cannot be, its node's "
    "devices are withheld",
}


def named(unreadable: Mapping[str, str], running: Iterable[str]) -> list[NotUnderstood]:
    """What has been noted of objects.

    Parameters
    ----------
    unreadable
        Problems, by kind and key of the objects.
    running
        Keys of pods that have a node.
    """
    there = set(running) if unreadable else set()
    found = []
    for subject, problem in unreadable.items():
        kind, _, key = subject.partition(" ")
        effect = _NO_DEVICES if kind == "Node" else _CHARGED if key in there else _WAITS
        found.append(NotUnderstood.of(subject, problem, effect))
    return found


def in_part(kind: str, key: str, missing: str) -> NotUnderstood:
    """An object of which these places could not be read."""
    return NotUnderstood(f"{kind} {key}", missing, "cannot be read", _IN_PART.get(kind, _BEFORE))


def misread_nodes(nodes: Iterable[InPart[NodeObject]], names: ResourceNames) -> list[NotUnderstood]:
    """Those of these nodes that are not understood."""
    found = []
    for part in nodes:
        name = part.obj.metadata.name
        if part.missing:
            found.append(in_part("Node", name, ", ".join(part.missing)))
            continue
        try:
            node_of(part.obj, names)
        except InvalidInput as error:
            found.append(NotUnderstood.of(f"Node {name}", error, _NO_DEVICES))
    return found


def misread_pods(pods: Iterable[InPart[PodObject]], names: ResourceNames) -> list[NotUnderstood]:
    """Those of these pods that are not understood."""
    found = []
    for part in pods:
        pod = part.obj
        key = f"{pod.metadata.namespace or 'default'}/{pod.metadata.name}"
        if part.missing:
            found.append(in_part("Pod", key, ", ".join(part.missing)))
        if part.lacks(*REQUEST):
            continue
        problem = charge_of(pod, names).problem
        if problem:
            effect = _CHARGED if pod.spec.node_name else _WAITS
            found.append(NotUnderstood.of(f"Pod {key}", problem, effect))
    return found
