"""What a pod asks of others, of the node's ports and of volumes, read from its object.

Only files are read for this: beside a live cluster kube-scheduler decides all of it before it asks.
That is why these fields are decoded apart from what the webhook reads of every pod. Semantics are
those of kube-scheduler 1.37: matchLabelKeys are merged into selectors, ports of a pod on the host's
network count as host ports, terms without namespaces are about the pod's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from scheduler.core.model import Requirement
from scheduler.core.peers import HostPort, Peer, PeerTerm, PodSelector, Spread
from scheduler.kube.objects import Expression, Metadata
from scheduler.kube.selectors import requirements

__all__ = ["RuledPod", "peer_of", "ruled_pod_decoder", "uncertain_namespaces"]

_NAME_LABEL = "kubernetes.io/metadata.name"

_MOST_RULES = 64
"""Rules of one kind that are read of a pod; further ones would cost more than anybody means."""

Namespaces = Mapping[str, Mapping[str, str]]
"""Labels of namespaces by name; empty where nobody has listed any."""


class _Struct(msgspec.Struct, rename="camel", kw_only=True, gc=False):
    """Wire shape: camelCase keys, unknown keys skipped."""


class LabelSelector(_Struct):
    """A label selector; none at all selects nothing, an empty one everything."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Expression] | None = None


class _Term(_Struct):
    label_selector: LabelSelector | None = None
    topology_key: str = ""
    namespaces: list[str] | None = None
    namespace_selector: LabelSelector | None = None
    match_label_keys: list[str] | None = None
    mismatch_label_keys: list[str] | None = None


class _Terms(_Struct):
    required: list[_Term] | None = msgspec.field(
        default=None, name="requiredDuringSchedulingIgnoredDuringExecution"
    )


class _Affinity(_Struct):
    pod_affinity: _Terms | None = None
    pod_anti_affinity: _Terms | None = None


class _SpreadConstraint(_Struct):
    max_skew: int = 1
    topology_key: str = ""
    when_unsatisfiable: str = "DoNotSchedule"
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    node_affinity_policy: str | None = None
    node_taints_policy: str | None = None
    match_label_keys: list[str] | None = None


class _Port(_Struct):
    container_port: int = 0
    host_port: int | None = None
    protocol: str | None = None
    host_ip: str | None = msgspec.field(default=None, name="hostIP")


class _Container(_Struct):
    ports: list[_Port] | None = None
    restart_policy: str | None = None


class _ClaimSource(_Struct):
    claim_name: str = ""


class _Disk(_Struct):
    pd_name: str = ""
    volume_id: str = msgspec.field(default="", name="volumeID")
    iqn: str = ""
    monitors: list[str] | None = None
    pool: str | None = None
    image: str = ""
    read_only: bool | None = None


class Volume(_Struct):
    """A volume of a pod: of its sources those that kube-scheduler looks at."""

    name: str = ""
    persistent_volume_claim: _ClaimSource | None = None
    ephemeral: dict[str, Any] | None = None
    gce_persistent_disk: _Disk | None = None
    aws_elastic_block_store: _Disk | None = None
    iscsi: _Disk | None = None
    rbd: _Disk | None = None


class _Claim(_Struct):
    name: str = ""


class _Spec(_Struct):
    affinity: _Affinity | None = None
    topology_spread_constraints: list[_SpreadConstraint] | None = None
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    host_network: bool | None = None
    volumes: list[Volume] | None = None
    preemption_policy: str | None = None
    priority: int | None = None
    priority_class_name: str | None = None
    resource_claims: list[_Claim] | None = None


class RuledPod(_Struct):
    """A pod with the fields that say where it may go beside whom."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.metadata.namespace or "default"

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return self.metadata.labels or {}

    @property
    def overlong(self) -> bool:
        """Whether it has more rules of one kind than are read."""
        affinity = self.spec.affinity or _Affinity()
        kinds = (affinity.pod_affinity, affinity.pod_anti_affinity)
        rules = [terms.required or () for terms in kinds if terms is not None]
        listed = (*rules, self.spec.topology_spread_constraints or (), self.spec.volumes or ())
        ports = sum(1 for _ in itertools.islice(_ports(self), _MOST_RULES + 1))
        return any(len(one) > _MOST_RULES for one in listed) or ports > _MOST_RULES


ruled_pod_decoder = msgspec.json.Decoder(RuledPod)


def peer_of(pod: RuledPod, namespaces: Namespaces, exclusive: tuple[str, ...] = ()) -> Peer:
    """The pod as rules see it.

    Parameters
    ----------
    pod
        The object.
    namespaces
        Labels of the namespaces, for terms that select them.
    exclusive
        Keys of its claims that one pod at a time may use.
    """
    affinity = pod.spec.affinity or _Affinity()
    return Peer(
        tuple(sorted(pod.labels.items())),
        tuple(_terms(pod, affinity.pod_affinity, namespaces, unsure=())),
        tuple(_terms(pod, affinity.pod_anti_affinity, namespaces, unsure=None)),
        tuple(_spreads(pod)),
        tuple(sorted(set(itertools.islice(_ports(pod), _MOST_RULES)))),
        exclusive,
        tuple(sorted(set(itertools.islice(_disks(pod), _MOST_RULES)))),
        pod.metadata.deletion_timestamp is not None,
    )


def uncertain_namespaces(pod: RuledPod, namespaces: Namespaces) -> bool:
    """Whether a term selects namespaces by labels that nobody has listed."""
    affinity = pod.spec.affinity or _Affinity()
    return any(
        _resolved(term, namespaces) is None
        for terms in (affinity.pod_affinity, affinity.pod_anti_affinity)
        for term in (terms.required or () if terms else ())
    )


# -- terms -------------------------------------------------------------------------------------


def _terms(
    pod: RuledPod,
    listed: _Terms | None,
    namespaces: Namespaces,
    unsure: tuple[str, ...] | None,
) -> Iterator[PeerTerm]:
    """The required terms; ``unsure`` are the namespaces where nobody can tell which."""
    for term in (listed.required or ())[:_MOST_RULES] if listed else ():
        found = _resolved(term, namespaces)
        where: tuple[str, ...] | None = unsure
        if found is not None:
            alone = not term.namespaces and term.namespace_selector is None
            own = (pod.namespace,) if alone else ()
            named = {*(term.namespaces or ()), *own}
            where = None if found == _ALL else tuple(sorted(named | set(found)))
        rules = rules_of(term.label_selector)
        if rules is None:
            yield PeerTerm(PodSelector(()), term.topology_key)
            continue
        rules += _merged(pod, term.match_label_keys, "In")
        rules += _merged(pod, term.mismatch_label_keys, "NotIn")
        yield PeerTerm(PodSelector(where, rules), term.topology_key)


_ALL = ("*",)


def _resolved(term: _Term, namespaces: Namespaces) -> tuple[str, ...] | None:
    """Names that the namespace selector of a term selects; None if nobody can tell."""
    rules = rules_of(term.namespace_selector)
    if rules is None:
        return ()
    if not rules:
        return _ALL
    if not namespaces:
        if any(rule.key != _NAME_LABEL or rule.operator != "In" for rule in rules):
            return None
        names = [set(rule.values) for rule in rules]
        return tuple(sorted(set.intersection(*names)))
    selector = PodSelector(None, rules)
    return tuple(
        sorted(
            name
            for name, labels in namespaces.items()
            if selector.selects(name, {_NAME_LABEL: name, **labels})
        )
    )


def _merged(pod: RuledPod, keys: Iterable[str] | None, operator: str) -> tuple[Requirement, ...]:
    """Rules for the pod's own values of some labels; those that it does not have are skipped."""
    return tuple(
        Requirement(key, operator, (pod.labels[key],)) for key in keys or () if key in pod.labels
    )


def rules_of(selector: LabelSelector | None) -> tuple[Requirement, ...] | None:
    """What labels have to be; None selects nothing."""
    if selector is None:
        return None
    return (
        *(Requirement(key, "In", (value,)) for key, value in (selector.match_labels or {}).items()),
        *requirements(selector.match_expressions),
    )


# -- spread, ports, disks ----------------------------------------------------------------------


def _spreads(pod: RuledPod) -> Iterator[Spread]:
    for stated in (pod.spec.topology_spread_constraints or ())[:_MOST_RULES]:
        if stated.when_unsatisfiable != "DoNotSchedule":
            continue
        rules = rules_of(stated.label_selector)
        namespaces = () if rules is None else (pod.namespace,)
        rules = (rules or ()) + _merged(pod, stated.match_label_keys, "In")
        yield Spread(
            PodSelector(namespaces, rules),
            stated.topology_key,
            stated.max_skew,
            stated.min_domains or 1,
            stated.node_affinity_policy != "Ignore",
            stated.node_taints_policy == "Honor",
        )


def _ports(pod: RuledPod) -> Iterator[HostPort]:
    spec = pod.spec
    sidecars = [c for c in spec.init_containers or () if c.restart_policy == "Always"]
    for container in (*(spec.containers or ()), *sidecars):
        for port in container.ports or ():
            number = port.host_port or (port.container_port if spec.host_network else 0)
            if number > 0:
                made = HostPort(number, port.protocol or "TCP")
                yield HostPort(number, made.protocol, port.host_ip) if port.host_ip else made


def _disks(pod: RuledPod) -> Iterator[tuple[str, bool]]:
    for volume in pod.spec.volumes or ():
        if disk := volume.gce_persistent_disk:
            yield f"gce {disk.pd_name}", bool(disk.read_only)
        if disk := volume.aws_elastic_block_store:
            yield f"aws {disk.volume_id}", False
        if disk := volume.iscsi:
            yield f"iscsi {disk.iqn}", bool(disk.read_only)
        if disk := volume.rbd:
            for monitor in disk.monitors or ():
                name = f"rbd {monitor} {disk.pool or 'rbd'} {disk.image}"
                yield name, bool(disk.read_only)
