"""The preempt question: which pods to evict for a pod, and which are evicted after them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.cluster.ledger import Cluster, Ledger
from scheduler.cluster.named_victims import OnNode
from scheduler.cluster.preemption import (
    Candidate,
    Victims,
    choose_victims,
    without_more_expensive_gangs,
)
from scheduler.core.model import PodRequest
from scheduler.core.plural import plural

__all__ = ["Preemption", "due_evictions", "preempt"]

log = logging.getLogger(__name__)

Candidates = Mapping[str, tuple[tuple[str, ...], int]]


@dataclass(frozen=True, slots=True)
class Preemption:
    """An answer: victims and violated budgets per node; and what becomes of members elsewhere."""

    victims: dict[str, tuple[list[str], int]]
    detail: str


def preempt(ledger: Ledger, request: PodRequest, candidates: Candidates) -> Preemption:
    """Victims per node that really make room for the pod; nodes where none do are left out.

    From 1.38 on candidates may come without victims: they pass as they are if the pod fits, and
    get victims if it does not. They are chosen beside the cluster, node by node, by
    :mod:`.preemption`, and remembered in the end.

    Parameters
    ----------
    candidates
        kube-scheduler's victims by node, and how many budgets they violate.
    """
    found: dict[str, Victims] = {}
    stated: dict[str, int] = {}
    until = ledger.clock() + ledger.config.preempt_deadline_s
    for name, (victims, violations) in candidates.items():
        if found and ledger.clock() >= until:
            log.info("preempt: %d of %d candidates in time", len(found), len(candidates))
            break  # some good places now are worth more than all of them too late
        chosen = _victims_on(ledger, request, name, victims)
        if chosen is not None:
            found[name], stated[name] = chosen, violations
    kept = without_more_expensive_gangs(found)
    with ledger.locked() as cluster:
        return Preemption(
            {
                name: (list(victims.uids), max(stated[name], victims.violations))
                for name, victims in kept.items()
            },
            _record(cluster, request, kept),
        )


def due_evictions(cluster: Cluster) -> list[PodRequest]:
    """Members of broken gangs that are to be evicted now."""
    placements, due = cluster.engine.state.placements, cluster.victims.due(cluster.now)
    for pod in due:
        if pod.uid not in placements:
            cluster.victims.done(pod.uid)
    return [pod for pod in due if pod.uid in placements]


def _victims_on(
    ledger: Ledger, request: PodRequest, name: str, suggested: tuple[str, ...]
) -> Victims | None:
    with ledger.locked() as cluster:
        row = cluster.engine.state.row_of.get(name, -1)
        if row < 0:
            return None
        engine, members, sync = cluster.engine, cluster.gangs.members, cluster.sync
        candidate = Candidate(engine, request, row, members, passed=sync is not None)
        budgets = list(sync.budgets.values()) if sync else []
        uids = candidate.everybody if budgets else ()
        labels = {uid: sync.labels_of(uid) for uid in uids} if sync else {}
    return choose_victims(candidate, suggested, budgets=budgets, labels=labels.get)


def _record(cluster: Cluster, request: PodRequest, kept: Mapping[str, Victims]) -> str:
    """Remember the victims named for the pod; returns what becomes of members on other nodes."""
    evicts = cluster.config.evict_gangs
    cluster.victims.record(
        request.uid,
        {
            name: OnNode(victims.uids, victims.others, victims.gangs)
            if evicts
            else OnNode(victims.uids)
            for name, victims in kept.items()
        },
    )
    most = max((len(victims.others) for victims in kept.values()), default=0)
    if not most:
        return ""
    gangs = f"at most {plural(most, 'member')} of gangs on other nodes"
    if not evicts:
        return f"{gangs}: left to their workload's controller (evict_gangs is off)"
    return f"{gangs}: to be evicted once kube-scheduler has begun with the named victims"
