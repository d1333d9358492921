"""What the API says about nodes and pods, kept in the engine: objects in, placements out.

Everything here is a fact that somebody else has established. The mirror applies it whatever the
engine thinks of it, and gives an :class:`Image` of the facts, which the state has to equal.

- Usage is every pod that has a node and has not ended, whoever scheduled it; a terminating pod
  holds its room until it is gone.
- The uid decides: a new pod of an old name ends the old one.
- A pod on a node that is not known yet is charged when the node arrives.
- A pod is charged what its ``resources`` ask for, whatever else is written on it. A record says
  which devices these are (:mod:`scheduler.kube.sharing.records`); the first one that is believed
  stays, as no pod ever changes its devices. Where none is, its devices cannot be named.
- A device that vanished takes its index with it, and the others may have been renumbered. While a
  pod that we have bound claims an index that its node does not have, nobody knows what is free
  there, and the node's devices are handed to nobody. Nothing that a pod's owner writes does that.
- A pod whose event cannot be applied is known and charged all the same.

No thread, no lock, no clock: the driver calls one method at a time.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from scheduler.core.engine import Engine, Hold
from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.coordinator import Adoption
from scheduler.core.model import DeviceShare, GangKey, Node, Placement, PodRequest
from scheduler.core.occupancy import running
from scheduler.kube.complaints import Complaints, cut
from scheduler.kube.disruption import BudgetObject
from scheduler.kube.dra import DynamicResources
from scheduler.kube.gang_groups import Groups
from scheduler.kube.nodes import node_of, without_devices
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.kube.observed import Fact, Image, shared_labels, withheld
from scheduler.kube.pod_events import PodEvents
from scheduler.kube.pod_requests import charge_of, has_ended, pod_request, pod_uid
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.claims import Record, indices_of
from scheduler.kube.sharing.foreign import foreign_share, unread_offers
from scheduler.kube.sharing.hami import hami_slots
from scheduler.kube.sharing.records import Reading, Standing, own_record, read, standing
from scheduler.kube.sharing.table import ambiguity, protocol_of, record_of, registered
from scheduler.kube.workloads import Stated

__all__ = ["Mirror", "has_ended"]

log = logging.getLogger(__name__)

_MOST_BURIED = 4096


class Mirror:
    """Applies what the API says.

    Parameters
    ----------
    engine, adoption
        What is kept up to date.
    names
        Resource names and labels.
    events
        Told what becomes of pods.

    Attributes
    ----------
    facts : dict of str to Fact
        Pods that have a node, by uid.
    pending : dict of str to PodRequest
        Pods that have none, by uid.
    budgets : dict of str to BudgetObject
        PodDisruptionBudgets by ``namespace/name``.
    dra : DynamicResources
        Nodes whose devices kube-scheduler hands out by itself.
    groups : Groups
        What group objects and pods say about gangs.
    unreadable : dict of str to str
        Objects that could not be read, and pods whose record is not believed, with the reason.
    """

    def __init__(
        self,
        engine: Engine,
        adoption: Adoption,
        names: ResourceNames | None = None,
        *,
        events: PodEvents | None = None,
    ) -> None:
        self._engine, self._adoption = engine, adoption
        self._names = names or ResourceNames()
        self._events = events or PodEvents()
        self.facts: dict[str, Fact] = {}
        self.pending: dict[str, PodRequest] = {}
        self.budgets: dict[str, BudgetObject] = {}
        self.groups = Groups(asked_by=lambda pod: pod_request(pod, self._names))
        self.unreadable: dict[str, str] = {}
        self.dra = DynamicResources()
        self._complaints = Complaints(log)
        self._models: dict[str, Node] = {}
        self._by_name: dict[str, tuple[str, str]] = {}  # uid, when created
        self._homeless: dict[str, set[str]] = {}
        self._doubts: dict[str, set[str]] = {}
        self._indices: dict[str, Mapping[str, int]] = {}
        self._protocols: dict[str, Counter[str]] = {}
        self._buried: OrderedDict[str, None] = OrderedDict()
        self._has_by: dict[str, str] = {}  # protocol, by uid
        self._recorded: dict[str, tuple[DeviceShare, ...]] = {}
        self._crowded_out: dict[str, set[str]] = {}
        self._bound_here: dict[str, tuple[str, Record]] = {}
        self._protected_since: float | None = None

    # -- nodes -------------------------------------------------------------------------------

    def node(self, obj: NodeObject) -> None:
        """A node exists and looks like this."""
        name = obj.metadata.name
        key = f"Node {name}"
        indices: dict[str, int] = {}
        try:
            model = node_of(obj, self._names)
            foreign = registered(obj, self._names)
            if foreign is not None:
                indices = indices_of(foreign[0])
            self.unreadable.pop(key, None)
        except InvalidInput as error:
            self._note(key, str(error))
            model = without_devices(obj, self._names)
        known = self._models.get(name)
        renamed = self._indices.get(name, {}) != indices
        if known == model and not renamed:
            return  # a heartbeat
        self._models[name] = model
        self._indices[name] = indices
        if not indices:
            del self._indices[name]
        new = (model.devices, unread_offers(model))  # what decides about its pods' devices
        if known is None or (known.devices, unread_offers(known)) != new or renamed:
            self._refurnish(name)
        else:
            self._engine.state.update_node(self._effective(name))

    def node_gone(self, name: str) -> None:
        """A node does not exist any more; its pods stay facts until they are deleted, too."""
        if self._models.pop(name, None) is None:
            return
        self.unreadable.pop(f"Node {name}", None)
        self._doubts.pop(name, None)
        self._indices.pop(name, None)
        self.dra.gone(name)
        facts, bindings, holds = self._vacate(name)
        self._engine.state.remove_node(name)
        self._adoption.held_again("", holds)
        if facts:
            self._homeless[name] = set(facts)
        for uid in facts:
            self._name_problem(self.facts[uid].request.key, self.facts[uid].problem)
        for placement in bindings:
            self._adoption.gone(placement.pod)

    def redescribe(self, names: Iterable[str]) -> None:
        """What is known beside the objects of these nodes has changed."""
        for name in names:
            self._engine.state.update_node(self._effective(name))

    @property
    def uncertain_nodes(self) -> frozenset[str]:
        """Nodes where nobody knows which devices are free."""
        return frozenset(self._doubts)

    @property
    def ambiguous_nodes(self) -> dict[str, str]:
        """Nodes whose pods share devices by several protocols, or in a way that is not read."""
        return {name: why for name, has in self._protocols.items() if (why := ambiguity(has))}

    def node_names(self) -> list[str]:
        """Nodes that exist."""
        return list(self._models)

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
        fact = self.facts.get(pod_uid(obj))
        if fact is not None:
            self._establish(replace(fact, unread=True))

    def _charge_plainly(self, obj: PodObject, error: Exception) -> None:
        """Count a pod by its request alone, where more of it could not be applied."""
        uid = pod_uid(obj)
        key = f"{obj.metadata.namespace or 'default'}/{obj.metadata.name}"
        charge = charge_of(obj, self._names, self.groups)
        self.pending.pop(uid, None)
        self._by_name[key] = (uid, obj.metadata.creation_timestamp or "")
        problem = f"{type(error).__name__} when it was read"
        self._establish(
            Fact(charge.request, obj.spec.node_name or "", {}, parts=charge.parts, problem=problem)
        )

    def _pod(self, obj: PodObject) -> None:
        uid = pod_uid(obj)
        if uid in self._buried:
            return
        key = f"{obj.metadata.namespace or 'default'}/{obj.metadata.name}"
        created = obj.metadata.creation_timestamp or ""
        older, since = self._by_name.get(key, (uid, ""))
        if older != uid:
            if created < since:
                return  # a late message about a pod of this name that had ended before
            self.pod_gone(older)
        if has_ended(obj):
            self.pod_gone(uid)
            self._describe(self.groups.join(obj, uid))  # who has succeeded needs no place
            return
        self._by_name[key] = (uid, created)
        self._describe(self.groups.gang_of(uid), self.groups.join(obj, uid))
        if not obj.spec.node_name:
            if uid not in self.facts:  # a pod never loses its node; this is an old message
                charge = charge_of(obj, self._names, self.groups)
                self._name_problem(key, charge.problem)
                self._wait(charge.request, obj)
                if node := obj.status.nominated_node_name if obj.status else None:
                    self._events.on_pod_nominated(self.pending[uid], node)
            return
        fact = self._fact(obj, obj.spec.node_name)
        self.pending.pop(uid, None)
        self._establish(fact)
        if obj.metadata.deletion_timestamp:
            self._adoption.leaves(fact.request)
            self._events.on_pod_leaving(uid)

    def _wait(self, request: PodRequest, obj: PodObject) -> None:
        """A pod without a node; its gang counts on it, if anybody may ask about it."""
        self.pending[request.uid] = request
        if obj.metadata.deletion_timestamp:
            self._adoption.gone(request)
        elif obj.spec.scheduling_gates:
            self._adoption.gates(request)
        else:
            self._adoption.expect(request, obj.spec.scheduler_name or "")

    def pod_gone(self, uid: str) -> None:
        """A pod has ended or was deleted. Unknown ones are no error: the message is repeated."""
        fact = self.facts.pop(uid, None)
        request = fact.request if fact else self.pending.pop(uid, None)
        self._bound_here.pop(uid, None)
        if fact:
            placed = self._engine.state.placements.get(uid)
            self._unsettle(fact)
            if placed is not None and placed.devices:
                self._make_room(fact.node)
        else:
            self._withdraw(uid)
        self._describe(self.groups.leave(uid))
        if request is not None:
            self.unreadable.pop(f"Pod {request.key}", None)
            if self._by_name.get(request.key, ("", ""))[0] == uid:
                del self._by_name[request.key]
            self._adoption.gone(request)
        self._events.on_pod_gone(uid, fact.request if fact else None)

    def pod_gone_for_good(self, uid: str) -> None:
        """The API has been asked, and the pod does not run any more.

        The watch may be behind that answer. What it still says of the pod is old: an ended pod
        never runs again, and a uid is never used again.
        """
        self._buried[uid] = None
        if len(self._buried) > _MOST_BURIED:
            self._buried.popitem(last=False)
        self.pod_gone(uid)

    def bound_here(self, placement: Placement) -> None:
        """We have bound a pod: its devices are known from now on, whatever is written on it."""
        record = own_record(placement, self._names)
        uid = placement.pod.uid
        if record is None or uid not in self._engine.state.placements:
            return  # it has ended before the answer came
        self._bound_here[uid] = (placement.node, record)
        fact = self.facts.get(uid)
        if fact is not None and fact.node == placement.node:
            self._establish(replace(fact, record=record))

    def protect(self, since: float | None) -> None:
        """Since when an admission policy keeps our records, in seconds since the epoch.

        None where none does. Records that it protects count before those that it does not.
        """
        if since == self._protected_since:
            return
        recorded = [fact for fact in self.facts.values() if fact.record is not None]
        before = [self._judged(fact)[0] for fact in recorded]
        self._protected_since = since
        anew = set(self._crowded_out)
        for fact, old in zip(recorded, before, strict=True):
            new = self._judged(fact)[0]
            if new is not old and (new is Standing.VOID or fact.request.uid not in self._recorded):
                anew.add(fact.node)
        for name in sorted(anew & set(self._models)):
            self._refurnish(name)

    @property
    def protected(self) -> bool:
        """Whether an admission policy keeps our records."""
        return self._protected_since is not None

    @property
    def unprotected(self) -> int:
        """Pods whose record of devices is believed and could have been written by their owner."""
        return sum(
            self._judged(self.facts[uid])[0] is Standing.UNPROTECTED for uid in self._recorded
        )

    def labels_of(self, uid: str) -> Mapping[str, str] | None:
        """Labels of a pod that has a node."""
        return fact.labels if (fact := self.facts.get(uid)) else None

    def pod_uids(self) -> list[str]:
        """Pods that exist, with and without a node."""
        return [*self.facts, *self.pending]

    # -- groups and budgets ------------------------------------------------------------------

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
                fact = self.facts.get(uid)
                known = fact.request if fact is not None else self.pending.get(uid)
                concerned |= {gang, known.gang if known else gang}
                if known is not None and (known.gang, known.role) != (gang, role):
                    now = replace(known, gang=gang, role=role)
                    self._adoption.moves(now, waits=fact is None)
                    if fact is not None:
                        self._establish(replace(fact, request=now))
                    else:
                        self.pending[uid] = now
        self._describe(*concerned)
        return bool(stated)

    def _describe(self, *gangs: GangKey | None) -> None:
        for key in dict.fromkeys(gangs):
            if key is not None:
                self._adoption.describe(self.groups.spec(key))

    # -- the oracle --------------------------------------------------------------------------

    def image(self) -> Image:
        """The facts as they are now, to be compared with a state later."""
        nodes = {name: self._effective(name) for name in self._models}
        return Image(nodes, dict(self.facts), dict(self._recorded))

    def evict_phantoms(self, assumed: frozenset[str]) -> None:
        """Take out of the state what no fact speaks for: pods and nodes that do not exist.

        Parameters
        ----------
        assumed
            Pods whose binding is under way.
        """
        engine = self._engine
        for uid, placed in list(engine.state.placements.items()):
            fact = self.facts.get(uid)
            there = fact is not None and fact.node == placed.node
            if not there and uid not in engine.holds and uid not in assumed:
                engine.release(uid)
        for name in [name for name in engine.state.row_of if name not in self._models]:
            engine.state.remove_node(name)

    def heal(self, names: Iterable[str]) -> None:
        """Make some nodes' rows equal the facts again; call :meth:`evict_phantoms` before.

        What is held or being bound there is dropped or kept as when the node's devices change.
        """
        on: dict[str, list[str]] = {name: [] for name in names if name in self._models}
        for uid, fact in self.facts.items():
            if fact.node in on:
                on[fact.node].append(uid)
        for name, uids in on.items():
            self._homeless.setdefault(name, set()).update(
                uid for uid in uids if uid not in self._engine.state.placements
            )
            self._refurnish(name)

    # -- inside ------------------------------------------------------------------------------

    def _establish(self, fact: Fact) -> None:
        """Record a pod's node, devices and request, whatever was believed of it before."""
        uid = fact.request.uid
        known = self.facts.get(uid)
        if known is not None and known.node == fact.node and uid in self._recorded:
            fact = self._with(fact, known.record)  # the first one that was believed stays
        node, record = self._bound_here.get(uid, ("", None))
        if node == fact.node:
            fact = self._with(fact, record)
        if known == fact and uid not in self._engine.holds:
            return
        chosen = None
        believed = self._engine.state.placements.get(uid)
        if (
            believed is not None
            and believed.node == fact.node
            and believed.pod.gpu == fact.request.gpu
            and (known.parts if known else ()) == fact.parts
        ):
            # Nobody recorded devices: those chosen before are as good, and moving them is noise.
            chosen = believed.devices
        if known is not None:
            self._unsettle(known)
            if known.request.gang != fact.request.gang:
                self._adoption.gone(known.request)
        else:
            self._withdraw(uid)
        self.facts[uid] = fact
        self._settle(fact, chosen, alone=True)
        if known is None or known.node != fact.node:
            self._events.on_pod_placed(fact.request, first=known is None)

    def _with(self, fact: Fact, record: Record | None) -> Fact:
        """The fact with the record that counts, whatever is written on the pod by now."""
        stated = fact.record
        if record is None or (stated and stated.claims == record.claims):
            return replace(fact, record=record)
        problem = "the record of its devices was changed; the first one counts"
        self._name_problem(fact.request.key, problem)
        return replace(fact, record=record, problem=fact.problem or problem)

    def _settle(
        self,
        fact: Fact,
        chosen: tuple[DeviceShare, ...] | None = None,
        *,
        alone: bool = False,
    ) -> None:
        """Charge a fact to its node.

        Parameters
        ----------
        fact
            Whose charge is not in the state.
        chosen
            Devices to count with where no record is believed.
        alone
            The node's other pods are charged already, and may have to make room.
        """
        name, uid = fact.node, fact.request.uid
        model = self._models.get(name)
        if model is None:
            self._homeless.setdefault(name, set()).add(uid)
            self._adoption.bound(fact.request)
            self._name_problem(fact.request.key, fact.problem)
            return
        standing, why = self._judged(fact)
        reading = self._reading(fact, model, why if standing is Standing.VOID else None)
        state = self._engine.state
        if reading.shares is not None and not state.room_for(state.row(name), reading.shares):
            if alone and self._behind(fact, reading.shares):  # these go round it
                self._homeless.setdefault(name, set()).add(uid)
                self._refurnish(name)
                return
            if standing is not Standing.PROTECTED:
                reading = Reading(None, "other pods have the devices that its record names")
                self._crowded_out.setdefault(name, set()).add(uid)
        self._charge(fact, model, reading, chosen)
        if reading.vanished and standing is Standing.PROTECTED and model.devices:
            self._doubt(name, uid, reading.problem)
        elif fact.unread and model.devices:
            self._doubt(name, uid, "what it asks for cannot be read")

    def _charge(
        self,
        fact: Fact,
        model: Node,
        reading: Reading,
        chosen: tuple[DeviceShare, ...] | None,
    ) -> None:
        name, uid, gpu = fact.node, fact.request.uid, fact.request.gpu
        if reading.shares is not None:
            self._recorded[uid] = reading.shares
        devices = chosen if reading.shares is None else reading.shares
        ours, resource = model.resources | {""}, gpu.resource
        asked = {resource, *(part.resource for part in gpu.also)}
        system, foreign = foreign_share(fact.request, model)
        parts = tuple(part for part in fact.parts if part.resource in ours) or foreign
        if not asked & ours or (fact.parts and not parts):
            devices = ()  # the node has no such devices, and the kubelet gives it none
        elif self._indices.get(name) and resource and fact.slots and model.devices:
            parts = tuple(slot.request(model.devices[0].memory_mib) for slot in fact.slots)
        placement = running(self._engine, fact.request, name, devices, parts)
        self._engine.state.apply([placement], enforce=False)
        self._adoption.bound(fact.request)
        by_hami = reading.shares is not None or fact.record is None or fact.record.protocol == "KAI"
        found = protocol_of(gpu, self._names, fact.record if by_hami else None)
        if system and model.devices and not placement.devices:
            self._doubt(name, uid, f"{system} shares devices, and its records are not read")
        if (protocol := system or found) and placement.devices:
            self._has_by[uid] = protocol
            self._protocols.setdefault(name, Counter())[protocol] += 1
        self._name_problem(fact.request.key, fact.problem or reading.problem)

    def _judged(self, fact: Fact) -> tuple[Standing, str]:
        """How far the fact's record is to be believed, and why not; without one, not at all."""
        if fact.record is None:
            return Standing.VOID, ""
        return standing(fact.record, fact.request.uid, fact.created, self._protected_since)

    def _reading(self, fact: Fact, model: Node, void: str | None) -> Reading:
        """What the fact's record says; nothing where it is void for this reason."""
        record = fact.record
        if record is None or void is not None:
            return Reading(None, (record.problem if record else "") or void or "")
        indices = self._indices.get(fact.node, {})
        return read(record, fact.request.gpu, fact.slots, model, indices)

    def _unsettle(self, fact: Fact) -> None:
        """Take a fact's charge back."""
        uid = fact.request.uid
        homeless = self._homeless.get(fact.node)
        if homeless is not None:
            homeless.discard(uid)
            if not homeless:
                del self._homeless[fact.node]
        self._withdraw(uid)
        self._uncount(fact)
        doubts = self._doubts.get(fact.node)
        if doubts and uid in doubts:
            doubts.discard(uid)
            if not doubts:
                # Pods that came while the devices were withheld have none yet.
                self._refurnish(fact.node)

    def _uncount(self, fact: Fact) -> None:
        """Forget what follows from a fact's charge."""
        uid, name = fact.request.uid, fact.node
        self._recorded.pop(uid, None)
        protocol = self._has_by.pop(uid, "")
        if protocol:
            used = self._protocols[name]
            used[protocol] -= 1
            if not used[protocol]:
                del used[protocol]
            if not used:
                del self._protocols[name]
        crowded = self._crowded_out.get(name)
        if crowded is not None:
            crowded.discard(uid)
            if not crowded:
                del self._crowded_out[name]

    def _make_room(self, name: str) -> None:
        """A pod has left: others may have its devices, rather than claim some beyond their end."""
        state = self._engine.state
        if name in self._models and (name in self._crowded_out or state.overdrawn(state.row(name))):
            self._refurnish(name)

    def _withdraw(self, uid: str) -> None:
        if uid in self._engine.holds:
            self._engine.drop_hold(uid)
        elif uid in self._engine.state.placements:
            self._engine.release(uid)

    def _refurnish(self, name: str) -> None:
        """Set up a node anew: bindings under way first, then pods by standing, then holds.

        A hold without room is dropped. A pod that cannot be charged stops no other; the node's
        devices are withheld then, and the first fault is raised in the end.
        """
        state = self._engine.state
        facts, bindings, holds = self._vacate(name) if name in state.row_of else ([], [], [])
        self._doubts.pop(name, None)
        state.add_node(self._effective(name))
        state.apply(bindings, enforce=False)
        facts += sorted(self._homeless.pop(name, ()))
        faults: list[Exception] = []
        for uid in sorted(facts, key=lambda uid: self._rank(self.facts[uid])):
            try:
                self._settle(self.facts[uid])
            except Exception as error:  # noqa: BLE001 - raised below
                faults.append(error)
                self._charge_without_devices(self.facts[uid])
        self._adoption.held_again(name, holds)
        if faults:
            raise faults[0]

    def _charge_without_devices(self, fact: Fact) -> None:
        """Count a pod whose devices cannot be told; nobody knows what is free beside it."""
        if fact.request.uid not in self._engine.state.placements:
            self._engine.state.apply([Placement(fact.request, fact.node)], enforce=False)
        if self._models[fact.node].devices:
            self._doubt(fact.node, fact.request.uid, "it cannot be charged")

    def _behind(self, fact: Fact, shares: Iterable[DeviceShare]) -> bool:
        """Whether pods that are charged after this one have any of these devices."""
        row, rank = self._engine.state.row(fact.node), self._rank(fact)
        indices = {share.index for share in shares}
        return any(
            placed.pod.uid in self.facts
            and self._rank(self.facts[placed.pod.uid]) > rank
            and any(share.index in indices for share in placed.devices)
            for placed in self._engine.state.pods_on(row)
        )

    def _rank(self, fact: Fact) -> tuple[int, str, str]:
        """Who is charged first: nobody's device can be claimed by a record of less standing."""
        return self._judged(fact)[0].value, fact.created, fact.request.uid

    def _vacate(self, name: str) -> tuple[list[str], list[Placement], list[Hold]]:
        """Take everything off a node; returns the facts among it, bindings under way, and holds."""
        engine = self._engine
        facts, bindings, holds = [], [], []
        for placement in engine.state.pods_on(engine.state.row(name)):
            uid = placement.pod.uid
            if uid in engine.holds:
                holds.append(engine.holds[uid])
                engine.drop_hold(uid)
                continue
            engine.release(uid)
            if uid in self.facts:
                self._uncount(self.facts[uid])
                facts.append(uid)
            else:
                bindings.append(placement)
        return facts, bindings, holds

    def _doubt(self, name: str, uid: str, why: str) -> None:
        doubts = self._doubts.setdefault(name, set())
        if not doubts:
            key = self.facts[uid].request.key
            log.warning("node %s is withheld until pod %s ends: %s", name, key, why)
        doubts.add(uid)
        if len(doubts) == 1:
            self._engine.state.update_node(self._effective(name))

    def _effective(self, name: str) -> Node:
        model = self.dra.of(self._models[name])
        return withheld(model) if name in self._doubts else model

    def _fact(self, obj: PodObject, node: str) -> Fact:
        charge = charge_of(obj, self._names, self.groups)
        labels = obj.metadata.labels or {}
        return Fact(
            charge.request,
            node,
            shared_labels(labels),
            obj.metadata.creation_timestamp or "",
            record_of(obj, charge.request.gpu, self._names),
            charge.parts,
            hami_slots(obj, charge.request.gpu, self._names),
            charge.problem,
        )

    def _name_problem(self, key: str, problem: str) -> None:
        if problem:
            self._note(f"Pod {key}", problem)
        else:
            self.unreadable.pop(f"Pod {key}", None)

    def _note(self, key: str, problem: str) -> None:
        self.unreadable[key] = cut(problem)
        self._complaints.about(key, problem)
