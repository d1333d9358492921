"""The engine: filter, rank, choose, reserve, hold. One object behind every driver.

It has no clock (``now`` is an argument), no randomness (randomised policies draw from the pod's
uid and the seed), no sockets, no threads, no logging. A driver that shares it between threads
brings its own lock.

A decision is cached per shape: verdict, score and device of every row, with a position in the
state's journal. The next decision for that shape recomputes the rows that changed since, so its
cost follows what changed and not the size of the cluster; a rejected pod costs no more than an
accepted one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from scheduler.core.devices import shares_of
from scheduler.core.errors import CapacityConflict, UnknownPod
from scheduler.core.feasibility import dynamic_reasons, static_reasons
from scheduler.core.fragmentation import Fragmentation
from scheduler.core.groups import odd_rows, views
from scheduler.core.mix import TypicalMix
from scheduler.core.model import Placement, PodRequest, Reason, Release, Shape
from scheduler.core.neighbours import Neighbours
from scheduler.core.passed import as_passed, doubtful, short_of
from scheduler.core.policies.table import policy_named
from scheduler.core.prices import Prices
from scheduler.core.ranking import Candidates, Policy, fewest_left, ranks
from scheduler.core.selection import Admission
from scheduler.core.state import ClusterState

__all__ = ["INFEASIBLE", "Engine", "Hold", "Rehearsal"]

IntArray = NDArray[np.int64]

INFEASIBLE = int(np.iinfo(np.int64).min)
"""Score of a row that cannot host the pod."""

_MAX_SHAPES = 512
_REHEARSED_SHAPES = 64
_REHEARSED_ROWS = 1000
_FITS = Reason.FITS.code


@dataclass(frozen=True, slots=True)
class Hold:
    """A tentative placement: counted like any other until ``until``, in the driver's time."""

    placement: Placement
    until: float


@dataclass(slots=True)
class _Evaluation:
    """Everything known about one shape, row by row."""

    static: NDArray[np.int8]
    reasons: NDArray[np.int8]
    scores: IntArray
    devices: NDArray[np.int16]
    position: int
    node_epoch: int
    prices: Prices | None
    asked: bool = False
    """Whether somebody has asked about the shape since it was scored afresh."""


class Rehearsal:
    """Scores of some shapes at prices that are not in force yet, computed a few rows at a time.

    Parameters
    ----------
    engine
        On the same state, with those prices and the mix that is to go with them; nobody else uses
        it.
    instead_of
        Tables that are in force meanwhile.
    shapes
        What to score.

    Attributes
    ----------
    scores : dict
        Those complete so far. What has changed since they were begun is in the state's journal.
    """

    def __init__(self, engine: Engine, instead_of: Fragmentation, shapes: Sequence[Shape]) -> None:
        self.engine = engine
        self.scores: dict[Shape, _Evaluation] = {}
        self._tables, self._instead_of = engine.fragmentation, instead_of
        self._shapes = shapes

    def holds(self, in_force: Fragmentation) -> bool:
        """Whether all of it was scored at one state of things, which may replace what is in force.

        It is not once the mix in force has changed, a model has come that the tables lack, or a
        class of nodes that the prices lack, even if its nodes are gone by now.
        """
        engine = self.engine
        return (
            in_force is self._instead_of
            and engine.fragmentation is self._tables
            and engine.prices is not None
        )

    def steps(self) -> Iterator[None]:
        """Compute them; between two steps the state may change, and others may use it."""
        for shape in self._shapes:
            for evaluation in self.engine.evaluated(shape):
                if evaluation is not None:
                    self.scores[shape] = evaluation
                yield


class Engine:
    """Answers which nodes can host a pod, in which order, and why.

    Parameters
    ----------
    state
        The cluster. The engine writes to it in ``reserve``, ``release`` and the hold methods only.
    policy
        Name or entry of :data:`scheduler.core.policies.table.POLICIES`.
    mix
        Typical pods, for the policies that look at fragmentation.
    seed
        For randomised policies.

    Attributes
    ----------
    neighbours : Neighbours or None
        Who is where, for rules between pods; applied where node rules are. Whoever sets it keeps it
        up to date. None beside a live cluster, where kube-scheduler applies these rules itself.
    """

    def __init__(
        self,
        state: ClusterState,
        policy: str | Policy = "fgd",
        *,
        mix: TypicalMix | None = None,
        seed: int = 0,
    ) -> None:
        self.state = state
        self.policy = policy_named(policy) if isinstance(policy, str) else policy
        self.seed = seed
        self._prices: Prices | None = None
        self._prices_epoch = -1
        self._holds: dict[str, Hold] = {}
        self._evaluations: OrderedDict[Shape, _Evaluation] = OrderedDict()
        self._admission, self._admission_epoch = Admission(()), -1
        self.neighbours: Neighbours | None = None
        self._fragmentation = Fragmentation(state, mix or TypicalMix())

    @property
    def mix(self) -> TypicalMix:
        """The typical mix in force."""
        return self._fragmentation.mix

    @property
    def fragmentation(self) -> Fragmentation:
        """Fragmentation tables of the mix, rebuilt when the state learns more of its models."""
        if not self._fragmentation.current(self.state):
            self.set_mix(self.mix)
        return self._fragmentation

    @property
    def holds(self) -> Mapping[str, Hold]:
        """Holds by pod uid."""
        return MappingProxyType(self._holds)

    def set_mix(self, mix: TypicalMix, tables: Fragmentation | None = None) -> None:
        """Use another typical mix from now on; every cached score is forgotten.

        Parameters
        ----------
        mix
            Typical pods.
        tables
            Made for the mix beforehand; made here if the state has learnt more since.
        """
        if tables is None or tables.mix is not mix or not tables.current(self.state):
            tables = Fragmentation(self.state, mix)
        self._fragmentation = tables
        self._evaluations.clear()

    @property
    def prices(self) -> Prices | None:
        """Prices in force; None without any, or once a node of an unknown class has come."""
        if self._prices is not None and self._prices_epoch != self.state.node_epoch:
            self._prices = self._prices.aligned(self.state)
            self._prices_epoch = self.state.node_epoch
        return self._prices

    def set_prices(
        self,
        prices: Prices | None,
        rehearsed: Rehearsal | None = None,
        mix: TypicalMix | None = None,
    ) -> None:
        """Charge these prices from now on; every cached score is forgotten.

        Parameters
        ----------
        prices
            None for none.
        mix
            The typical mix to go with them, where that is another one from now on.
        rehearsed
            Scores at these prices; what has changed since is computed when they are asked for,
            like any change.
        """
        self._evaluations.clear()
        if rehearsed is None or not rehearsed.holds(self.fragmentation):
            self._prices = prices.aligned(self.state) if prices else None
            self._prices_epoch = self.state.node_epoch
            if mix is not None and mix is not self.mix:
                self.set_mix(mix)
            return
        twin = rehearsed.engine
        self._fragmentation = twin.fragmentation
        self._prices, self._prices_epoch = twin.prices, self.state.node_epoch
        for shape, evaluation in rehearsed.scores.items():
            evaluation.prices = self.prices
            self._evaluations[shape] = evaluation

    def rehearsal(
        self,
        prices: Prices,
        mix: TypicalMix | None = None,
        tables: Fragmentation | None = None,
    ) -> Rehearsal | None:
        """Score the shapes asked about since the last prices, before these are in force.

        Parameters
        ----------
        prices, mix
            As :meth:`set_prices` will get them.
        tables
            As :meth:`set_mix` takes them.

        Returns
        -------
        Rehearsal or None
            For :meth:`set_prices`, once its steps are done; None if there is nothing to score.
        """
        shapes = [shape for shape, known in self._evaluations.items() if known.asked]
        if not shapes or not self.policy.cacheable:
            return None
        twin = Engine(self.state, self.policy, seed=self.seed)
        if mix is None or mix is self.mix:
            twin._fragmentation = self.fragmentation
        else:
            twin.set_mix(mix, tables)
        twin.set_prices(prices)
        return Rehearsal(twin, self.fragmentation, shapes[-_REHEARSED_SHAPES:])

    def twin(self) -> Engine:
        """The same engine on a copy of the state, to try things on; it holds nothing itself."""
        twin = Engine(self.state.fork(), self.policy, seed=self.seed)
        twin._fragmentation = self.fragmentation
        twin._prices, twin._prices_epoch = self.prices, self.state.node_epoch
        return twin

    def evaluated(self, shape: Shape) -> Iterator[_Evaluation | None]:
        """Evaluate a shape afresh, some rows per step; the last step returns all of it."""
        evaluation = self._fresh(shape)
        rows = np.arange(len(evaluation.reasons))
        for start in range(0, len(rows), _REHEARSED_ROWS):
            self._refresh(shape, rows[start : start + _REHEARSED_ROWS], evaluation)
            yield evaluation if start + _REHEARSED_ROWS >= len(rows) else None

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
            The pod. Its own hold or placement does not count against it.
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
        held = (hold.placement for hold in self._holds.values()) if passed else None
        return short_of(self.state, request, rows, codes, held)

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
        self, request: PodRequest, rows: IntArray | None = None, *, selection: bool = False
    ) -> int:
        """Row where the pod should go, or -1 if it fits nowhere."""
        scores = self._evaluate(request).scores
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

    def explain(self, request: PodRequest, node: str) -> Reason:
        """Whether the node can host the pod, selection rules included, and if not, why."""
        row = self.state.row_of.get(node, -1)
        if row < 0:
            return Reason.NODE_UNKNOWN
        return Reason.of(int(self.filter(request, np.array([row]), selection=True)[0]))

    def excerpt(self, request: PodRequest, row: int) -> ClusterState | None:
        """A what-if copy of one row without the pod itself; None if no eviction lets it fit there.

        :func:`scheduler.core.feasibility.dynamic_reasons` says whether the pod fits on the copy.
        """
        if self._current(request.shape).static[row] != _FITS:
            return None
        return self.state.excerpt_without(row, {request.uid})

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
        state, at = self._seen_by(request, row)
        shares = shares_of(state, request.gpu, at, int(evaluation.devices[row]))
        assert shares is not None  # feasibility and device choice look at the same columns
        return Placement(request, node, shares)

    # -- effects -----------------------------------------------------------------------------

    def reserve(self, request: PodRequest, node: str, *, passed: bool = False) -> Placement:
        """Place the pod on the node and choose its devices; repeating it changes nothing.

        A hold of the pod on this node becomes the placement, one on another node is dropped.

        Raises
        ------
        UnknownNode, CapacityConflict
            As :meth:`choose`; also if the pod is placed on another node. Nothing has changed then.
        """
        held = self._holds.get(request.uid)
        placed = self.state.placements.get(request.uid)
        if placed is not None and placed.node == node:
            self._holds.pop(request.uid, None)
            return placed
        if placed is not None and held is None:
            raise CapacityConflict(node, request.key, f"it is already placed on {placed.node}")
        placement = self.choose(request, node, passed=passed)
        if held is not None:
            self.state.apply((Release(request.uid), placement), passed=passed)
            del self._holds[request.uid]
        else:
            self.state.apply((placement,), passed=passed)
        return placement

    def release(self, uid: str) -> None:
        """Take the pod's placement or hold back; :class:`UnknownPod` if it has none."""
        self.state.apply((Release(uid),))
        self._holds.pop(uid, None)

    def hold(self, request: PodRequest, node: str, until: float, *, passed: bool = False) -> None:
        """Reserve tentatively until a time; replaces an older hold of the pod.

        A pod that is placed for good keeps its placement and gets no hold.

        Raises
        ------
        UnknownNode, CapacityConflict
            As :meth:`choose`; an older hold stays then.
        """
        held = self._holds.get(request.uid)
        if held is None and request.uid in self.state.placements:
            return
        if held is not None and held.placement.node == node:
            self._holds[request.uid] = Hold(held.placement, until)
            return
        placement = self.choose(request, node, passed=passed)
        delta = (Release(request.uid), placement) if held else (placement,)
        self.state.apply(delta, passed=passed)
        self._holds[request.uid] = Hold(placement, until)

    def drop_hold(self, uid: str) -> None:
        """Take a hold back; :class:`UnknownPod` if there is none."""
        if self._holds.pop(uid, None) is None:
            raise UnknownPod(uid)
        if uid in self.state.placements:  # else its node was removed, and the hold with it
            self.state.apply((Release(uid),))

    def end_hold(self, uid: str) -> None:
        """Have a hold expire at the next opportunity; :class:`UnknownPod` if there is none."""
        held = self._holds.get(uid)
        if held is None:
            raise UnknownPod(uid)
        self._holds[uid] = Hold(held.placement, -math.inf)

    def expire(
        self, now: float, *, spare: Callable[[str], bool] | None = None, most: int | None = None
    ) -> int:
        """Drop every hold whose time has passed, but those to be spared; returns how many.

        With ``most`` at most so many of them, the oldest first.
        """
        over = [uid for uid, hold in self._holds.items() if hold.until <= now]
        if spare is not None:
            over = [uid for uid in over if not spare(uid)]
        over = over[:most]
        for uid in over:
            self.drop_hold(uid)
        return len(over)

    # -- evaluation --------------------------------------------------------------------------

    def _seen_by(self, request: PodRequest, row: int) -> tuple[ClusterState, int]:
        """The state and row to look at: without the pod itself where it is placed or held."""
        own = self.state.placements.get(request.uid)
        if own is None or self.state.row_of[own.node] != row:
            return self.state, row
        return self.state.excerpt_without(row, {request.uid}), 0

    def _evaluate(self, request: PodRequest, passed: IntArray | None = None) -> _Evaluation:
        """What is known about the pod, with these rows passed by kube-scheduler."""
        evaluation = self._current(request.shape)
        own = self.state.placements.get(request.uid)
        late = passed is not None and len(doubtful(evaluation.reasons, passed)) > 0
        if self.policy.cacheable and own is None and not late:
            return evaluation
        # What is particular to this pod is laid over a copy; the cached arrays stay general.
        particular = _Evaluation(
            evaluation.static,
            evaluation.reasons.copy(),
            evaluation.scores.copy(),
            evaluation.devices.copy(),
            evaluation.position,
            evaluation.node_epoch,
            evaluation.prices,
        )
        salt = crc32(request.uid.encode()) ^ (self.seed * 0x9E3779B1)
        if not self.policy.cacheable:
            feasible = np.flatnonzero(particular.reasons == _FITS)
            self._score(self.state, request.shape, feasible, feasible, particular, salt)
        if own is not None:
            row = self.state.row_of[own.node]
            self._without_own(request, row, particular, salt)
        if passed is not None and len(rows := doubtful(particular.reasons, passed)):
            self._as_passed(request, rows, particular, salt)
        return particular

    def _as_passed(
        self, request: PodRequest, rows: IntArray, evaluation: _Evaluation, salt: int
    ) -> None:
        """Overwrite rows by what they are as kube-scheduler has passed them."""
        held = (hold.placement for hold in self._holds.values())
        seen, every = as_passed(self.state, request, rows, held), np.arange(len(rows))
        codes = static_reasons(seen, request.shape)
        possible = every[codes == _FITS]
        codes[possible] = dynamic_reasons(seen, request.shape, possible)
        evaluation.reasons[rows], evaluation.scores[rows] = codes, INFEASIBLE
        fits = every[codes == _FITS]
        self._score(seen, request.shape, fits, rows[fits], evaluation, salt)

    def _without_own(
        self, request: PodRequest, row: int, evaluation: _Evaluation, salt: int
    ) -> None:
        """Overwrite one row with what it is without the pod itself."""
        excerpt, at = self._seen_by(request, row)
        evaluation.scores[row] = INFEASIBLE
        code = int(evaluation.static[row])
        if code == _FITS:
            code = int(dynamic_reasons(excerpt, request.shape, np.array([at]))[0])
        evaluation.reasons[row] = code
        if code == _FITS:
            self._score(excerpt, request.shape, np.array([at]), np.array([row]), evaluation, salt)

    def _current(self, shape: Shape) -> _Evaluation:
        """The shape's cached evaluation, brought up to date."""
        state = self.state
        tables = self.fragmentation
        evaluation = self._evaluations.get(shape)
        if evaluation is None or not self._renewed(shape, evaluation):
            evaluation = self._fresh(shape)
            self._evaluations[shape] = evaluation
            if len(self._evaluations) > _MAX_SHAPES:
                self._evaluations.popitem(last=False)
            rows = np.arange(len(state))
        else:
            self._evaluations.move_to_end(shape)
            changed, evaluation.position = state.changed_since(evaluation.position)
            if changed is None:
                rows = np.arange(len(state))
            elif changed:
                rows = np.array(sorted(set(changed)), dtype=np.int64)
            else:
                rows = np.zeros(0, dtype=np.int64)
        evaluation.asked = True
        if not len(rows):
            return evaluation
        self._refresh(shape, rows, evaluation)
        assert tables is self._fragmentation
        return evaluation

    def _renewed(self, shape: Shape, evaluation: _Evaluation) -> bool:
        """Fit an evaluation to nodes that came, went or changed; False if that takes a new one.

        Those rows are in the journal, so that their scores are computed again like any changed
        row's; the others keep theirs, unless the prices in them are no longer in force.
        """
        state = self.state
        if evaluation.prices is not self.prices:
            return False
        if evaluation.node_epoch != state.node_epoch:
            evaluation.static = static_reasons(state, shape)
            evaluation.node_epoch = state.node_epoch
            more = len(state) - len(evaluation.reasons)
            if more:
                evaluation.reasons = np.pad(evaluation.reasons, (0, more))
                evaluation.scores = np.pad(evaluation.scores, (0, more))
                evaluation.devices = np.pad(evaluation.devices, (0, more))
        return True

    def _fresh(self, shape: Shape) -> _Evaluation:
        count = len(self.state)
        _, position = self.state.changed_since(0)
        return _Evaluation(
            static_reasons(self.state, shape),
            np.zeros(count, dtype=np.int8),
            np.full(count, INFEASIBLE, dtype=np.int64),
            np.full(count, -1, dtype=np.int16),
            position,
            self.state.node_epoch,
            self.prices,
        )

    def _refresh(self, shape: Shape, rows: IntArray, evaluation: _Evaluation) -> None:
        static = evaluation.static[rows]
        evaluation.reasons[rows] = static
        evaluation.scores[rows] = INFEASIBLE
        evaluation.devices[rows] = -1
        possible = rows[static == _FITS]
        codes = dynamic_reasons(self.state, shape, possible)
        evaluation.reasons[possible] = codes
        feasible = possible[codes == _FITS]
        if self.policy.cacheable:
            self._score(self.state, shape, feasible, feasible, evaluation, 0)
        else:
            evaluation.scores[feasible] = 0

    def _score(
        self,
        state: ClusterState,
        shape: Shape,
        rows: IntArray,
        identities: IntArray,
        evaluation: _Evaluation,
        salt: int,
    ) -> None:
        """Score ``rows`` of ``state`` into the entries ``identities`` of the evaluation.

        Odd rows are scored by what the request gets there, of several resources by the first.
        """
        if not len(rows):
            return
        odd = odd_rows(state, shape.gpu, rows)
        if odd is not None:
            for view in views(state, shape.gpu, rows, odd):
                seen, gpu = view.asks[0]
                own, every = replace(shape, gpu=gpu), np.arange(len(view.at))
                self._score(seen, own, every, identities[view.at], evaluation, salt)
            usual = np.flatnonzero(~odd)
            if len(usual):
                self._score(state, shape, rows[usual], identities[usual], evaluation, salt)
            return
        candidates = Candidates(
            state, shape, rows, identities, self.fragmentation, salt, self.prices
        )
        scored = self.policy.evaluate(candidates)
        scores = scored.scores
        if self.policy.tightest:
            scores = fewest_left(candidates, scores)
        evaluation.scores[identities] = scores
        evaluation.devices[identities] = scored.devices

    def _admitted(self, request: PodRequest) -> NDArray[np.int8] | None:
        """Reason codes of the nodes' own rules for this pod; None if all let it in. (N,)"""
        if self._admission_epoch != self.state.node_epoch:
            self._admission = Admission(list(self.state.nodes))
            self._admission_epoch = self.state.node_epoch
        codes = self._admission.codes(request.selection)
        if self.neighbours is None:
            return codes
        rules = self.neighbours.codes(request)
        if codes is None or rules is None:
            return rules if codes is None else codes
        return np.where(codes == _FITS, rules, codes)
