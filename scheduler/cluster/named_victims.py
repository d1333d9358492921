"""Victims that we named: which are waited for, and which pods are evicted after them.

*Waited for*: kube-scheduler asks again as soon as its own watch tells it that the victims are gone.
If ours is a moment later, the node still looks full (:mod:`.awaited_victims`).

*Evicted after them*: a preempt answer names pods of one node. Members of their gangs elsewhere run
on for nothing: what started them has to end them, as most controllers do once a member fails, or
we evict them, if that is allowed (``evict_gangs``). Never before kube-scheduler has decided for the
node and one of the members that were named there is on its way out; until then it may still take
another node, or none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from scheduler.core.model import PodRequest
from scheduler.core.state import ClusterState

__all__ = ["NamedVictims", "OnNode"]

_MOST_VICTIMS = 200_000  # named for all pods together
_MOST_DUE = 20_000
_TRIED_FOR_S = 600.0


@dataclass(frozen=True, slots=True)
class OnNode:
    """Victims that were named on one node.

    Attributes
    ----------
    uids
        The pods.
    others
        Members of their gangs that run elsewhere, and are to go as well.
    members
        Those of ``uids`` whose gangs these are.
    """

    uids: tuple[str, ...]
    others: tuple[PodRequest, ...] = ()
    members: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Named:
    """What was named for one pod.

    Attributes
    ----------
    nominated
        The node that kube-scheduler has decided for; empty for none yet.
    going
        Members that are on their way out.
    missed
        When just these victims were first found to be missed, and whether that was certain.
    """

    by_node: Mapping[str, OnNode]
    nominated: str = ""
    going: set[str] = field(default_factory=set)
    missed: dict[tuple[frozenset[str], bool], float] = field(default_factory=dict)

    @property
    def nodes(self) -> Iterable[str]:
        """Where pods may be evicted, as far as is known."""
        return (self.nominated,) if self.nominated in self.by_node else self.by_node


class NamedVictims:
    """Victims by the pod that room is made for. Bounded in number.

    Parameters
    ----------
    most
        Pods remembered; the one that asked longest ago is forgotten first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: OrderedDict[str, _Named] = OrderedDict()
        self._victims = 0
        self._by_member: dict[str, set[str]] = {}
        self._due: OrderedDict[str, tuple[PodRequest, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._named)

    def __contains__(self, uid: object) -> bool:
        return uid in self._named

    def record(self, uid: str, by_node: Mapping[str, OnNode]) -> None:
        """These were named for a pod, by node; kube-scheduler takes one of the nodes, or none."""
        self.drop(uid)
        kept = {node: on for node, on in by_node.items() if on.uids}
        if not kept:
            return
        self._named[uid] = _Named(kept)
        self._victims += _count(kept)
        for on in kept.values():
            for member in on.members:
                self._by_member.setdefault(member, set()).add(uid)
        while len(self._named) > self._most or (
            self._victims > _MOST_VICTIMS and len(self._named) > 1
        ):
            self.drop(next(iter(self._named)))

    def drop(self, uid: str) -> None:
        """The pod has found its place, or is gone, and nothing more begins for its sake."""
        named = self._named.pop(uid, None)
        if named is not None:
            self._victims -= _count(named.by_node)
            self._forget_members(uid, named)

    # -- what happens to them ----------------------------------------------------------------

    def on_pod_nominated(self, uid: str, node: str, now: float) -> None:
        """kube-scheduler has decided for a node: no pod is evicted on the others."""
        named = self._named.get(uid)
        if named is not None:
            named.nominated = node
            self._begin(uid, named, now)

    def on_pod_leaving(self, victim: str, now: float) -> None:
        """A pod is being deleted, or is gone."""
        for uid in list(self._by_member.get(victim, ())):
            self._named[uid].going.add(victim)
            self._begin(uid, self._named[uid], now)

    def _begin(self, uid: str, named: _Named, now: float) -> None:
        """The others are due once the node is decided and a member that was named there goes."""
        on = named.by_node.get(named.nominated)
        if on is None or named.going.isdisjoint(on.members):
            return
        for pod in on.others:
            if len(self._due) < _MOST_DUE:
                self._due.setdefault(pod.uid, (pod, now))
        self._forget_members(uid, named)

    def _forget_members(self, uid: str, named: _Named) -> None:
        for on in named.by_node.values():
            for member in on.members:
                pods = self._by_member.get(member)
                if pods is not None:
                    pods.discard(uid)
                    if not pods:
                        del self._by_member[member]

    # -- which are still there ------------------------------------------------------------------

    def left(self, uid: str, state: ClusterState) -> dict[str, list[str]]:
        """Victims named for a pod that are still there, by node that exists."""
        named = self._named.get(uid)
        if named is None:
            return {}
        there = {
            node: [
                victim
                for victim in named.by_node[node].uids
                if (placed := state.placements.get(victim)) is not None and placed.node == node
            ]
            for node in named.nodes
            if node in state.row_of
        }
        return {node: victims for node, victims in there.items() if victims}

    def missed_since(self, uid: str, victims: Iterable[str], now: float, *, certain: bool) -> float:
        """When just these victims of a pod were first found to be missed in this way."""
        return self._named[uid].missed.setdefault((frozenset(victims), certain), now)

    # -- which are evicted after them -----------------------------------------------------------

    def due(self, now: float) -> list[PodRequest]:
        """Members of broken gangs that are to be evicted now."""
        for uid in [uid for uid, (_, since) in self._due.items() if now - since >= _TRIED_FOR_S]:
            del self._due[uid]  # its budget has not allowed it for so long: it stays
        return [pod for pod, _ in self._due.values()]

    def done(self, uid: str) -> None:
        """A member is evicted, or gone by itself."""
        self._due.pop(uid, None)


def _count(by_node: Mapping[str, OnNode]) -> int:
    return sum(len(on.uids) for on in by_node.values())
