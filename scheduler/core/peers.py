"""What pods ask of each other: affinity, spread, host ports, claims. Vocabulary only.

Simulations, plans and dry runs look at these rules; the webhook's other verbs do not, as
kube-scheduler decides them before it asks. A pod without any, in a cluster where nobody's rules are
about it, has no :class:`Peer` at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.core.model import Requirement

__all__ = ["HostPort", "Peer", "PeerTerm", "PodSelector", "Spread"]

Labels = tuple[tuple[str, str], ...]

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - what kube-scheduler takes a port without an address for


@dataclass(frozen=True, slots=True)
class PodSelector:
    """Pods by namespace and labels.

    Parameters
    ----------
    namespaces
        Their names; None stands for all of them. Nobody is in an empty tuple.
    rules
        All must match; operators are In, NotIn, Exists and DoesNotExist.
    """

    namespaces: tuple[str, ...] | None
    rules: tuple[Requirement, ...] = ()

    def selects(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether it is about a pod with these labels."""
        if self.namespaces is not None and namespace not in self.namespaces:
            return False
        return all(_holds(rule, labels) for rule in self.rules)


def _holds(rule: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(rule.key)
    match rule.operator:
        case "In":
            return value is not None and value in rule.values
        case "NotIn":
            return value is None or value not in rule.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False  # the API server admits no other operator


@dataclass(frozen=True, slots=True)
class PeerTerm:
    """One required term of pod affinity or anti-affinity."""

    selector: PodSelector
    topology_key: str


@dataclass(frozen=True, slots=True)
class Spread:
    """One topology spread constraint that must be met (``DoNotSchedule``).

    Parameters
    ----------
    selector
        Pods that are counted; their namespace is that of the pod.
    topology_key
        Nodes with the same value of this label are one domain.
    max_skew
        By how much a domain may exceed the least one.
    min_domains
        With fewer domains than these the least one counts as empty.
    honours_selection
        Whether only nodes count that the pod's node selector and affinity match.
    honours_taints
        Whether only nodes count whose taints the pod tolerates.
    """

    selector: PodSelector
    topology_key: str
    max_skew: int = 1
    min_domains: int = 1
    honours_selection: bool = True
    honours_taints: bool = False


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """A port of the node that a pod takes."""

    port: int
    protocol: str = "TCP"
    address: str = ANY_ADDRESS

    def conflicts(self, other: HostPort) -> bool:
        """Whether one node cannot give both."""
        return (self.port, self.protocol) == (other.port, other.protocol) and (
            self.address == other.address or ANY_ADDRESS in (self.address, other.address)
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """What a pod shows to the rules of others, and its own.

    Parameters
    ----------
    labels
        Sorted.
    affinity, anti_affinity
        Required terms.
    spread
        Constraints that must be met.
    ports
        Of the node.
    claims
        Claims that one pod of the cluster may use at a time (``ReadWriteOncePod``), by key.
    disks
        Disks that one pod of a node may use, by name, and whether this one only reads: readers
        may share them.
    leaving
        Whether it is being deleted: it holds what it has, but no longer counts for spread.
    """

    labels: Labels = ()
    affinity: tuple[PeerTerm, ...] = ()
    anti_affinity: tuple[PeerTerm, ...] = ()
    spread: tuple[Spread, ...] = ()
    ports: tuple[HostPort, ...] = ()
    claims: tuple[str, ...] = ()
    disks: tuple[tuple[str, bool], ...] = ()
    leaving: bool = False

    @property
    def ruled(self) -> bool:
        """Whether it has any rule of its own."""
        return bool(
            self.affinity
            or self.anti_affinity
            or self.spread
            or self.ports
            or self.claims
            or self.disks
        )
