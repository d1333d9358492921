"""Room for a pod: for good when it is bound, for a while when it has been told a node."""

from __future__ import annotations

from scheduler.cluster.ledger import Cluster
from scheduler.core.errors import CapacityConflict, SchedulerError
from scheduler.core.model import Placement, PodRequest

__all__ = ["reserve", "reserve_for_a_while", "unreserve"]


def reserve_for_a_while(cluster: Cluster, request: PodRequest, row: int) -> None:
    """Reserve a row, so that two quick pods do not both count on the same hole.

    A pod that runs gets nothing, on whatever node it does.
    """
    node = cluster.engine.state.nodes[row]
    if node is not None and cluster.config.reservation_ttl_s > 0 and not cluster.runs(request.uid):
        until, passed = cluster.now + cluster.config.reservation_ttl_s, cluster.sync is not None
        cluster.engine.reserve_until(request, node.name, until, passed=passed)


def reserve(cluster: Cluster, request: PodRequest, node: str) -> Placement:
    """Place a pod for good; a member takes the room of its place.

    Raises
    ------
    SchedulerError
        There is no room, or no such node.
    """
    cluster.expire()
    engine, gangs = cluster.engine, cluster.gangs
    if cluster.is_joint(request) and (row := engine.state.row_of.get(node)) is not None:
        problem = gangs.why_not_bind(request, row, cluster.now)
        if problem:
            raise CapacityConflict(node, request.key, problem)
    again = request.uid in engine.state.placements and request.uid not in engine.reservations
    try:
        placement = engine.place_on(request, node, passed=cluster.sync is not None)
    except SchedulerError:
        gangs.replan(request)
        raise
    gangs.on_pod_bound(request)
    if cluster.sync is None and not again:  # else the sync says so, once it is certain
        cluster.pricing.on_pod_placed(request)
    cluster.events.on_pod_settled(request.uid)
    return placement


def unreserve(cluster: Cluster, uid: str) -> None:
    """A binding came to nothing: the pod gives its room back and waits again, if it exists."""
    request = cluster.engine.state.placements[uid].pod
    cluster.engine.release(uid)
    if cluster.sync is None or uid in cluster.sync.pending:
        cluster.gangs.on_pod_unbound(request)
    else:
        cluster.gangs.on_pod_gone(request)
    cluster.pods.record_waiting(request, cluster.now)
