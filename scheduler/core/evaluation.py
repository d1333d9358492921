"""What is known about each shape, row by row, and kept up to date by the journal of the state.

Verdict, score and device of every row are remembered per shape, with a position in the journal. The
next question about the shape computes the rows that have changed since, their static reasons
included, so that its cost follows what has changed and not the size of the cluster.

The first question about a shape looks at every row. That may be done beforehand, some rows at a
time (:meth:`Evaluations.preparation`), by a driver that does not want to be kept for so long.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.core.feasibility import dynamic_reasons, static_reasons
from scheduler.core.fragmentation import Fragmentation
from scheduler.core.model import Placement, PodRequest, Reason, Release, Shape
from scheduler.core.passed import as_passed, doubtful
from scheduler.core.price_tables import Prices
from scheduler.core.scoring import INFEASIBLE, Scorer
from scheduler.core.state import ClusterState

__all__ = ["Evaluation", "Evaluations"]

IntArray = NDArray[np.int64]

_MOST_SHAPES = 512
_CELLS_PER_STEP = 3_000
"""Devices that are looked at in one step: a few milliseconds."""
_FITS = Reason.FITS.code
_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(slots=True)
class Evaluation:
    """Everything known about one shape, row by row.

    Attributes
    ----------
    static, reasons : (N,) int8
        Code of the reason that no eviction can cure, and of the one that counts.
    scores : (N,) int64
        ``INFEASIBLE`` where the pod does not fit.
    devices : (N,) int16
        Device of a fraction, else -1.
    position
        In the journal of the state.
    tables, prices
        By which it was scored.
    asked
        Whether anybody has asked about the shape since it was scored afresh.
    """

    static: NDArray[np.int8]
    reasons: NDArray[np.int8]
    scores: IntArray
    devices: NDArray[np.int16]
    position: int
    tables: Fragmentation
    prices: Prices | None
    asked: bool = False

    def copy(self) -> Evaluation:
        """The same, to be written to; static reasons are shared."""
        return replace(
            self,
            reasons=self.reasons.copy(),
            scores=self.scores.copy(),
            devices=self.devices.copy(),
        )


class Evaluations:
    """Evaluations by shape.

    Parameters
    ----------
    state
        The cluster.
    scorer
        Scores rows.
    """

    def __init__(self, state: ClusterState, scorer: Scorer) -> None:
        self._state, self._scorer = state, scorer
        self._known: OrderedDict[Shape, Evaluation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    # -- of a shape --------------------------------------------------------------------------

    def current(self, shape: Shape) -> Evaluation:
        """What is known about a shape now; nobody may write to it."""
        evaluation = self._known.get(shape)
        if evaluation is None or not self._in_force(evaluation):
            evaluation, rows = self._fresh(shape), np.arange(len(self._state))
            self.put(shape, evaluation)
        else:
            self._known.move_to_end(shape)
            rows = self._changed(shape, evaluation)
        evaluation.asked = True
        self._renew(shape, rows, evaluation)
        return evaluation

    def put(self, shape: Shape, evaluation: Evaluation) -> None:
        """Remember an evaluation; the one that was not asked about for longest is forgotten."""
        self._known[shape] = evaluation
        self._known.move_to_end(shape)
        if len(self._known) > _MOST_SHAPES:
            self._known.popitem(last=False)

    def clear(self) -> list[Shape]:
        """Forget everything; returns the shapes that were asked about, the latest last."""
        asked = self.asked()
        self._known.clear()
        return asked

    def asked(self) -> list[Shape]:
        """Shapes that were asked about since they were scored afresh, the latest last."""
        return [shape for shape, known in self._known.items() if known.asked]

    def preparation(self, shapes: Iterable[Shape]) -> Iterator[None] | None:
        """Work that makes the next questions about these shapes cheap; None where they are.

        Between two steps the state may change, and others may use it.
        """
        width = self._state.gpu_free.shape[1]
        if len(self._state) * width <= _CELLS_PER_STEP:
            return None
        due = [shape for shape in shapes if self._is_costly(shape)]
        return self._prepared(due) if due else None

    def _is_costly(self, shape: Shape) -> bool:
        known = self._known.get(shape)
        if known is None or not self._in_force(known):
            return True
        changed, _ = self._state.changed_since(known.position)
        return changed is None or len(changed) * self._state.gpu_free.shape[1] > _CELLS_PER_STEP

    def _prepared(self, shapes: Iterable[Shape]) -> Iterator[None]:
        for shape in shapes:
            for evaluation in self.evaluated(shape):
                if evaluation is not None and self._in_force(evaluation):
                    self.put(shape, evaluation)
                yield

    def evaluated(self, shape: Shape) -> Iterator[Evaluation | None]:
        """Evaluate a shape afresh, some rows per step; the last step returns all of it.

        What changes meanwhile is in the journal, and so is renewed with the next question.
        """
        evaluation = self._fresh(shape)
        rows = np.arange(len(evaluation.reasons))
        size = max(1, _CELLS_PER_STEP // self._state.gpu_free.shape[1])
        for start in range(0, len(rows), size):
            self._renew(shape, rows[start : start + size], evaluation)
            yield evaluation if start + size >= len(rows) else None

    def _in_force(self, evaluation: Evaluation) -> bool:
        """Whether it was scored by what is in force."""
        scorer = self._scorer
        return evaluation.tables is scorer.tables() and evaluation.prices is scorer.prices()

    def _fresh(self, shape: Shape) -> Evaluation:
        count = len(self._state)
        _, position = self._state.changed_since(0)
        return Evaluation(
            static_reasons(self._state, shape),
            np.zeros(count, dtype=np.int8),
            np.full(count, INFEASIBLE, dtype=np.int64),
            np.full(count, -1, dtype=np.int16),
            position,
            self._scorer.tables(),
            self._scorer.prices(),
        )

    def _changed(self, shape: Shape, evaluation: Evaluation) -> IntArray:
        """Rows that have changed since, with their static reasons of now."""
        state = self._state
        listed, evaluation.position = state.changed_since(evaluation.position)
        if listed is not None and not listed:
            return _NO_ROWS
        more = len(state) - len(evaluation.reasons)
        if more:
            evaluation.static = np.pad(evaluation.static, (0, more))
            evaluation.reasons = np.pad(evaluation.reasons, (0, more))
            evaluation.scores = np.pad(evaluation.scores, (0, more))
            evaluation.devices = np.pad(evaluation.devices, (0, more))
        rows = np.arange(len(state)) if listed is None else np.unique(np.array(listed, np.int64))
        if shape.counted:  # what one node offers decides whether others lack it
            before, evaluation.static = evaluation.static, static_reasons(state, shape)
            rows = np.union1d(rows, np.flatnonzero(before != evaluation.static))
        else:
            evaluation.static[rows] = static_reasons(state, shape, rows)
        return rows

    def _renew(self, shape: Shape, rows: IntArray, evaluation: Evaluation) -> None:
        if not len(rows):
            return
        static = evaluation.static[rows]
        evaluation.reasons[rows] = static
        evaluation.scores[rows] = INFEASIBLE
        evaluation.devices[rows] = -1
        possible = rows[static == _FITS]
        codes = dynamic_reasons(self._state, shape, possible)
        evaluation.reasons[possible] = codes
        feasible = possible[codes == _FITS]
        if self._scorer.policy.cacheable:
            self._score(self._state, shape, feasible, feasible, evaluation, 0)
        else:
            evaluation.scores[feasible] = 0

    def _score(
        self,
        state: ClusterState,
        shape: Shape,
        rows: IntArray,
        identities: IntArray,
        evaluation: Evaluation,
        salt: int,
    ) -> None:
        """Score ``rows`` of ``state`` into the entries ``identities`` of the evaluation."""
        if len(rows):
            scores, devices = self._scorer.score(state, shape, rows, identities, salt)
            evaluation.scores[identities] = scores
            evaluation.devices[identities] = devices

    # -- of a pod ----------------------------------------------------------------------------

    def of_pod(
        self,
        request: PodRequest,
        passed: IntArray | None = None,
        reserved: Iterable[Placement] = (),
    ) -> Evaluation:
        """What is known about a pod; nobody may write to it.

        Parameters
        ----------
        request
            The pod. Its own reservation or placement does not count against it.
        passed
            Rows that kube-scheduler has passed, see :mod:`scheduler.core.passed`.
        reserved
            All reservations; looked at where some row is passed and seems too full.
        """
        evaluation = self.current(request.shape)
        own = self._state.placements.get(request.uid)
        late = passed is not None and len(doubtful(evaluation.reasons, passed)) > 0
        if self._scorer.policy.cacheable and own is None and not late:
            return evaluation
        # What is particular to this pod is laid over a copy; the cached arrays stay general.
        particular = evaluation.copy()
        salt = self._scorer.salt(request)
        if not self._scorer.policy.cacheable:
            self._afresh(request, own, particular, salt)
        elif own is not None:
            self._without_own(request, self._state.row_of[own.node], particular, salt)
        if passed is not None and len(rows := doubtful(particular.reasons, passed)):
            self._as_passed(request, rows, particular, salt, reserved)
        return particular

    def seen_by(self, request: PodRequest, row: int) -> tuple[ClusterState, int]:
        """The state and row to look at: without the pod itself where it is placed or reserved."""
        own = self._state.placements.get(request.uid)
        if own is None or self._state.row_of[own.node] != row:
            return self._state, row
        return self._state.excerpt_without(row, {request.uid}), 0

    def _afresh(
        self, request: PodRequest, own: Placement | None, evaluation: Evaluation, salt: int
    ) -> None:
        """Score all rows together, as the policy compares them with each other."""
        state = self._state
        if own is not None:
            state = state.fork()
            state.apply((Release(request.uid),))
            row = np.array([state.row_of[own.node]])
            if evaluation.static[row[0]] == _FITS:
                evaluation.reasons[row] = dynamic_reasons(state, request.shape, row)
        feasible = np.flatnonzero(evaluation.reasons == _FITS)
        evaluation.scores[:] = INFEASIBLE
        self._score(state, request.shape, feasible, feasible, evaluation, salt)

    def _without_own(
        self, request: PodRequest, row: int, evaluation: Evaluation, salt: int
    ) -> None:
        """Overwrite one row with what it is without the pod itself."""
        excerpt, at = self.seen_by(request, row)
        evaluation.scores[row] = INFEASIBLE
        code = int(evaluation.static[row])
        if code == _FITS:
            code = int(dynamic_reasons(excerpt, request.shape, np.array([at]))[0])
        evaluation.reasons[row] = code
        if code == _FITS:
            self._score(excerpt, request.shape, np.array([at]), np.array([row]), evaluation, salt)

    def _as_passed(
        self,
        request: PodRequest,
        rows: IntArray,
        evaluation: Evaluation,
        salt: int,
        reserved: Iterable[Placement],
    ) -> None:
        """Overwrite rows by what they are as kube-scheduler has passed them."""
        seen, every = as_passed(self._state, request, rows, reserved), np.arange(len(rows))
        codes = static_reasons(seen, request.shape)
        possible = every[codes == _FITS]
        codes[possible] = dynamic_reasons(seen, request.shape, possible)
        evaluation.reasons[rows], evaluation.scores[rows] = codes, INFEASIBLE
        fits = every[codes == _FITS]
        self._score(seen, request.shape, fits, rows[fits], evaluation, salt)
