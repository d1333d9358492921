"""The preempt verb: who is named for whom, and what follows from it later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from threading import Lock

import numpy as np

from scheduler.cluster.awaited_victims import Evictions
from scheduler.cluster.preemption import (
    Candidate,
    Victims,
    choose_victims,
    without_dearer_gangs,
)
from scheduler.cluster.remainders import Remainder, Remainders
from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import Adoption
from scheduler.core.model import PodRequest
from scheduler.kube.mirror import Mirror
from scheduler.webhook.decision_log import DecisionLog

__all__ = ["Preempting"]

log = logging.getLogger(__name__)

Candidates = Mapping[str, tuple[tuple[str, ...], int]]

_NO_CODES = np.zeros(0, dtype=np.int8)


class Preempting:
    """Answers preempt calls, and remembers whom it has named.

    Parameters
    ----------
    engine, adoption
        What is asked.
    lock
        Guards them; held by the caller except in :meth:`answer`, :meth:`due` and :meth:`done`.
    config
        Settings.
    decisions
        Where answers are recorded.
    clock
        The driver's time.

    Attributes
    ----------
    evictions : Evictions
        Victims whose end is waited for.
    """

    def __init__(
        self,
        engine: Engine,
        adoption: Adoption,
        lock: Lock,
        config: ExtenderConfig,
        decisions: DecisionLog,
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._adoption, self._lock = engine, adoption, lock
        self._config, self._decisions, self._clock = config, decisions, clock
        self.evictions = Evictions(config.remembered_pods)
        self._remainders = Remainders(config.remembered_pods)

    def answer(
        self, request: PodRequest, candidates: Candidates, mirror: Mirror | None
    ) -> dict[str, tuple[list[str], int]]:
        """Victims per node that really make room for the pod; nodes where none do are left out."""
        found: dict[str, Victims] = {}
        stated: dict[str, int] = {}
        until = self._clock() + self._config.preempt_deadline_s
        for name, (victims, violations) in candidates.items():
            if found and self._clock() >= until:
                log.info("preempt: %d of %d candidates in time", len(found), len(candidates))
                break  # some good places now are worth more than all of them too late
            with self._lock:
                row = self._engine.state.row_of.get(name, -1)
                members = self._adoption.members
                live = mirror is not None
                candidate = (
                    Candidate(self._engine, request, row, members, passed=live)
                    if row >= 0
                    else None
                )
                budgets = list(mirror.budgets.values()) if mirror else []
                uids = candidate.everybody if candidate and budgets else ()
                labels = {uid: mirror.labels_of(uid) for uid in uids} if mirror else {}
            if candidate is None:
                continue
            chosen = choose_victims(candidate, victims, budgets=budgets, labels=labels.get)
            if chosen is not None:
                found[name], stated[name] = chosen, violations
        kept = without_dearer_gangs(found)
        answer = {
            name: (list(victims.uids), max(stated[name], victims.violations))
            for name, victims in kept.items()
        }
        with self._lock:
            self.evictions.name(request.uid, {name: uids for name, (uids, _) in answer.items()})
            told = self._left_elsewhere(request, kept)
        self._decisions.record(
            "preempt", request.key, request.uid, _NO_CODES, asked=len(candidates), detail=told
        )
        return answer

    def _left_elsewhere(self, request: PodRequest, kept: Mapping[str, Victims]) -> str:
        """Remember members of broken gangs on other nodes; returns what becomes of them."""
        broken = {name: victims for name, victims in kept.items() if victims.others}
        if not broken:
            return ""
        count = max(len(victims.others) for victims in broken.values())
        gangs = f"{count} members of gangs on other nodes"
        if not self._config.evict_gangs:
            return f"{gangs} are left to their workload's controller (evict_gangs is off)"
        self._remainders.name(
            request.uid,
            {name: Remainder(victims.others, victims.gangs) for name, victims in broken.items()},
        )
        return f"{gangs} are evicted once kube-scheduler has begun with those named"

    def chosen(self, uid: str, node: str) -> None:
        """kube-scheduler has decided for a node."""
        self.evictions.chosen(uid, node)
        self._remainders.chosen(uid, node, self._clock())

    def leaving(self, uid: str) -> None:
        """A pod with a node is being deleted, or is gone."""
        self._remainders.goes(uid, self._clock())

    def settled(self, uid: str) -> None:
        """A pod has found its place, or is gone."""
        self.evictions.drop(uid)
        self._remainders.drop(uid)

    def due(self) -> list[PodRequest]:
        """Members of broken gangs that are to be evicted now."""
        with self._lock:
            placements, due = self._engine.state.placements, self._remainders.due(self._clock())
            for pod in due:
                if pod.uid not in placements:
                    self._remainders.done(pod.uid)
            return [pod for pod in due if pod.uid in placements]

    def done(self, uid: str) -> None:
        """A member is being evicted, or cannot be any more."""
        with self._lock:
            self._remainders.done(uid)
