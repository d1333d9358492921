"""Which record of a running pod's devices counts, and which of them are believed by now.

The first record that is believed stays, as no pod ever changes its devices; what we have bound
ourselves counts before anything that is written. Records that cannot be told apart from what the
pod's owner has written are believed as far as their devices have room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from scheduler.core.model import DeviceShare
from scheduler.kube.facts import judged, rank, reading_of
from scheduler.kube.observed import ObservedNode, ObservedPod
from scheduler.kube.sharing.claims import Record
from scheduler.kube.sharing.records import Reading, Standing

__all__ = ["BelievedRecords"]

_CHANGED = "the record of its devices was changed; the first one counts"


class BelievedRecords:
    """Records of the pods on all nodes.

    Attributes
    ----------
    shares : dict of str to tuple of DeviceShare
        Devices of the pods whose record is believed, by uid.
    """

    def __init__(self) -> None:
        self.shares: dict[str, tuple[DeviceShare, ...]] = {}
        self._protected_since: float | None = None
        self._bound_here: dict[str, tuple[str, Record]] = {}
        self._crowded_out: dict[str, set[str]] = {}

    # -- which one counts --------------------------------------------------------------------

    def counting(self, pod: ObservedPod, known: ObservedPod | None) -> ObservedPod:
        """The pod with the record that counts, whatever is written on it by now."""
        uid = pod.request.uid
        if known is not None and known.node == pod.node and uid in self.shares:
            pod = _with(pod, known.record)
        if uid in self._bound_here:
            node, record = self._bound_here[uid]
            if node == pod.node:
                pod = _with(pod, record)
        return pod

    def bound_here(self, uid: str, node: str, record: Record) -> None:
        """We have bound a pod there and written this."""
        self._bound_here[uid] = (node, record)

    def gone(self, uid: str) -> None:
        """A pod does not exist any more."""
        self._bound_here.pop(uid, None)

    # -- how far it is believed --------------------------------------------------------------

    def standing(self, pod: ObservedPod) -> Standing:
        """How far the pod's record is to be believed."""
        return judged(pod, self._protected_since)[0]

    def rank(self, pod: ObservedPod) -> tuple[int, str, str]:
        """Order in which pods are charged: the lowest first."""
        return rank(pod, self._protected_since)

    def reading(self, pod: ObservedPod, node: ObservedNode) -> Reading:
        """What the pod's record says on this node."""
        return reading_of(pod, node, self._protected_since)

    def crowd_out(self, pod: ObservedPod) -> None:
        """Others have the devices that the pod's record names."""
        self._crowded_out.setdefault(pod.node, set()).add(pod.request.uid)

    def crowded(self, node: str) -> bool:
        """Whether a pod of the node has a record whose devices others have."""
        return node in self._crowded_out

    def forget_charge(self, pod: ObservedPod) -> None:
        """The pod's charge is taken back: whether it is believed is told anew."""
        self.shares.pop(pod.request.uid, None)
        crowded = self._crowded_out.get(pod.node)
        if crowded is not None:
            crowded.discard(pod.request.uid)
            if not crowded:
                del self._crowded_out[pod.node]

    # -- the admission policy ----------------------------------------------------------------

    def protect(self, since: float | None, pods: Iterable[ObservedPod]) -> set[str]:
        """Since when an admission policy keeps our records, in seconds since the epoch.

        None where none does. Records that it protects count before those that it does not.

        Returns
        -------
        set of str
            Nodes whose pods have to be charged anew.
        """
        if since == self._protected_since:
            return set()
        recorded = [pod for pod in pods if pod.record is not None]
        before = [self.standing(pod) for pod in recorded]
        self._protected_since = since
        anew = set(self._crowded_out)
        for pod, old in zip(recorded, before, strict=True):
            new = self.standing(pod)
            if new is not old and (new is Standing.VOID or pod.request.uid not in self.shares):
                anew.add(pod.node)
        return anew

    @property
    def protected(self) -> bool:
        """Whether an admission policy keeps our records."""
        return self._protected_since is not None

    def unprotected(self, pods: Mapping[str, ObservedPod]) -> int:
        """Pods whose record is believed and could have been written by their owner."""
        return sum(self.standing(pods[uid]) is Standing.UNPROTECTED for uid in self.shares)


def _with(pod: ObservedPod, record: Record | None) -> ObservedPod:
    stated = pod.record
    if record is None or (stated and stated.claims == record.claims):
        return replace(pod, record=record)
    return replace(pod, record=record, problem=pod.problem or _CHANGED)
