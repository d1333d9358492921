"""Rules between pods in the exact model of a window.

Conflicts are modelled as they are. Of spread and affinity the model states what every plan has to
meet, whatever the order of its steps; whether there is an order is seen when a solution is written
into the layout. What is proved with these constraints therefore holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from scheduler.core.neighbours import Evenly, Neighbours, Standing, Together
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout

if TYPE_CHECKING:
    from scheduler.planner.problem import Kind

__all__ = ["NeighbourConstraints"]

IntArray = NDArray[np.int64]
Var = cp_model.IntVar
Expr = cp_model.LinearExpr | int


class NeighbourConstraints:
    """Adds the rules between the pods of a window to its model.

    Parameters
    ----------
    model
        Of the window.
    layout
        With rules between pods.
    counts
        Variables by row and kind: how many pods of a kind a row gets.
    here
        How many there are now.
    pool
        How many pods of each kind the window decides about.
    """

    def __init__(
        self,
        model: cp_model.CpModel,
        layout: Layout,
        counts: Mapping[int, Mapping[int, Var]],
        here: Mapping[int, Mapping[int, int]],
        pool: Mapping[int, int],
    ) -> None:
        assert layout.neighbours is not None and layout.instance.settled is not None
        self._model, self._layout = model, layout
        self._instance: Instance = layout.instance
        self._there: Neighbours = layout.neighbours
        self._settled: Neighbours = layout.instance.settled
        self._counts, self._here, self._pool = counts, here, pool
        self._with_trait: dict[int, list[int]] = defaultdict(list)
        for kind in pool:
            for trait in self._standing(kind).traits:
                self._with_trait[trait].append(kind)

    def constrain(self) -> None:
        """Add everything."""
        together: dict[Together, list[int]] = defaultdict(list)
        evenly: dict[object, tuple[Evenly, list[int]]] = {}
        for kind in self._pool:
            standing = self._standing(kind)
            self._apart(kind, standing)
            if self._kind(kind).disruption is not None:
                continue  # one that stays is not asked again; one that moves is when it is written
            if standing.together is not None:
                together[standing.together].append(kind)
            for rule in standing.evenly:
                same = (rule.trait, rule.key, rule.skew, rule.itself, rule.empty_one)
                evenly.setdefault((*same, rule.counted.tobytes()), (rule, []))[1].append(kind)
        for affinity, kinds in together.items():
            for key in affinity.keys:
                self._near(affinity, key, kinds)
        for rule, kinds in evenly.values():
            self._even(rule, kinds)

    # -- terms -------------------------------------------------------------------------------

    def _kind(self, kind: int) -> Kind:
        return self._instance.kinds[kind]

    def _standing(self, kind: int) -> Standing:
        return self._there.rules.standings[self._kind(kind).standing]

    def _outside(self, trait: int) -> IntArray:
        """Pods of a trait by row about which the window does not decide."""
        counts = self._there.count(trait).astype(np.int64)
        for row, here in self._here.items():
            for kind, count in here.items():
                if trait in self._standing(kind).traits:
                    counts[row] -= count
        return counts

    def _by_domain(self, key: str, counts: NDArray[np.integer]) -> dict[int, int]:
        """Sums of the domains that have any; rows without the label are in none."""
        domain = self._there.rules.domain(key)
        rows = np.flatnonzero((counts > 0) & (domain >= 0))
        if not len(rows):
            return {}
        sums = np.bincount(domain[rows], counts[rows])
        return {int(one): int(sums[one]) for one in np.flatnonzero(sums)}

    def _sums(
        self, key: str, kinds: Iterable[int], rows: NDArray[np.bool_] | None = None
    ) -> dict[int, list[Var]]:
        """Variables of these kinds by domain, of these rows alone."""
        wanted = set(kinds)
        domain = self._there.rules.domain(key)
        found: dict[int, list[Var]] = defaultdict(list)
        for row, made in self._counts.items():
            if domain[row] >= 0 and (rows is None or rows[row]):
                found[int(domain[row])] += [var for kind, var in made.items() if kind in wanted]
        return found

    def _whether(self, terms: list[Var], most: int) -> Var:
        """A variable that is true if any of these is not 0."""
        some = self._model.new_bool_var("")
        self._model.add(sum(terms) <= max(1, most) * some)
        return some

    # -- rules -------------------------------------------------------------------------------

    def _apart(self, kind: int, standing: Standing) -> None:
        own = self._pool[kind]
        for rule in standing.apart:
            outside = self._by_domain(rule.key, self._outside(rule.trait))
            others = [other for other in self._with_trait[rule.trait] if other != kind]
            most = sum(self._pool[other] for other in others)
            theirs = self._sums(rule.key, others)
            for domain, terms in self._sums(rule.key, (kind,)).items():
                if not terms:
                    continue
                if outside.get(domain):
                    self._model.add(sum(terms) == 0)
                    continue
                if rule.trait in standing.traits:
                    self._model.add(sum(terms) <= 1)
                if theirs.get(domain):
                    some = self._whether(terms, own)
                    self._model.add(sum(theirs[domain]) <= most * (1 - some))

    def _near(self, rule: Together, key: str, kinds: list[int]) -> None:
        """Where pods come that need a match there is one that does not need them."""
        first = set(kinds)
        others = [kind for kind in self._with_trait[rule.trait] if kind not in first]
        outside = self._by_domain(key, self._outside(rule.trait))
        theirs = self._sums(key, others)
        certain = any(self._by_domain(one, self._settled.count(rule.trait)) for one in rule.keys)
        begins = []
        for domain, terms in self._sums(key, kinds).items():
            if not terms or outside.get(domain):
                continue
            some = self._whether(terms, sum(self._pool[kind] for kind in kinds))
            match: Expr = sum(theirs.get(domain, []))
            if rule.itself and not certain:  # the first of them all needs nobody
                begins.append(self._model.new_bool_var(""))
                match = match + begins[-1]
            self._model.add(match >= some)
        if begins:
            self._model.add_at_most_one(begins)

    def _even(self, rule: Evenly, kinds: list[int]) -> None:
        """The last that comes into a domain sees at least what is settled there and its like."""
        model, big = self._model, len(self._instance.kind_of) + len(self._instance.state.placements)
        within = np.where(rule.counted, 1, 0)
        outside = self._by_domain(rule.key, self._outside(rule.trait) * within)
        settled = self._by_domain(rule.key, self._settled.count(rule.trait) * within)
        final = self._sums(rule.key, self._with_trait[rule.trait], rule.counted)
        came = self._came(rule, kinds)
        least: Expr = 0
        if not rule.empty_one:
            least = model.new_int_var(0, big, "")
            for domain in rule.present.tolist():
                model.add(least <= outside.get(domain, 0) + sum(final.get(domain, [])))
        new = self._sums(rule.key, kinds, rule.counted)
        for domain, terms in self._sums(rule.key, kinds).items():
            if not terms:
                continue
            seen: Expr = settled.get(domain, 0)
            if rule.itself:
                seen = seen + came.get(domain, 0) + sum(new.get(domain, []))
            if came.get(domain):
                model.add(seen <= least + rule.skew)
            else:
                some = self._whether(terms, sum(self._pool[kind] for kind in kinds))
                model.add(seen <= least + rule.skew + 2 * big * (1 - some))

    def _came(self, rule: Evenly, kinds: list[int]) -> dict[int, int]:
        """Pods of these kinds by domain that have a row outside the window."""
        state, domain = self._layout.state, self._there.rules.domain(rule.key)
        found: dict[int, int] = defaultdict(int)
        for kind in kinds:
            for pod in self._instance.pods[kind]:
                placed = state.placements.get(pod.uid)
                if placed is None:
                    continue
                row = state.row_of[placed.node]
                if row not in self._here and rule.counted[row]:
                    found[int(domain[row])] += 1
        return found
