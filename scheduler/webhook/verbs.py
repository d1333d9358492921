"""The verbs of an extender: bytes in, one or two stays in the cluster, bytes out.

Functions of the cluster and a request decide: ``filtering``, ``prioritizing``, ``preempting`` and
others of :mod:`scheduler.cluster`. Decoding and encoding happen outside of its lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster.awaited_victims import Ask, Unheard, catch_up, unheard
from scheduler.cluster.bind_request import BindRequest
from scheduler.cluster.dryruns import look
from scheduler.cluster.filtering import filter_nodes, record_filter
from scheduler.cluster.ledger import Cluster, Ledger
from scheduler.cluster.live_rules import Asked, new_nodes
from scheduler.cluster.planned import draft_of, make_draft, shapes_of
from scheduler.cluster.preempting import preempt
from scheduler.cluster.prioritizing import rank_nodes, record_prioritize
from scheduler.cluster.repricing import put_profile
from scheduler.cluster.verdicts import Ranking, RequestedNodes, Verdicts
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import PodRequest, Reason
from scheduler.core.state import ClusterState
from scheduler.kube.complaints import Complaints, cut
from scheduler.kube.pod_requests import pod_request
from scheduler.kube.sharing.table import who_picks
from scheduler.planner.pricing.lifecycle import ProfileUpdate
from scheduler.webhook.answers import (
    NodeNames,
    encode_error,
    encode_filter,
    encode_look,
    encode_ranking,
)
from scheduler.webhook.decision_log import DecisionLog
from scheduler.webhook.protocol import FilterArgs, PreemptArgs
from scheduler.webhook.requests import Requests

__all__ = ["Verbs"]

log = logging.getLogger(__name__)

_TOP = 5
_NO_CODES = np.zeros(0, dtype=np.int8)


class Verbs:
    """Answers kube-scheduler.

    Parameters
    ----------
    ledger
        Of the cluster.
    decisions
        Where answers are recorded.
    bind
        Binds a pod; returns an error text, empty on success.
    ask_end
        Asks the Kubernetes API whether a pod has ended; see :func:`.awaited_victims.catch_up`.
    """

    def __init__(
        self,
        ledger: Ledger,
        decisions: DecisionLog,
        *,
        bind: Callable[[BindRequest], str],
        ask_end: Ask | None = None,
    ) -> None:
        self._ledger, self._decisions = ledger, decisions
        self._bind, self._ask_end = bind, ask_end
        self._names = NodeNames()
        self._requests = Requests(ledger.names)
        self._complaints = Complaints(log)

    def filter(self, args: FilterArgs) -> bytes:
        """Answer which of the named nodes can host the pod."""
        if self._ledger.awaits_victims() and (problem := self._news_missing(args)):
            return encode_error(problem)
        with self._ledger.locked() as cluster:
            fragments = self._names.fragments(cluster)
            nodes = self._names.listed(cluster, args)
            try:
                request = self._requests.of(cluster, args)
            except InvalidInput as error:
                verdicts = self._refuse_all(args, nodes, error, "filter")
                return encode_filter(verdicts, fragments, args.raw_nodes)[0]
            unknown = cluster.engine.preparation(shapes_of(cluster, request))
            draft = draft_of(cluster, request, nodes.rows) if unknown is None else None
            if unknown is None and draft is None:
                verdicts, update = _answered(cluster, request, nodes)
        if unknown is not None:  # the first question about a shape looks at every node
            for _ in self._ledger.in_steps(unknown, chore=False):
                pass
            with self._ledger.locked() as cluster:
                fragments, nodes = self._names.listed_again(cluster, args, fragments, nodes)
                draft = draft_of(cluster, request, nodes.rows)
        if draft is not None:
            make_draft(self._ledger, draft)
        if unknown is not None or draft is not None:
            with self._ledger.locked() as cluster:
                fragments, nodes = self._names.listed_again(cluster, args, fragments, nodes)
                verdicts, update = _answered(cluster, request, nodes)
        if update is not None:
            put_profile(self._ledger, update)
        question = request.shape if args.raw_nodes is None else None
        answer, names = encode_filter(verdicts, fragments, args.raw_nodes, question=question)
        # kube-scheduler's next call is a prioritize of exactly these names.
        fragments.remember(names, RequestedNodes(verdicts.passing, {}))
        self._decisions.record("filter", request.key, request.uid, verdicts.codes)
        return answer

    def prioritize(self, args: FilterArgs) -> bytes:
        """Answer scores 0..10 of the named nodes: the winner alone has 10."""
        kept = self._ledger.config.answer_top_k
        with self._ledger.locked() as cluster:
            fragments = self._names.fragments(cluster)
            nodes = self._names.listed(cluster, args)
            try:
                request = self._requests.of(cluster, args)
            except InvalidInput as error:
                none = self._refuse_all(args, nodes, error, "prioritize")
                scores = np.zeros(len(none.codes), dtype=np.int64)
                return encode_ranking(Ranking(nodes, scores), fragments)
            order = rank_nodes(cluster, request, nodes, max(_TOP, kept))
            record_prioritize(cluster, request, order)
        ranking, best = order.ranking, order.best
        scores = ranking.scores
        top = [(fragments.name(nodes, at), int(scores[at])) for at in best[:_TOP].tolist()]
        self._decisions.record(
            "prioritize", request.key, request.uid, _NO_CODES, top=top, asked=len(scores)
        )
        return encode_ranking(_first(ranking, best[:kept]) if kept else ranking, fragments)

    def preempt(self, args: PreemptArgs) -> dict[str, tuple[list[str], int]]:
        """Victims per node that really make room for the pod; nodes where none do are left out."""
        with self._ledger.locked() as cluster:
            groups = cluster.sync.groups if cluster.sync else None
            try:
                request = pod_request(args.pod, self._ledger.names, groups)
            except InvalidInput as error:
                self._complaints.about(f"preempt: pod of {args.pod.metadata.namespace}", error)
                return {}
        found = preempt(self._ledger, request, args.candidates)
        asked, detail = len(args.candidates), found.detail
        self._decisions.record(
            "preempt", request.key, request.uid, _NO_CODES, asked=asked, detail=detail
        )
        return found.victims

    def bind(self, asked: BindRequest) -> str:
        """Bind the pod; returns an error text, empty on success."""
        problem = self._bind(asked)
        with self._ledger.locked() as cluster:
            known = cluster.pods.asked(asked.uid)
        picks = who_picks(known.gpu, self._ledger.names) if known else ""
        detail = problem or "; ".join(filter(None, (f"bound to {asked.node}", picks)))
        self._decisions.record("bind", asked.key, asked.uid, _NO_CODES, detail=detail)
        return problem

    def dry_run(self, args: FilterArgs) -> bytes:
        """Filter without a trace: nothing is reserved, remembered or learnt.

        What kube-scheduler decides counts, too: see :mod:`.live_rules`. A node given as an object
        whose name is unknown is taken as an empty one, as autoscalers ask about nodes to come.
        """
        names, config = self._ledger.names, self._ledger.config
        pod = args.ruled_pod()
        request = pod_request(pod, names)
        with self._ledger.locked() as cluster:
            engine, sync = cluster.engine, cluster.sync
            asked = Asked(request)
            if sync is not None:
                asked = cluster.rules.asked(pod, request, engine.state, sync.pods)
            fragments, nodes = self._names.fragments(cluster), self._names.listed(cluster, args)
            mapped = sync.charges.nodes.dra.asked(request) if sync else frozenset[str]()
            found = look(engine, asked.request, nodes.rows, mapped)
            profile = engine.profile
        new = new_nodes(args.nodes or (), nodes, names)
        if new:
            what_if = Engine(ClusterState(list(new.values())), config.policy, profile=profile)
            found.put(list(new), look(what_if, asked.request, np.arange(len(new)), mapped))
        asked.close(found, nodes.rows, new)
        return encode_look(nodes, found, request, fragments, args.raw_nodes)

    # -- inside ------------------------------------------------------------------------------

    def _news_missing(self, args: FilterArgs) -> str:
        """What kube-scheduler knows of victims and we do not, even after a wait; else empty."""
        with self._ledger.locked() as cluster:
            try:
                request = self._requests.of(cluster, args)
            except InvalidInput:
                return ""  # filter says so
            if request.uid not in cluster.victims:
                return ""

        def look() -> tuple[Unheard | None, float]:
            with self._ledger.locked() as cluster:
                cluster.expire()
                rows = self._names.listed(cluster, args).rows
                return unheard(cluster, request, rows), cluster.now

        if problem := catch_up(look, self._ask_end):
            self._decisions.record_put_off(request, problem)
        return problem

    def _refuse_all(
        self, args: FilterArgs, nodes: RequestedNodes, error: InvalidInput, verb: str
    ) -> Verdicts:
        """An unreadable request fits nowhere, for one clear reason."""
        metadata = args.pod_object().metadata
        key = f"{metadata.namespace or 'default'}/{metadata.name}"
        codes = np.full(len(nodes.rows), Reason.REQUEST_INVALID.code, dtype=np.int8)
        self._complaints.about(f"pod {key}", error)
        self._decisions.record(verb, key, metadata.uid, codes, detail=str(error))
        message = f"{Reason.REQUEST_INVALID.text}: {cut(error)}"  # of every node
        return Verdicts(nodes, codes, np.zeros(len(codes), dtype=bool), message)


def _answered(
    cluster: Cluster, request: PodRequest, nodes: RequestedNodes
) -> tuple[Verdicts, ProfileUpdate | None]:
    """Verdicts, remembered; and what the learner has made of the question, if it is due."""
    verdicts = filter_nodes(cluster, request, nodes)
    record_filter(cluster, request, verdicts)
    return verdicts, cluster.pricing.take_update()


def _first(ranking: Ranking, best: NDArray[np.int64]) -> Ranking:
    """The ranking of these positions alone."""
    lacking = ranking.nodes.unknown
    unknown = {place: lacking[at] for place, at in enumerate(best.tolist()) if at in lacking}
    return Ranking(RequestedNodes(ranking.nodes.rows[best], unknown), ranking.scores[best])
