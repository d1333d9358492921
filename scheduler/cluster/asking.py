"""What the pods that ask want, and what they say about their gangs."""

from __future__ import annotations

from scheduler.cluster.recent import Recent
from scheduler.core.gangs.coordinator import Adoption
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import GangKey, PodRequest
from scheduler.kube.gang_groups import Groups
from scheduler.kube.gang_membership import stated_size
from scheduler.kube.pod_requests import pod_request
from scheduler.kube.resource_names import ResourceNames
from scheduler.webhook.protocol import FilterArgs

__all__ = ["Requests"]

_PARSED_PODS = 256
_PARSED_POD_BYTES = 1 << 16


class Requests:
    """Requests by the bytes of their pods, and gangs described as far as these know more.

    Parameters
    ----------
    names
        Resource names and labels.
    adoption
        Learns what a pod that asks says about its gang, as the watch may be behind.

    Attributes
    ----------
    groups : Groups or None
        What a live cluster says about gangs; None where nobody tells of other members.
    """

    def __init__(self, names: ResourceNames, adoption: Adoption) -> None:
        self._names, self._adoption = names, adoption
        self._parsed: Recent[bytes, tuple[PodRequest, int]] = Recent(_PARSED_PODS)
        self.groups: Groups | None = None

    def of(self, args: FilterArgs) -> PodRequest:
        """What the pod asks for; it is parsed once for its filter and its prioritize.

        Raises
        ------
        InvalidInput
            As :func:`scheduler.kube.pod_requests.pod_request`.
        """
        known = self._parsed.get(args.pod)
        if known is None:
            pod = args.pod_object()
            request = pod_request(pod, self._names, self.groups)
            self._adoption.hears(pod.spec.scheduler_name or "")
            known = request, stated_size(pod) if request.gang else 0
            if len(args.pod) <= _PARSED_POD_BYTES:
                self._parsed.put(args.pod, known)
        request, stated = known
        if request.gang is not None:
            self._describe(request.gang, stated)
        return request

    def clear(self) -> None:
        """What was read of pods may be wrong by now: read them anew."""
        self._parsed.clear()

    def _describe(self, gang: GangKey, stated: int) -> None:
        if self.groups is None:
            stated = max(stated, self._adoption.members.minimum(gang))
            self._adoption.describe(GangSpec(gang, stated))
        else:
            self._adoption.describe(self.groups.spec(gang, stated))
