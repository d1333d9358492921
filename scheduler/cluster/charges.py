"""Running pods of a live cluster, charged to their nodes in the engine.

Every charge is a fact that somebody else has established; it is applied whatever the engine thinks
of it. What follows from a pod and its record is told by :mod:`scheduler.kube.facts`; here stands
what depends on who is there already:

- A pod on a node that is not known yet is charged when the node arrives.
- A device that vanished takes its index with it, and the others may have been renumbered. While a
  pod that we have bound claims an index that its node does not have, nobody knows what is free
  there, and the node's devices are handed to nobody. Nothing that a pod's owner writes does that.

No thread, no lock, no clock: the driver calls one method at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from scheduler.cluster.believed_records import BelievedRecords
from scheduler.cluster.notes import Notes
from scheduler.cluster.protocols_in_use import ProtocolsInUse
from scheduler.cluster.stated_nodes import StatedNodes
from scheduler.core.engine import Engine, Reservation
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.model import DeviceShare, GpuKind, Placement
from scheduler.core.occupancy import running
from scheduler.core.state import ClusterState
from scheduler.kube.facts import (
    DEVICES_TAKEN,
    use_of,
    why_uncertain,
)
from scheduler.kube.observed import ObservedCluster, ObservedNode, ObservedPod
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.foreign import unread_offers
from scheduler.kube.sharing.records import Reading, Standing, own_record

__all__ = ["Charges"]

log = logging.getLogger(__name__)


class Charges:
    """Nodes, the pods on them, and what these have of the nodes' devices.

    Parameters
    ----------
    engine, gangs
        What is kept up to date.
    names
        Resource names and labels.
    notes
        Where it is noted that a record is not believed.

    Attributes
    ----------
    pods : dict of str to ObservedPod
        Pods that have a node, by uid; to be changed by the methods alone.
    nodes : StatedNodes
        Nodes that exist.
    records : BelievedRecords
        Which devices the pods have, as far as anybody has written it down.
    protocols : ProtocolsInUse
        By which sharing protocols they have them.
    """

    def __init__(
        self, engine: Engine, gangs: GangCoordinator, names: ResourceNames, notes: Notes
    ) -> None:
        self.pods: dict[str, ObservedPod] = {}
        self.nodes = StatedNodes(engine)
        self._engine, self._gangs, self._names, self._notes = engine, gangs, names, notes
        self.records = BelievedRecords()
        self._pods_on_unknown_nodes: dict[str, set[str]] = {}
        self.protocols = ProtocolsInUse()

    # -- nodes -------------------------------------------------------------------------------

    def put_node(self, observed: ObservedNode) -> None:
        """A node exists and looks like this."""
        name = observed.node.name
        known = self.nodes.observed.get(name)
        if known == observed:
            return  # a heartbeat
        self.nodes.observed[name] = observed
        if known is None or _decides(known) != _decides(observed):
            self.rebuild_node(name)
        else:
            self.nodes.redescribe((name,))

    def remove_node(self, name: str) -> None:
        """A node does not exist any more; its pods stay facts until they are deleted, too."""
        if not self.nodes.remove(name):
            return
        uids, bindings, reservations = self._detach_pods(name)
        self._engine.state.remove_node(name)
        self._gangs.restore_reservations("", reservations)
        if uids:
            self._pods_on_unknown_nodes[name] = set(uids)
        for uid in uids:
            self._note(self.pods[uid], "")
        for placement in bindings:
            self._gangs.on_pod_gone(placement.pod)

    # -- pods --------------------------------------------------------------------------------

    def charge(self, pod: ObservedPod) -> None:
        """A pod has this node and takes this, whatever was believed of it before."""
        uid = pod.request.uid
        known = self.pods.get(uid)
        pod = self.records.counting(pod, known)
        if known == pod and uid not in self._engine.reservations:
            return
        chosen = _kept(self._engine.state.placements.get(uid), known, pod)
        if known is not None:
            self._give_back(known)
            if known.request.gang != pod.request.gang:
                self._gangs.on_pod_gone(known.request)
        else:
            self.withdraw(uid)
        self.pods[uid] = pod
        self._settle(pod, chosen, alone=True)

    def discharge(self, uid: str) -> ObservedPod | None:
        """A pod does not run any more, or never has; returns what was known of it."""
        pod = self.pods.pop(uid, None)
        self.records.gone(uid)
        if pod is None:
            self.withdraw(uid)
            return None
        placed = self._engine.state.placements.get(uid)
        self._give_back(pod)
        if placed is not None and placed.devices:
            self._make_room(pod.node)
        return pod

    def withdraw(self, uid: str) -> None:
        """Take back what stands in the engine for a pod, if there is anything."""
        if uid in self._engine.reservations:
            self._engine.reservations.drop(uid)
        elif uid in self._engine.state.placements:
            self._engine.release(uid)

    def bound_here(self, placement: Placement) -> None:
        """We have bound a pod: its devices are known from now on, whatever is written on it."""
        record = own_record(placement, self._names)
        uid = placement.pod.uid
        if record is None or uid not in self._engine.state.placements:
            return  # it has ended before the answer came
        self.records.bound_here(uid, placement.node, record)
        pod = self.pods.get(uid)
        if pod is not None and pod.node == placement.node:
            self.charge(replace(pod, record=record))

    # -- trust in records --------------------------------------------------------------------

    def protect(self, since: float | None) -> None:
        """Since when an admission policy keeps our records, in seconds since the epoch.

        None where none does. Records that it protects count before those that it does not.
        """
        anew = self.records.protect(since, self.pods.values())
        for name in sorted(anew & set(self.nodes.observed)):
            self.rebuild_node(name)

    # -- the oracle --------------------------------------------------------------------------

    def observed(self) -> ObservedCluster:
        """The facts as they are now, to be compared with a state later."""
        nodes = self.nodes.all_effective()
        return ObservedCluster(nodes, dict(self.pods), dict(self.records.shares))

    def rebuild_node(self, name: str, missing: Iterable[str] = ()) -> None:
        """Set up a node anew: bindings under way first, then pods by rank, then reservations.

        A reservation without room is dropped. A pod that cannot be charged stops no other; the
        node's devices are withheld then, and the first fault is raised in the end.

        Parameters
        ----------
        name
            A node that exists.
        missing
            Uids of its pods that are not in the state.
        """
        state = self._engine.state
        uids, bindings, reservations = (
            self._detach_pods(name) if name in state.row_of else ([], [], [])
        )
        self.nodes.end_doubts(name)
        state.add_node(self.nodes.effective(name))
        state.apply(bindings, enforce=False)
        waiting = self._pods_on_unknown_nodes.pop(name, set()).union(missing)
        for uid in waiting:
            self.withdraw(uid)  # whatever was reserved for it elsewhere meanwhile
        pods = [self.pods[uid] for uid in (*uids, *sorted(waiting))]
        faults = list[Exception]()
        plain, others = list[ObservedPod](), list[ObservedPod]()
        for pod in pods:
            (plain if _takes_no_devices(pod) else others).append(pod)
        with self.nodes.settling(name):
            try:
                self._place_together(name, plain)
            except Exception:  # noqa: BLE001 - only one of them is to blame, and it is told below
                for pod in plain:
                    self.withdraw(pod.request.uid)
                others += plain
            for pod in sorted(others, key=self.records.rank):
                faults += self._settled(pod)
        self._gangs.restore_reservations(name, reservations)
        if faults:
            raise faults[0]

    # -- inside ------------------------------------------------------------------------------

    def _settle(
        self,
        pod: ObservedPod,
        chosen: tuple[DeviceShare, ...] | None = None,
        *,
        alone: bool = False,
    ) -> None:
        """Charge a pod to its node.

        Parameters
        ----------
        pod
            Whose charge is not in the state.
        chosen
            Devices to count with where no record is believed.
        alone
            The node's other pods are charged already, and may have to make room.
        """
        name, uid = pod.node, pod.request.uid
        node = self.nodes.observed.get(name)
        if node is not None and _takes_no_devices(pod):
            self._place_together(name, [pod])
            return
        if node is None:
            self._pods_on_unknown_nodes.setdefault(name, set()).add(uid)
            self._gangs.on_pod_bound(pod.request)
            self._note(pod, "")
            return
        trusted, reading = self.records.standing(pod), self.records.reading(pod, node)
        state = self._engine.state
        if reading.shares is not None and not state.room_for(state.row(name), reading.shares):
            if alone and _behind(self, state, pod, reading.shares):  # these go round it
                self.rebuild_node(name, (uid,))
                return
            if trusted is not Standing.PROTECTED:
                reading = DEVICES_TAKEN
                self.records.crowd_out(pod)
        self._place(pod, node, trusted, reading, chosen)

    def _place(
        self,
        pod: ObservedPod,
        node: ObservedNode,
        trusted: Standing,
        reading: Reading,
        chosen: tuple[DeviceShare, ...] | None,
    ) -> None:
        name, uid = pod.node, pod.request.uid
        if reading.shares is not None:
            self.records.shares[uid] = reading.shares
        use = use_of(pod, node, reading, self._names)
        devices = chosen if use.devices is None else use.devices
        placement = running(self._engine, pod.request, name, devices, use.parts)
        self._engine.state.apply([placement], enforce=False)
        self._gangs.on_pod_bound(pod.request)
        if use.protocol and placement.devices:
            self.protocols.put(name, uid, use.protocol)
        self._note(pod, reading.problem)
        why = why_uncertain(pod, node.node, trusted, reading, use, placement.devices)
        if why:
            self.nodes.doubt(name, uid, pod.request.key, why)

    def _give_back(self, pod: ObservedPod) -> None:
        """Take a pod's charge back."""
        uid = pod.request.uid
        _discard(self._pods_on_unknown_nodes, pod.node, uid)
        self.withdraw(uid)
        self._uncount(pod)
        if self.nodes.end_doubt(pod.node, uid):
            # Pods that came while the devices were withheld have none yet.
            self.rebuild_node(pod.node)

    def _uncount(self, pod: ObservedPod) -> None:
        """Forget what follows from a pod's charge."""
        self.records.forget_charge(pod)
        self.protocols.drop(pod.node, pod.request.uid)

    def _make_room(self, name: str) -> None:
        """A pod has left: others may have its devices, rather than claim some beyond their end."""
        if name not in self.nodes.observed:
            return
        state = self._engine.state
        if self.records.crowded(name) or state.overdrawn(state.row(name)):
            self.rebuild_node(name)

    def _place_together(self, name: str, pods: list[ObservedPod]) -> None:
        """Charge pods that have no devices, all in one delta, or none if anything goes wrong."""
        self._engine.state.apply([Placement(pod.request, name) for pod in pods], enforce=False)
        for pod in pods:
            self._gangs.on_pod_bound(pod.request)
            self._note(pod, "")

    def _settled(self, pod: ObservedPod) -> list[Exception]:
        """Charge one of several pods; what went wrong."""
        try:
            self._settle(pod)
        except Exception as error:  # noqa: BLE001 - raised by the caller in the end
            if pod.request.uid not in self._engine.state.placements:
                self._engine.state.apply([Placement(pod.request, pod.node)], enforce=False)
            if self.nodes.observed[pod.node].node.devices:
                request = pod.request
                self.nodes.doubt(pod.node, request.uid, request.key, "it cannot be charged")
            return [error]
        return []

    def _detach_pods(self, name: str) -> tuple[list[str], list[Placement], list[Reservation]]:
        """Take everything off a node: uids of running pods, bindings under way, reservations."""
        engine = self._engine
        uids, bindings, reservations = [], [], []
        for placement in engine.state.pods_on(engine.state.row(name)):
            uid = placement.pod.uid
            if uid in engine.reservations:
                reservations.append(engine.reservations[uid])
                engine.reservations.drop(uid)
                continue
            engine.release(uid)
            if uid in self.pods:
                self._uncount(self.pods[uid])
                uids.append(uid)
            else:
                bindings.append(placement)
        return uids, bindings, reservations

    def _note(self, pod: ObservedPod, problem: str) -> None:
        request = pod.request
        self._notes.pod(request.namespace, request.name, pod.problem or problem)


def _decides(observed: ObservedNode) -> tuple[object, ...]:
    """What decides about the devices of a node's pods."""
    return observed.node.devices, unread_offers(observed.node), observed.indices


def _kept(
    placed: Placement | None, known: ObservedPod | None, pod: ObservedPod
) -> tuple[DeviceShare, ...] | None:
    """Devices that the pod keeps where no record says which; None if they have to be chosen.

    Those chosen before are as good, and moving them is noise.
    """
    if placed is None or placed.node != pod.node or placed.pod.gpu != pod.request.gpu:
        return None
    return placed.devices if (known.parts if known else ()) == pod.parts else None


def _behind(
    charges: Charges, state: ClusterState, pod: ObservedPod, shares: Iterable[DeviceShare]
) -> bool:
    """Whether pods that are charged after this one have any of these devices."""
    pods, rank = charges.pods, charges.records.rank
    indices = {share.index for share in shares}
    return any(
        placed.pod.uid in pods
        and rank(pods[placed.pod.uid]) > rank(pod)
        and any(share.index in indices for share in placed.devices)
        for placed in state.pods_on(state.row(pod.node))
    )


def _takes_no_devices(pod: ObservedPod) -> bool:
    """Whether a pod has no devices on any node, and nobody can say otherwise."""
    request = pod.request
    return (
        request.gpu.kind is GpuKind.NONE
        and not request.counted
        and not pod.parts
        and not pod.unread
        and pod.record is None
    )


def _discard(sets: dict[str, set[str]], name: str, uid: str) -> None:
    """Take a uid out of the set under a name."""
    found = sets.get(name)
    if found is not None:
        found.discard(uid)
        if not found:
            del sets[name]
