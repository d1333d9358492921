"""The bind verb: devices chosen under the writer lock, written into the Binding itself.

The API server merges the annotations of a Binding into the pod in the very write that assigns the
node, and refuses a second Binding with 409. So there is no patch before and no lock: either a pod
has its node and its devices, or neither.

What the answer of the API means:

==========================  ==================================================================
2xx                         bound; the watch will tell, and until then the reservation stands
409, pod is on this node    bound by an earlier call: success, with the devices written then
409, pod is elsewhere       our reservation is forgotten, the truth recorded, an error returned
409, pod has no node        it is being deleted: the reservation is given back, an error returned
404, other 4xx              not bound; the reservation is given back, an error returned
no answer, 429, 5xx         unknown: the pod is read; if that does not settle it, an error is
                            returned and the reservation stands until a later reading does
==========================  ==================================================================

Every way ends before kube-scheduler's own time limit for the call.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from scheduler.cluster.api.client import KubeClient, pod_path
from scheduler.cluster.bind_request import BindRequest
from scheduler.cluster.ledger import Cluster, Ledger
from scheduler.cluster.reserving import reserve, unreserve
from scheduler.core.errors import (
    CapacityConflict,
    Conflict,
    InvalidInput,
    KubeApiError,
    NotFound,
    SchedulerError,
    TooManyRequests,
    UnknownNode,
)
from scheduler.core.model import Placement, PodRequest
from scheduler.core.reservations import Reservation
from scheduler.kube.device_annotation import binding_annotations
from scheduler.kube.objects import PodObject, pod_decoder
from scheduler.kube.pod_requests import has_ended, pod_uid
from scheduler.kube.sharing.table import gpushare_annotations

__all__ = ["Binder"]

log = logging.getLogger(__name__)

_LEAST_S = 0.05
_BUSY_S = 0.2  # between two attempts at a busy API server
_CONFIRMED_WITHIN_S = 30.0


class Binder:
    """Binds pods through the API.

    Parameters
    ----------
    ledger
        Of a live cluster.
    client
        The API.
    deadline_s
        Longest time of one call; below kube-scheduler's ``httpTimeout``.

    Attributes
    ----------
    results : Counter of str
        Calls by what became of them.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: KubeClient,
        *,
        deadline_s: float,
    ) -> None:
        self.results: Counter[str] = Counter()
        self._ledger, self._client = ledger, client
        self._deadline_s, self._clock = deadline_s, ledger.clock
        self._counting = threading.Lock()

    def bind(self, asked: BindRequest) -> str:
        """Bind the pod; returns an error text, empty on success. Repeating it is harmless."""
        deadline = self._clock() + self._deadline_s
        try:
            placement, annotations = self._reserve(asked, deadline)
        except SchedulerError as error:
            return self._failed(_result_of(error), str(error))
        if placement is None:
            return self._succeeded("already")
        content = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": asked.name, "uid": asked.uid, "annotations": annotations},
            "target": {"apiVersion": "v1", "kind": "Node", "name": asked.node},
        }
        try:
            self._post(asked, content, deadline)
        except KubeApiError as error:
            return self._resolve(asked, error, deadline)
        with self._ledger.locked() as cluster:
            cluster.live.charges.bound_here(placement)
        return self._succeeded("bound")

    # -- what is still open ------------------------------------------------------------------

    def overdue(self) -> list[PodRequest]:
        """Pods whose reservation the watch should have confirmed by now."""
        with self._ledger.locked(chore=True) as cluster:
            facts, placements = cluster.live.pods, cluster.engine.state.placements
            assumed = cluster.pods.assumed
            for uid in list(assumed):
                if uid in facts or uid not in placements:
                    del assumed[uid]
            late = [uid for uid, at in assumed.items() if at <= cluster.now]
            return [placements[uid].pod for uid in late]

    def read(self, pod: PodRequest, *, read_s: float = 5.0) -> None:
        """Settle by the API what became of a pod with a reservation or a binding.

        Raises
        ------
        KubeApiError
            The API does not say; nothing has changed.
        """
        with self._ledger.locked(chore=True) as cluster:
            before = _claim(cluster, pod.uid)
        obj = self._get(pod.namespace, pod.name, read_s)
        with self._ledger.locked(chore=True) as cluster:
            engine, assumed = cluster.engine, cluster.pods.assumed
            if obj is None or pod_uid(obj) != pod.uid or has_ended(obj):
                cluster.live.pod_gone(pod.uid)
            elif obj.spec.node_name:
                cluster.live.pod(obj)
            elif _claim(cluster, pod.uid) != before:
                return  # reserved anew in the meantime: what was read says nothing of that
            elif pod.uid in engine.reservations:
                engine.reservations.drop(pod.uid)
            elif pod.uid in assumed and pod.uid in engine.state.placements:
                unreserve(cluster, pod.uid)
            assumed.pop(pod.uid, None)

    def ask_end(self, pod: PodRequest, read_s: float) -> bool:
        """Whether a pod that had a node has ended by now, by the API; then it is known to be gone.

        Raises
        ------
        KubeApiError
            The API does not say; nothing has changed.
        """
        obj = self._get(pod.namespace, pod.name, max(_LEAST_S, read_s))
        if obj is not None and pod_uid(obj) == pod.uid and not has_ended(obj):
            return False
        with self._ledger.locked() as cluster:
            cluster.live.pod_gone_for_good(pod.uid)
        return True

    # -- inside ------------------------------------------------------------------------------

    def _reserve(
        self, asked: BindRequest, deadline: float
    ) -> tuple[Placement | None, dict[str, str]]:
        """Choose devices and charge them; None if it is bound there, and what is to be recorded."""
        with self._ledger.locked() as cluster:
            request = cluster.request_of(asked.uid)
            placed = cluster.engine.state.placements.get(asked.uid)
            assumed = asked.uid in cluster.pods.assumed
            unclear = assumed and placed is not None and placed.node != asked.node
            known = asked.uid in cluster.live.pods
        if not known and request is None:
            request = self._fetch(asked, deadline)
        elif unclear and request is not None:
            # An earlier call for another node had no clear end.
            self.read(request, read_s=self._left(deadline))
        with self._ledger.locked() as cluster:
            pod = cluster.live.pods.get(asked.uid)
            if pod is not None and pod.node == asked.node:
                return None, {}
            if pod is not None or request is None:
                raise InvalidInput(
                    f"pod {asked.key}",
                    f"is bound to {pod.node} already" if pod else "does not exist any more",
                )
            placement = reserve(cluster, request, asked.node)
            cluster.pods.assumed[asked.uid] = cluster.now + _CONFIRMED_WITHIN_S
            state = cluster.engine.state
            node = state.node(state.row(asked.node))
        names = self._ledger.names
        record = binding_annotations(placement, names)
        return placement, record | gpushare_annotations(placement, node, names, time.time_ns())

    def _fetch(self, asked: BindRequest, deadline: float) -> PodRequest | None:
        """A pod that never asked us: kube-scheduler did before we were started."""
        obj = self._get(asked.namespace, asked.name, self._left(deadline))
        if obj is None or pod_uid(obj) != asked.uid or has_ended(obj):
            return None
        with self._ledger.locked() as cluster:
            cluster.live.pod(obj)
            return cluster.request_of(asked.uid)

    def _post(self, asked: BindRequest, content: object, deadline: float) -> None:
        """Write the binding, again where the API server was too busy to look at it."""
        path = f"{pod_path(asked.namespace, asked.name)}/binding"
        while True:
            # Half of the time is kept for finding out what became of a call without an answer.
            read_s = max(_LEAST_S, self._left(deadline) / 2)
            try:
                self._client.post(path, content, read_s=read_s)
            except KubeApiError as error:
                # It asks for a pause of a second at least, which is most of what we have.
                if not isinstance(error, TooManyRequests) or self._left(deadline) / 2 < _BUSY_S:
                    raise
                time.sleep(_BUSY_S)
            else:
                return

    def _resolve(self, asked: BindRequest, error: KubeApiError, deadline: float) -> str:
        """Find out what became of a binding that was not answered with success."""
        unknown = error.outcome_unknown
        if not unknown and not isinstance(error, Conflict):
            self._give_back(asked)
            return self._failed("refused", str(error))
        try:
            obj = self._get(asked.namespace, asked.name, self._left(deadline))
        except KubeApiError as again:
            return self._failed("unknown", f"{error}; then {again}")
        if obj is None or pod_uid(obj) != asked.uid:
            self._give_back(asked)
            return self._failed("refused", "the pod does not exist any more")
        node = obj.spec.node_name
        if not node and unknown:
            # It may still arrive. The reservation stands until a later reading says otherwise.
            return self._failed("unknown", str(error))
        if not node:
            self._give_back(asked)
            return self._failed("refused", str(error))
        with self._ledger.locked() as cluster:
            cluster.live.pod(obj)
            cluster.pods.assumed.pop(asked.uid, None)
        if node == asked.node:
            return self._succeeded("already")
        return self._failed("conflict", f"the pod is bound to {node} already")

    def _give_back(self, asked: BindRequest) -> None:
        with self._ledger.locked() as cluster:
            cluster.pods.assumed.pop(asked.uid, None)
            placements = cluster.engine.state.placements
            if asked.uid not in cluster.live.pods and asked.uid in placements:
                unreserve(cluster, asked.uid)

    def _succeeded(self, result: str) -> str:
        with self._counting:
            self.results[result] += 1
        return ""

    def _failed(self, result: str, problem: str) -> str:
        with self._counting:
            self.results[result] += 1
        log.warning("bind: %s: %s", result, problem)
        return problem

    def _left(self, deadline: float) -> float:
        return max(_LEAST_S, deadline - self._clock())

    def _get(self, namespace: str, name: str, read_s: float) -> PodObject | None:
        try:
            return self._client.read(pod_path(namespace, name), pod_decoder, read_s=read_s)
        except NotFound:
            return None


def _result_of(error: SchedulerError) -> str:
    """What a call comes to that ends before anything was written."""
    match error:
        case CapacityConflict() | UnknownNode():
            return "no_room"
        case InvalidInput():
            return "conflict"
        case KubeApiError():
            return "unknown"
        case _:
            return "fault"


def _claim(cluster: Cluster, uid: str) -> tuple[float | None, Reservation | None]:
    """What stands for the pod beyond the facts, to notice that it has changed."""
    return cluster.pods.assumed.get(uid), cluster.engine.reservations.get(uid)
