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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster.asking import Requests
from scheduler.cluster.awaited_victims import Unheard, catch_up
from scheduler.cluster.drafting import Drafting
from scheduler.cluster.dryruns import encode_look, look
from scheduler.cluster.learning import Learning
from scheduler.cluster.preempting import Preempting
from scheduler.cluster.preemption import curable, kept_by_holds
from scheduler.cluster.recent import Recent
from scheduler.cluster.requeue import Refusals
from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.steps import in_steps
from scheduler.cluster.view import Figures, PlanningView
from scheduler.cluster.waiting import Waiting
from scheduler.core.cluster_metrics import ClusterMetrics
from scheduler.core.engine import Engine
from scheduler.core.errors import CapacityConflict, InvalidInput, SchedulerError
from scheduler.core.gangs.coordinator import Adoption
from scheduler.core.gangs.drafts import BEING_PLANNED, Draft
from scheduler.core.mix import TypicalMix
from scheduler.core.model import Placement, PodRequest, Reason
from scheduler.core.prices import Prices
from scheduler.core.ranking import best_first
from scheduler.core.state import ClusterState
from scheduler.kube.complaints import Complaints, cut
from scheduler.kube.mirror import Mirror
from scheduler.kube.nodes import node_of
from scheduler.kube.pod_requests import pod_request
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.table import who_picks
from scheduler.planner.pricing.lifecycle import PricingTask
from scheduler.webhook.answers import (
    WINNER,
    NodeNames,
    Ranking,
    Verdicts,
    encode_error,
    encode_filter,
    encode_ranking,
    named_shortages,
    prefer,
    ranked,
)
from scheduler.webhook.decision_log import DecisionLog
from scheduler.webhook.name_index import Listed
from scheduler.webhook.protocol import BindArgs, FilterArgs, PreemptArgs

__all__ = ["ExtenderService", "PlanningView"]

log = logging.getLogger(__name__)

IntArray = NDArray[np.int64]
T = TypeVar("T")

_TOP = 5
_REPLAN_S = 30.0
_PLACES_AT_ONCE = 16
_EXPIRE_AT_ONCE = 128
_NO_CODES = np.zeros(0, dtype=np.int8)
_NO_ROWS = np.zeros(0, dtype=np.int64)
_FITS = Reason.FITS.code
_NOT_OFFERED = np.zeros(len(Reason), dtype=bool)
_NOT_OFFERED[[Reason.DEVICE_KIND_MISSING.code, Reason.RESOURCE_MISSING.code]] = True


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

    Attributes
    ----------
    accepting
        Whether verbs may be answered: the cluster is known, and it is our turn to act.
    binder
        Binds a pod through the Kubernetes API; None where kube-scheduler binds.
    ask_end
        Asks the Kubernetes API whether a pod has ended; see :func:`.evictions.catch_up`.
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
        self._passed = not offline  # kube-scheduler has passed the nodes that it names
        engine.state.counted.elsewhere_counts = not offline  # kube-scheduler has been asked first
        self.names = names or config.resource_names
        self.accepting: Callable[[], bool] = lambda: True
        self.binder: Callable[[BindArgs], str] | None = None
        self.ask_end: Callable[[PodRequest, float], object] | None = None
        self._engine = engine
        self._mirror: Mirror | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: Recent[str, PodRequest] = Recent(config.remembered_pods)
        self._shortened: Recent[str, str] = Recent(config.remembered_pods)  # told of some that fit
        self._waiting = Waiting(config.remembered_pods)
        self._bindings = 0
        self.asked_again = 0
        """Filter calls answered by an error, for victims whose end we had not heard of."""
        self.log = DecisionLog(config.decisions)
        self._complaints = Complaints(log)
        self._learning = Learning(engine, config, self._lock)
        self._adoption = Adoption(
            engine,
            ttl_s=config.gang_ttl_s,
            reserve_after_s=config.gang_reserve_after_s,
            at_once=_PLACES_AT_ONCE,
            unborn_share=config.gang_unborn_share,
        )
        self._refusals = Refusals(config.remembered_pods, self._adoption.members.gathered)
        self._adoption.on_gathered = self._refusals.stir
        self.preempting = Preempting(engine, self._adoption, self._lock, config, self.log, clock)
        self._evictions = self.preempting.evictions
        self._drafting = Drafting(self._adoption, self._lock, clock)
        self._names = NodeNames(engine.state)
        self._requests = Requests(self.names, self._adoption)
        self._figures = Figures(engine, self._lock, clock)

    # -- verbs -------------------------------------------------------------------------------

    def filter(self, args: FilterArgs) -> bytes:
        """Answer which of the named nodes can host the pod."""
        if self._mirror and len(self._evictions) and (problem := self._behind(args)):
            return encode_error(problem)
        with self._lock:
            try:
                request = self._requests.of(args)
            except InvalidInput as error:
                verdicts = self._reject_all(args, error, "filter")
                return encode_filter(verdicts, self._names.fragments(), args.raw_nodes)[0]
            self._meet(request)
            lesson, draft = self._learning.lesson(), self._draft(request, args)
            if lesson is None and draft is None:
                verdicts, listed = self._verdicts(request, args)
                fragments = self._names.fragments()
        if lesson is not None or draft is not None:
            self._learning.learn(lesson)
            if draft is not None:
                self._drafting.make(draft, self._in_steps)
            with self._lock:
                verdicts, listed = self._verdicts(request, args)
                fragments = self._names.fragments()
        question = request.shape if args.raw_nodes is None else None
        answer, names = encode_filter(verdicts, fragments, args.raw_nodes, question=question)
        # kube-scheduler's next call is a prioritize of exactly these names.
        fragments.remember(names, Listed(listed, {}))
        self.log.record("filter", request.key, request.uid, verdicts.codes)
        return answer

    def _verdicts(self, request: PodRequest, args: FilterArgs) -> tuple[Verdicts, IntArray]:
        """Verdicts on the nodes asked about, and the rows that are told to kube-scheduler."""
        engine = self._prepare(request)
        nodes = self._names.listed(args)
        if self._mirror and (claimed := self._mirror.dra.asked(request)):
            lacking = nodes.rows[_NOT_OFFERED[engine.filter(request, nodes.rows)]].tolist()
            passed = (engine.state.nodes[row] for row in lacking)
            self._mirror.redescribe(self._mirror.dra.passed(passed, claimed))
        codes = engine.filter(request, nodes.rows, passed=self._passed)
        message = ""
        if self._joint(request):
            message = self._answer_member(request, nodes.rows, codes)
        cures = curable(engine, request, nodes.rows, codes)
        emptied = self._evictions.waited_for(engine, request)
        if len(emptied):  # it waits for the rest of them, and takes no others elsewhere
            cures |= np.isin(nodes.rows, emptied)
        passing = np.flatnonzero(codes == Reason.FITS.code)
        named = self._shortlist(engine, request, nodes.rows, passing)
        resources, short = named_shortages(engine, request, nodes.rows, codes, passed=self._passed)
        verdicts = Verdicts(nodes, codes, cures, message, named, resources, short)
        listed = nodes.rows[passing if named is None else named]
        if len(listed):
            self._refusals.drop(request.uid)
        else:
            # A plan in the making is no state of things: the pod is to ask again by all means.
            generation = -1 if message == BEING_PLANNED else engine.state.generation_now
            kept = kept_by_holds(engine, request, nodes.rows, codes)
            self._refusals.add(
                request, self._clock(), generation, nodes.rows, kept, anywhere=bool(nodes.unknown)
            )
        if len(listed) == 1 and not self._joint(request):
            # kube-scheduler skips prioritize and takes it
            self._hold(engine, request, int(listed[0]))
        return verdicts, listed

    def _draft(self, request: PodRequest, args: FilterArgs) -> Draft | None:
        """A large gang's plan that has to be made before the member is answered."""
        if not self._joint(request):
            return None
        self._expire()
        return self._adoption.draft(request, self._names.listed(args).rows, self._clock())

    def prioritize(self, args: FilterArgs) -> bytes:
        """Answer scores 0..10 of the named nodes: the winner alone has 10."""
        with self._lock:
            try:
                request = self._requests.of(args)
            except InvalidInput as error:
                none = self._reject_all(args, error, "prioritize")
                ranking = Ranking(none.nodes, np.zeros(len(none.codes), dtype=np.int64))
                return encode_ranking(ranking, self._names.fragments())
            engine = self._prepare(request)
            nodes = self._names.listed(args)
            ranking, scores = ranked(engine, request, nodes, passed=self._passed)
            joint = self._joint(request)
            planned = self._planned_row(request, nodes.rows) if len(scores) else -1
            if planned >= 0 or joint:
                ranking, scores = prefer(ranking, scores, planned, joint=joint)
            winner = int(ranking.scores.argmax()) if len(scores) else -1
            if winner >= 0 and ranking.scores[winner] == WINNER and not joint:
                self._hold(engine, request, int(nodes.rows[winner]))
            best = best_first(scores, nodes.rows, max(_TOP, self.config.answer_top_k))
            top = [
                (self._names.name(nodes, i), int(ranking.scores[i])) for i in best[:_TOP].tolist()
            ]
            fragments = self._names.fragments()
        self.log.record(
            "prioritize", request.key, request.uid, _NO_CODES, top=top, asked=len(scores)
        )
        if self.config.answer_top_k:
            best = best[: self.config.answer_top_k]
            kept, lacking = enumerate(best.tolist()), nodes.unknown
            unknown = {place: lacking[at] for place, at in kept if at in lacking}
            ranking = Ranking(Listed(nodes.rows[best], unknown), ranking.scores[best])
        return encode_ranking(ranking, fragments)

    def bind(self, args: BindArgs) -> str:
        """Bind the pod, offline by placing it; returns an error text, empty on success."""
        if self.binder is not None:
            problem = self.binder(args)
        elif not self.offline:
            problem = "bind is not configured here: let kube-scheduler bind"
        else:
            with self._lock:
                request = self._seen.get(args.uid)
                if request is None:
                    problem = f"pod {args.namespace}/{args.name} is not known; call filter first"
                else:
                    try:
                        self.reserve(request, args.node)
                        problem = ""
                    except SchedulerError as error:
                        problem = str(error)
        asked = self._seen.get(args.uid)
        picks = who_picks(asked.gpu, self.names) if asked else ""
        detail = problem or "; ".join(filter(None, (f"bound to {args.node}", picks)))
        self.log.record("bind", f"{args.namespace}/{args.name}", args.uid, _NO_CODES, detail=detail)
        return problem

    def release(self, uid: str) -> None:
        """Take a pod off its node, offline; :class:`UnknownPod` if it is on none."""
        with self._lock:
            placement = self._engine.state.placements.get(uid)
            self._engine.release(uid)
            self.settled(uid)
            if placement is not None:
                self._learning.leaves(placement.pod)
                self._adoption.gone(placement.pod)

    def preempt(self, args: PreemptArgs) -> dict[str, tuple[list[str], int]]:
        """Victims per node that really make room for the pod; nodes where none do are left out.

        From 1.38 on candidates may come without victims: they pass as they are if the pod fits,
        and get victims if it does not. See :mod:`.preemption`.
        """
        mirror = self._mirror
        try:
            request = pod_request(args.pod, self.names, self._requests.groups)
        except InvalidInput as error:
            self._complaints.about(f"preempt: pod of {args.pod.metadata.namespace}", error)
            return {}
        return self.preempting.answer(request, args.candidates, mirror)

    def dry_run(self, args: FilterArgs) -> bytes:
        """Filter without a trace: nothing is held, remembered or learnt.

        A node given as an object whose name is unknown is taken as an empty one of that
        description, as autoscalers ask about nodes that do not exist yet.
        """
        request = pod_request(args.pod_object(), self.names)
        with self._lock:
            nodes = self._names.listed(args)
            mapped = self._mirror.dra.asked(request) if self._mirror else frozenset[str]()
            found = look(self._engine, request, nodes.rows, mapped)
            mix = self._engine.mix
            fragments = self._names.fragments()
        if args.nodes is not None and nodes.unknown:
            unknown = {at: node_of(args.nodes[at], self.names) for at in nodes.unknown}
            templates = [replace(node, name=f"template-{at}") for at, node in unknown.items()]
            what_if = Engine(ClusterState(templates), self.config.policy, mix=mix)
            found.put(list(unknown), look(what_if, request, np.arange(len(unknown)), mapped))
        return encode_look(nodes, found, request, fragments, args.raw_nodes)

    # -- views -------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Stamp of the latest change of the state."""
        return self._engine.state.generation_now

    @property
    def node_epoch(self) -> int:
        """Changes whenever a node comes, goes or becomes another."""
        return self._engine.state.node_epoch

    @property
    def mix(self) -> TypicalMix:
        """The typical mix that prices are to be made for."""
        return self._learning.mix

    def prices_due(self, now: float, pause_s: float) -> bool:
        """Whether prices are due; changes of mix and nodes wait for the pause to pass."""
        return self._learning.prices_due(now, pause_s)

    def priced(self, task: PricingTask, now: float) -> None:
        """Prices were made for this task, or there are none."""
        with self._lock:
            self._learning.priced(task, now)

    @property
    def nodes(self) -> int:
        """Nodes known."""
        return len(self._engine.state.row_of)

    @property
    def holds(self) -> int:
        """Holds in force, expired ones included until the next call."""
        return len(self._engine.holds)

    def decisions(self, limit: int) -> list[dict[str, Any]]:
        """The latest decisions, newest first."""
        return self.log.latest(limit)

    def metrics(self) -> ClusterMetrics:
        """Cluster figures, computed on a snapshot, at most every few seconds."""
        return self._figures.latest()

    def snapshot(self) -> tuple[ClusterState, frozenset[str]]:
        """A frozen copy of the state, and the uids that are only held."""
        with self._lock:
            self._expire()
            return self._engine.state.snapshot(), frozenset(self._engine.holds)

    # -- joint plans -------------------------------------------------------------------------

    def _joint(self, request: PodRequest) -> bool:
        return self.config.gangs and self._adoption.concerns(request)

    def _answer_member(self, request: PodRequest, rows: IntArray, codes: NDArray[np.int8]) -> str:
        """Rewrite a gang member's verdicts from the gang's plan; returns why there is none."""
        answer = self._adoption.answer(request, rows, self._clock())
        fits = codes == Reason.FITS.code
        if answer.row < 0:
            codes[fits] = Reason.GANG_DOES_NOT_FIT.code
            return answer.message
        codes[fits] = Reason.PLANNED_ELSEWHERE.code
        codes[rows == answer.row] = Reason.FITS.code
        return ""

    def _shortlist(
        self, engine: Engine, request: PodRequest, rows: IntArray, passing: IntArray
    ) -> IntArray | None:
        """Positions in ``rows`` of the nodes worth naming, ascending; None names all that pass.

        kube-scheduler spends more on a name that it gets back (decoding, in-tree scores, the next
        call) than we on its verdict. It asks us after its own filters, so that only an extender
        behind us can still refuse the nodes named: a pod that comes back unbound gets them all.
        """
        most = self.config.answer_top_k
        if not most or len(passing) <= most or request.uid in self._shortened:
            return None
        self._shortened.put(request.uid, request.uid)
        candidates = rows[passing]
        scores = engine.scores(request, candidates, passed=self._passed)
        best = best_first(scores, candidates, most)
        planned = self._planned_row(request, candidates)
        if planned >= 0 and planned not in best:
            best[-1] = planned
        named: IntArray = passing[np.sort(best)]
        return named

    def _planned_row(self, request: PodRequest, rows: IntArray) -> int:
        """Position in ``rows`` of the row that a plan has for the pod, or -1."""
        if self._joint(request):
            row = self._adoption.answer(request, rows, self._clock()).row
        else:
            row = self._adoption.pinned(request, self._clock())
            pinned = np.array([row])
            if row >= 0 and self._engine.filter(request, pinned, passed=self._passed)[0] != _FITS:
                row = -1
        found = np.flatnonzero(rows == row) if row >= 0 else np.zeros(0, dtype=np.int64)
        return int(found[0]) if len(found) else -1

    def reserve(self, request: PodRequest, node: str) -> Placement:
        """Place a pod for good; a member takes the room of its slot. Within :meth:`exclusive`."""
        self._expire()
        if self._joint(request) and node in self._engine.state.row_of:
            row = self._engine.state.row(node)
            if problem := self._adoption.withheld(request, row, self._clock()):
                raise CapacityConflict(node, request.key, problem)
        again = (
            request.uid in self._engine.state.placements and request.uid not in self._engine.holds
        )
        try:
            placement = self._engine.reserve(request, node, passed=self._passed)
        except SchedulerError:
            self._adoption.lost(request)
            raise
        self._adoption.bound(request)
        if self._mirror is None and not again:  # else the mirror says so, once it is certain
            self._learning.comes(request, asked=True)
        self.settled(request.uid)
        return placement

    def unreserved(self, request: PodRequest) -> None:
        """A reservation came to nothing: the pod waits again. Within :meth:`exclusive`."""
        if self._mirror is None or request.uid in self._mirror.pending:
            self._adoption.unbound(request)
        else:
            self._adoption.gone(request)
        self._waiting.asks(request, self._clock())

    # -- a live cluster ----------------------------------------------------------------------

    def attach(self, names: ResourceNames | None = None) -> Mirror:
        """A mirror of a live cluster; holds of real pods no longer end by themselves.

        Who drives it asks the API before it drops one (:meth:`overdue`): the pod may be bound.
        """
        mirror = Mirror(
            self._engine,
            self._adoption,
            names or self.names,
            settled=self._known,
            nominated=self._nominated,
            leaving=self.preempting.leaving,
        )
        self._mirror, self._requests.groups = mirror, mirror.groups
        return mirror

    def begun(self) -> None:
        """Everything that ran before is known. Within :meth:`exclusive`."""
        self._learning.begun()

    def _nominated(self, request: PodRequest, node: str) -> None:
        """kube-scheduler has chosen a node and waits, for victims to go or volumes to come.

        A hold there lives on; one elsewhere is of no use any more.
        """
        self.preempting.chosen(request.uid, node)
        held = self._engine.holds.get(request.uid)
        if held is None or self._adoption.keeps(request.uid):
            return  # what it waits for is still there, or its gang's places have times of their own
        if held.placement.node == node:
            self._engine.hold(request, node, self._clock() + self.config.hold_ttl_s)
        else:
            self._engine.drop_hold(request.uid)

    @contextmanager
    def exclusive(self) -> Iterator[Engine]:
        """The engine, with nobody else in it."""
        with self._lock:
            yield self._engine

    def settled(self, uid: str) -> None:
        """A pod has been placed, or is gone; it is not waiting any more."""
        self._waiting.drop(uid)
        self._refusals.drop(uid)
        self.preempting.settled(uid)
        self._bindings += 1

    def _known(self, uid: str, came: PodRequest | None, left: PodRequest | None) -> None:
        """The API says that a pod has been placed, or is gone; what is gone never asks again."""
        mirror = self._mirror
        assert mirror is not None  # which called this
        if came is not None:
            self._learning.comes(came, asked=uid in self._seen)
        if left is not None:
            self._learning.leaves(left)
            self.preempting.leaving(uid)
        self.settled(uid)
        if uid not in mirror.facts and uid not in mirror.pending:
            self._seen.drop(uid)
            self._shortened.drop(uid)

    def seen(self, uid: str) -> PodRequest | None:
        """A pod that has asked, or is known to be pending. Within :meth:`exclusive`."""
        pending = self._mirror.pending.get(uid) if self._mirror else None
        asked = self._seen.get(uid)
        if asked is None or pending is None or asked.gang == pending.gang:
            return asked or pending
        return replace(asked, gang=pending.gang)  # its group has become known since it asked

    def gangs_resized(self) -> None:
        """What was read of pods may state an old gang size. Within :meth:`exclusive`."""
        self._requests.clear()

    def missed(self, after_s: float) -> list[PodRequest]:
        """Pods refused so long ago that fit by now, each told once; see :mod:`.waking`."""
        gangs, now = self._adoption if self.config.gangs else None, self._clock()
        pending = self._mirror.pending if self._mirror else {}
        looks = self._refusals.look(self._engine, gangs, pending, now, after_s)
        return [pod for found in self._in_steps(looks) for pod in found]

    def still_missed(self, requests: Sequence[PodRequest]) -> None:
        """Missed pods could not be told: they are later, whatever nodes they were asked about."""
        with self._lock:
            for request in requests:
                if self.seen(request.uid) and request.uid not in self._engine.state.placements:
                    self._refusals.add(request, self._clock(), -1, _NO_ROWS, anywhere=True)

    def overdue(self) -> list[PodRequest]:
        """Pods whose hold is past its time; what stands for a gang's missing member is dropped."""
        with self._lock:
            self._expire()
            now = self._clock()
            late = [h.placement.pod for h in self._engine.holds.values() if h.until <= now]
            return [
                pod for pod in late if self._real(pod.uid) and not self._adoption.keeps(pod.uid)
            ]

    def _expire(self) -> None:
        now = self._clock()
        self._adoption.tend(now)
        if self._mirror is None:
            self._engine.expire(now, most=_EXPIRE_AT_ONCE)
            return
        self._engine.expire(now, spare=self._real, most=_EXPIRE_AT_ONCE)

    def _real(self, uid: str) -> bool:
        """Whether this is a pod, and not what stands for a gang's missing member."""
        return uid in self._seen or (self._mirror is not None and uid in self._mirror.pending)

    def learn(self) -> None:
        """Make the typical mix anew if it is time, also where nobody asks."""
        with self._lock:
            lesson = self._learning.lesson()
        self._learning.learn(lesson)

    def planning_view(self) -> PlanningView:
        """What a planner needs to know.

        Pending are the pods that have asked lately and are not bound; what is merely held for them
        counts as free.
        """
        self.learn()
        with self._lock:
            engine, now = self._engine, self._clock()
            self._expire()
            pending = self._waiting.pods(now)
            # Copies made by C loops; what takes longer happens outside the lock.
            placed, held = dict(engine.state.placements), set(engine.holds)
            nodes, epoch = list(engine.state.nodes), engine.state.node_epoch
            pricing = self._learning.task()
            gangs = self._adoption.members.specs({pod.gang for pod in pending if pod.gang})
            generation = engine.state.generation_now
            turn = int(now // _REPLAN_S)  # holds and reservations come and go by themselves
            stamp = (epoch, self._bindings, tuple(pod.uid for pod in pending), turn)
        return PlanningView(
            stamp,
            epoch,
            [node for node in nodes if node is not None],
            [placement for uid, placement in placed.items() if uid not in held],
            pending,
            pricing,
            generation,
            gangs,
        )

    def set_prices(self, prices: Prices | None, mix: TypicalMix | None = None) -> None:
        """Charge these prices from now on, with the mix that they were made for.

        Scores at them are made first, a few rows at a time so that requests get in between.
        """
        self._learning.charge(prices, mix, self._in_steps)

    def _in_steps(self, work: Iterator[T]) -> Iterator[T]:
        """Work done step by step under the lock, so that requests get in between."""
        return in_steps(work, self._lock, self._expire)

    @property
    def prices(self) -> Prices | None:
        """Prices in force."""
        with self._lock:
            return self._engine.prices

    def adopt(
        self, places: Sequence[tuple[PodRequest, str]], generation: int = -1
    ) -> tuple[int, Mapping[str, int]]:
        """Answer these pods from a plan from now on; see :meth:`Adoption.adopt`."""
        with self._lock:
            self._expire()
            return self._adoption.adopt(places, self._clock(), generation=generation)

    def gang_counts(self) -> dict[str, int]:
        """Gangs planned, reserved and waiting, and pins."""
        with self._lock:
            return self._adoption.counts()

    # -- inside ------------------------------------------------------------------------------

    def _prepare(self, request: PodRequest) -> Engine:
        """Expire holds, remember the pod, learn from it. Called with the lock held."""
        engine = self._engine
        self._expire()
        self._meet(request)
        if request.uid not in engine.state.placements or request.uid in engine.holds:
            self._waiting.asks(request, self._clock())
        return engine

    def _meet(self, request: PodRequest) -> None:
        known = self._seen.get(request.uid)
        self._seen.put(request.uid, request)
        if known is None:
            self._learning.asks(request)

    def _hold(self, engine: Engine, request: PodRequest, row: int) -> None:
        node = engine.state.nodes[row]
        if node is not None and self.config.hold_ttl_s > 0:
            until = self._clock() + self.config.hold_ttl_s
            engine.hold(request, node.name, until, passed=self._passed)

    def _behind(self, args: FilterArgs) -> str:
        """What kube-scheduler knows of victims and we do not, even after a wait; else empty."""
        with self._lock:
            try:
                request = self._requests.of(args)
            except InvalidInput:
                return ""  # filter says so
            if request.uid not in self._evictions:
                return ""

        def look() -> tuple[Unheard | None, float]:
            with self._lock:
                self._expire()
                rows, now = self._names.listed(args).rows, self._clock()
                return self._evictions.unheard(self._engine, request, rows, now), now

        if problem := catch_up(look, self.ask_end):
            self.asked_again += 1
            self.log.record("filter", request.key, request.uid, _NO_CODES, detail=problem)
        return problem

    def _reject_all(self, args: FilterArgs, error: InvalidInput, verb: str) -> Verdicts:
        """An unreadable request fits nowhere, for one clear reason."""
        metadata = args.pod_object().metadata
        nodes = self._names.listed(args)
        key = f"{metadata.namespace or 'default'}/{metadata.name}"
        codes = np.full(len(nodes.rows), Reason.REQUEST_INVALID.code, dtype=np.int8)
        self._complaints.about(f"pod {key}", error)
        self.log.record(verb, key, metadata.uid, codes, detail=str(error))
        message = f"{Reason.REQUEST_INVALID.text}: {cut(error)}"  # of every node
        return Verdicts(nodes, codes, np.zeros(len(codes), dtype=bool), message)
