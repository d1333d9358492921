"""Nodes whose devices kube-scheduler hands out by itself: Dynamic Resource Allocation.

A DeviceClass may give an extended resource its name. Where a node does not offer that resource,
kube-scheduler allocates devices of the class, and passes the node all the same. Which devices these
are is nothing that we know or decide: such a pod is charged its cpu and memory there, and nothing
else. A node is one of these for a resource once kube-scheduler has passed it for a pod that asks
for the resource; a class alone says nothing about nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from scheduler.core.model import GpuRequest, Node, PodRequest
from scheduler.kube.objects import Metadata

__all__ = [
    "DEVICES_OF_CLASS",
    "DEVICE_CLASSES",
    "IMPLICIT",
    "DeviceClassList",
    "DynamicResources",
    "all_mapped_resources",
    "mapped_resources",
    "resources_of",
    "without",
]

DEVICE_CLASSES = "deviceclasses.resource.k8s.io"
DEVICES_OF_CLASS = "devices of a DeviceClass (DRA)"
"""What is not considered of a pod that asks for them."""
IMPLICIT = "deviceclass.resource.kubernetes.io/"
"""What precedes the name of a DeviceClass in the resource that it stands for in any case."""


class _ClassSpec(msgspec.Struct, rename="camel"):
    extended_resource_name: str | None = None


class _DeviceClass(msgspec.Struct):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: _ClassSpec | None = None


class DeviceClassList(msgspec.Struct):
    """All DeviceClasses of a cluster, as the API lists them."""

    items: list[_DeviceClass] | None = None


_class_decoder = msgspec.json.Decoder(_DeviceClass)


def mapped_resources(item: msgspec.Raw | bytes) -> frozenset[str]:
    """Extended resources that one DeviceClass stands for."""
    return _names([_class_decoder.decode(item)])


def all_mapped_resources(listed: DeviceClassList) -> frozenset[str]:
    """Extended resources that any DeviceClass of the list stands for."""
    return _names(listed.items or ())


def _names(classes: Iterable[_DeviceClass]) -> frozenset[str]:
    found = set()
    for each in classes:
        found.add(IMPLICIT + each.metadata.name)
        if each.spec and each.spec.extended_resource_name:
            found.add(each.spec.extended_resource_name)
    return frozenset(found)


class DynamicResources:
    """Which nodes have devices by DRA, as far as kube-scheduler has shown it.

    Attributes
    ----------
    mapped : frozenset of str
        Extended resources that DeviceClasses stand for.
    """

    def __init__(self) -> None:
        self.mapped: frozenset[str] = frozenset()
        self._passed: dict[str, frozenset[str]] = {}

    @property
    def nodes(self) -> dict[str, tuple[str, ...]]:
        """Resources that nodes have by DRA, by name of the node."""
        found = {name: self.mapped & passed for name, passed in self._passed.items()}
        return {name: tuple(sorted(resources)) for name, resources in found.items() if resources}

    def asked(self, request: PodRequest) -> frozenset[str]:
        """What a pod asks for that may be handed out by DRA."""
        if not self.mapped:
            return frozenset()
        return resources_of(request) & self.mapped

    def passed(self, nodes: Iterable[Node | None], resources: frozenset[str]) -> list[str]:
        """kube-scheduler has passed these nodes for a pod that asks for that: which are news."""
        news = []
        for node in nodes:
            if node is None:
                continue
            lacking, known = resources - _offers(node), self._passed.get(node.name, frozenset())
            if not lacking <= known:
                self._passed[node.name] = known | lacking
                news.append(node.name)
        return news

    def of(self, node: Node) -> Node:
        """The node with what it has by DRA."""
        passed = self._passed.get(node.name)
        if not passed:
            return node
        return replace(node, by_dra=tuple(sorted(passed & self.mapped - _offers(node))))

    def gone(self, name: str) -> None:
        """A node does not exist any more."""
        self._passed.pop(name, None)


def resources_of(request: PodRequest) -> frozenset[str]:
    """Every extended resource that a pod asks for by a name of its own."""
    devices = (request.gpu, *request.gpu.also)
    named = {gpu.resource for gpu in devices if gpu.resource}
    return frozenset(named | {name for name, _ in request.counted})


def without(request: PodRequest, resources: frozenset[str]) -> PodRequest:
    """The same pod without what it asks for by these names."""
    devices = (replace(request.gpu, also=()), *request.gpu.also)
    first, *others = [gpu for gpu in devices if gpu.resource not in resources] or [GpuRequest()]
    counted = tuple(asked for asked in request.counted if asked[0] not in resources)
    return replace(request, gpu=replace(first, also=tuple(others)), counted=counted)


def _offers(node: Node) -> frozenset[str]:
    """Resources of which the node offers some itself."""
    devices = {node.resource_of(device) for device in node.devices}
    return frozenset(devices | {name for name, amount in node.counted.items() if amount})
