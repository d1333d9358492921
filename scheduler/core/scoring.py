"""By what rows are scored now: policy, workload profile with its tables, and prices in force.

This is the one place to look for which profile and which prices score a pod. Both are put in force
by a call and by nothing else; tables are made again, and prices are aligned again, only because the
state has learnt of more models or classes of nodes since.
"""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from scheduler.core.fragmentation import Fragmentation
from scheduler.core.groups import odd_rows, views
from scheduler.core.model import PodRequest, Shape
from scheduler.core.price_tables import Prices
from scheduler.core.ranking import Candidates, Policy, fewest_left
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile

__all__ = ["INFEASIBLE", "Scorer"]

IntArray = NDArray[np.int64]

INFEASIBLE = int(np.iinfo(np.int64).min)
"""Score of a row that cannot host the pod."""


class Scorer:
    """Scores rows.

    Parameters
    ----------
    state
        The cluster whose models and classes of nodes tables and prices speak of.
    policy
        What scores.
    tables
        Of the workload profile.
    seed
        For randomised policies.
    """

    def __init__(
        self, state: ClusterState, policy: Policy, tables: Fragmentation, seed: int
    ) -> None:
        self.policy, self.seed = policy, seed
        self._state = state
        self._tables = tables
        self._prices: Prices | None = None
        self._prices_epoch = -1

    @property
    def profile(self) -> WorkloadProfile:
        """The workload profile in force."""
        return self._tables.profile

    def tables(self) -> Fragmentation:
        """Fragmentation tables of the profile, made again once the state knows more models."""
        if not self._tables.current(self._state):
            self._tables = Fragmentation(self._state, self.profile)
        return self._tables

    def prices(self) -> Prices | None:
        """Prices in force; None without any, or once a node of an unknown class has come."""
        if self._prices is not None and self._prices_epoch != self._state.node_epoch:
            self._prices = self._prices.aligned(self._state)
            self._prices_epoch = self._state.node_epoch
        return self._prices

    def put_profile_in_force(
        self, profile: WorkloadProfile, tables: Fragmentation | None = None
    ) -> None:
        """Use another workload profile from now on.

        Parameters
        ----------
        profile
            Typical pods.
        tables
            Made for the profile beforehand; made here if the state has learnt more since.
        """
        if tables is None or tables.profile is not profile or not tables.current(self._state):
            tables = Fragmentation(self._state, profile)
        self._tables = tables

    def put_prices_in_force(self, prices: Prices | None) -> None:
        """Charge these prices from now on, None for none."""
        self._prices = prices.aligned(self._state) if prices else None
        self._prices_epoch = self._state.node_epoch

    def adopt(self, other: Scorer) -> None:
        """Score as another one does, on the same state."""
        self._tables = other.tables()
        self._prices, self._prices_epoch = other.prices(), self._state.node_epoch

    def salt(self, request: PodRequest) -> int:
        """What makes randomised policies draw differently for this pod."""
        return crc32(request.uid.encode()) ^ (self.seed * 0x9E3779B1)

    def score(
        self, state: ClusterState, shape: Shape, rows: IntArray, identities: IntArray, salt: int
    ) -> tuple[IntArray, IntArray]:
        """Scores of rows that fit, (R,), and the device of each for a fraction, else -1, (R,).

        Odd rows are scored by what the request gets there, of several resources by the first.

        Parameters
        ----------
        state
            Where the rows are: the cluster, or an excerpt of it.
        shape
            What is to be placed.
        rows : (R,)
            Rows of ``state``.
        identities : (R,)
            What a randomised policy draws by.
        salt
            See :meth:`salt`.
        """
        odd = odd_rows(state, shape.gpu, rows)
        if odd is not None:
            scores = np.zeros(len(rows), dtype=np.int64)
            devices = np.full(len(rows), -1, dtype=np.int64)
            for view in views(state, shape.gpu, rows, odd):
                seen, gpu = view.asks[0]
                own, every = replace(shape, gpu=gpu), np.arange(len(view.at))
                scores[view.at], devices[view.at] = self.score(
                    seen, own, every, identities[view.at], salt
                )
            usual = np.flatnonzero(~odd)
            if len(usual):
                scores[usual], devices[usual] = self.score(
                    state, shape, rows[usual], identities[usual], salt
                )
            return scores, devices
        candidates = Candidates(state, shape, rows, identities, self.tables(), salt, self.prices())
        scored = self.policy.evaluate(candidates)
        scores = scored.scores
        if self.policy.tightest:
            scores = fewest_left(candidates, scores)
        return scores, scored.devices
