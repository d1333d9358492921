"""The latest decisions, for ``/debug/decisions``, and their counts, for metrics."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import PodRequest, Reason

__all__ = ["Decision", "DecisionLog"]

_LONGEST = 600
_NO_CODES = np.zeros(0, dtype=np.int8)
_TEXTS = [Reason.of(code).text for code in range(len(Reason))]


@dataclass(frozen=True, slots=True)
class Decision:
    """One entry of the log; ``at`` is seconds since the epoch, ``top`` the best nodes."""

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


class DecisionLog:
    """Keeps the latest decisions.

    Parameters
    ----------
    size
        How many.

    Attributes
    ----------
    put_off : int
        Filter calls answered by an error, for victims whose end we had not heard of.
    """

    def __init__(self, size: int) -> None:
        self.put_off = 0
        self._decisions: deque[Decision] = deque(maxlen=size)
        self._verdicts: dict[str, NDArray[np.int64]] = {}
        self._counting = Lock()

    def verdicts(self) -> dict[str, NDArray[np.int64]]:
        """Verdicts on nodes so far by verb: how many by reason code, (reasons,)."""
        with self._counting:
            return {verb: counts.copy() for verb, counts in self._verdicts.items()}

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """The latest decisions, newest first."""
        latest = list(self._decisions)[-limit:] if limit > 0 else []
        return [decision.to_json() for decision in reversed(latest)]

    def record(
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
        """Add a decision.

        Parameters
        ----------
        verb, pod, uid
            What was asked, for whom.
        codes : (nodes,) integers
            Reason codes; empty where the verb gives none.
        top
            Best nodes and their scores.
        detail
            Free text.
        asked
            Number of candidates, where it is not the number of codes.
        """
        reasons = {}
        if len(codes):
            counts = np.bincount(codes, minlength=len(Reason))
            with self._counting:
                self._verdicts[verb] = self._verdicts.get(verb, 0) + counts
            reasons = {_TEXTS[code]: int(counts[code]) for code in np.flatnonzero(counts).tolist()}
        candidates = len(codes) if asked is None else asked
        pod, uid, detail = (each[:_LONGEST] for each in (pod, uid, detail))
        self._decisions.append(
            Decision(time.time(), verb, pod, uid, candidates, reasons, top or [], detail)
        )

    def record_put_off(self, request: PodRequest, problem: str) -> None:
        """A filter call was answered by an error: the pod is to ask again."""
        with self._counting:
            self.put_off += 1
        self.record("filter", request.key, request.uid, _NO_CODES, detail=problem)
