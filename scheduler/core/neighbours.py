"""Which nodes a pod may join, given who is there: the one place that decides it.

Semantics are those of kube-scheduler's filters InterPodAffinity, PodTopologySpread, NodePorts and
VolumeRestrictions. kube-scheduler applies them before it asks the webhook; here simulations, plans
and dry runs do.

Pods are counted per node by what rules can tell apart: who matches a selector, who has a term, who
holds a port. Pods of which all rules say the same form a *standing*; standing 0 is that of pods no
rule is about, and costs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import Node, NodeSelection, PodRequest, Reason, Toleration
from scheduler.core.peers import HostPort, Peer, PeerTerm, PodSelector, Spread
from scheduler.core.selection import selects, tolerates

__all__ = ["Apart", "Evenly", "Neighbours", "Rulebook", "Standing", "Together"]

IntArray = NDArray[np.int64]
CountArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]

_NODE, _CLUSTER = "\0node", "\0cluster"
"""Keys of no label: every node is a domain of its own; all nodes are one."""

_REPELLING = ("NoSchedule", "NoExecute")
_FITS = Reason.FITS.code


@dataclass(frozen=True, slots=True)
class Apart:
    """No pod of this trait may be in the same domain."""

    trait: int
    key: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Together:
    """Some pod of this trait must be in the same domain of every key.

    ``itself``: the pod has the trait, so that it may be the first.
    """

    trait: int
    keys: tuple[str, ...]
    itself: bool


@dataclass(frozen=True, slots=True, eq=False)
class Evenly:
    """Domains may not differ by more than ``skew`` pods of this trait.

    ``counted`` are the rows whose pods count, (N,); ``present`` the domains that have any.
    """

    trait: int
    key: str
    skew: int
    itself: bool
    counted: BoolArray
    present: IntArray
    empty_one: bool
    """Whether the least domain counts as empty, there being fewer than ``min_domains``."""


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """All that rules say of some pods: what they count as, and what they are subject to."""

    traits: tuple[int, ...]
    apart: tuple[Apart, ...] = ()
    together: Together | None = None
    evenly: tuple[Evenly, ...] = ()
    keyed: BoolArray | None = None
    """Rows that have the labels which the rules need; None if they need none."""

    @property
    def free(self) -> bool:
        """Whether no rule closes any row to these pods."""
        return not (self.apart or self.together or self.evenly)


class Rulebook:
    """The rules of a set of pods, worked out once; it knows nobody's place.

    Parameters
    ----------
    nodes
        A node per row; None for an empty row.
    pods
        Everybody who may be asked about, running or not; further ones have to have the same rules
        and labels as one of these.

    Attributes
    ----------
    standings : list of Standing
    readers : dict of int to list of int
        Standings whose rules count pods of a trait.
    """

    def __init__(self, nodes: Sequence[Node | None], pods: Iterable[PodRequest]) -> None:
        self.nodes = list(nodes)
        self._pods: dict[tuple[str, Peer], None] = {}
        for pod in pods:
            if pod.peer is not None:
                self._pods[pod.namespace, pod.peer] = None
        peers = [peer for _, peer in self._pods]
        self._traits: dict[object, int] = {}
        self._anti: dict[int, list[PeerTerm]] = defaultdict(list)
        self._ports: dict[tuple[int, str], list[HostPort]] = defaultdict(list)
        for port in sorted({port for peer in peers for port in peer.ports}):
            self._ports[port.port, port.protocol].append(port)
        self._selectors, self._spreading = self._all_selectors(peers)
        self._by_label = self._indexed()
        self._label_keys = {
            rule.key for selectors in self._selectors for one in selectors for rule in one.rules
        }
        self._domains: dict[str, IntArray] = {}
        self._eligible: dict[tuple[NodeSelection, bool, bool], BoolArray] = {}
        self._shown: dict[object, tuple[int, ...]] = {}
        self._known: dict[object, int] = {}
        self._by_uid: dict[str, int] = {}
        self._same: dict[object, int] = {}
        self.standings: list[Standing] = [Standing(())]
        self.readers: dict[int, list[int]] = defaultdict(list)

    def _all_selectors(
        self, peers: Iterable[Peer]
    ) -> tuple[list[tuple[PodSelector, ...]], set[PodSelector]]:
        """Sets of selectors all of which a pod may match, and those that spread is about."""
        found: dict[tuple[PodSelector, ...], None] = {}
        spreading: dict[PodSelector, None] = {}
        for peer in peers:
            for term in peer.anti_affinity:
                trait = self._trait("pods", (term.selector,))
                if term not in self._anti[trait]:
                    self._anti[trait].append(term)
                found[term.selector,] = None
            if peer.affinity:
                found[tuple(term.selector for term in peer.affinity)] = None
            spreading.update((spread.selector, None) for spread in peer.spread)
        found.update(((selector,), None) for selector in spreading)
        return list(found), set(spreading)

    def _indexed(self) -> dict[tuple[str, str] | None, list[int]]:
        """Positions of sets of selectors by a label that a pod has to have; None if by none."""
        found: dict[tuple[str, str] | None, list[int]] = defaultdict(list)
        for position, selectors in enumerate(self._selectors):
            rules = (rule for one in selectors for rule in one.rules if rule.operator == "In")
            needed = next(rules, None)
            if needed is None:
                found[None].append(position)
            else:
                for value in set(needed.values):
                    found[needed.key, value].append(position)
        return found

    def _trait(self, *what: object) -> int:
        return self._traits.setdefault(what, len(self._traits))

    @property
    def traits(self) -> int:
        """How many there are as yet."""
        return len(self._traits)

    def domain(self, key: str) -> IntArray:
        """Domain of each row under a topology key, -1 without that label, (N,)."""
        found = self._domains.get(key)
        if found is None:
            values: dict[str, int] = {}
            rows = range(len(self.nodes))
            codes = [
                -1
                if node is None
                else row
                if key == _NODE
                else 0
                if key == _CLUSTER
                else values.setdefault(node.labels[key], len(values))
                if key in node.labels
                else -1
                for row, node in zip(rows, self.nodes, strict=True)
            ]
            found = self._domains[key] = np.array(codes, dtype=np.int64)
        return found

    def standing(self, pod: PodRequest) -> int:
        """Number of the pod's standing; pods of one standing are interchangeable to all rules."""
        peer = pod.peer
        if peer is None:
            return 0
        seen = self._by_uid.get(pod.uid)
        if seen is not None:
            return seen
        selection = pod.selection if peer.spread else None
        known = (pod.namespace, peer, selection)
        number = self._known.get(known)
        if number is None:
            number = self._known[known] = self._made(pod, peer)
        self._by_uid[pod.uid] = number
        return number

    # -- working out -------------------------------------------------------------------------

    def _made(self, pod: PodRequest, peer: Peer) -> int:
        shown = {key: value for key, value in peer.labels if key in self._label_keys}
        traits = self._traits_of(pod.namespace, shown, leaving=peer.leaving)
        traits += tuple(self._trait("owner", term) for term in peer.anti_affinity)
        traits += tuple(self._trait("port", port) for port in peer.ports)
        traits += tuple(self._trait("claim", claim) for claim in peer.claims)
        traits += tuple(self._trait("disk", *disk) for disk in peer.disks)
        traits = tuple(sorted(set(traits)))
        apart = self._apart(peer, traits)
        together = self._together(peer, traits)
        selection = pod.selection if peer.spread else None
        same = (traits, apart, together, peer.spread, selection)
        if not (traits or apart or together or peer.spread):
            return 0
        number = self._same.get(same)
        if number is None:
            keys = [term.topology_key for term in peer.affinity]
            keys += [spread.topology_key for spread in peer.spread]
            keyed = np.logical_and.reduce([self.domain(key) >= 0 for key in keys]) if keys else None
            evenly = tuple(self._evenly(one, pod, keyed) for one in peer.spread)
            number = self._same[same] = len(self.standings)
            self.standings.append(Standing(traits, apart, together, evenly, keyed))
            read = {rule.trait for rule in apart} | {rule.trait for rule in evenly}
            for trait in read | ({together.trait} if together else set()):
                self.readers[trait].append(number)
        return number

    def _traits_of(
        self, namespace: str, labels: Mapping[str, str], *, leaving: bool
    ) -> tuple[int, ...]:
        shown = (namespace, tuple(sorted(labels.items())), leaving)
        found = self._shown.get(shown)
        if found is None:
            matching: list[int] = []
            positions = [*self._by_label.get(None, ())]
            for pair in labels.items():
                positions += self._by_label.get(pair, ())
            for position in sorted(positions):
                selectors = self._selectors[position]
                if all(one.selects(namespace, labels) for one in selectors):
                    matching.append(self._trait("pods", selectors))
                    if not leaving and len(selectors) == 1 and selectors[0] in self._spreading:
                        matching.append(self._trait("staying", selectors[0]))
            found = self._shown[shown] = tuple(matching)
        return found

    def _apart(self, peer: Peer, traits: tuple[int, ...]) -> tuple[Apart, ...]:
        found: dict[Apart, None] = {}
        for term in peer.anti_affinity:
            trait = self._trait("pods", (term.selector,))
            found[Apart(trait, term.topology_key, Reason.POD_ANTI_AFFINITY)] = None
        for trait in traits:
            for term in self._anti.get(trait, ()):
                owner = self._trait("owner", term)
                found[Apart(owner, term.topology_key, Reason.POD_ANTI_AFFINITY)] = None
        for port in peer.ports:
            for other in self._ports[port.port, port.protocol]:
                if port.conflicts(other):
                    trait = self._trait("port", other)
                    found[Apart(trait, _NODE, Reason.HOST_PORT_TAKEN)] = None
        for claim in peer.claims:
            found[Apart(self._trait("claim", claim), _CLUSTER, Reason.VOLUME_IN_USE)] = None
        for name, reads in peer.disks:
            for other_reads in (False,) if reads else (False, True):
                trait = self._trait("disk", name, other_reads)
                found[Apart(trait, _NODE, Reason.VOLUME_IN_USE)] = None
        return tuple(found)

    def _together(self, peer: Peer, traits: tuple[int, ...]) -> Together | None:
        if not peer.affinity:
            return None
        trait = self._trait("pods", tuple(term.selector for term in peer.affinity))
        keys = tuple(dict.fromkeys(term.topology_key for term in peer.affinity))
        return Together(trait, keys, trait in traits)

    def _evenly(self, spread: Spread, pod: PodRequest, keyed: BoolArray | None) -> Evenly:
        assert keyed is not None  # the constraint's own key is among those that are needed
        counted = keyed & self._included(spread, pod.selection)
        present = np.unique(self.domain(spread.topology_key)[counted])
        peer = pod.peer
        assert peer is not None  # it has the constraint
        itself = spread.selector.selects(pod.namespace, dict(peer.labels))
        return Evenly(
            self._trait("staying", spread.selector),
            spread.topology_key,
            spread.max_skew,
            itself,
            counted,
            present,
            len(present) < max(1, spread.min_domains),
        )

    def _included(self, spread: Spread, selection: NodeSelection) -> BoolArray:
        """Rows that count by the inclusion policies of a constraint, (N,)."""
        asked = (
            selection if spread.honours_selection else NodeSelection(),
            selection.tolerations if spread.honours_taints else (),
        )
        key = (
            NodeSelection(asked[0].node_selector, asked[0].terms, asked[1]),
            spread.honours_selection,
            spread.honours_taints,
        )
        found = self._eligible.get(key)
        if found is None:
            found = self._eligible[key] = np.array(
                [
                    node is not None
                    and selects(key[0], node)
                    and (not spread.honours_taints or _tolerated(node, asked[1]))
                    for node in self.nodes
                ],
                dtype=bool,
            )
        return found


def _tolerated(node: Node, tolerations: tuple[Toleration, ...]) -> bool:
    return all(
        any(tolerates(one, taint) for one in tolerations)
        for taint in node.taints
        if taint.effect in _REPELLING
    )


class Neighbours:
    """Who is where, as far as rules tell; says which rows are open to whom.

    Parameters
    ----------
    rules
        Shared by all copies.
    """

    def __init__(self, rules: Rulebook) -> None:
        self.rules = rules
        self._counts: dict[int, CountArray] = {}
        self._shared: set[int] = set()  # with copies, until one of them changes it
        self._codes: dict[int, NDArray[np.int8]] = {}

    @classmethod
    def among(
        cls,
        nodes: Sequence[Node | None],
        pods: Iterable[PodRequest],
        placed: Iterable[tuple[PodRequest, int]] = (),
    ) -> Neighbours | None:
        """Of these pods, some of them in place; None if nobody has a rule of that kind."""
        everybody = list(pods)
        if not any(pod.peer is not None and pod.peer.ruled for pod in everybody):
            return None
        made = cls(Rulebook(nodes, everybody))
        for pod, row in placed:
            made.add(pod, row)
        return made

    def fork(self) -> Neighbours:
        """A copy that shares nothing that is written to."""
        twin = Neighbours(self.rules)
        twin._counts, twin._shared = dict(self._counts), set(self._counts)
        self._shared = set(self._counts)
        return twin

    # -- who is where ------------------------------------------------------------------------

    def add(self, pod: PodRequest, row: int) -> None:
        """A pod is on a row."""
        self._change(pod, row, 1)

    def remove(self, pod: PodRequest, row: int) -> None:
        """A pod is no longer there."""
        self._change(pod, row, -1)

    def _change(self, pod: PodRequest, row: int, sign: int) -> None:
        for trait in self.of(pod).traits:
            counts = self._counts.get(trait)
            if counts is None:
                counts = self._counts[trait] = np.zeros(len(self.rules.nodes), dtype=np.int32)
            elif trait in self._shared:
                counts = self._counts[trait] = counts.copy()
                self._shared.discard(trait)
            counts[row] += sign
            for number in self.rules.readers.get(trait, ()):
                self._codes.pop(number, None)

    def of(self, pod: PodRequest) -> Standing:
        """The pod's standing."""
        return self.rules.standings[self.rules.standing(pod)]

    def count(self, trait: int) -> CountArray:
        """Pods of a trait by row, (N,); not to be written to."""
        found = self._counts.get(trait)
        return np.zeros(len(self.rules.nodes), dtype=np.int32) if found is None else found

    # -- who may join ------------------------------------------------------------------------

    def codes(self, pod: PodRequest) -> NDArray[np.int8] | None:
        """Code of :class:`Reason` by row for a pod that is nowhere; None if all are open. (N,)

        The array is shared: nobody may write to it.
        """
        number = self.rules.standing(pod)
        standing = self.rules.standings[number]
        if standing.free:
            return None
        known = self._codes.get(number)
        if known is None:
            known = self._codes[number] = self._now(standing)
        return known

    def _now(self, standing: Standing) -> NDArray[np.int8]:
        codes = self.lasting(standing)
        for rule in standing.evenly:
            self._mark(codes, ~self._even(rule), Reason.SPREAD_EXCEEDED)
        if standing.together is not None:
            self._mark(codes, ~self._near(standing.together), Reason.POD_AFFINITY_UNMET)
        return codes

    def open(self, pod: PodRequest) -> BoolArray | None:
        """Rows that the pod may join, None if all, (N,)."""
        codes = self.codes(pod)
        return None if codes is None else codes == _FITS

    def admits(self, pod: PodRequest, row: int) -> Reason:
        """Whether the pod may join a row."""
        codes = self.codes(pod)
        return Reason.FITS if codes is None else Reason.of(int(codes[row]))

    def lasting(self, standing: Standing) -> NDArray[np.int8]:
        """As :meth:`codes`, of what no pod that comes later changes: conflicts and labels."""
        codes = np.zeros(len(self.rules.nodes), dtype=np.int8)
        if standing.keyed is not None:
            self._mark(codes, ~standing.keyed, Reason.TOPOLOGY_LABEL_MISSING)
        for rule in standing.apart:
            there = self._counts.get(rule.trait)
            if there is None or not there.any():
                continue
            domain = self.rules.domain(rule.key)
            taken = self._per_domain(rule.key, there) > 0
            self._mark(codes, (domain >= 0) & taken[domain], rule.reason)
        return codes

    @staticmethod
    def _mark(codes: NDArray[np.int8], rows: BoolArray, reason: Reason) -> None:
        codes[rows & (codes == _FITS)] = reason.code

    def _per_domain(self, key: str, counts: NDArray[np.integer]) -> IntArray:
        """Sums by domain; the last entry, for rows without the label, is 0."""
        domain = self.rules.domain(key)
        size = int(domain.max(initial=-1)) + 2
        # Of integers this small floats are exact.
        sums = np.bincount(np.where(domain < 0, size - 1, domain), counts, size).astype(np.int64)
        sums[-1] = 0
        return sums

    def _even(self, rule: Evenly) -> BoolArray:
        domain = self.rules.domain(rule.key)
        sums = self._per_domain(rule.key, np.where(rule.counted, self.count(rule.trait), 0))
        least = 0 if rule.empty_one else int(sums[rule.present].min())
        return np.asarray(sums[domain] + rule.itself - least <= rule.skew)

    def _near(self, rule: Together) -> BoolArray:
        there = self.count(rule.trait)
        rows = np.ones(len(there), dtype=bool)
        anybody = False
        for key in rule.keys:
            sums = self._per_domain(key, there)
            anybody |= bool(sums.any())
            rows &= sums[self.rules.domain(key)] > 0
        return np.ones(len(there), dtype=bool) if rule.itself and not anybody else rows

    # -- orders ------------------------------------------------------------------------------

    def bring(
        self, wanted: Sequence[tuple[PodRequest, int]]
    ) -> tuple[list[tuple[PodRequest, int]], list[tuple[PodRequest, int]]]:
        """Add pods in an order in which everybody is let in; those that nobody lets in are left.

        Pods of a standing go to their domains in turn, since an even spread asks for that.

        Returns
        -------
        done, left
            ``done`` in the order in which they were added.
        """
        done: list[tuple[PodRequest, int]] = []
        left = self._in_turn(wanted)
        before = len(left) + 1
        while len(left) < before:
            before, waiting = len(left), []
            for pod, row in left:
                if self.admits(pod, row) is Reason.FITS:
                    self.add(pod, row)
                    done.append((pod, row))
                else:
                    waiting.append((pod, row))
            left = waiting
        return done, left

    def _in_turn(self, wanted: Iterable[tuple[PodRequest, int]]) -> list[tuple[PodRequest, int]]:
        """Ordered by how many of the same standing go to the same domain before, then as given."""
        seen: dict[object, int] = defaultdict(int)
        turns: list[int] = []
        listed = list(wanted)
        for pod, row in listed:
            number = self.rules.standing(pod)
            evenly = self.rules.standings[number].evenly
            where = tuple(int(self.rules.domain(rule.key)[row]) for rule in evenly)
            turns.append(seen[number, where] if evenly else 0)
            seen[number, where] += 1
        order = sorted(range(len(listed)), key=lambda index: turns[index])
        return [listed[index] for index in order]
