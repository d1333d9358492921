"""What could be allocated at best if all these pods were known at once and the cluster empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler.core.model import Node, PodRequest
from scheduler.core.state import ClusterState
from scheduler.planner.bounds.relaxation import Relaxation
from scheduler.planner.instance import Instance
from scheduler.planner.problem import Problem

__all__ = ["most_gpu"]


def most_gpu(nodes: Sequence[Node], pods: Sequence[PodRequest]) -> int:
    """Upper bound on the milli-GPU of these pods that run at one time, by any scheduler.

    Priorities and gangs are ignored, pods may be split over alike nodes. One linear programme.
    """
    pending = tuple(replace(pod, priority=0, gang=None) for pod in pods)
    if not pending:
        return 0
    instance = Instance(Problem(ClusterState(nodes).snapshot(), pending, objective="gpu"))
    return Relaxation(instance).bound(instance.levels[0], [])
