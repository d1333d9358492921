"""The prioritize question: which of these nodes is best for the pod."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster.filtering import record_question
from scheduler.cluster.ledger import Cluster
from scheduler.cluster.planned import planned_position
from scheduler.cluster.reserving import reserve_for_a_while
from scheduler.cluster.verdicts import WINNER, Ranking, RequestedNodes
from scheduler.core.engine import INFEASIBLE
from scheduler.core.model import PodRequest
from scheduler.core.ranking import best_first, ranks

__all__ = ["Order", "rank_nodes", "record_prioritize"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Order:
    """A ranking, and positions of its best nodes, best first, (K,) int64."""

    ranking: Ranking
    best: IntArray

    @property
    def winner(self) -> int:
        """Position of the node that the pod is to go to, or -1."""
        scores = self.ranking.scores
        at = int(scores.argmax()) if len(scores) else -1
        return at if at >= 0 and scores[at] == WINNER else -1


def rank_nodes(cluster: Cluster, request: PodRequest, nodes: RequestedNodes, most: int) -> Order:
    """Scores 0..10 of the nodes asked about; the winner alone has 10.

    What the question is to be remembered by: :func:`record_prioritize`.

    Parameters
    ----------
    most
        How many of the best to find.
    """
    cluster.expire()
    rows = nodes.rows
    places, scores = _places(cluster, request, rows)
    joint = cluster.is_joint(request)
    planned = planned_position(cluster, request, rows) if len(rows) else -1
    if planned >= 0 or joint:
        places, scores = _prefer(places, scores, planned, joint=joint)
    return Order(Ranking(nodes, places), best_first(scores, rows, most))


def record_prioritize(cluster: Cluster, request: PodRequest, order: Order) -> None:
    """The effects of a prioritize answer: the pod has asked, and its winner is reserved."""
    record_question(cluster, request)
    if order.winner >= 0 and not cluster.is_joint(request):
        reserve_for_a_while(cluster, request, int(order.ranking.nodes.rows[order.winner]))


def _places(cluster: Cluster, request: PodRequest, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Scores 0..10 of these rows, and the engine's own scores behind them."""
    scores = cluster.engine.scores(request, rows, passed=cluster.sync is not None)
    scores = np.where(rows >= 0, scores, INFEASIBLE)
    feasible = scores != INFEASIBLE
    if feasible.all():
        return ranks(scores, rows), scores
    places = np.zeros(len(rows), dtype=np.int64)
    places[feasible] = ranks(scores[feasible], rows[feasible])
    return places, scores


def _prefer(
    places: IntArray, scores: IntArray, position: int, *, joint: bool
) -> tuple[IntArray, IntArray]:
    """The scores with a planned node as the winner; a gang's member has no second choice."""
    preferred = np.zeros_like(places) if joint else np.minimum(places, WINNER - 1)
    order = np.full_like(scores, INFEASIBLE) if joint else scores.copy()
    if position >= 0:
        preferred[position] = WINNER
        order[position] = np.iinfo(np.int64).max
    return preferred, order
