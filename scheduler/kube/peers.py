"""What a pod asks of others, of the node's ports and of volumes, read from its object.

Plans and simulations of files need this, and dry runs of a live cluster. kube-scheduler has decided
all of it before it asks whether a pod fits; that is why the webhook's own verbs read a pod without
these fields. Semantics are those of kube-scheduler 1.37: matchLabelKeys are merged into selectors,
ports of a pod on the host's network count as host ports, terms without namespaces are about the
pod's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from scheduler.core.model import Requirement
from scheduler.core.peers import HostPort, Peer, PeerTerm, PodSelector, Spread
from scheduler.kube.objects import (
    Affinity,
    Container,
    Expression,
    PodObject,
    PodSpec,
    Struct,
)
from scheduler.kube.selectors import requirements

__all__ = [
    "RuledPod",
    "claims_of",
    "compared_labels",
    "concerns",
    "of_others",
    "peer_of",
    "ruled_pod_decoder",
    "spec_decoder",
    "uncertain_namespaces",
]

_NAME_LABEL = "kubernetes.io/metadata.name"

_MOST_RULES = 64
"""Rules of one kind that are read of a pod; further ones would cost more than anybody means."""

Namespaces = Mapping[str, Mapping[str, str]]
"""Labels of namespaces by name; empty where nobody has listed any."""


class LabelSelector(Struct):
    """A label selector; none at all selects nothing, an empty one everything."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Expression] | None = None


class _Term(Struct):
    label_selector: LabelSelector | None = None
    topology_key: str = ""
    namespaces: list[str] | None = None
    namespace_selector: LabelSelector | None = None
    match_label_keys: list[str] | None = None
    mismatch_label_keys: list[str] | None = None


class _Terms(Struct):
    required: list[_Term] | None = msgspec.field(
        default=None, name="requiredDuringSchedulingIgnoredDuringExecution"
    )


class _Affinity(Affinity, kw_only=True):
    pod_affinity: _Terms | None = None
    pod_anti_affinity: _Terms | None = None


class _SpreadConstraint(Struct):
    max_skew: int = 1
    topology_key: str = ""
    when_unsatisfiable: str = "DoNotSchedule"
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    node_affinity_policy: str | None = None
    node_taints_policy: str | None = None
    match_label_keys: list[str] | None = None


class _Port(Struct):
    container_port: int = 0
    host_port: int | None = None
    protocol: str | None = None
    host_ip: str | None = msgspec.field(default=None, name="hostIP")


class _Container(Container, kw_only=True):
    ports: list[_Port] | None = None


class _ClaimSource(Struct):
    claim_name: str = ""


class _Disk(Struct):
    pd_name: str = ""
    volume_id: str = msgspec.field(default="", name="volumeID")
    iqn: str = ""
    monitors: list[str] | None = None
    pool: str | None = None
    image: str = ""
    read_only: bool | None = None


class Volume(Struct):
    """A volume of a pod: of its sources those that kube-scheduler looks at."""

    name: str = ""
    persistent_volume_claim: _ClaimSource | None = None
    ephemeral: dict[str, Any] | None = None
    gce_persistent_disk: _Disk | None = None
    aws_elastic_block_store: _Disk | None = None
    iscsi: _Disk | None = None
    rbd: _Disk | None = None

    @property
    def matters(self) -> bool:
        """Whether it has any of these sources: most are files, tokens and scratch space."""
        disks = (self.gce_persistent_disk, self.aws_elastic_block_store, self.iscsi, self.rbd)
        sources = (self.persistent_volume_claim, self.ephemeral, *disks)
        return any(source is not None for source in sources)


class _Claim(Struct):
    name: str = ""


class RuledSpec(PodSpec, kw_only=True):
    """The specification of a pod with the fields that say where it may go beside whom."""

    affinity: _Affinity | None = None
    topology_spread_constraints: list[_SpreadConstraint] | None = None
    containers: Sequence[_Container] | None = None
    init_containers: Sequence[_Container] | None = None
    host_network: bool | None = None
    volumes: list[Volume] | None = None
    preemption_policy: str | None = None
    priority_class_name: str | None = None
    resource_claims: list[_Claim] | None = None

    def __post_init__(self) -> None:
        """Leave volumes out that no rule is about: a large cluster has one in every pod."""
        if self.volumes:
            self.volumes = [volume for volume in self.volumes if volume.matters] or None


class RuledPod(PodObject, kw_only=True):
    """A pod with all that :class:`PodObject` has of it, and its rules."""

    spec: RuledSpec = msgspec.field(default_factory=RuledSpec)

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
spec_decoder = msgspec.json.Decoder(RuledSpec)


def peer_of(
    pod: RuledPod,
    namespaces: Namespaces,
    exclusive: tuple[str, ...] = (),
    *,
    wary: bool = True,
) -> Peer:
    """The pod as rules see it.

    Parameters
    ----------
    pod
        The object.
    namespaces
        Labels of the namespaces, for terms that select them.
    exclusive
        Keys of its claims that one pod at a time may use.
    wary
        Whether a term whose namespaces nobody can tell counts as one that may be broken: affinity
        matches nobody, anti-affinity pods of every namespace. Else it is left out. See
        :func:`uncertain_namespaces`.
    """
    affinity = pod.spec.affinity or _Affinity()
    return Peer(
        tuple(sorted(pod.labels.items())),
        tuple(_terms(pod, affinity.pod_affinity, namespaces, unsure=(), wary=wary)),
        tuple(_terms(pod, affinity.pod_anti_affinity, namespaces, unsure=None, wary=wary)),
        tuple(_spreads(pod)),
        tuple(sorted(set(itertools.islice(_ports(pod), _MOST_RULES)))),
        exclusive,
        tuple(sorted(set(itertools.islice(_disks(pod), _MOST_RULES)))),
        pod.metadata.deletion_timestamp is not None,
    )


def of_others(spec: RuledSpec) -> RuledSpec | None:
    """The part of a running pod's rules that says where *others* may not go; None if there is none.

    That is required anti-affinity, host ports and disks. Its affinity and its spread were its own
    affair, and its claims are :func:`claims_of`.
    """
    affinity = spec.affinity.pod_anti_affinity if spec.affinity else None
    anti = affinity.required if affinity else None
    volumes = [volume for volume in spec.volumes or () if any(_disks_of(volume))]
    ported = [one for one in _serving(spec) if any(_ports_of(one, on_host=bool(spec.host_network)))]
    if not (anti or volumes or ported):
        return None
    return RuledSpec(
        affinity=_Affinity(pod_anti_affinity=_Terms(required=anti)) if anti else None,
        containers=[_Container(ports=container.ports) for container in ported] or None,
        host_network=spec.host_network if ported else None,
        volumes=volumes or None,
    )


def compared_labels(spec: RuledSpec) -> set[str]:
    """Keys of the labels that the anti-affinity of a pod is about, its own among them."""
    affinity = spec.affinity.pod_anti_affinity if spec.affinity else None
    found: set[str] = set()
    for term in (affinity.required or ())[:_MOST_RULES] if affinity else ():
        found.update(rule.key for rule in rules_of(term.label_selector) or ())
        found.update(term.match_label_keys or (), term.mismatch_label_keys or ())
    return found


def concerns(spec: RuledSpec, namespace: str, labels: Mapping[str, str]) -> bool:
    """Whether the anti-affinity of a pod may be about another one, in whichever namespaces."""
    affinity = spec.affinity.pod_anti_affinity if spec.affinity else None
    terms = (affinity.required or ())[:_MOST_RULES] if affinity else ()
    found = (rules_of(term.label_selector) for term in terms)
    return any(r is not None and PodSelector(None, r).selects(namespace, labels) for r in found)


def claims_of(pod: RuledPod) -> Iterator[str]:
    """Names of the claims of its volumes, in its namespace, in order."""
    for volume in pod.spec.volumes or ():
        if volume.persistent_volume_claim is not None:
            yield volume.persistent_volume_claim.claim_name
        elif volume.ephemeral is not None:
            yield f"{pod.metadata.name}-{volume.name}"


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
    *,
    wary: bool,
) -> Iterator[PeerTerm]:
    """The required terms; ``unsure`` are the namespaces where nobody can tell which."""
    for term in (listed.required or ())[:_MOST_RULES] if listed else ():
        found = _resolved(term, namespaces)
        where: tuple[str, ...] | None = unsure
        if found is None and not wary:
            continue
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
    on_host = bool(pod.spec.host_network)
    for container in _serving(pod.spec):
        yield from _ports_of(container, on_host=on_host)


def _serving(spec: RuledSpec) -> Iterator[_Container]:
    """Containers that run as long as the pod does."""
    yield from spec.containers or ()
    yield from (one for one in spec.init_containers or () if one.restart_policy == "Always")


def _ports_of(container: _Container, *, on_host: bool) -> Iterator[HostPort]:
    for port in container.ports or ():
        number = port.host_port or (port.container_port if on_host else 0)
        if number > 0:
            made = HostPort(number, port.protocol or "TCP")
            yield HostPort(number, made.protocol, port.host_ip) if port.host_ip else made


def _disks(pod: RuledPod) -> Iterator[tuple[str, bool]]:
    for volume in pod.spec.volumes or ():
        yield from _disks_of(volume)


def _disks_of(volume: Volume) -> Iterator[tuple[str, bool]]:
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
