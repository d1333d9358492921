"""The engine: filter, rank, choose, place, reserve. One object behind every driver.

It has no clock (``now`` is an argument), no randomness (randomised policies draw from the pod's
uid and the seed), no sockets, no threads, no logging. A driver that shares it between threads
brings its own lock.

What it knows about a shape is in :mod:`.evaluation`, by what rows are scored in :mod:`.scoring`,
tentative placements in :mod:`.reservations`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from scheduler.core.devices import shares_of
from scheduler.core.errors import CapacityConflict
from scheduler.core.evaluation import Evaluation, Evaluations
from scheduler.core.fragmentation import Fragmentation
from scheduler.core.model import Placement, PodRequest, Reason, Release, Shape
from scheduler.core.neighbours import Neighbours
from scheduler.core.passed import behind, large_enough, short_of
from scheduler.core.policies.table import policy_named
from scheduler.core.price_tables import Prices
from scheduler.core.ranking import Policy, ranks
from scheduler.core.reservations import Reservation, Reservations
from scheduler.core.scoring import INFEASIBLE, Scorer
from scheduler.core.selection import Admission
from scheduler.core.state import ClusterState
from scheduler.core.warmup import ScoreWarmup
from scheduler.core.workload_profile import WorkloadProfile

__all__ = ["INFEASIBLE", "Engine", "Reservation", "ScoreWarmup"]

IntArray = NDArray[np.int64]

_WARMED_SHAPES = 64
_FITS = Reason.FITS.code


class Engine:
    """Answers which nodes can host a pod, in which order, and why.

    Parameters
    ----------
    state
        The cluster. The engine writes to it in ``place``, ``place_on``, ``release`` and by
        reservations only.
    policy
        Name or entry of :data:`scheduler.core.policies.table.POLICIES`.
    profile
        Typical pods, for the policies that look at fragmentation.
    seed
        For randomised policies.

    Attributes
    ----------
    reservations : Reservations
        Tentative placements.
    neighbours : Neighbours or None
        Which pods are where, for rules between pods; applied where node rules are. Its setter keeps
        it up to date. None beside a live cluster, where kube-scheduler applies these rules itself.
    """

    def __init__(
        self,
        state: ClusterState,
        policy: str | Policy = "fgd",
        *,
        profile: WorkloadProfile | None = None,
        seed: int = 0,
    ) -> None:
        self.state = state
        self.policy = policy_named(policy) if isinstance(policy, str) else policy
        self.reservations = Reservations(state)
        self.neighbours: Neighbours | None = None
        tables = Fragmentation(state, profile or WorkloadProfile())
        self._scorer = Scorer(state, self.policy, tables, seed)
        self._evaluations = Evaluations(state, self._scorer)
        self._admission, self._admission_epoch, self._admission_at = Admission(()), -1, 0

    # -- by what is scored -------------------------------------------------------------------

    @property
    def profile(self) -> WorkloadProfile:
        """The workload profile in force."""
        return self._scorer.profile

    def tables(self) -> Fragmentation:
        """Fragmentation tables of the profile in force, renewed as the state knows more models."""
        return self._scorer.tables()

    def prices(self) -> Prices | None:
        """Prices in force; None without any, or once a node of an unknown class has come."""
        return self._scorer.prices()

    def put_profile_in_force(
        self, profile: WorkloadProfile, tables: Fragmentation | None = None
    ) -> None:
        """Use another workload profile from now on; every remembered score is forgotten.

        Parameters
        ----------
        profile
            Typical pods.
        tables
            Made for the profile beforehand; made here if the state has learnt more since.
        """
        self._scorer.put_profile_in_force(profile, tables)
        self._evaluations.clear()

    def put_prices_in_force(
        self,
        prices: Prices | None,
        warmed: ScoreWarmup | None = None,
        profile: WorkloadProfile | None = None,
    ) -> None:
        """Charge these prices from now on; every remembered score is forgotten.

        Parameters
        ----------
        prices
            None for none.
        profile
            The workload profile to go with them, where that is another one from now on.
        warmed
            Scores at these prices; what has changed since is computed when they are asked for,
            like any change.
        """
        scorer = self._scorer
        self._evaluations.clear()
        if warmed is None or not warmed.is_current(scorer.tables()):
            scorer.put_prices_in_force(prices)
            if profile is not None and profile is not scorer.profile:
                scorer.put_profile_in_force(profile)
            return
        scorer.adopt(warmed.scorer)
        for shape, evaluation in warmed.scores.items():
            evaluation.tables, evaluation.prices = scorer.tables(), scorer.prices()
            self._evaluations.put(shape, evaluation)

    def warmup(
        self,
        prices: Prices,
        profile: WorkloadProfile | None = None,
        tables: Fragmentation | None = None,
    ) -> ScoreWarmup | None:
        """Score the shapes asked about since the last prices, before these are in force.

        Parameters
        ----------
        prices, profile
            As :meth:`put_prices_in_force` will get them.
        tables
            As :meth:`put_profile_in_force` takes them.

        Returns
        -------
        ScoreWarmup or None
            For :meth:`put_prices_in_force`, once its steps are done; None if there is nothing to
            score.
        """
        shapes = self._evaluations.asked()
        if not shapes or not self.policy.cacheable:
            return None
        in_force = self._scorer.tables()
        twin = Scorer(self.state, self.policy, in_force, self._scorer.seed)
        if profile is not None and profile is not self.profile:
            twin.put_profile_in_force(profile, tables)
        twin.put_prices_in_force(prices)
        evaluations = Evaluations(self.state, twin)
        return ScoreWarmup(evaluations, twin, in_force, shapes[-_WARMED_SHAPES:])

    def twin(self) -> Engine:
        """The same engine on a copy of the state, to try things on; nothing is reserved by it."""
        twin = Engine(self.state.fork(), self.policy, seed=self._scorer.seed)
        twin._scorer.adopt(self._scorer)
        return twin

    def preparation(self, shapes: Sequence[Shape]) -> Iterator[None] | None:
        """Work that makes the next questions about these shapes cheap; None where they are.

        It is done step by step, each of which takes a few milliseconds. Between two steps the state
        may change, and others may use the engine.
        """
        return self._evaluations.preparation(shapes)

    # -- pure answers ------------------------------------------------------------------------

    def filter(
        self,
        request: PodRequest,
        rows: IntArray | None = None,
        *,
        selection: bool = False,
        passed: bool = False,
    ) -> NDArray[np.int8]:
        """Reason code of each row; 0 means that the pod fits.

        Parameters
        ----------
        request
            The pod. Its own reservation or placement does not count against it.
        rows : (R,) int64, optional
            Rows to look at; -1 stands for an unknown node. All rows if left out.
        selection
            Also apply node selector, affinity, taints and cordons. kube-scheduler has done that
            before it calls an extender.
        passed
            kube-scheduler has passed these rows for the pod, here and below: what it counts itself
            refuses them only where it is reserved for others, see :mod:`scheduler.core.passed`.

        Returns
        -------
        (R,) int8
            Codes of :class:`Reason`.
        """
        codes = self._evaluate(request, rows if passed else None).reasons
        if selection:
            admitted = self._admitted(request)
            if admitted is not None:
                codes = np.where(admitted == _FITS, codes, admitted)
        if rows is None:
            return codes.copy()
        if not len(codes):  # an empty cluster knows no node
            return np.full(len(rows), Reason.NODE_UNKNOWN.code, dtype=np.int8)
        picked = codes[rows]
        picked[rows < 0] = Reason.NODE_UNKNOWN.code
        return picked

    def short_of(
        self, request: PodRequest, rows: IntArray, codes: NDArray[np.int8], *, passed: bool = False
    ) -> IntArray:
        """Which counted resource each row lacks by these codes of :meth:`filter`, by position. (R,)

        See :func:`scheduler.core.passed.short_of`.
        """
        reserved = self._reserved() if passed else None
        return short_of(self.state, request, rows, codes, reserved)

    def scores(self, request: PodRequest, rows: IntArray, *, passed: bool = False) -> IntArray:
        """Score of each row, higher is better, ``INFEASIBLE`` where the pod does not fit. (R,)"""
        scores = self._evaluate(request, rows if passed else None).scores
        return scores[rows] if len(scores) else np.full(len(rows), INFEASIBLE, dtype=np.int64)

    def ranks(self, request: PodRequest, rows: IntArray) -> IntArray:
        """Extender scores 0..10 of these rows: a unique winner, the others by rank. (R,)

        Of equal best scores the lowest row wins, whatever the order of ``rows``.
        """
        return ranks(self.scores(request, rows), rows)

    def best(
        self,
        request: PodRequest,
        rows: IntArray | None = None,
        *,
        selection: bool = False,
        late: IntArray | None = None,
    ) -> int:
        """Row where the pod should go, or -1 if it fits nowhere.

        ``late`` are rows of which the state is late, see :meth:`late`.
        """
        scores = self._evaluate(request, late).scores
        if selection:
            admitted = self._admitted(request)
            if admitted is not None:
                scores = np.where(admitted == _FITS, scores, INFEASIBLE)
        if not len(scores) or (rows is not None and not len(rows)):
            return -1
        if rows is not None:
            rows = np.sort(rows)
            row = int(rows[scores[rows].argmax()])
        else:
            row = int(scores.argmax())
        return row if scores[row] != INFEASIBLE else -1

    def late(self, request: PodRequest, rows: IntArray) -> IntArray:
        """Those of the rows, which kube-scheduler has passed, of which the state is late. (K,)

        See :func:`scheduler.core.passed.behind`.
        """
        return behind(self.state, request, rows, self._reserved())

    def admitted(self, request: PodRequest) -> IntArray:
        """Rows whose own rules let the pod in, whether or not it fits there: ascending, (R,)."""
        codes = self._admitted(request)
        return np.arange(len(self.state)) if codes is None else np.flatnonzero(codes == _FITS)

    def explain(self, request: PodRequest, node: str) -> Reason:
        """Whether the node can host the pod, selection rules included, and if not, why."""
        row = self.state.row_of.get(node, -1)
        if row < 0:
            return Reason.NODE_UNKNOWN
        return Reason.of(int(self.filter(request, np.array([row]), selection=True)[0]))

    def excerpt(
        self, request: PodRequest, row: int, *, passed: bool = False
    ) -> ClusterState | None:
        """A what-if copy of one row without the pod itself; None if no eviction lets it fit there.

        :func:`scheduler.core.feasibility.dynamic_reasons` says whether the pod fits on the copy.

        Parameters
        ----------
        passed
            kube-scheduler takes the row for large enough; what it counts itself is no reason then.
        """
        known = self._evaluations.current(request.shape).static[row] == _FITS
        if not known and not passed:
            return None
        copy = self.state.excerpt_without(row, {request.uid})
        return copy if known or large_enough(copy, request.shape) else None

    def choose(self, request: PodRequest, node: str, *, passed: bool = False) -> Placement:
        """The placement that a reservation on this node would make; writes nothing.

        Raises
        ------
        UnknownNode
            The state holds no such node.
        CapacityConflict
            The pod does not fit there.
        """
        row = self.state.row(node)
        evaluation = self._evaluate(request, np.array([row]) if passed else None)
        reason = Reason.of(int(evaluation.reasons[row]))
        if reason is not Reason.FITS:
            raise CapacityConflict(node, request.key, reason.text)
        state, at = self._evaluations.seen_by(request, row)
        shares = shares_of(state, request.gpu, at, int(evaluation.devices[row]))
        assert shares is not None  # feasibility and device choice look at the same columns
        return Placement(request, node, shares)

    # -- effects -----------------------------------------------------------------------------

    def place(self, request: PodRequest, *, selection: bool = False) -> Placement | None:
        """Place the pod where it should go; None if it fits nowhere.

        ``selection`` is that of :meth:`best`.
        """
        row = self.best(request, selection=selection)
        return self.place_on(request, self.state.node(row).name) if row >= 0 else None

    def place_on(self, request: PodRequest, node: str, *, passed: bool = False) -> Placement:
        """Place the pod on the node and choose its devices; repeating it changes nothing.

        A reservation of the pod on this node becomes the placement, one on another node is dropped.

        Raises
        ------
        UnknownNode, CapacityConflict
            As :meth:`choose`; also if the pod is placed on another node. Nothing has changed then.
        """
        held = self.reservations.get(request.uid)
        placed = self.state.placements.get(request.uid)
        if placed is not None and placed.node == node:
            self.reservations.settle(request.uid)
            return placed
        if placed is not None and held is None:
            raise CapacityConflict(node, request.key, f"it is already placed on {placed.node}")
        placement = self.choose(request, node, passed=passed)
        if held is not None:
            self.state.apply((Release(request.uid), placement), passed=passed)
            self.reservations.settle(request.uid)
        else:
            self.state.apply((placement,), passed=passed)
        return placement

    def release(self, uid: str) -> None:
        """Take the pod's placement or reservation back; :class:`UnknownPod` if it has none."""
        self.state.apply((Release(uid),))
        self.reservations.settle(uid)

    def reserve_until(
        self, request: PodRequest, node: str, until: float, *, passed: bool = False
    ) -> None:
        """Reserve tentatively until a time; replaces an older reservation of the pod.

        A pod that is placed for good keeps its placement and gets no reservation.

        Raises
        ------
        UnknownNode, CapacityConflict
            As :meth:`choose`; an older reservation stays then.
        """
        held = self.reservations.get(request.uid)
        if held is None and request.uid in self.state.placements:
            return
        if held is not None and held.placement.node == node:
            self.reservations.put(held.placement, until)
            return
        placement = self.choose(request, node, passed=passed)
        delta = (Release(request.uid), placement) if held else (placement,)
        self.state.apply(delta, passed=passed)
        self.reservations.put(placement, until)

    # -- inside ------------------------------------------------------------------------------

    def _evaluate(self, request: PodRequest, passed: IntArray | None = None) -> Evaluation:
        """What is known about the pod, with these rows passed by kube-scheduler."""
        return self._evaluations.of_pod(request, passed, self._reserved())

    def _reserved(self) -> Iterator[Placement]:
        return (held.placement for held in self.reservations.values())

    def _admitted(self, request: PodRequest) -> NDArray[np.int8] | None:
        """Reason codes of the nodes' own rules for this pod; None if all let it in. (N,)"""
        if self._admission_epoch != self.state.node_epoch:
            changed, self._admission_at = self.state.changed_since(self._admission_at)
            if changed is None or self._admission_epoch < 0:
                self._admission = Admission(self.state.nodes)
            else:
                self._admission.update(set(changed), self.state.nodes)
            self._admission_epoch = self.state.node_epoch
        codes = self._admission.codes(request.selection)
        if self.neighbours is None:
            return codes
        rules = self.neighbours.codes(request)
        if codes is None or rules is None:
            return rules if codes is None else codes
        return np.where(codes == _FITS, rules, codes)
