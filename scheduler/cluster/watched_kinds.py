"""The kinds that are watched: nodes, pods, disruption budgets, and objects that state gangs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from scheduler.cluster.api.discovery import Served
from scheduler.cluster.ledger import Cluster
from scheduler.cluster.watched import WatchedKind
from scheduler.core.errors import InvalidInput
from scheduler.core.model import GangKey
from scheduler.kube.disruption import BudgetObject, budget_decoder
from scheduler.kube.objects import (
    GroupObject,
    NodeObject,
    group_decoder,
    node_decoder,
)
from scheduler.kube.peers import RuledPod, ruled_pod_decoder
from scheduler.kube.pod_requests import has_ended, pod_request, pod_uid
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.rule_context import CONTEXT_DECODERS, CONTEXT_PATHS
from scheduler.kube.salvage import REQUEST, InPart
from scheduler.kube.volumes import key_of
from scheduler.kube.workloads import Stated, statements

__all__ = ["Budgets", "GangObjects", "Nodes", "Pods", "RuleObjects"]

_RUNNING = "status.phase!=Succeeded,status.phase!=Failed"


class Nodes(WatchedKind[NodeObject]):
    """Nodes, by name."""

    label, path, decoder = "nodes", "/api/v1/nodes", node_decoder

    def identity(self, obj: NodeObject) -> str:
        """Its name."""
        return obj.metadata.name

    def apply(self, cluster: Cluster, obj: NodeObject) -> None:
        """Describe the node anew."""
        cluster.live.node(obj)

    def remove(self, cluster: Cluster, identity: str) -> None:
        """Take the node out; its pods stay known."""
        cluster.live.node_gone(identity)

    def known(self, cluster: Cluster) -> Collection[str]:
        """Names."""
        return cluster.live.node_names()

    def is_right(self, cluster: Cluster, obj: NodeObject) -> bool:
        """Whether the state has a row for it."""
        return obj.metadata.name in cluster.engine.state.row_of


class Pods(WatchedKind[RuledPod]):
    """Pods that have not ended, by uid.

    Parameters
    ----------
    names
        Resource names and labels.
    """

    label, path, decoder, selector = "pods", "/api/v1/pods", ruled_pod_decoder, _RUNNING

    def __init__(self, names: ResourceNames) -> None:
        self._names = names

    def identity(self, obj: RuledPod) -> str:
        """Its uid."""
        return pod_uid(obj)

    def apply(self, cluster: Cluster, obj: RuledPod) -> None:
        """Charge the pod where it runs, or know that it waits; others have to heed its rules."""
        try:
            cluster.live.pod(obj)
        finally:
            self._keep_rules(cluster, obj)

    def apply_part(self, cluster: Cluster, part: InPart[RuledPod]) -> None:
        """What was known of the pod stays, where it was.

        Where nothing was, it is charged what can be read of its request; if that is not all of it,
        its node's devices are withheld meanwhile.
        """
        obj = part.obj
        pod = cluster.live.pods.get(pod_uid(obj))
        if pod is not None and pod.node == obj.spec.node_name and not has_ended(obj):
            return
        try:
            if part.lacks(*REQUEST):
                cluster.live.pod_in_part(obj)
            else:
                cluster.live.pod(obj)
        finally:
            self._keep_rules(cluster, obj)

    @staticmethod
    def _keep_rules(cluster: Cluster, obj: RuledPod) -> None:
        """What others have to heed of a pod is kept as long as the pod is known."""
        uid = pod_uid(obj)
        if uid in cluster.live.pods or uid in cluster.live.pending:
            cluster.rules.kept.keep(obj)

    def remove(self, cluster: Cluster, identity: str) -> None:
        """Give its room back."""
        cluster.live.pod_gone(identity)

    def known(self, cluster: Cluster) -> Collection[str]:
        """Uids of pods with and without a node."""
        return cluster.live.pod_uids()

    def where(self, cluster: Cluster, identity: str) -> tuple[str, str]:
        """Namespace and name, empty if there is no such pod."""
        pod = cluster.live.pods.get(identity)
        request = pod.request if pod is not None else cluster.live.pending.get(identity)
        return (request.namespace, request.name) if request is not None else ("", "")

    def is_right(self, cluster: Cluster, obj: RuledPod) -> bool:
        """Whether the pod is known where it is, and charged what it asks for."""
        uid, node = pod_uid(obj), obj.spec.node_name
        pod = cluster.live.pods.get(uid)
        if not node:
            return uid in cluster.live.pending or pod is not None
        if pod is None or pod.node != node:
            return False
        state = cluster.engine.state
        placed = state.placements.get(uid)
        if placed is None or placed.node != node:
            return node not in state.row_of  # it is charged when its node is known
        try:
            wanted = pod_request(obj, self._names, cluster.live.groups)
        except InvalidInput:
            return True  # it is charged all the same, and that is noted
        return placed.pod.shape == wanted.shape

    def has_ended(self, obj: RuledPod) -> bool:
        """Whether it has succeeded or failed."""
        return has_ended(obj)


class Budgets(WatchedKind[BudgetObject]):
    """PodDisruptionBudgets, by ``namespace/name``."""

    label = "poddisruptionbudgets"
    path, decoder = "/apis/policy/v1/poddisruptionbudgets", budget_decoder

    def identity(self, obj: BudgetObject) -> str:
        """``namespace/name``."""
        return obj.key

    def apply(self, cluster: Cluster, obj: BudgetObject) -> None:
        """Remember the budget for preemptions."""
        cluster.live.budgets[obj.key] = obj

    def remove(self, cluster: Cluster, identity: str) -> None:
        """Forget it."""
        cluster.live.budgets.pop(identity, None)

    def known(self, cluster: Cluster) -> Collection[str]:
        """Keys."""
        return cluster.live.budgets


class GangObjects(WatchedKind[GroupObject]):
    """Objects of one kind that state what gangs need, by ``namespace/name``.

    Parameters
    ----------
    name
        Plural and group, as configured.
    served
        Where the API serves the kind.
    """

    decoder = group_decoder

    def __init__(self, name: str, served: Served) -> None:
        self.label, self.path = name, served.path
        self._served = served
        self._stated: dict[str, dict[GangKey, Stated]] = {}

    def identity(self, obj: GroupObject) -> str:
        """``namespace/name``."""
        return f"{obj.metadata.namespace or 'default'}/{obj.metadata.name}"

    def apply(self, cluster: Cluster, obj: GroupObject) -> None:
        """Take what the object states for the truth about its gangs."""
        content = {
            "kind": self._served.kind,
            "apiVersion": self._served.api_version,
            "metadata": {"name": obj.metadata.name, "namespace": obj.metadata.namespace},
            "spec": obj.spec or {},
        }
        stated = self._stated[self.identity(obj)] = statements(content)
        cluster.live.group(stated)

    def remove(self, cluster: Cluster, identity: str) -> None:
        """Nothing states this any more."""
        cluster.live.group_gone(self._stated.pop(identity, {}))

    def known(self, cluster: Cluster) -> Collection[str]:  # noqa: ARG002 - kept here
        """Keys."""
        return self._stated


class RuleObjects(WatchedKind[Any]):
    """What rules of pods refer to: only dry runs ask for it, and only they miss it.

    Parameters
    ----------
    kind
        One of :data:`scheduler.kube.rule_context.CONTEXT_PATHS`.
    """

    optional = True

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.path, self.decoder = CONTEXT_PATHS[kind], CONTEXT_DECODERS[kind]
        self.label = self.path.rpartition("/")[-1]

    def identity(self, obj: Any) -> str:  # noqa: ANN401 - of the kind
        """``namespace/name``, or the name where there is no namespace."""
        return key_of(obj.metadata, self._kind)

    def apply(self, cluster: Cluster, obj: Any) -> None:  # noqa: ANN401 - of the kind
        """Remember the object."""
        cluster.rules.context.put(self._kind, obj)

    def remove(self, cluster: Cluster, identity: str) -> None:
        """Forget it."""
        cluster.rules.context.drop(self._kind, identity)

    def known(self, cluster: Cluster) -> Collection[str]:
        """Keys."""
        return cluster.rules.context.keys(self._kind)

    def is_right(self, cluster: Cluster, obj: Any) -> bool:  # noqa: ANN401, ARG002 - of the kind
        """Always: what is known of it is charged nowhere."""
        return True

    def whole(self, cluster: Cluster) -> None:
        """Rules can be told from now on."""
        cluster.rules.context.listed(self._kind)

    def unlistable(self, cluster: Cluster) -> None:
        """Rules cannot be told any more."""
        cluster.rules.context.unlistable(self._kind)
