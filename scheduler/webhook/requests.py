"""What the pods that ask want, and what they say about their gangs."""

from __future__ import annotations

from scheduler.cluster.ledger import Cluster
from scheduler.cluster.recent import Recent
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import GangKey, PodRequest
from scheduler.kube.gang_membership import stated_size
from scheduler.kube.pod_requests import pod_request
from scheduler.kube.resource_names import ResourceNames
from scheduler.webhook.protocol import FilterArgs

__all__ = ["Requests"]

_PARSED_PODS = 256
_PARSED_POD_BYTES = 1 << 16


class Requests:
    """Requests by the bytes of their pods. Used with the cluster's lock held.

    Parameters
    ----------
    names
        Resource names and labels.
    """

    def __init__(self, names: ResourceNames) -> None:
        self._names = names
        self._parsed: Recent[bytes, tuple[PodRequest, int]] = Recent(_PARSED_PODS)
        self._version = 0

    def of(self, cluster: Cluster, args: FilterArgs) -> PodRequest:
        """What the pod asks for; it is parsed once for its filter and its prioritize.

        The cluster learns what the pod says about its gang, as its watch may be behind.

        Raises
        ------
        InvalidInput
            As :func:`scheduler.kube.pod_requests.pod_request`.
        """
        groups = cluster.sync.groups if cluster.sync else None
        if groups is not None and groups.version != self._version:
            self._parsed.clear()  # an object has stated another size since
            self._version = groups.version
        known = self._parsed.get(args.pod)
        if known is None:
            pod = args.pod_object()
            request = pod_request(pod, self._names, groups)
            cluster.gangs.on_scheduler_seen(pod.spec.scheduler_name or "")
            known = request, stated_size(pod) if request.gang else 0
            if len(args.pod) <= _PARSED_POD_BYTES:
                self._parsed.put(args.pod, known)
        request, stated = known
        if request.gang is not None:
            cluster.gangs.describe(_spec(cluster, request.gang, stated))
        return request


def _spec(cluster: Cluster, gang: GangKey, stated: int) -> GangSpec:
    if cluster.sync is None:
        return GangSpec(gang, max(stated, cluster.gangs.members.minimum(gang)))
    return cluster.sync.groups.spec(gang, stated)
