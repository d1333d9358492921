"""Nodes that a plan has for a pod: the place of a gang's member, or the pin of a single pod."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster.ledger import Cluster, Ledger
from scheduler.core.gangs.drafts import Draft
from scheduler.core.model import PodRequest, Reason, Shape

__all__ = ["draft_of", "make_draft", "member_verdicts", "planned_position", "shapes_of"]

IntArray = NDArray[np.int64]

_FITS = Reason.FITS.code
_LONGEST_S = 0.25  # that one request may spend on a draft; kube-scheduler waits meanwhile
_STEPS = 4
_SHAPES = 5  # of a gang whose members are all unlike, the others are scored while it is planned


def member_verdicts(
    cluster: Cluster, request: PodRequest, rows: IntArray, codes: NDArray[np.int8]
) -> str:
    """Rewrite a gang member's verdicts from the gang's plan; returns why there is none."""
    answer = cluster.gangs.answer(request, rows, cluster.now)
    fits = codes == _FITS
    if answer.row < 0:
        codes[fits] = Reason.GANG_DOES_NOT_FIT.code
        return answer.message
    codes[fits] = Reason.PLANNED_ELSEWHERE.code
    codes[rows == answer.row] = _FITS
    return ""


def planned_position(cluster: Cluster, request: PodRequest, rows: IntArray) -> int:
    """Position in ``rows`` of the row that a plan has for the pod, or -1."""
    if cluster.is_joint(request):
        row = cluster.gangs.answer(request, rows, cluster.now).row
    else:
        row = cluster.gangs.pinned_row(request, cluster.now)
        passed, pinned = cluster.sync is not None, np.array([row])
        if row >= 0 and cluster.engine.filter(request, pinned, passed=passed)[0] != _FITS:
            row = -1
    if row < 0:
        return -1
    found = np.flatnonzero(rows == row)
    return int(found[0]) if len(found) else -1


def shapes_of(cluster: Cluster, request: PodRequest) -> list[Shape]:
    """Shapes that the answer to a pod looks at: its own, and some of its gang's other members."""
    if request.gang is None or not cluster.is_joint(request):
        return [request.shape]
    members = cluster.gangs.members.present(request.gang)
    return list(dict.fromkeys((request.shape, *(member.shape for member in members))))[:_SHAPES]


def draft_of(cluster: Cluster, request: PodRequest, rows: IntArray) -> Draft | None:
    """A large gang's plan that has to be made before the member is answered: :func:`make_draft`."""
    if not cluster.is_joint(request):
        return None
    cluster.expire()
    return cluster.gangs.draft(request, rows, cluster.now)


def make_draft(ledger: Ledger, draft: Draft) -> None:
    """Go on with a draft beside the cluster for some time, and take it over if it is done by then.

    kube-scheduler waits for the answer, and asks about no other pod meanwhile: what is not done in
    time is gone on with when the next member asks.
    """
    made = False
    try:
        made = _work(draft, time.monotonic() + _LONGEST_S)
    finally:
        if not made:
            with ledger.locked() as cluster:  # what has failed cannot be gone on with
                cluster.gangs.suspend_draft(draft, cluster.now, for_good=draft.broken)
    if made:
        with ledger.locked() as cluster:
            steps = cluster.gangs.adopt_draft(draft, cluster.now)
        for _ in ledger.in_steps(steps, chore=False):
            pass


def _work(draft: Draft, until: float) -> bool:
    for step, _ in enumerate(draft.steps(), 1):
        if step % _STEPS == 0 and time.monotonic() >= until:
            break
    return draft.done
