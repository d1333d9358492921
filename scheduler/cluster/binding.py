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
from collections.abc import Callable

from scheduler.cluster.api.client import KubeClient, pod_path
from scheduler.cluster.service import ExtenderService
from scheduler.core.engine import Engine, Hold
from scheduler.core.errors import (
    CapacityConflict,
    InvalidInput,
    KubeApiError,
    SchedulerError,
    UnknownNode,
)
from scheduler.core.model import Placement, PodRequest
from scheduler.kube.device_annotation import binding_annotations
from scheduler.kube.mirror import Mirror, has_ended
from scheduler.kube.objects import PodObject, pod_decoder
from scheduler.kube.pod_requests import pod_uid
from scheduler.kube.sharing.table import gpushare_annotations
from scheduler.webhook.protocol import BindArgs

__all__ = ["Binder"]

log = logging.getLogger(__name__)

_RESULTS: dict[type[SchedulerError], str] = {
    CapacityConflict: "no_room",
    UnknownNode: "no_room",
    InvalidInput: "conflict",
    KubeApiError: "unknown",
}
_LEAST_S = 0.05
_BUSY_S = 0.2  # between two attempts at a busy API server
_CONFIRMED_WITHIN_S = 30.0


class Binder:
    """Binds pods through the API.

    Parameters
    ----------
    service
        Owns the engine.
    mirror
        Learns what the API says of a pod; used within ``service.exclusive()`` only.
    client
        The API.
    deadline_s
        Longest time of one call; below kube-scheduler's ``httpTimeout``.
    clock
        Monotonic seconds.

    Attributes
    ----------
    assumed : dict of str to float
        Reservations that the watch has not confirmed yet, by uid, with the time by which it
        should have. Used within ``service.exclusive()`` only.
    results : Counter of str
        Calls by what became of them.
    """

    def __init__(
        self,
        service: ExtenderService,
        mirror: Mirror,
        client: KubeClient,
        *,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.assumed: dict[str, float] = {}
        self.results: Counter[str] = Counter()
        self._service, self._mirror, self._client = service, mirror, client
        self._deadline_s, self._clock = deadline_s, clock
        self._counting = threading.Lock()

    def bind(self, args: BindArgs) -> str:
        """Bind the pod; returns an error text, empty on success. Repeating it is harmless."""
        deadline = self._clock() + self._deadline_s
        try:
            placement, annotations = self._reserve(args, deadline)
        except SchedulerError as error:
            return self._failed(_RESULTS.get(type(error), "fault"), str(error))
        if placement is None:
            return self._succeeded("already")
        content = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": args.name, "uid": args.uid, "annotations": annotations},
            "target": {"apiVersion": "v1", "kind": "Node", "name": args.node},
        }
        try:
            self._post(args, content, deadline)
        except KubeApiError as error:
            return self._resolve(args, error, deadline)
        with self._service.exclusive():
            self._mirror.bound_here(placement)
        return self._succeeded("bound")

    # -- what is still open ------------------------------------------------------------------

    def overdue(self) -> list[PodRequest]:
        """Pods whose reservation the watch should have confirmed by now."""
        with self._service.exclusive() as engine:
            now = self._clock()
            for uid in list(self.assumed):
                if uid in self._mirror.facts or uid not in engine.state.placements:
                    del self.assumed[uid]
            late = [uid for uid, at in self.assumed.items() if at <= now]
            return [engine.state.placements[uid].pod for uid in late]

    def read(self, pod: PodRequest, *, read_s: float = 5.0) -> None:
        """Settle by the API what became of a held or reserved pod.

        Raises
        ------
        KubeApiError
            The API does not say; nothing has changed.
        """
        with self._service.exclusive() as engine:
            before = self._claim(engine, pod.uid)
        obj = self._get(pod.namespace, pod.name, read_s)
        with self._service.exclusive() as engine:
            if obj is None or pod_uid(obj) != pod.uid or has_ended(obj):
                self._mirror.pod_gone(pod.uid)
            elif obj.spec.node_name:
                self._mirror.pod(obj)
            elif self._claim(engine, pod.uid) != before:
                return  # held or reserved anew in the meantime: what was read says nothing of that
            elif pod.uid in engine.holds:
                engine.drop_hold(pod.uid)
            elif pod.uid in self.assumed and pod.uid in engine.state.placements:
                self._undo(engine, pod.uid)
            self.assumed.pop(pod.uid, None)

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
        with self._service.exclusive():
            self._mirror.pod_gone_for_good(pod.uid)
        return True

    # -- inside ------------------------------------------------------------------------------

    def _claim(self, engine: Engine, uid: str) -> tuple[float | None, Hold | None]:
        """What stands for the pod beyond the facts, to notice that it has changed."""
        return self.assumed.get(uid), engine.holds.get(uid)

    def _reserve(self, args: BindArgs, deadline: float) -> tuple[Placement | None, dict[str, str]]:
        """Choose devices and charge them; None if it is bound there, and what is to be recorded."""
        service = self._service
        with service.exclusive() as engine:
            request = service.seen(args.uid)
            placed = engine.state.placements.get(args.uid)
            unclear = args.uid in self.assumed and placed is not None and placed.node != args.node
            known = args.uid in self._mirror.facts
        if not known and request is None:
            request = self._fetch(args, deadline)
        elif unclear and request is not None:
            # An earlier call for another node had no clear end.
            self.read(request, read_s=self._left(deadline))
        with service.exclusive() as engine:
            fact = self._mirror.facts.get(args.uid)
            if fact is not None and fact.node == args.node:
                return None, {}
            if fact is not None or request is None:
                raise InvalidInput(
                    f"pod {args.namespace}/{args.name}",
                    f"is bound to {fact.node} already" if fact else "does not exist any more",
                )
            placement = service.reserve(request, args.node)
            self.assumed[args.uid] = self._clock() + _CONFIRMED_WITHIN_S
            node = engine.state.nodes[engine.state.row(args.node)]
        assert node is not None  # something has just been placed there
        names = service.names
        record = binding_annotations(placement, names)
        return placement, record | gpushare_annotations(placement, node, names, time.time_ns())

    def _fetch(self, args: BindArgs, deadline: float) -> PodRequest | None:
        """A pod that never asked us: kube-scheduler did before we were started."""
        obj = self._get(args.namespace, args.name, self._left(deadline))
        if obj is None or pod_uid(obj) != args.uid or has_ended(obj):
            return None
        with self._service.exclusive():
            self._mirror.pod(obj)
            return self._service.seen(args.uid)

    def _post(self, args: BindArgs, content: object, deadline: float) -> None:
        """Write the binding, again where the API server was too busy to look at it."""
        path = f"{pod_path(args.namespace, args.name)}/binding"
        while True:
            # Half of the time is kept for finding out what became of a call without an answer.
            read_s = max(_LEAST_S, self._left(deadline) / 2)
            try:
                self._client.post(path, content, read_s=read_s)
            except KubeApiError as error:
                # It asks for a pause of a second at least, which is most of what we have.
                if error.status != 429 or self._left(deadline) / 2 < _BUSY_S:
                    raise
                time.sleep(_BUSY_S)
            else:
                return

    def _resolve(self, args: BindArgs, error: KubeApiError, deadline: float) -> str:
        """Find out what became of a binding that was not answered with success."""
        unknown = error.status == 0 or error.status >= 500  # 429 is said before anything is done
        if not unknown and error.status != 409:
            self._give_back(args)
            return self._failed("refused", str(error))
        try:
            obj = self._get(args.namespace, args.name, self._left(deadline))
        except KubeApiError as again:
            return self._failed("unknown", f"{error}; then {again}")
        if obj is None or pod_uid(obj) != args.uid:
            self._give_back(args)
            return self._failed("refused", "the pod does not exist any more")
        node = obj.spec.node_name
        if not node and unknown:
            # It may still arrive. The reservation stands until a later reading says otherwise.
            return self._failed("unknown", str(error))
        if not node:
            self._give_back(args)
            return self._failed("refused", str(error))
        with self._service.exclusive():
            self._mirror.pod(obj)
            self.assumed.pop(args.uid, None)
        if node == args.node:
            return self._succeeded("already")
        return self._failed("conflict", f"the pod is bound to {node} already")

    def _give_back(self, args: BindArgs) -> None:
        with self._service.exclusive() as engine:
            self.assumed.pop(args.uid, None)
            if args.uid not in self._mirror.facts and args.uid in engine.state.placements:
                self._undo(engine, args.uid)

    def _undo(self, engine: Engine, uid: str) -> None:
        pod = engine.state.placements[uid].pod
        engine.release(uid)
        self._service.unreserved(pod)

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
        except KubeApiError as error:
            if error.status == 404:
                return None
            raise
