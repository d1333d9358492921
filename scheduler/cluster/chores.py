"""What a cluster has overdue: reservations past their time, and refused pods that fit by now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.cluster.ledger import Ledger
from scheduler.core.model import PodRequest

__all__ = ["expired_reservations", "pods_to_requeue", "requeue_later"]

_NO_ROWS = np.zeros(0, dtype=np.int64)


def expired_reservations(ledger: Ledger) -> list[PodRequest]:
    """Pods whose reservation is past its time; a gang's missing members lose theirs here."""
    with ledger.locked(chore=True) as cluster:
        cluster.expire()
        reservations = cluster.engine.reservations.values()
        late = [one.placement.pod for one in reservations if one.until <= cluster.now]
        return [
            pod for pod in late if cluster.is_pod(pod.uid) and not cluster.gangs.has_place(pod.uid)
        ]


def pods_to_requeue(ledger: Ledger, after_s: float) -> list[PodRequest]:
    """Pods refused so long ago that fit by now, each of them once; see :mod:`.requeue`."""
    with ledger.locked(chore=True) as cluster:
        gangs = cluster.gangs if cluster.config.gangs else None
        pending = cluster.sync.pending if cluster.sync else {}
        taken_over = cluster.requeue.take_over(pending, cluster.now, cluster.gangs.members.gathered)
        looks = cluster.requeue.due(cluster.engine, gangs, cluster.now - after_s)
    for _ in ledger.in_steps(taken_over):
        pass
    return [pod for found in ledger.in_steps(looks) for pod in found]


def requeue_later(ledger: Ledger, requests: Sequence[PodRequest]) -> None:
    """Pods could not be requeued: they are later, whatever nodes were requested for them."""
    with ledger.locked(chore=True) as cluster:
        for request in requests:
            if (
                cluster.request_of(request.uid)
                and request.uid not in cluster.engine.state.placements
            ):
                gang = request.gang if cluster.gangs.members.gathered(request) else None
                cluster.requeue.add(request, cluster.now, -1, _NO_ROWS, anywhere=True, gang=gang)
