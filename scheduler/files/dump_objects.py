"""Objects of a dump one by one: each as far as it can be read, and what could not be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.model import GangKey, Node
from scheduler.core.omissions import NotUnderstood
from scheduler.files.manifests import Manifest, manifests, refuse_strangers
from scheduler.files.workload import MOST_NODES, MOST_PODS
from scheduler.kube.complaints import cut
from scheduler.kube.disruption import BudgetObject, budget_decoder
from scheduler.kube.nodes import node_of, without_devices
from scheduler.kube.objects import (
    NodeObject,
    PodObject,
    group_decoder,
    mapping_decoder,
    node_decoder,
    pod_decoder,
)
from scheduler.kube.pod_requests import has_ended, pod_uid
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.salvage import REQUEST, read_in_part
from scheduler.kube.surroundings import Surroundings
from scheduler.kube.workloads import Stated, statements

__all__ = [
    "CLOSED",
    "NO_DEVICES",
    "WAITS",
    "DumpObjects",
    "is_over",
    "read_objects",
    "subject_of",
]

CLOSED = "its node takes nothing new"
WAITS = "it gets no node"
NO_DEVICES = "none of its devices are handed out"
_WANTED = {"Node", "Pod"}


def is_over(pod: PodObject) -> bool:
    """Whether a pod takes nothing and waits for nothing: it has ended, or is deleted unbound."""
    going = pod.metadata.deletion_timestamp is not None
    return has_ended(pod) or (going and not pod.spec.node_name)


def subject_of(pod: PodObject) -> str:
    """How a pod is named in what is said of it."""
    return f"Pod {pod.metadata.namespace or 'default'}/{pod.metadata.name}"


@dataclass(slots=True)
class DumpObjects:
    """Nodes as they are and as we read them, and the rest, in order; what could not be read.

    Attributes
    ----------
    closed : set of str
        Nodes where something runs that nobody can count.
    unguarded : set of str
        Namespaces with a budget that cannot be read; empty for one whose namespace cannot.
    """

    nodes: list[tuple[NodeObject, Node]] = field(default_factory=list)
    pods: list[PodObject] = field(default_factory=list)
    budgets: list[BudgetObject] = field(default_factory=list)
    groups: dict[GangKey, Stated] = field(default_factory=dict)
    surroundings: Surroundings = field(default_factory=Surroundings)
    misread: list[NotUnderstood] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    unguarded: set[str] = field(default_factory=set)
    _names: dict[str, Node] = field(default_factory=dict)
    _uids: dict[str, str] = field(default_factory=dict)
    _pods: set[tuple[str, str]] = field(default_factory=set)

    def note(self, subject: str, problem: object, effect: str, *, harmless: bool = False) -> None:
        """An object is not as it should be."""
        self.misread.append(NotUnderstood.of(subject, problem, effect, harmless=harmless))

    def add(self, item: Manifest, names: ResourceNames) -> None:
        """One more object of any kind."""
        match item.kind, item.group:
            case "Node", "":
                self._add_node(item, names)
            case "Pod", "":
                self._add_pod(item)
            case "PodDisruptionBudget", _:
                self._add_budget(item)
            case _:
                self._add_other(item)

    def _add_node(self, item: Manifest, names: ResourceNames) -> None:
        part = read_in_part(node_decoder, item.raw)
        if part is None or not part.obj.metadata.name:
            self.note(item.where, "metadata.name: is missing", "left out")
            return
        obj = part.obj
        subject = f"Node {obj.metadata.name}"
        if part.missing:
            node = Node(obj.metadata.name, 0, 0, 0)
            self.closed.add(node.name)
            self.note(subject, f"{', '.join(part.missing)}: cannot be read", "it takes nothing new")
        else:
            try:
                node = node_of(obj, names)
            except InvalidInput as error:
                node = without_devices(obj, names)
                self.note(subject, error, NO_DEVICES if node.pods else "it takes nothing new")
                if not node.pods:
                    self.closed.add(node.name)
        known = self._names.setdefault(node.name, node)
        if known is node:
            self.nodes.append((obj, node))
        elif known != node:
            self.note(subject, "metadata.name: is listed twice", "the first one counts")

    def _add_pod(self, item: Manifest) -> None:
        part = read_in_part(pod_decoder, item.raw)
        if part is None:
            self.note(item.where, "is not an object", "left out")
            return
        pod, node = part.obj, part.obj.spec.node_name
        if not pod.metadata.name:
            self.note(item.where, "metadata.name: cannot be read", CLOSED if node else "left out")
            self.closed.add(node or "")
            return
        if not self._is_new(pod):
            return
        self.surroundings.add_pod(pod_uid(pod), item.raw)
        subject = subject_of(pod)
        problem = f"{', '.join(part.missing)}: cannot be read"
        if part.lacks("spec.nodeName"):
            self.note(subject, problem, "left out: nobody can tell where it runs")
        elif part.lacks(*REQUEST) and node and not is_over(pod):
            self.note(subject, problem, CLOSED)
            self.closed.add(node)
            self.pods.append(pod)
        elif not node and part.lacks("spec", "metadata"):
            self.note(subject, problem, WAITS)
        else:
            self.pods.append(pod)
            if part.missing:
                self.note(subject, problem, "the rest of it counts", harmless=True)

    def _is_new(self, pod: PodObject) -> bool:
        """Whether the pod is not listed yet; if another one has its uid, its name becomes it."""
        key = f"{pod.metadata.namespace or 'default'}/{pod.metadata.name}"
        other = self._uids.setdefault(pod_uid(pod), key)
        if other == key:
            known = (key, pod_uid(pod)) in self._pods
            self._pods.add((key, pod_uid(pod)))
            return not known  # files that were written apart may list it twice
        why = f"metadata.uid: {cut(repr(pod.metadata.uid))} is that of Pod {other} too"
        self.note(f"Pod {key}", why, "its name tells it apart", harmless=True)
        pod.metadata.uid = key
        return self._is_new(pod)

    def _add_other(self, item: Manifest) -> None:
        """A group, or something that says where pods may go; anything else says nothing here."""
        try:
            if self.surroundings.add(item.kind, item.raw):
                return
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            self.note(item.where, f"{item.kind}: {error}", "left out")
            return
        try:
            self.groups.update(_group(item))
        except InvalidInput as error:
            self.note(item.where, error, "the pods of its gang are counted instead")

    def _add_budget(self, item: Manifest) -> None:
        try:
            self.budgets.append(budget_decoder.decode(item.raw))
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            part = read_in_part(group_decoder, item.raw)
            namespace = part.obj.metadata.namespace if part else ""
            self.unguarded.add(namespace)
            effect = f"no pod of {namespace or 'any namespace'} is moved"
            self.note(f"PodDisruptionBudget at {item.where}", f"spec: {error}", effect)


def _group(item: Manifest) -> dict[GangKey, Stated]:
    """As :func:`statements`; an object of the kind but not of its shape is refused."""
    try:
        content = mapping_decoder.decode(item.raw)
        version = content.get("apiVersion") or f"{item.group}/"
        return statements({**content, "kind": item.kind, "apiVersion": version})
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(item.kind, "is not of the shape of its kind") from error


def read_objects(paths: Sequence[Path], names: ResourceNames) -> DumpObjects:
    """Every object that these files and folders list.

    Raises
    ------
    InvalidInput
        A file cannot be read, lists nothing of the kind, or more than any cluster has.
    """
    listed = manifests(paths)
    refuse_strangers(paths, listed, _WANTED)
    for kind, most in (("Node", MOST_NODES), ("Pod", MOST_PODS)):
        if sum(one.kind == kind for one in listed) > most:
            raise InvalidInput(f"{paths[0]}: {kind} objects", f"are more than {most:,}")
    found = DumpObjects()
    for item in listed:
        if item.problem:
            found.note(item.where, item.problem, "left out")
        else:
            found.add(item, names)
    return found
