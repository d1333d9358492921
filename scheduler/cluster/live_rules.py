"""What a dry run has to know that kube-scheduler decides before it asks anything else.

Rules between pods, host ports, and where volumes can be had: by the code that plans and simulations
of files use, on what a live cluster tells. What nobody can tell, for lack of a right or of a kind
that is served, is said in the answer and closes no node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster.dryruns import Look
from scheduler.cluster.verdicts import RequestedNodes
from scheduler.core.model import Node, PodRequest, Reason
from scheduler.core.omissions import NotConsidered
from scheduler.core.state import ClusterState
from scheduler.kube.kept_rules import Company, KeptRules
from scheduler.kube.nodes import node_of
from scheduler.kube.objects import NodeObject
from scheduler.kube.observed import ObservedPod
from scheduler.kube.peers import Namespaces, RuledPod, peer_of
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.rule_context import DRIVER_LIMITS, NO_NAMESPACES, RuleContext

__all__ = ["Asked", "LiveRules", "new_nodes"]

_TOO_LONG = "rules of other pods that are too long to be kept"
_OF_A_FILE = "rules between pods, host ports and volumes, as the cluster comes from a file"
_EFFECT = "nodes pass as if it were met"
_FITS = Reason.FITS.code


@dataclass(frozen=True, slots=True)
class Asked:
    """A pod that a dry run is about.

    Parameters
    ----------
    request
        What it asks for, with where its volumes can be had.
    rules
        What is not considered, in words.
    unmet
        Why the pod has to wait wherever it goes; empty if it has not.
    company
        Which pods are where; None where rules are unknown.
    namespaces
        Labels of namespaces by name.
    """

    request: PodRequest
    rules: tuple[str, ...] = (_OF_A_FILE,)
    unmet: str = ""
    company: Company | None = None
    namespaces: Namespaces = field(default_factory=dict)

    def close(self, found: Look, rows: NDArray[np.int64], new: Mapping[int, Node]) -> None:
        """Write into what has been found about R nodes which of them are closed by rules.

        Parameters
        ----------
        found
            Of the nodes that fit, those are closed; what is not considered is added.
        rows
            Rows of the nodes, -1 for those that do not exist, (R,).
        new
            Descriptions of these, by position.
        """
        rules, company = list(self.rules), self.company
        if company is not None:
            if company.uncertain(self.request, self.namespaces):
                rules.append(NO_NAMESPACES)
            by_row, alone = company.codes(self.request, self.namespaces, list(new.values()))
            ruled = np.full(len(rows), _FITS, dtype=np.int8)
            ruled[rows >= 0] = by_row[rows[rows >= 0]]
            ruled[list(new)] = alone
            closed = (found.codes == _FITS) & (ruled != _FITS)
            found.codes[closed] = ruled[closed]
        found.message = self.unmet
        found.omissions += tuple(
            NotConsidered(rule, (self.request.key,), _EFFECT) for rule in dict.fromkeys(rules)
        )


def new_nodes(
    objects: Sequence[NodeObject], asked: RequestedNodes, names: ResourceNames
) -> dict[int, Node]:
    """Nodes of a question that do not exist yet, by position, where they came as objects."""
    unknown = asked.unknown if objects else ()
    return {at: replace(node_of(objects[at], names), name=f"template-{at}") for at in unknown}


class LiveRules:
    """What a live cluster tells about rules. Used with the lock held.

    Attributes
    ----------
    context : RuleContext
        What rules refer to.
    kept : KeptRules
        Of the pods that exist, what others have to heed.
    """

    def __init__(self) -> None:
        self.context, self.kept = RuleContext(), KeptRules()

    def asked(
        self,
        pod: RuledPod,
        request: PodRequest,
        state: ClusterState,
        facts: Mapping[str, ObservedPod],
    ) -> Asked:
        """The rules of a pod, and all other pods that they are about.

        Parameters
        ----------
        pod, request
            The object, and what it asks for.
        state
            Says which pods are where, expected ones included.
        facts
            Pods that have a node, by uid.
        """
        reading, namespaces = self.context.reading(pod), dict(self.context.namespaces)
        rules = list(reading.unknown)
        if reading.attaches:
            rules.append(DRIVER_LIMITS)
        if self.kept.too_long:
            rules.append(_TOO_LONG)
        peer = peer_of(pod, namespaces, reading.exclusive, wary=False)
        selection = replace(request.selection, volumes=reading.nodes)
        request = replace(request, peer=peer, selection=selection)
        company = self.kept.beside(request, state, facts)
        return Asked(request, tuple(rules), reading.unmet, company, namespaces)
