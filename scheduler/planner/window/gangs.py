"""Gangs in a window: whole or absent, so many of each role, restarted as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ortools.sat.python import cp_model

from scheduler.core.model import GangKey, PodRequest
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout

__all__ = ["GangConstraints"]

Expr = cp_model.LinearExpr | int
Var = cp_model.IntVar


class GangConstraints:
    """Constraints of a window on gangs.

    Parameters
    ----------
    model
        The window's.
    layout
        As it is now.
    pool
        Pods that the window decides about, by kind.
    total
        How many of each kind it places.
    here
        How many pods of each kind the rows of the window host now.
    """

    def __init__(
        self,
        model: cp_model.CpModel,
        layout: Layout,
        pool: Mapping[int, Sequence[PodRequest]],
        total: Mapping[int, Expr],
        here: Mapping[int, Mapping[int, int]],
    ) -> None:
        self.model, self.layout = model, layout
        self.instance: Instance = layout.instance
        self._pool, self._total, self._here = pool, total, here

    def constrain(self) -> None:
        """A gang is whole or absent, and nobody is evicted for a later stage of his own."""
        self._whole()
        self._stages()

    def _whole(self) -> None:
        groups: dict[GangKey, list[int]] = defaultdict(list)
        for kind in self._pool:
            gang = self.instance.kinds[kind].gang
            if gang:
                groups[gang].append(kind)
        for gang, kinds in groups.items():
            outside = sum(
                self.layout.placed(kind) - sum(here[kind] for here in self._here.values())
                for kind in self.instance.gang_kinds[gang]
            )
            inside = sum(self._total[kind] for kind in kinds)
            fixed = self.instance.fixed(gang)
            minimum = self.instance.problem.minimum(gang)
            most = sum(len(self._pool[kind]) for kind in kinds)
            roles = self._roles(gang, kinds)
            if outside + fixed >= minimum and all(there >= least for _, there, least in roles):
                continue  # whole without anybody in the window
            present = self.model.new_bool_var("")
            self.model.add(inside + outside <= (most + outside) * present)
            self.model.add(inside + outside + fixed >= minimum * present)
            for of_role, there, least in roles:
                self.model.add(of_role + there >= least * present)

    def _roles(self, gang: GangKey, kinds: list[int]) -> list[tuple[Expr, int, int]]:
        """Per role that the gang needs some of: members inside, those elsewhere, how many."""
        instance = self.instance
        found: list[tuple[Expr, int, int]] = []
        for role, least in instance.gang_roles.get(gang, {}).items():
            ours = [k for k in instance.gang_kinds[gang] if instance.kinds[k].role == role]
            here = sum(on_row[kind] for on_row in self._here.values() for kind in ours)
            there = sum(self.layout.placed(kind) for kind in ours) - here
            inside = sum(self._total[kind] for kind in kinds if kind in ours)
            found.append((inside, there + instance.fixed_in_role(gang, role), least))
        return found

    def _stages(self) -> None:
        """A stage comes after others that run: none of those leaves for it."""
        instance, layout = self.instance, self.layout
        of_whole: dict[GangKey, list[int]] = defaultdict(list)
        for gang, kinds in instance.gang_kinds.items():
            if gang.stage:
                of_whole[gang.whole] += kinds
        for kinds in of_whole.values():
            if not any(kind in self._pool for kind in kinds):
                continue
            here = {pod.uid for kind in kinds for pod in self._pool.get(kind, ())}
            gone: Expr = 0
            come: Expr = 0
            for kind in kinds:
                pods = self._pool.get(kind, ())
                total = self._total.get(kind, 0)
                others = [pod for pod in instance.pods[kind] if pod.uid not in here]
                absent = sum(pod.uid not in layout.state.placements for pod in others)
                if instance.kinds[kind].disruption is not None:
                    gone += len(pods) - total + absent
                else:
                    come += total + len(others) - absent
            most = sum(len(instance.pods[kind]) for kind in kinds)
            leaves = self.model.new_bool_var("")
            self.model.add(gone <= most * leaves)
            self.model.add(come <= most * (1 - leaves))

    def restarted(self, total: Expr, kept: Expr, most: int, stopped: Expr) -> Var:
        """How many of these placed pods start again: those moved, or all if their gang stops."""
        var = self.model.new_int_var(0, most, "")
        self.model.add(most - kept <= most * stopped)
        self.model.add(var >= total - kept)
        self.model.add(var >= total - most * (1 - stopped))
        return var

    def elsewhere(self) -> dict[GangKey, tuple[int, bool]]:
        """Per unit with members here: cost of restarting the others, and whether they do anyway."""
        instance, layout = self.instance, self.layout
        here = {pod.uid for kind, pods in self._pool.items() for pod in pods}
        found = {}
        units = {unit for kind in self._pool if (unit := instance.unit_of(kind)) is not None}
        for unit in sorted(units, key=lambda unit: (unit.namespace, unit.name)):
            others = [uid for uid in instance.units[unit] if uid not in here]
            costs = (instance.kinds[instance.kind_of[uid]].disruption for uid in others)
            already = any(layout.moved(uid) for uid in others)
            found[unit] = (0 if already else sum(c.move for c in costs if c), already)
        return found
