"""A workload: nodes, pods that arrive, and pods that run already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import DeviceShare, GangKey, Node, PodRequest
from scheduler.core.neighbours import Neighbours
from scheduler.core.occupancy import running
from scheduler.core.omissions import NotConsidered, NotUnderstood

__all__ = ["MOST_NODES", "MOST_PODS", "Arrival", "BoundPod", "Workload", "meet", "place_bound"]


MOST_NODES = 100_000
MOST_PODS = 1_000_000
"""Most that a file may list: what is far beyond any cluster is a mistake, and soon said so."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A pod, when it is created, and how long it runs once started (None: for ever), in seconds."""

    request: PodRequest
    at_s: float = 0.0
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class BoundPod:
    """A pod that runs on a node already; ``devices`` is None where nobody recorded them."""

    request: PodRequest
    node: str
    devices: tuple[DeviceShare, ...] | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """Everything a simulation starts from. Arrivals are in the order of the source."""

    nodes: tuple[Node, ...]
    arrivals: tuple[Arrival, ...] = ()
    bound: tuple[BoundPod, ...] = ()
    source: str = ""
    gangs: Mapping[GangKey, GangSpec] = field(default_factory=dict)
    remarks: tuple[str, ...] = field(default=(), compare=False)
    """What else a user should know of what was read."""
    not_understood: tuple[NotUnderstood, ...] = field(default=(), compare=False)
    """Objects that are not as they should be."""
    not_considered: tuple[NotConsidered, ...] = field(default=(), compare=False)
    """Rules that nobody can take into account here, with the pods that are left alone for them."""

    @property
    def requests(self) -> tuple[PodRequest, ...]:
        """The pods that arrive."""
        return tuple(arrival.request for arrival in self.arrivals)

    @property
    def gpu_milli(self) -> int:
        """Capacity of all devices in milli-GPU."""
        return sum(node.gpu_milli for node in self.nodes)

    def digest(self) -> str:
        """SHA-256 of the content, the same for the same nodes and pods in the same order."""
        seal = hashlib.sha256()
        for part in (*self.nodes, *self.arrivals, *self.bound, *self.gangs.values()):
            seal.update(repr(part).encode())
        for pod in (*self.requests, *(bound.request for bound in self.bound)):
            if pod.peer or pod.selection.volumes:
                seal.update(repr((pod.peer, pod.selection.volumes)).encode())
        return seal.hexdigest()


def meet(engine: Engine, workload: Workload) -> None:
    """Let the engine apply the rules between the pods of a workload, those that run being there."""
    rows = engine.state.row_of
    running = [(bound.request, rows[bound.node]) for bound in workload.bound]
    everybody = [*workload.requests, *(request for request, _ in running)]
    engine.neighbours = Neighbours.among(engine.state.nodes, everybody, running)


def place_bound(engine: Engine, workload: Workload) -> None:
    """Record the running pods of a workload in the engine's state: :func:`occupancy.running`.

    Raises
    ------
    InvalidInput
        A pod runs on a node that the workload does not list.
    """
    for bound in workload.bound:
        if bound.node not in engine.state.row_of:
            raise InvalidInput(
                f"pod {bound.request.key}", f"runs on {bound.node!r}", "list that node too"
            )
        placement = running(engine, bound.request, bound.node, bound.devices)
        engine.state.apply([placement], enforce=False)
