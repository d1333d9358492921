"""The engine behind a lock: answers, holds, the decision log, offline placements.

Every answer is pure as far as a caller can see: repeated and reordered calls for a pod give the
same answer, because a pod's own hold never counts against it. A hold is put on the winner of an
answer so that two quick pods do not both count on the same hole; it expires by itself.

Decoding and encoding happen outside the lock; inside it there is only the engine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import INFEASIBLE, Engine
from scheduler.core.errors import InvalidInput, SchedulerError
from scheduler.core.metrics import ClusterMetrics, cluster_metrics
from scheduler.core.mix import MixLearner
from scheduler.core.model import Node, PodRequest, Reason
from scheduler.core.scoring import ranks
from scheduler.core.state import ClusterState
from scheduler.extender.config import ExtenderConfig
from scheduler.extender.wire import BindArgs, FilterArgs, PreemptArgs
from scheduler.kube.names import ResourceNames
from scheduler.kube.nodes import node_of
from scheduler.kube.pods import pod_request

__all__ = ["Decision", "ExtenderService", "FilterAnswer", "Ranking"]

log = logging.getLogger(__name__)

_TOP = 5
_METRICS_AGE_S = 5.0

# Reasons that kube-scheduler's own accounting notices too, so that its preemption dry run finds
# victims. Elsewhere it would find that the pod fits without any, and report an error (<= 1.37).
_SEEN_IN_TREE = np.zeros(len(Reason), dtype=bool)
for _reason in (
    Reason.INSUFFICIENT_CPU,
    Reason.INSUFFICIENT_MEMORY,
    Reason.INSUFFICIENT_PODS,
    Reason.INSUFFICIENT_DEVICES,
    Reason.INSUFFICIENT_FRACTION,
    Reason.INSUFFICIENT_MIG_SLOTS,
    Reason.INSUFFICIENT_REPLICAS,
):
    _SEEN_IN_TREE[_reason.code] = True
_TEXTS = [Reason.of(code).text for code in range(len(Reason))]


@dataclass(frozen=True, slots=True)
class FilterAnswer:
    """Positions of the passing names, and a message for each of the others."""

    passing: list[int]
    failed: dict[str, str]
    unresolvable: dict[str, str]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Names with their scores 0..10."""

    names: Sequence[str]
    scores: list[int]


@dataclass(frozen=True, slots=True)
class Decision:
    """One entry of the decision log."""

    at: float
    verb: str
    pod: str
    uid: str
    candidates: int
    reasons: dict[str, int]
    top: list[tuple[str, int]]
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "at": self.at,
            "verb": self.verb,
            "pod": self.pod,
            "uid": self.uid,
            "candidates": self.candidates,
            "reasons": self.reasons,
            "top": [{"node": node, "score": score} for node, score in self.top],
            "detail": self.detail,
        }


class ExtenderService:
    """Owns the engine.

    Parameters
    ----------
    engine
        Nobody else may touch it from now on.
    config
        Settings.
    offline
        The cluster comes from a file and bind is the truth.
    names
        Resource names and labels.
    clock
        Monotonic seconds; holds expire by it.
    on_verdicts
        Called with verb and reason counts after every answer, for metrics.
    """

    def __init__(
        self,
        engine: Engine,
        config: ExtenderConfig,
        *,
        offline: bool = True,
        names: ResourceNames | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.offline = offline
        self.names = names or ResourceNames()
        self.on_verdicts: Callable[[str, NDArray[np.int64]], None] = lambda _verb, _counts: None
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, PodRequest] = OrderedDict()
        self._decisions: deque[Decision] = deque(maxlen=config.decisions)
        self._learner = MixLearner(config.mix_half_life_pods)
        for placement in engine.state.placements.values():
            self._learner.observe(placement.pod)
        self._metrics: tuple[int, float, ClusterMetrics] | None = None
        self._metrics_lock = threading.Lock()

    # -- verbs -------------------------------------------------------------------------------

    def filter(self, args: FilterArgs) -> FilterAnswer:
        """Which of the named nodes can host the pod."""
        names = args.names
        try:
            request = pod_request(args.pod, self.names)
        except InvalidInput as error:
            return self._reject_all(args, error)
        with self._lock:
            engine = self._prepare(request)
            rows = engine.state.rows_of(names)
            codes = engine.filter(request, rows)
            curable = self._curable(request, rows, codes)
            passing = np.flatnonzero(codes == Reason.FITS.code).tolist()
            if len(names) != len(set(names)):
                passing = list(
                    {names[position]: position for position in reversed(passing)}.values()
                )
            if len(passing) == 1:  # kube-scheduler skips prioritize and takes it
                self._hold(engine, request, names[passing[0]])
        failed: dict[str, str] = {}
        unresolvable: dict[str, str] = {}
        for position in np.flatnonzero(codes).tolist():
            into = failed if curable[position] else unresolvable
            into[names[position]] = _TEXTS[codes[position]]
        self._record("filter", request.key, request.uid, codes)
        return FilterAnswer(passing, failed, unresolvable)

    def prioritize(self, args: FilterArgs) -> Ranking:
        """Scores 0..10 of the named nodes: the winner alone has 10."""
        names = args.names
        try:
            request = pod_request(args.pod, self.names)
        except InvalidInput as error:
            self._reject_all(args, error, verb="prioritize")
            return Ranking(names, [0] * len(names))
        with self._lock:
            engine = self._prepare(request)
            rows = engine.state.rows_of(names)
            known = np.flatnonzero(rows >= 0)
            known = known[np.argsort(rows[known], kind="stable")]
            scores = engine.scores(request, rows[known])
            feasible = known[scores != INFEASIBLE]
            ranked = np.zeros(len(names), dtype=np.int64)
            ranked[feasible] = ranks(scores[scores != INFEASIBLE])
            if len(feasible):
                self._hold(engine, request, names[int(ranked.argmax())])
        codes = np.where(ranked > 0, 0, -1)
        best = np.argsort(-ranked, kind="stable")[: max(_TOP, self.config.answer_top_k)]
        top = [(names[i], int(ranked[i])) for i in best[:_TOP].tolist()]
        self._record("prioritize", request.key, request.uid, codes[:0], top=top, asked=len(names))
        if self.config.answer_top_k:
            best = best[: self.config.answer_top_k]
            return Ranking([names[i] for i in best.tolist()], ranked[best].tolist())
        return Ranking(names, ranked.tolist())

    def bind(self, args: BindArgs) -> str:
        """Place the pod offline; returns an error text, empty on success."""
        if not self.offline:
            return "bind is not configured: let kube-scheduler bind"
        with self._lock:
            request = self._seen.get(args.uid)
            if request is None:
                problem = f"pod {args.namespace}/{args.name} is not known; call filter first"
            else:
                try:
                    self._engine.reserve(request, args.node)
                    problem = ""
                except SchedulerError as error:
                    problem = str(error)
        detail = problem or f"bound to {args.node}"
        empty = np.zeros(0, dtype=np.int8)
        self._record("bind", f"{args.namespace}/{args.name}", args.uid, empty, detail=detail)
        return problem

    def release(self, uid: str) -> None:
        """Take a pod off its node, offline; :class:`UnknownPod` if it is on none."""
        with self._lock:
            self._engine.release(uid)

    def preempt(self, args: PreemptArgs) -> dict[str, tuple[list[str], int]]:
        """Victims per node that really make room for the pod; nodes where none do are left out.

        kube-scheduler's victims are kept, since they may serve constraints that only it knows.
        Where they do not free the right devices, further pods of lower priority on that node are
        added, cheapest first. From 1.38 on candidates may come without victims: they pass as they
        are if the pod fits, and get victims if it does not.
        """
        try:
            request = pod_request(args.pod, self.names)
        except InvalidInput:
            return {}
        answer = {}
        with self._lock:
            for name, (victims, violations) in args.candidates.items():
                row = self._engine.state.row_of.get(name, -1)
                chosen = self._victims(request, row, victims) if row >= 0 else None
                if chosen is not None:
                    answer[name] = (chosen, violations)
        empty = np.zeros(0, dtype=np.int8)
        self._record("preempt", request.key, request.uid, empty, asked=len(args.candidates))
        return answer

    def dry_run(self, args: FilterArgs) -> FilterAnswer:
        """Filter without a trace: nothing is held, remembered or learnt.

        A node given as an object whose name is unknown is taken as an empty one of that
        description, as autoscalers ask about nodes that do not exist yet.
        """
        request = pod_request(args.pod, self.names)
        codes = np.zeros(len(args.names), dtype=np.int8)
        with self._lock:
            rows = self._engine.state.rows_of(args.names)
            codes[:] = self._engine.filter(request, rows, selection=True)
            mix = self._engine.mix
        unknown = np.flatnonzero(rows < 0).tolist() if args.nodes is not None else []
        if unknown:
            templates = [self._template(args, position) for position in unknown]
            what_if = Engine(ClusterState(templates), self.config.policy, mix=mix)
            codes[unknown] = what_if.filter(request, selection=True)
        passing = np.flatnonzero(codes == 0).tolist()
        failed = {args.names[i]: _TEXTS[codes[i]] for i in np.flatnonzero(codes).tolist()}
        return FilterAnswer(passing, {}, failed)

    # -- views -------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Stamp of the latest change of the state."""
        return self._engine.state.generation_now

    @property
    def holds(self) -> int:
        """Holds in force, expired ones included until the next call."""
        return len(self._engine.holds)

    def decisions(self, limit: int) -> list[dict[str, Any]]:
        """The latest decisions, newest first."""
        latest = list(self._decisions)[-limit:] if limit > 0 else []
        return [decision.to_json() for decision in reversed(latest)]

    def metrics(self) -> ClusterMetrics:
        """Cluster figures, computed on a snapshot, at most every few seconds."""
        with self._metrics_lock:
            now = self._clock()
            known = self._metrics
            if known and (known[0] == self.generation or now - known[1] < _METRICS_AGE_S):
                return known[2]
            with self._lock:
                snapshot, mix = self._engine.state.snapshot(), self._engine.mix
            figures = cluster_metrics(snapshot, mix)
            self._metrics = (snapshot.generation_now, now, figures)
            return figures

    def snapshot(self) -> tuple[ClusterState, frozenset[str]]:
        """A frozen copy of the state, and the uids that are only held."""
        with self._lock:
            self._engine.expire(self._clock())
            return self._engine.state.snapshot(), frozenset(self._engine.holds)

    # -- inside ------------------------------------------------------------------------------

    def _prepare(self, request: PodRequest) -> Engine:
        """Expire holds, remember the pod, learn from it. Called with the lock held."""
        engine = self._engine
        engine.expire(self._clock())
        known = self._seen.get(request.uid)
        self._seen[request.uid] = request
        if known is not None:
            self._seen.move_to_end(request.uid)
            return engine
        if len(self._seen) > self.config.remembered_pods:
            self._seen.popitem(last=False)
        self._learner.observe(request)
        every, count = self.config.relearn_every, self._learner.observed
        # Early on each pod changes the picture, so the first rebuilds come sooner.
        if every and (count % every == 0 or (count < every and count & (count - 1) == 0)):
            engine.set_mix(self._learner.mix())
        return engine

    def _hold(self, engine: Engine, request: PodRequest, node: str) -> None:
        if self.config.hold_ttl_s > 0:
            engine.hold(request, node, self._clock() + self.config.hold_ttl_s)

    def _curable(
        self, request: PodRequest, rows: NDArray[np.int64], codes: NDArray[np.int8]
    ) -> NDArray[np.bool_]:
        """Rows where evicting pods could help and kube-scheduler's dry run would notice it."""
        curable: NDArray[np.bool_] = _SEEN_IN_TREE[codes]
        if not curable.any():
            return curable
        state = self._engine.state
        if not request.gpu.resource and request.gpu.requested_milli:
            # In-tree counts milli-GPU per node, not per device: it sees a shortage only where the
            # node's sum falls short.
            short = state.gpu_left[rows] < request.gpu.requested_milli
            devices = (codes == Reason.INSUFFICIENT_FRACTION.code) | (
                codes == Reason.INSUFFICIENT_DEVICES.code
            )
            curable &= short | ~devices
        held = {state.row_of[hold.placement.node] for hold in self._engine.holds.values()}
        if held:
            curable &= ~np.isin(rows, list(held))  # a hold is no pod that could be evicted
        return curable

    def _victims(
        self, request: PodRequest, row: int, suggested: tuple[str, ...]
    ) -> list[str] | None:
        engine = self._engine
        chosen = list(dict.fromkeys(suggested))
        if engine.fits_without(request, row, frozenset(chosen)):
            return chosen
        others = [
            placement.pod
            for placement in engine.state.pods_on(row)
            if placement.pod.priority < request.priority
            and placement.pod.uid not in chosen
            and placement.pod.uid not in engine.holds
        ]
        others.sort(key=lambda pod: (pod.priority, pod.gpu.requested_milli, pod.uid))
        added: list[str] = []
        for pod in others:
            added.append(pod.uid)
            if engine.fits_without(request, row, frozenset([*chosen, *added])):
                break
        else:
            return None
        for uid in list(added):  # what was added in vain on the way is spared again
            rest = [other for other in added if other != uid]
            if engine.fits_without(request, row, frozenset([*chosen, *rest])):
                added = rest
        return chosen + added

    def _template(self, args: FilterArgs, position: int) -> Node:
        assert args.nodes is not None
        node = node_of(args.nodes[position], self.names)
        return Node(
            f"template-{position}",
            node.cpu_milli,
            node.memory_mib,
            node.pods,
            node.devices,
            node.labels,
            node.taints,
            node.unschedulable,
            node.ready,
            node.resource,
        )

    def _reject_all(
        self, args: FilterArgs, error: InvalidInput, verb: str = "filter"
    ) -> FilterAnswer:
        """An unreadable request fits nowhere, for one clear reason."""
        reason = Reason.REQUEST_INVALID
        key = f"{args.pod.metadata.namespace or 'default'}/{args.pod.metadata.name}"
        codes = np.full(len(args.names), reason.code, dtype=np.int8)
        log.warning("pod %s: %s", key, error)
        self._record(verb, key, args.pod.metadata.uid, codes, detail=str(error))
        message = f"{reason.text}: {error}"
        return FilterAnswer([], {}, dict.fromkeys(args.names, message))

    def _record(
        self,
        verb: str,
        pod: str,
        uid: str,
        codes: NDArray[Any],
        *,
        top: list[tuple[str, int]] | None = None,
        detail: str = "",
        asked: int | None = None,
    ) -> None:
        counts = np.bincount(codes, minlength=len(Reason))
        self.on_verdicts(verb, counts)
        reasons = {_TEXTS[code]: int(counts[code]) for code in np.flatnonzero(counts).tolist()}
        self._decisions.append(
            Decision(
                time.time(),
                verb,
                pod,
                uid,
                len(codes) if asked is None else asked,
                reasons,
                top or [],
                detail,
            )
        )
