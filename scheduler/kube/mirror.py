"""What the API says about nodes and pods, kept in the engine: objects in, placements out.

Everything here is a fact that somebody else has established. The mirror applies it whatever the
engine thinks of it, and gives an :class:`Image` of the facts, which the state has to equal.

- Usage is every pod that has a node and has not ended, whoever scheduled it; a terminating pod
  holds its room until it is gone.
- The uid decides: a new pod of an old name ends the old one.
- A pod on a node that is not known yet is charged when the node arrives.
- A device that vanished takes its index with it, and the others may have been renumbered. While a
  running pod claims an index that its node does not have, nobody knows what is free there, and the
  node's devices are handed to nobody. The same holds while a running pod has devices and nothing
  readable says which or how many.

No thread, no lock, no clock: the driver calls one method at a time.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

import msgspec

from scheduler.core.adoption import Adoption
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import DeviceShare, GangKey, Node, Placement, PodRequest
from scheduler.core.occupancy import running
from scheduler.kube.complaints import Complaints, cut
from scheduler.kube.disruption import BudgetObject
from scheduler.kube.drift import Fact, Image
from scheduler.kube.gangs import gang_ref, size_key
from scheduler.kube.names import ResourceNames
from scheduler.kube.nodes import node_of
from scheduler.kube.objects import NodeObject, NodeStatus, PodObject
from scheduler.kube.pods import asks_for_devices, device_shares, plain_request, pod_request, pod_uid
from scheduler.kube.protocols import ambiguity, protocol_of, record_of, registered, resolve

__all__ = ["Mirror", "has_ended"]

log = logging.getLogger(__name__)

GroupKey = tuple[str, str, str]
_LONGEST_LABELS = 1 << 11

_MOST_BURIED = 4096


def has_ended(pod: PodObject) -> bool:
    """Whether the pod has run to its end; its room is free from then on."""
    return pod.status is not None and pod.status.phase in ("Succeeded", "Failed")


class Mirror:
    """Applies what the API says.

    Parameters
    ----------
    engine, adoption
        What is kept up to date.
    names
        Resource names and labels.
    settled
        Called with the uid of every pod that got a node, ended or was deleted; then with the pod if
        it had no node before, else None; then with the pod if it had one and is gone, else None.
    nominated
        Called with a pod without a node and the node that kube-scheduler has in mind for it.

    Attributes
    ----------
    facts : dict of str to Fact
        Pods that have a node, by uid.
    pending : dict of str to PodRequest
        Pods that have none, by uid.
    budgets : dict of str to BudgetObject
        PodDisruptionBudgets by ``namespace/name``.
    gang_sizes : dict
        Members needed, by ``(system, namespace, gang)``, as group objects state them.
    unreadable : dict of str to str
        Objects that could not be read, with the reason.
    """

    def __init__(
        self,
        engine: Engine,
        adoption: Adoption,
        names: ResourceNames | None = None,
        *,
        settled: Callable[[str, PodRequest | None, PodRequest | None], None] = (
            lambda _uid, _came, _left: None
        ),
        nominated: Callable[[PodRequest, str], None] = lambda _request, _node: None,
    ) -> None:
        self._engine, self._adoption = engine, adoption
        self._names = names or ResourceNames()
        self._settled, self._nominated = settled, nominated
        self.facts: dict[str, Fact] = {}
        self.pending: dict[str, PodRequest] = {}
        self.budgets: dict[str, BudgetObject] = {}
        self.gang_sizes: dict[GroupKey, int] = {}
        self.unreadable: dict[str, str] = {}
        self._complaints = Complaints(log)
        self._models: dict[str, Node] = {}
        self._by_name: dict[str, tuple[str, str]] = {}  # uid, when created
        self._homeless: dict[str, set[str]] = {}
        self._doubts: dict[str, set[str]] = {}
        self._members: dict[GroupKey, set[str]] = {}
        self._group_of: dict[str, GroupKey] = {}
        self._indices: dict[str, Mapping[str, int]] = {}
        self._protocols: dict[str, Counter[str]] = {}
        self._reserved: dict[tuple[str, str], set[str]] = {}
        self._buried: OrderedDict[str, None] = OrderedDict()

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
                indices = {one.name: index for index, one in enumerate(foreign[0])}
            self.unreadable.pop(key, None)
        except InvalidInput as error:
            self._note(key, error)
            model = self._without_devices(obj)
        known = self._models.get(name)
        renamed = self._indices.get(name, {}) != indices
        if known == model and not renamed:
            return  # a heartbeat
        self._models[name] = model
        self._indices[name] = indices
        if not indices:
            del self._indices[name]
        if known is None or known.devices != model.devices or renamed:
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
        facts, bindings = self._vacate(name)
        self._engine.state.remove_node(name)
        if facts:
            self._homeless[name] = set(facts)
        for placement in bindings:
            self._adoption.gone(placement.pod)

    @property
    def uncertain_nodes(self) -> frozenset[str]:
        """Nodes where nobody knows which devices are free."""
        return frozenset(self._doubts)

    @property
    def ambiguous_nodes(self) -> dict[str, str]:
        """Nodes whose pods have devices by protocols that do not know of each other, and why."""
        found = {name: ambiguity(used) for name, used in self._protocols.items() if len(used) > 1}
        return {name: why for name, why in found.items() if why}

    def node_names(self) -> list[str]:
        """Nodes that exist."""
        return list(self._models)

    # -- pods --------------------------------------------------------------------------------

    def pod(self, obj: PodObject) -> None:
        """A pod exists and looks like this."""
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
            return
        self._by_name[key] = (uid, created)
        self._join_group(obj, uid)
        if not obj.spec.node_name:
            if uid not in self.facts:  # a pod never loses its node; this is an old message
                self._wait(self._request(obj, key)[0])
                node = obj.status.nominated_node_name if obj.status else None
                if node:
                    self._nominated(self.pending[uid], node)
            return
        self.pending.pop(uid, None)
        self._establish(self._fact(obj, key, obj.spec.node_name))

    def _wait(self, request: PodRequest) -> None:
        """A pod without a node; its gang counts on it."""
        before = self.pending.get(request.uid)
        if before is not None and before.gang != request.gang:
            self._adoption.gone(before)
        self.pending[request.uid] = request
        self._adoption.expect(request)

    def pod_gone(self, uid: str) -> None:
        """A pod has ended or was deleted. Unknown ones are no error: the message is repeated."""
        fact = self.facts.pop(uid, None)
        request = fact.request if fact else self.pending.pop(uid, None)
        if fact:
            self._unsettle(fact)
            self._used_by(fact, -1)
        else:
            self._withdraw(uid)
        self._leave_group(uid)
        if request is not None:
            self.unreadable.pop(f"Pod {request.key}", None)
            if self._by_name.get(request.key, ("", ""))[0] == uid:
                del self._by_name[request.key]
            self._adoption.gone(request)
        self._settled(uid, None, fact.request if fact else None)

    def pod_gone_for_good(self, uid: str) -> None:
        """The API has been asked, and the pod does not run any more.

        The watch may be behind that answer. What it still says of the pod is old: an ended pod
        never runs again, and a uid is never used again.
        """
        self._buried[uid] = None
        if len(self._buried) > _MOST_BURIED:
            self._buried.popitem(last=False)
        self.pod_gone(uid)

    def labels_of(self, uid: str) -> Mapping[str, str] | None:
        """Labels of a pod that has a node."""
        fact = self.facts.get(uid)
        return fact.labels if fact else None

    def pod_uids(self) -> list[str]:
        """Pods that exist, with and without a node."""
        return [*self.facts, *self.pending]

    # -- groups and budgets ------------------------------------------------------------------

    def group(self, sizes: Mapping[GroupKey, int]) -> bool:
        """Group objects state these sizes; True if that is news."""
        news = {key: size for key, size in sizes.items() if self.gang_sizes.get(key) != size}
        self.gang_sizes.update(news)
        for key in news:
            self._resize(key)
        return bool(news)

    def group_gone(self, sizes: Mapping[GroupKey, int]) -> bool:
        """Group objects are gone: nobody states these sizes any more."""
        known = [key for key in sizes if key in self.gang_sizes]
        for key in known:
            del self.gang_sizes[key]
            self._resize(key)
        return bool(known)

    def _join_group(self, obj: PodObject, uid: str) -> None:
        """Remember the members of a gang that do not state its size themselves."""
        ref = gang_ref(obj)
        group = size_key(ref) if ref is not None and not ref.size else None
        if group == self._group_of.get(uid):
            return
        self._leave_group(uid)
        if group is not None:
            self._members.setdefault(group, set()).add(uid)
            self._group_of[uid] = group

    def _leave_group(self, uid: str) -> None:
        group = self._group_of.pop(uid, None)
        if group is not None:
            self._members[group].discard(uid)
            if not self._members[group]:
                del self._members[group]

    def _resize(self, key: GroupKey) -> None:
        """Members that were read before their group object was learn its size."""
        size = self.gang_sizes.get(key, 1)
        for uid in sorted(self._members.get(key, ())):
            fact = self.facts.get(uid)
            known = fact.request if fact is not None else self.pending.get(uid)
            if known is None or known.gang is None or known.gang.min_count == size:
                continue
            self._adoption.gone(known)
            if fact is not None:
                self._establish(replace(fact, request=_resized(known, known.gang, size)))
            else:
                self._wait(_resized(known, known.gang, size))

    # -- the oracle --------------------------------------------------------------------------

    def image(self) -> Image:
        """The facts as they are now, to be compared with a state later."""
        nodes = {name: self._effective(name) for name in self._models}
        return Image(nodes, dict(self.facts))

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
            if uid in engine.holds or uid in assumed:
                continue
            if fact is None or fact.node != placed.node:
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
        if known == fact and uid not in self._engine.holds:
            return
        devices = fact.devices
        believed = self._engine.state.placements.get(uid)
        if (
            devices is None
            and believed is not None
            and believed.node == fact.node
            and believed.pod.gpu == fact.request.gpu
        ):
            # Nobody recorded devices: those chosen before are as good, and moving them is noise.
            devices = believed.devices
        if known is not None:
            self._unsettle(known)
            self._used_by(known, -1)
        else:
            self._withdraw(uid)
        self.facts[uid] = fact
        self._settle(fact, devices)
        self._used_by(fact, 1)
        if known is None or known.node != fact.node:
            self._settled(uid, fact.request if known is None else None, None)

    def _used_by(self, fact: Fact, sign: int) -> None:
        """Count by which protocol a pod has its devices, and note what KAI has reserved."""
        protocol = protocol_of(fact.request.gpu, fact.record, self._names)
        if not protocol:
            return
        used = self._protocols.setdefault(fact.node, Counter())
        used[protocol] += sign
        if not used[protocol]:
            del used[protocol]
        if not used:
            del self._protocols[fact.node]
        if fact.record is not None and fact.record.reserves:
            self._reserves(fact, sign)

    def _reserves(self, fact: Fact, sign: int) -> None:
        assert fact.record is not None  # the caller has looked
        for group in fact.record.groups:
            key = (fact.node, group)
            uids = self._reserved.setdefault(key, set())
            before = bool(uids)
            (uids.add if sign > 0 else uids.discard)(fact.request.uid)
            after = bool(uids)
            if not uids:
                del self._reserved[key]
            if before != after and fact.node in self._models:
                self._refurnish(fact.node)  # whose device is shared is known anew

    def _settle(self, fact: Fact, devices: tuple[DeviceShare, ...] | None = None) -> None:
        """Charge a fact to its node."""
        name, uid = fact.node, fact.request.uid
        model = self._models.get(name)
        if model is None:
            self._homeless.setdefault(name, set()).add(uid)
            self._adoption.bound(fact.request)
            return
        self._adoption.take_slot(fact.request, name)
        known = fact.devices if devices is None else devices
        doubt = fact.doubt
        if fact.record is not None:
            known, doubt = self._recorded(fact, model)
        placement = running(self._engine, fact.request, name, known)
        self._engine.state.apply([placement], enforce=False)
        self._adoption.bound(fact.request)
        if _claims_missing(placement, model):
            doubt = "it has a device that the node does not offer any more"
        if doubt and model.devices:
            self._doubt(name, uid, doubt)

    def _recorded(self, fact: Fact, model: Node) -> tuple[tuple[DeviceShare, ...] | None, str]:
        """Devices by a foreign record, and what remains unclear."""
        record = fact.record
        assert record is not None  # the caller has looked
        if record.reserves:
            return None, fact.doubt  # it asks the device plugin for a whole device
        if record.groups or not record.claims:
            missing = [g for g in record.groups if (fact.node, g) not in self._reserved]
            unclear = bool(missing) or not record.groups
            return (), "nobody has reserved the device that it shares" if unclear else ""
        shares = resolve(record.claims, model, self._indices.get(fact.node, {}))
        if shares is None:
            return (), "it has a device that the node does not offer any more"
        return shares, ""

    def _unsettle(self, fact: Fact) -> None:
        """Take a fact's charge back."""
        uid = fact.request.uid
        homeless = self._homeless.get(fact.node)
        if homeless is not None:
            homeless.discard(uid)
            if not homeless:
                del self._homeless[fact.node]
        self._withdraw(uid)
        doubts = self._doubts.get(fact.node)
        if doubts and uid in doubts:
            doubts.discard(uid)
            if not doubts:
                # Pods that came while the devices were withheld have none yet.
                self._refurnish(fact.node)

    def _withdraw(self, uid: str) -> None:
        if uid in self._engine.holds:
            self._engine.drop_hold(uid)
        elif uid in self._engine.state.placements:
            self._engine.release(uid)

    def _refurnish(self, name: str) -> None:
        """Set up a node whose devices are new; its pods are charged again."""
        state = self._engine.state
        facts, bindings = self._vacate(name) if name in state.row_of else ([], [])
        self._doubts.pop(name, None)
        state.add_node(self._models[name])
        facts += sorted(self._homeless.pop(name, ()))
        # Recorded devices first: the others are put around them.
        for uid in sorted(facts, key=lambda uid: (self.facts[uid].devices is None, uid)):
            self._settle(self.facts[uid])
        state.apply(bindings, enforce=False)

    def _vacate(self, name: str) -> tuple[list[str], list[Placement]]:
        """Take everything off a node; returns the facts among it, and bindings under way."""
        engine = self._engine
        facts, bindings = [], []
        for placement in engine.state.pods_on(engine.state.row(name)):
            uid = placement.pod.uid
            if uid in engine.holds:
                engine.drop_hold(uid)
                continue
            engine.release(uid)
            if uid in self.facts:
                facts.append(uid)
            else:
                bindings.append(placement)
        return facts, bindings

    def _doubt(self, name: str, uid: str, why: str) -> None:
        doubts = self._doubts.setdefault(name, set())
        if not doubts:
            key = self.facts[uid].request.key
            log.warning("node %s is withheld until pod %s ends: %s", name, key, why)
        doubts.add(uid)
        if len(doubts) == 1:
            self._engine.state.update_node(self._effective(name))

    def _effective(self, name: str) -> Node:
        model = self._models[name]
        return _withheld(model) if name in self._doubts else model

    def _without_devices(self, obj: NodeObject) -> Node:
        """A node whose devices cannot be understood has none to give."""
        allocatable = (obj.status.allocatable if obj.status else None) or {}
        plain = {name: value for name, value in allocatable.items() if "/" not in name}
        status = NodeStatus(
            allocatable=plain, conditions=obj.status.conditions if obj.status else None
        )
        metadata = msgspec.structs.replace(obj.metadata, annotations=None)
        try:
            return node_of(NodeObject(metadata=metadata, spec=obj.spec, status=status), self._names)
        except InvalidInput:
            return Node(obj.metadata.name, 0, 0, 0)

    def _fact(self, obj: PodObject, key: str, node: str) -> Fact:
        request, doubt = self._request(obj, key)
        devices = record = None
        if not doubt:
            try:
                devices = device_shares(obj, self._names)
                if devices is None:
                    record = record_of(obj, self._names)
            except InvalidInput as error:
                self._note(f"Pod {key}", error)
                doubt = "the record of its devices cannot be read"
        labels = obj.metadata.labels or {}
        return Fact(request, node, devices, _labels(labels), doubt, record)

    def _request(self, obj: PodObject, key: str) -> tuple[PodRequest, str]:
        """What a pod asks for, and what remains unclear about that."""
        try:
            request = pod_request(obj, self._names, self.gang_sizes)
        except InvalidInput as error:
            self._note(f"Pod {key}", error)
            doubt = "what it asks for cannot be read"
            unclear = asks_for_devices(obj, self._names)
            return plain_request(obj, self.gang_sizes), doubt if unclear else ""
        self.unreadable.pop(f"Pod {key}", None)
        return request, ""

    def _note(self, key: str, error: InvalidInput) -> None:
        self.unreadable[key] = cut(error)
        self._complaints.about(f"{key} cannot be read", error)


def _labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Labels of a pod; pods of one template share one mapping, unless it is long."""
    items = tuple(labels.items())
    if sum(len(key) + len(value) for key, value in items) > _LONGEST_LABELS:
        return dict(items)
    return _shared_labels(items)


@lru_cache(maxsize=4096)
def _shared_labels(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(items)


def _resized(request: PodRequest, gang: GangKey, size: int) -> PodRequest:
    return replace(request, gang=GangKey(gang.namespace, gang.name, size))


def _claims_missing(placement: Placement, node: Node) -> bool:
    return any(share.index >= len(node.devices) for share in placement.devices)


def _withheld(node: Node) -> Node:
    """The node with every device out of service."""
    return replace(node, devices=tuple(replace(d, healthy=False) for d in node.devices))
