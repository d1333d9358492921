"""What the API says about nodes and pods, kept in the engine: objects in, placements out.

Everything here is a fact that somebody else has established. It is applied whatever the engine
thinks of it.

- Usage is every pod that has a node and has not ended, by whatever scheduler; a terminating pod
  holds its room until it is gone.
- The uid decides: a new pod of an old name ends the old one.
- A pod whose event cannot be applied is known and charged all the same.

What a pod is charged, and on which devices: :mod:`scheduler.cluster.charges`.

No thread, no lock, no clock: the driver calls one method at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from scheduler.cluster.charges import Charges
from scheduler.cluster.notes import Notes
from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.model import GangKey, PodRequest
from scheduler.kube.disruption import BudgetObject
from scheduler.kube.facts import observed_node, observed_pod
from scheduler.kube.gang_groups import Groups
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.kube.observed import ObservedPod
from scheduler.kube.pod_events import PodEvents
from scheduler.kube.pod_requests import charge_of, has_ended, pod_request, pod_uid
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.workloads import Stated

__all__ = ["Sync"]

_MOST_BURIED = 4096


class Sync:
    """Applies what the API says.

    Parameters
    ----------
    engine, gangs
        What is kept up to date.
    names
        Resource names and labels.
    events
        Told what becomes of pods.

    Attributes
    ----------
    charges : Charges
        Nodes, the pods on them and their devices.
    pods : dict of str to ObservedPod
        Pods that have a node, by uid.
    pending : dict of str to PodRequest
        Pods that have none, by uid.
    budgets : dict of str to BudgetObject
        PodDisruptionBudgets by ``namespace/name``.
    groups : Groups
        What group objects and pods say about gangs.
    unreadable : dict of str to str
        Objects that could not be read, and pods whose record is not believed, with the reason.
    """

    def __init__(
        self, engine: Engine, gangs: GangCoordinator, names: ResourceNames, *, events: PodEvents
    ) -> None:
        self._gangs, self._names, self._events = gangs, names, events
        notes = Notes()
        self._notes, self.unreadable = notes, notes.problems
        self.charges = Charges(engine, gangs, names, notes)
        self.pods: Mapping[str, ObservedPod] = self.charges.pods
        self.pending: dict[str, PodRequest] = {}
        self.budgets: dict[str, BudgetObject] = {}
        self.groups = Groups(asked_by=lambda pod: pod_request(pod, self._names))
        self._by_name: dict[tuple[str, str], tuple[str, str]] = {}  # uid, when created
        self._buried: OrderedDict[str, None] = OrderedDict()

    # -- nodes -------------------------------------------------------------------------------

    def node(self, obj: NodeObject) -> None:
        """A node exists and looks like this."""
        observed = observed_node(obj, self._names)
        self._notes.node(obj.metadata.name, observed.problem)
        self.charges.put_node(observed)

    def node_gone(self, name: str) -> None:
        """A node does not exist any more; its pods stay facts until they are deleted, too."""
        self._notes.node(name, "")
        self.charges.remove_node(name)

    def node_names(self) -> list[str]:
        """Nodes that exist."""
        return list(self.charges.nodes.observed)

    # -- pods --------------------------------------------------------------------------------

    def pod(self, obj: PodObject) -> None:
        """A pod exists and looks like this.

        Raises
        ------
        Exception
            Something went wrong. The pod is known all the same and, if it has a node, charged what
            it asks for; telling of it again may succeed.
        """
        try:
            self._pod(obj)
        except Exception as error:
            if obj.spec.node_name and not has_ended(obj):
                self._charge_plainly(obj, error)
            raise

    def pod_in_part(self, obj: PodObject) -> None:
        """A pod exists, and what it asks for cannot be read; raises as :meth:`pod`.

        While it runs nobody knows which devices of its node are free.
        """
        self.pod(obj)
        pod = self.pods.get(pod_uid(obj))
        if pod is not None:
            self._charge(replace(pod, unread=True))

    def _charge_plainly(self, obj: PodObject, error: Exception) -> None:
        """Count a pod by its request alone, where more of it could not be applied."""
        uid = pod_uid(obj)
        charge = charge_of(obj, self._names, self.groups)
        self.pending.pop(uid, None)
        self._by_name[_name(obj)] = (uid, obj.metadata.creation_timestamp or "")
        problem = f"{type(error).__name__} when it was read"
        node = obj.spec.node_name or ""
        self._charge(ObservedPod(charge.request, node, {}, parts=charge.parts, problem=problem))

    def _pod(self, obj: PodObject) -> None:
        uid = pod_uid(obj)
        if uid in self._buried:
            return
        name = _name(obj)
        created = obj.metadata.creation_timestamp or ""
        older, since = self._by_name.get(name, (uid, ""))
        if older != uid:
            if created < since:
                return  # a late message about a pod of this name that had ended before
            self.pod_gone(older)
        if has_ended(obj):
            self.pod_gone(uid)
            self._describe(self.groups.join(obj, uid))  # a pod that has succeeded needs no place
            return
        self._by_name[name] = (uid, created)
        self._describe(self.groups.gang_of(uid), self.groups.join(obj, uid))
        if obj.spec.node_name:
            pod = observed_pod(obj, charge_of(obj, self._names, self.groups), self._names)
            self.pending.pop(uid, None)
            self._charge(pod)
            if obj.metadata.deletion_timestamp:
                self._gangs.on_pod_leaving(pod.request)
                self._events.on_pod_leaving(uid)
        elif uid not in self.pods:  # a pod never loses its node; else this is an old message
            self._wait(obj)

    def _wait(self, obj: PodObject) -> None:
        """A pod without a node; its gang counts on it, if anybody may ask about it."""
        charge = charge_of(obj, self._names, self.groups)
        request = charge.request
        self._notes.pod(request.namespace, request.name, charge.problem)
        self.pending[request.uid] = request
        if obj.metadata.deletion_timestamp:
            self._gangs.on_pod_gone(request)
        elif obj.spec.scheduling_gates:
            self._gangs.on_pod_gated(request)
        else:
            self._gangs.on_pod_pending(request, obj.spec.scheduler_name or "")
        if node := obj.status.nominated_node_name if obj.status else None:
            self._events.on_pod_nominated(request, node)

    def pod_gone(self, uid: str) -> None:
        """A pod has ended or was deleted. Unknown ones are fine: the message is repeated."""
        pod = self.charges.discharge(uid)
        waiting = self.pending.pop(uid, None) if pod is None else None
        request = pod.request if pod is not None else waiting
        self._describe(self.groups.leave(uid))
        if request is not None:
            self._notes.pod(request.namespace, request.name, "")
            name = request.namespace, request.name
            if self._by_name.get(name, ("", ""))[0] == uid:
                del self._by_name[name]
            self._gangs.on_pod_gone(request)
        self._events.on_pod_gone(uid, pod.request if pod is not None else None)

    def pod_gone_for_good(self, uid: str) -> None:
        """The API has been asked, and the pod does not run any more.

        The watch may be behind that answer. What it still says of the pod is old: an ended pod
        never runs again, and a uid is never used again.
        """
        self._buried[uid] = None
        if len(self._buried) > _MOST_BURIED:
            self._buried.popitem(last=False)
        self.pod_gone(uid)

    def pod_uids(self) -> list[str]:
        """Pods that exist, with and without a node."""
        return [*self.pods, *self.pending]

    def labels_of(self, uid: str) -> Mapping[str, str] | None:
        """Labels of a pod that has a node."""
        return pod.labels if (pod := self.pods.get(uid)) else None

    def _charge(self, pod: ObservedPod) -> None:
        known = self.pods.get(pod.request.uid)
        try:
            self.charges.charge(pod)
        finally:  # it has the node, whether or not it could be charged
            if known is None or known.node != pod.node:
                self._events.on_pod_placed(pod.request, first=known is None)

    # -- groups ------------------------------------------------------------------------------

    def group(self, stated: Mapping[GangKey, Stated]) -> bool:
        """Group objects state this; True if that is news."""
        return self._regroup(self.groups.state(stated))

    def group_gone(self, stated: Iterable[GangKey]) -> bool:
        """Group objects are gone: nobody states this any more."""
        return self._regroup(self.groups.unstate(stated))

    def _regroup(self, stated: Sequence[GangKey]) -> bool:
        """Members that were read before their group object was learn what it makes of them."""
        concerned: set[GangKey | None] = set()
        for key in stated:
            for uid, (gang, role) in self.groups.anew(key).items():
                pod = self.pods.get(uid)
                known = pod.request if pod is not None else self.pending.get(uid)
                concerned |= {gang, known.gang if known else gang}
                if known is not None and (known.gang, known.role) != (gang, role):
                    now = replace(known, gang=gang, role=role)
                    self._gangs.on_pod_moved(now, waits=pod is None)
                    if pod is not None:
                        self._charge(replace(pod, request=now))
                    else:
                        self.pending[uid] = now
        self._describe(*concerned)
        return bool(stated)

    def _describe(self, *gangs: GangKey | None) -> None:
        for key in dict.fromkeys(gangs):
            if key is not None:
                self._gangs.describe(self.groups.spec(key))


def _name(obj: PodObject) -> tuple[str, str]:
    return obj.metadata.namespace or "default", obj.metadata.name
