"""The filter question: which of these nodes can host the pod."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster.awaited_victims import waited_for
from scheduler.cluster.ledger import Cluster
from scheduler.cluster.planned import member_verdicts, planned_position
from scheduler.cluster.preemption import kept_by_reservations, preemptible
from scheduler.cluster.reserving import reserve_for_a_while
from scheduler.cluster.verdicts import RequestedNodes, Verdicts
from scheduler.core.gangs.drafts import BEING_PLANNED
from scheduler.core.model import PodRequest, Reason
from scheduler.core.ranking import best_first

__all__ = ["filter_nodes", "record_filter", "record_question"]

IntArray = NDArray[np.int64]

_FITS = Reason.FITS.code
_NOT_OFFERED = np.zeros(len(Reason), dtype=bool)
_NOT_OFFERED[[Reason.DEVICE_KIND_MISSING.code, Reason.RESOURCE_MISSING.code]] = True


def filter_nodes(cluster: Cluster, request: PodRequest, nodes: RequestedNodes) -> Verdicts:
    """Verdicts on the nodes asked about. What they are to be remembered by: :func:`record_filter`.

    A member of a gang is answered from the plan for all of it, which is made and held here, since
    kube-scheduler gives a gang up at the first refusal.
    """
    cluster.expire()
    rows = nodes.rows
    codes = _codes(cluster, request, rows)
    message = member_verdicts(cluster, request, rows, codes) if cluster.is_joint(request) else ""
    may_preempt = preemptible(cluster.engine, request, rows, codes)
    emptied = waited_for(cluster, request)
    if len(emptied):  # it waits for the rest of them, and takes no others elsewhere
        may_preempt |= np.isin(rows, emptied)
    named = _shortlist(cluster, request, rows, np.flatnonzero(codes == _FITS))
    resources, short = tuple(name for name, _ in request.counted), None
    if resources:
        passed = cluster.sync is not None
        short = cluster.engine.short_of(request, rows, codes, passed=passed)
    return Verdicts(nodes, codes, may_preempt, message, named, resources, short)


def record_question(cluster: Cluster, request: PodRequest) -> None:
    """The pod has asked: it exists, waits, and is learnt from once."""
    if cluster.pods.record(request):
        cluster.pricing.on_pod_seen(request)
    uid, engine = request.uid, cluster.engine
    if cluster.runs(uid):
        return  # another kube-scheduler has bound it, and this one has not heard of that yet
    if uid not in engine.state.placements or uid in engine.reservations:
        cluster.pods.record_waiting(request, cluster.now)


def record_filter(cluster: Cluster, request: PodRequest, verdicts: Verdicts) -> None:
    """The effects of a filter answer, all of them: what the pod was told, and a reservation.

    A pod that fits nowhere is requeued once it does (:mod:`.requeue`); one that was told some of
    the nodes gets all of them when it asks again.
    """
    record_question(cluster, request)
    if cluster.runs(request.uid):
        return  # kube-scheduler is about to hear of it, and not to be told that the pod fits
    passing = verdicts.passing
    if verdicts.named is not None:
        cluster.pods.record_shortened(request.uid)
    if not len(passing):
        _record_refusal(cluster, request, verdicts)
        return
    cluster.requeue.drop(request.uid)
    if len(passing) == 1 and not cluster.is_joint(request):
        # kube-scheduler skips prioritize and takes it
        reserve_for_a_while(cluster, request, int(passing[0]))


def _codes(cluster: Cluster, request: PodRequest, rows: IntArray) -> NDArray[np.int8]:
    engine, sync = cluster.engine, cluster.sync
    if sync is not None and (claimed := sync.charges.nodes.dra.asked(request)):
        # kube-scheduler has passed them: they have the devices by DRA.
        lacking = rows[_NOT_OFFERED[engine.filter(request, rows)]].tolist()
        passed = (engine.state.nodes[row] for row in lacking)
        sync.charges.nodes.redescribe(sync.charges.nodes.dra.passed(passed, claimed))
    return engine.filter(request, rows, passed=sync is not None)


def _shortlist(
    cluster: Cluster, request: PodRequest, rows: IntArray, passing: IntArray
) -> IntArray | None:
    """Positions in ``rows`` of the nodes worth naming, ascending; None names all that pass.

    kube-scheduler spends more on a name that it gets back (decoding, in-tree scores, the next
    call) than we on its verdict. It asks us after its own filters, so that only an extender
    behind us can still refuse the nodes named: a pod that comes back unbound gets them all.
    """
    most = cluster.config.answer_top_k
    if not most or len(passing) <= most or cluster.pods.shortened(request.uid):
        return None
    candidates = rows[passing]
    scores = cluster.engine.scores(request, candidates, passed=cluster.sync is not None)
    best = best_first(scores, candidates, most)
    planned = planned_position(cluster, request, candidates)
    if planned >= 0 and planned not in best:
        best[-1] = planned
    named: IntArray = passing[np.sort(best)]
    return named


def _record_refusal(cluster: Cluster, request: PodRequest, verdicts: Verdicts) -> None:
    nodes, engine = verdicts.nodes, cluster.engine
    # A plan in the making is not final: the pod has to ask again.
    generation = -1 if verdicts.message == BEING_PLANNED else engine.state.generation_now
    cluster.requeue.add(
        request,
        cluster.now,
        generation,
        nodes.rows,
        kept_by_reservations(engine, request, nodes.rows, verdicts.codes),
        anywhere=bool(nodes.unknown),
        gang=request.gang if cluster.gangs.members.gathered(request) else None,
        lacking=cluster.is_joint(request) and not cluster.gangs.has_enough_members(request),
    )
