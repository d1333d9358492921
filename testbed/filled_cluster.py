"""Clusters that are in use already."""

from __future__ import annotations

from dataclasses import replace

from scheduler.core.engine import Engine
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.files.workload import BoundPod, Workload

__all__ = ["filled_cluster"]


def filled_cluster(workload: Workload, policy: str) -> Workload:
    """The workload with its pods running where the policy places them; the others are left out."""
    state = ClusterState(workload.nodes)
    engine = Engine(state, policy, profile=WorkloadProfile.from_requests(workload.requests))
    bound = []
    for request in workload.requests:
        row = engine.best(request)
        if row >= 0:
            placement = engine.place_on(request, workload.nodes[row].name)
            bound.append(BoundPod(request, placement.node, placement.devices))
    return replace(workload, arrivals=(), bound=tuple(bound))
