"""Nodes and pods as the API has told of them, and where a state departs from that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import lru_cache

from scheduler.core.model import DeviceShare, GpuRequest, Node, PodRequest
from scheduler.core.state import ClusterState
from scheduler.kube.sharing.claims import Record, Slot

__all__ = ["ObservedCluster", "ObservedNode", "ObservedPod", "shared_labels", "withheld"]

_LONGEST_LABELS = 1 << 11


@dataclass(frozen=True, slots=True)
class ObservedNode:
    """A node.

    Parameters
    ----------
    node
        What it can give.
    indices
        Index of each device by the name that a foreign protocol gives it; empty where none
        describes the node.
    problem
        Why its devices cannot be understood: it has none to give then.
    """

    node: Node
    indices: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A pod on a node.

    Parameters
    ----------
    request, node
        What it asked for and where it is.
    labels
        The pod's labels.
    created
        When, as the API server wrote it.
    record
        What has been recorded of its devices, by the protocol that goes with its request.
    parts, slots
        What it asks of devices where the request does not say it: in several ways at once, and
        under HAMi per device.
    problem
        Why its request would be refused; it is charged all the same.
    unread
        Whether a part of the object could not be read that says what it asks for.
    """

    request: PodRequest
    node: str
    labels: Mapping[str, str]
    created: str = ""
    record: Record | None = None
    parts: tuple[GpuRequest, ...] = ()
    slots: tuple[Slot, ...] = ()
    problem: str = ""
    unread: bool = False


@dataclass(frozen=True, slots=True)
class ObservedCluster:
    """Nodes and running pods.

    Attributes
    ----------
    nodes : mapping of str to Node
        Nodes as they should stand in the state.
    pods : mapping of str to ObservedPod
        Pods that have a node, by uid.
    recorded : mapping of str to tuple of DeviceShare
        Devices of those whose record is believed, by uid.
    """

    nodes: Mapping[str, Node]
    pods: Mapping[str, ObservedPod]
    recorded: Mapping[str, tuple[DeviceShare, ...]]

    def differences(
        self, snapshot: ClusterState, held: AbstractSet[str], assumed: AbstractSet[str]
    ) -> list[str]:
        """Where a state departs from the facts; an empty list is good.

        The columns are compared with a state that is rebuilt from nodes and pods alone.

        Parameters
        ----------
        snapshot
            The engine's state at the same moment.
        held, assumed
            Pods in it that are not facts: tentative ones, and those whose binding is under way.
        """
        found = [*self._nodes(snapshot), *self._pods(snapshot)]
        for uid, placed in snapshot.placements.items():
            if uid not in self.pods and uid not in held and uid not in assumed:
                found.append(f"pod {placed.pod.key}: is placed, but has no node or is gone")
        return found + snapshot.check()

    def _nodes(self, snapshot: ClusterState) -> Iterator[str]:
        for name, node in self.nodes.items():
            row = snapshot.row_of.get(name, -1)
            if row < 0:
                yield f"node {name}: is missing from the state"
            elif snapshot.nodes[row] != node:
                yield f"node {name}: is described differently in the state"
        for name in snapshot.row_of:
            if name not in self.nodes:
                yield f"node {name}: does not exist"

    def _pods(self, snapshot: ClusterState) -> Iterator[str]:
        for uid, pod in self.pods.items():
            placed = snapshot.placements.get(uid)
            if pod.node not in self.nodes:
                if placed is not None:
                    yield f"pod {pod.request.key}: is placed, its node does not exist"
            elif placed is None or placed.node != pod.node or placed.pod != pod.request:
                where = placed.node if placed else "nowhere"
                yield f"pod {pod.request.key}: runs on {pod.node}, the state says {where}"
            elif placed.devices != self.recorded.get(uid, placed.devices):
                yield f"pod {pod.request.key}: has other devices in the state"


def withheld(node: Node) -> Node:
    """The node with every device out of service."""
    return replace(node, devices=tuple(replace(d, healthy=False) for d in node.devices))


def shared_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Labels of a pod; pods of one template share one mapping, unless it is long."""
    if sum(map(len, labels)) + sum(map(len, labels.values())) > _LONGEST_LABELS:
        return dict(labels)
    return _one_mapping(tuple(labels.items()))


@lru_cache(maxsize=4096)
def _one_mapping(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(items)
