"""Victims that we named, and of whose end kube-scheduler may hear before we do.

kube-scheduler asks again as soon as its own watch tells it that the victims are gone. If ours is a
moment later, the node still looks full to us; and a pod that is refused the node which was emptied
for it has others evicted elsewhere. What it knows cannot be told from its question: it is the same
before the last victim has gone and after. So the API is asked about the victims that are left. Its
answer is newer than any watch, and a refusal then is right for sure. Where it does not answer there
is a wait for the watch, and if that does not help, an error: after one kube-scheduler asks again
later and evicts nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster.ledger import Cluster
from scheduler.cluster.preemption import preemptible
from scheduler.core.errors import KubeApiError
from scheduler.core.model import PodRequest, Reason
from scheduler.core.plural import plural

__all__ = ["Unheard", "catch_up", "unheard", "waited_for"]

_LOOK_S = 0.004
_CATCH_UP_S = 0.25  # kube-scheduler stands still meanwhile
_UNKNOWN_FOR_S = 5.0
_MOST_ASKED_ABOUT = 16

IntArray = NDArray[np.int64]
_NO_ROWS: IntArray = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Unheard:
    """Victims that were named for a pod and are still there as far as we know.

    Attributes
    ----------
    victims
        The pods, by uid.
    certain
        kube-scheduler knows more than we: by its own way of counting, the node that it asks about
        would have no room with what we know to run there.
    since
        When just these were first found to be missed, in the same way.
    """

    victims: Mapping[str, PodRequest]
    certain: bool
    since: float

    def problem(self, now: float) -> str:
        """Why a refusal may be wrong still; empty from some time on: then it is what we know."""
        if not self.certain or now - self.since >= _UNKNOWN_FOR_S:
            return ""
        victims = plural(len(self.victims), "victim")
        return f"not known yet here: the end of {victims} of this pod; ask again"


Look = Callable[[], tuple[Unheard | None, float]]
Ask = Callable[[PodRequest, float], object]


def catch_up(look: Look, ask: Ask | None = None) -> str:
    """Have news of victims: ask the API or, for want of one, wait; a moment per call at most.

    Parameters
    ----------
    look
        What has not been heard of now, and the time.
    ask
        Asks the API whether a pod has ended, within so many seconds, and makes it known. Raises
        :class:`KubeApiError` where it does not say: then nobody could be bound either.

    Returns
    -------
    str
        Why even after that a refusal may be wrong; else empty.
    """
    missing, now = look()
    if missing is None:
        return ""
    until = now + _CATCH_UP_S
    if ask is not None and len(missing.victims) <= _MOST_ASKED_ABOUT:
        answered = _ask_about(missing.victims, ask, look, until)
        missing, now = look()
        if missing is None:
            return ""
        if not answered:
            return Unheard(missing.victims, certain=True, since=now).problem(now)
        if not missing.certain:
            return ""  # they are still there, for kube-scheduler too
    while missing is not None and now < min(until, missing.since + _CATCH_UP_S):
        time.sleep(_LOOK_S)
        missing, now = look()
    return missing.problem(now) if missing is not None else ""


def _ask_about(victims: Mapping[str, PodRequest], ask: Ask, look: Look, until: float) -> bool:
    """Whether the API has said what became of all of them, or that does not matter by now."""
    for pod in victims.values():
        missing, now = look()
        if missing is None or pod.uid not in missing.victims:
            continue
        if now >= until:
            return False
        try:
            ask(pod, until - now)
        except KubeApiError:
            return False
    return True


def waited_for(cluster: Cluster, request: PodRequest) -> IntArray:
    """Rows where victims named for the pod are still there."""
    if request.uid not in cluster.victims:
        return _NO_ROWS
    state = cluster.engine.state
    left = cluster.victims.left(request.uid, state)
    return np.array([state.row_of[node] for node in left], dtype=np.int64)


def unheard(cluster: Cluster, request: PodRequest, rows: IntArray) -> Unheard | None:
    """What we may not have heard yet of the nodes asked about; None if it makes no difference.

    Parameters
    ----------
    rows : (R,)
        Nodes that kube-scheduler takes for large enough.
    """
    engine, state = cluster.engine, cluster.engine.state
    asked = set(rows.tolist())
    named = cluster.victims.left(request.uid, state)
    left = {node: victims for node, victims in named.items() if state.row_of[node] in asked}
    if not left:
        return None
    codes = engine.filter(request, rows, passed=True)
    if (codes == Reason.FITS.code).any():
        return None
    at = np.isin(rows, [state.row_of[node] for node in left])
    certain = bool(preemptible(engine, request, rows[at], codes[at]).any())
    missing = {uid: state.placements[uid].pod for victims in left.values() for uid in victims}
    since = cluster.victims.missed_since(request.uid, missing, cluster.now, certain=certain)
    return Unheard(missing, certain, since)
