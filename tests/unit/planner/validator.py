"""Rules between pods, naively and step by step; no code of the module that decides them."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.core.model import Node, PodRequest
from scheduler.core.peers import Peer, PeerTerm, PodSelector, Spread

Placed = tuple[PodRequest, Node]


def _peer(pod: PodRequest) -> Peer:
    return pod.peer or Peer()


def _selected(selector: PodSelector, pod: PodRequest) -> bool:
    if selector.namespaces is not None and pod.namespace not in selector.namespaces:
        return False
    labels = dict(_peer(pod).labels)
    for rule in selector.rules:
        has = rule.key in labels
        listed = has and labels[rule.key] in rule.values
        if {
            "In": not listed,
            "NotIn": listed,
            "Exists": not has,
            "DoesNotExist": has,
        }[rule.operator]:
            return False
    return True


def _same_domain(term: PeerTerm, one: Node, other: Node) -> bool:
    key = term.topology_key
    return key in one.labels and one.labels[key] == other.labels.get(key)


def joins(pod: PodRequest, node: Node, there: list[Placed], nodes: list[Node]) -> bool:
    """Whether kube-scheduler would let a pod onto a node beside those that are placed."""
    return (
        _no_conflict(pod, node, there)
        and _ports_and_claims(pod, node, there)
        and _affinity(pod, node, there)
        and all(_spread(rule, pod, node, there, nodes) for rule in _peer(pod).spread)
    )


def _no_conflict(pod: PodRequest, node: Node, there: list[Placed]) -> bool:
    for other, home in there:
        for term in _peer(pod).anti_affinity:
            if _selected(term.selector, other) and _same_domain(term, home, node):
                return False
        for term in _peer(other).anti_affinity:
            if _selected(term.selector, pod) and _same_domain(term, home, node):
                return False
    return True


def _ports_and_claims(pod: PodRequest, node: Node, there: list[Placed]) -> bool:
    for other, home in there:
        if set(_peer(pod).claims) & set(_peer(other).claims):
            return False
        if home.name != node.name:
            continue
        for port in _peer(pod).ports:
            for taken in _peer(other).ports:
                same = port.port == taken.port and port.protocol == taken.protocol
                everywhere = "0.0.0.0" in (port.address, taken.address)
                if same and (everywhere or port.address == taken.address):
                    return False
    return True


def _affinity(pod: PodRequest, node: Node, there: list[Placed]) -> bool:
    terms = _peer(pod).affinity
    if any(term.topology_key not in node.labels for term in terms):
        return False
    matching = [
        home for other, home in there if all(_selected(term.selector, other) for term in terms)
    ]
    if all(any(_same_domain(term, home, node) for home in matching) for term in terms):
        return True
    anybody = any(term.topology_key in home.labels for home in matching for term in terms)
    return not anybody and all(_selected(term.selector, pod) for term in terms)


def _spread(
    rule: Spread, pod: PodRequest, node: Node, there: list[Placed], nodes: list[Node]
) -> bool:
    if rule.topology_key not in node.labels:
        return False
    keys = [one.topology_key for one in _peer(pod).spread]
    counts: dict[str, int] = {}
    for one in nodes:
        if any(key not in one.labels for key in keys):
            continue
        wanted = pod.selection.node_selector if rule.honours_selection else ()
        if any(one.labels.get(key) != value for key, value in wanted):
            continue
        if rule.honours_taints and one.taints:
            continue  # nobody tolerates anything in these tests
        domain = one.labels[rule.topology_key]
        counts[domain] = counts.get(domain, 0) + sum(
            home.name == one.name and _selected(rule.selector, other) and not _peer(other).leaving
            for other, home in there
        )
    least = min(counts.values(), default=0)
    if len(counts) < rule.min_domains:
        least = 0
    own = _selected(rule.selector, pod)
    return counts.get(node.labels[rule.topology_key], 0) + own - least <= rule.max_skew


def executable(there: list[Placed], coming: Iterable[Placed], nodes: list[Node]) -> bool:
    """Whether some order lets everybody in, one after another."""
    left = list(coming)
    if not left:
        return True
    seen = set()
    for index, (pod, node) in enumerate(left):
        alike = (pod.namespace, pod.peer, pod.selection, node.name)
        if alike in seen:
            continue
        seen.add(alike)
        if joins(pod, node, there, nodes) and executable(
            [*there, (pod, node)], [*left[:index], *left[index + 1 :]], nodes
        ):
            return True
    return False
