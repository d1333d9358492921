"""Pods of a live cluster as the rules of another pod see them.

kube-scheduler decides rules between pods before it asks us; only dry runs have to know them. So
little is kept of a pod: what says where *others* may not go, and of most pods nothing. Pods of one
template share one object, and labels are those of the observed pods. Who is where is worked out
anew for each dry run that needs it, on copies, so that nobody else waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import Node, Placement, PodRequest
from scheduler.core.neighbours import Neighbours
from scheduler.core.peers import Peer
from scheduler.core.state import ClusterState
from scheduler.kube.objects import Metadata
from scheduler.kube.observed import ObservedPod, shared_labels
from scheduler.kube.peers import (
    Namespaces,
    RuledPod,
    RuledSpec,
    claims_of,
    compared_labels,
    concerns,
    of_others,
    peer_of,
    spec_decoder,
    uncertain_namespaces,
)
from scheduler.kube.pod_requests import has_ended, pod_uid

__all__ = ["Company", "KeptRules"]

Codes = NDArray[np.int8]

_LONGEST_KEPT = 1 << 14
_LONGEST_SHARED = 1 << 12


class KeptRules:
    """What is kept of pods, by uid. Called with the lock of the state held.

    Attributes
    ----------
    rules : dict of str to RuledSpec
        Anti-affinity, host ports and disks of pods that have any.
    claims : dict of str to tuple of str
        Keys of the claims of pods that have any.
    labels : dict of str to mapping
        Labels of pods without a node; the others are observed with theirs.
    leaving : set of str
        Pods that are being deleted.
    too_long : set of str
        Pods whose rules are too long to be kept.
    """

    def __init__(self) -> None:
        self.rules: dict[str, RuledSpec] = {}
        self.claims: dict[str, tuple[str, ...]] = {}
        self.labels: dict[str, Mapping[str, str]] = {}
        self.leaving: set[str] = set()
        self.too_long: set[str] = set()

    def keep(self, pod: RuledPod) -> None:
        """A pod exists and looks like this."""
        uid = pod_uid(pod)
        self.drop(uid)
        if has_ended(pod):
            return
        if not pod.spec.node_name:
            self.labels[uid] = shared_labels(pod.labels)
        if pod.metadata.deletion_timestamp is not None:
            self.leaving.add(uid)
        if claims := tuple(f"{pod.namespace}/{name}" for name in claims_of(pod)):
            self.claims[uid] = claims
        rules = of_others(pod.spec)
        content = b"" if rules is None else msgspec.json.encode(rules)
        if len(content) > _LONGEST_KEPT:
            self.too_long.add(uid)
        elif content:
            one_object = len(content) <= _LONGEST_SHARED
            self.rules[uid] = _shared(content) if one_object else spec_decoder.decode(content)

    def drop(self, uid: str) -> None:
        """A pod has ended or was deleted; unknown ones are not an error."""
        self.rules.pop(uid, None)
        self.claims.pop(uid, None)
        self.labels.pop(uid, None)
        self.leaving.discard(uid)
        self.too_long.discard(uid)

    def beside(
        self, request: PodRequest, state: ClusterState, facts: Mapping[str, ObservedPod]
    ) -> Company:
        """All pods that may matter to the rules of a pod, where they are now.

        Parameters
        ----------
        request
            The pod that asks, with its ``peer``.
        state
            Says which pods are where, expected ones included.
        facts
            Those that run, with their labels.
        """
        peer = request.peer or Peer()
        if not (self.rules or peer.ruled):
            return Company(list(state.nodes), {}, {}, {}, {}, {}, {}, frozenset())
        return Company(  # copies made by C loops; what takes longer happens without the lock
            list(state.nodes),
            dict(state.row_of),
            dict(state.placements),
            dict(facts),
            dict(self.rules),
            dict(self.claims) if peer.claims else {},
            dict(self.labels),
            frozenset(self.leaving),
        )


@lru_cache(maxsize=4096)
def _shared(content: bytes) -> RuledSpec:
    return spec_decoder.decode(content)


@dataclass(slots=True)
class Company:
    """Which pods are where; copies that nobody else changes.

    Parameters
    ----------
    nodes
        A node per row; None for an empty row.
    row_of
        Row of each node by its name.
    placed, facts
        Placements, and facts of those that run, by uid.
    rules, claims, labels, leaving
        As in :class:`KeptRules`.
    """

    nodes: list[Node | None]
    row_of: dict[str, int]
    placed: dict[str, Placement]
    facts: dict[str, ObservedPod]
    rules: dict[str, RuledSpec]
    claims: dict[str, tuple[str, ...]]
    labels: dict[str, Mapping[str, str]]
    leaving: frozenset[str]
    _seen: list[tuple[PodRequest, int]] = field(default_factory=list)

    def uncertain(self, request: PodRequest, namespaces: Namespaces) -> bool:
        """Whether others may be apart from a pod by namespaces whose labels nobody has listed."""
        if namespaces:
            return False
        rules = self._about(request, request.peer or Peer())
        distinct = {id(spec): spec for spec in rules.values()}
        return any(uncertain_namespaces(RuledPod(spec=s), namespaces) for s in distinct.values())

    def codes(
        self, request: PodRequest, namespaces: Namespaces, templates: Sequence[Node] = ()
    ) -> tuple[Codes, Codes]:
        """Code of :class:`.model.Reason` by row, (N,), and by template, (T,).

        Parameters
        ----------
        request
            The pod that asks, with its ``peer``.
        namespaces
            Labels of namespaces by name.
        templates
            Nodes that do not exist yet: each is judged as the only new one of the cluster.
        """
        self._seen = list(self._as_seen_by(request, namespaces))
        rows = len(self.nodes)
        if not (request.peer and request.peer.spread):  # else a new node is a new, empty domain
            found = self._codes(request, templates)
            return found[:rows], found[rows:]
        alone = [int(self._codes(request, [one])[rows]) for one in templates]
        return self._codes(request, ()), np.array(alone, dtype=np.int8)

    def _codes(self, request: PodRequest, templates: Sequence[Node]) -> Codes:
        pods = {pod.uid: pod for pod, _ in self._seen}
        nodes = [*self.nodes, *templates]
        there = Neighbours.among(nodes, [request, *pods.values()], self._seen)
        codes = there.codes(request) if there is not None else None
        return np.zeros(len(nodes), dtype=np.int8) if codes is None else codes

    def _as_seen_by(
        self, request: PodRequest, namespaces: Namespaces
    ) -> Iterator[tuple[PodRequest, int]]:
        """Pods and their rows; those that no rule in question can tell apart are the same pod."""
        peer = request.peer or Peer()
        rules = self._about(request, peer)
        distinct = {id(spec): spec for spec in rules.values()}
        keys = sorted(_compared(peer).union(*map(compared_labels, distinct.values())))
        known: dict[object, PodRequest] = {}
        wide = peer.affinity or peer.anti_affinity or peer.spread
        for uid in self.placed if wide else {**rules, **self.claims}:
            placement = self.placed.get(uid)
            row = self.row_of.get(placement.node) if placement else None
            if placement is None or row is None or uid == request.uid:
                continue
            fact, spec = self.facts.get(uid), rules.get(uid)
            labels = self.labels.get(uid, {}) if fact is None else fact.labels
            shown = tuple((key, labels[key]) for key in keys if key in labels)
            claims = tuple(key for key in self.claims.get(uid, ()) if key in peer.claims)
            namespace, leaving = placement.pod.namespace, uid in self.leaving
            what = (namespace, shown, id(spec), claims, leaving)
            pod = known.get(what)
            if pod is None:
                stamp = "" if leaving else None
                metadata = Metadata(
                    namespace=namespace, labels=dict(shown), deletion_timestamp=stamp
                )
                seen = RuledPod(metadata=metadata, spec=spec or RuledSpec())
                made = peer_of(seen, namespaces, claims, wary=False)
                pod = known[what] = replace(placement.pod, peer=made)
            yield pod, row

    def _about(self, request: PodRequest, peer: Peer) -> dict[str, RuledSpec]:
        """Rules of others that may be about a pod, by uid."""
        distinct = {id(spec): spec for spec in self.rules.values()}
        labels = dict(peer.labels)
        about = {
            key
            for key, spec in distinct.items()
            if concerns(spec, request.namespace, labels) or _clash(spec, peer)
        }
        return {uid: spec for uid, spec in self.rules.items() if id(spec) in about}


def _clash(spec: RuledSpec, peer: Peer) -> bool:
    """Whether both want ports of the node, or disks."""
    return bool((peer.ports and spec.containers) or (peer.disks and spec.volumes))


def _compared(peer: Peer) -> set[str]:
    """Keys of the labels that a pod's own rules are about."""
    selectors = [term.selector for term in (*peer.affinity, *peer.anti_affinity)]
    selectors += [spread.selector for spread in peer.spread]
    return {rule.key for selector in selectors for rule in selector.rules}
