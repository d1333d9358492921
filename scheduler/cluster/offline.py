"""The cluster of a file: bind is the truth, and pods leave when they are released."""

from __future__ import annotations

from scheduler.cluster.bind_request import BindRequest
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.reserving import reserve
from scheduler.core.errors import SchedulerError

__all__ = ["OfflineBinder"]


class OfflineBinder:
    """Places pods for good, and takes them off.

    Parameters
    ----------
    ledger
        Of a cluster that no API tells about.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def bind(self, asked: BindRequest) -> str:
        """Place a pod that has asked; returns an error text, empty on success."""
        with self._ledger.locked() as cluster:
            request = cluster.pods.asked(asked.uid)
            if request is None:
                return f"pod {asked.key} is not known; call filter first"
            try:
                reserve(cluster, request, asked.node)
            except SchedulerError as error:
                return str(error)
            return ""

    def release(self, uid: str) -> None:
        """Take a pod off its node; :class:`UnknownPod` if it is on none."""
        with self._ledger.locked() as cluster:
            placement = cluster.engine.state.placements.get(uid)
            cluster.engine.release(uid)
            cluster.events.on_pod_settled(uid)
            if placement is not None:
                cluster.pricing.on_pod_left(placement.pod)
                cluster.gangs.on_pod_gone(placement.pod)
