"""Why pods stay pending: one true line for each.

What is said of a plan that is not proved must not sound as if it were. A pod for which nobody has
looked for room is called not tried; where somebody has and found none, that is all that is said.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from scheduler.core.feasibility import dynamic_reasons, static_reasons
from scheduler.core.groups import units_free
from scheduler.core.model import GangKey, PodRequest, Reason
from scheduler.core.omissions import NotConsidered
from scheduler.core.plural import plural
from scheduler.core.why import most_common
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.problem import Unplaced
from scheduler.planner.search.greedy import gang_missing, waiting

__all__ = ["Reasons"]

_TIME = "room that other pods would have to make, for want of time"
_UNTRIED = "not tried: the budget was over before all ways of making room for it were looked at"


class Reasons:
    """Says of each pending pod without a node why it has none.

    Parameters
    ----------
    layout
        The plan.
    tried
        Kinds for which every way of making room was looked at that the search knows, and none
        found.
    settled
        Priorities of which it is proved that no more can be placed.
    """

    def __init__(self, layout: Layout, tried: Collection[int], settled: Collection[int]) -> None:
        self._layout, self._tried, self._settled = layout, tried, settled
        self._known: dict[int, tuple[str, bool]] = {}

    def unplaced(self) -> tuple[Unplaced, ...]:
        """All of these pods."""
        return tuple(Unplaced(pod, *self._why(pod)) for pod in waiting(self._layout))

    def omissions(self) -> tuple[NotConsidered, ...]:
        """That some were not tried, if so."""
        untried = tuple(one.pod.key for one in self.unplaced() if one.untried)
        if not untried:
            return ()
        return (
            NotConsidered(_TIME, untried, "they wait, not tried; a larger --budget tries more"),
        )

    def _why(self, pod: PodRequest) -> tuple[str, bool]:
        """The line, and whether the pod was not tried."""
        instance = self._layout.instance
        if pod.uid in instance.left_alone:
            return f"left alone, as this is not considered: {instance.left_alone[pod.uid]}", False
        if pod.uid in instance.problem.unmet:
            return instance.problem.unmet[pod.uid], False
        if self._layout.neighbours is not None:
            return self._of_kind(pod)
        kind = instance.kind_of[pod.uid]  # pods of a kind wait for the same reason
        if kind not in self._known:
            self._known[kind] = self._of_kind(pod)
        return self._known[kind]

    def _of_kind(self, pod: PodRequest) -> tuple[str, bool]:
        layout = self._layout
        instance, state = layout.instance, layout.state
        kind = instance.kind_of[pod.uid]
        gang = pod.gang
        if gang and gang_missing(layout, gang):
            absent = _absent_text(instance, gang)
            if absent:
                return f"gang does not fit: {absent}", False
            lacks = _missing_text(layout, pod, gang)
            missing = gang_missing(layout, gang)
            return self._qualified(
                pod, f"gang does not fit: {lacks}", f"{missing} of its members have no place"
            )
        if not instance.admissible[kind].any():
            codes = _static_codes(layout, pod)
            chosen = (codes == Reason.GPUS_SERVED_OTHERWISE.code).any()
            what = "no room" if chosen else "no node may host it"
            return f"{what}: {most_common(codes, pod)}", False
        rows = np.flatnonzero(instance.admissible[kind])
        codes = dynamic_reasons(state, pod.shape, rows)
        rules = None if layout.neighbours is None else layout.neighbours.codes(pod)
        if rules is not None:
            codes = np.where(codes == Reason.FITS.code, rules[rows], codes)
        if (codes == Reason.FITS.code).any():
            if pod.priority in self._settled:
                return "room is left, but other pods of the plan come first", False
            return "not tried: room is left that the budget was over to use", True
        lacks = most_common(codes, pod)
        return self._qualified(pod, f"no room: {lacks}", f"as the plan leaves them, {lacks}")

    def _qualified(self, pod: PodRequest, text: str, now: str) -> tuple[str, bool]:
        """What is so as things are; whether it could be otherwise is known, looked for, or not.

        ``text`` is for those who were looked at; of others no more is said than how it is ``now``.
        """
        instance = self._layout.instance
        kind = instance.kind_of[pod.uid]
        if pod.priority in self._settled or not instance.most[kind].any():
            return text, False
        if kind in self._tried:
            return f"{text}; no way of making room was found, and none is ruled out", False
        return f"{_UNTRIED}; {now}", True


def _missing_text(layout: Layout, pod: PodRequest, gang: GangKey) -> str:
    """What a gang lacks: pods that are not there yet, devices, or a place of whatever kind."""
    absent = _absent_text(layout.instance, gang)
    if absent:
        return absent
    missing, gpu = gang_missing(layout, gang), pod.gpu
    if gpu.count:
        rows = layout.instance.admissible[layout.instance.kind_of[pod.uid]]
        free = units_free(layout.state, gpu, np.flatnonzero(rows)) // gpu.count
        short = missing - int(free.sum())
        if short > 0:
            model = " or ".join(gpu.products) if gpu.products else "any model"
            return f"needs {plural(short * gpu.count, 'more device')} of {model}"
    return f"needs places for {plural(missing, 'more member')}"


def _absent_text(instance: Instance, gang: GangKey) -> str:
    kinds, minimum = instance.gang_kinds[gang], instance.problem.minimum(gang)
    spec = instance.problem.gangs.get(gang)
    gated = spec.gated if spec is not None else 0
    waiting_for = f"; waiting for a scheduling gate: {gated}" if gated else ""
    there = sum(len(instance.pods[kind]) for kind in kinds) + instance.fixed(gang)
    if there < minimum:
        return f"{there} of {minimum} pods exist{waiting_for}"
    for role, least in instance.gang_roles.get(gang, {}).items():
        of_role = sum(len(instance.pods[k]) for k in kinds if instance.kinds[k].role == role)
        of_role += instance.fixed_in_role(gang, role)
        if of_role < least:
            return f"{of_role} of {least} pods of role {role} exist{waiting_for}"
    return ""


def _static_codes(layout: Layout, pod: PodRequest) -> NDArray[np.int8]:
    """Why each node may not host the pod, whatever else is there."""
    codes = static_reasons(layout.state, pod.shape)
    instance = layout.instance
    admitted = instance.admission.codes(pod.selection)
    if admitted is not None:
        codes = np.where(admitted == Reason.FITS.code, codes, admitted)
    if instance.settled is not None:
        rules = instance.settled.lasting(instance.settled.of(pod))
        codes = np.where(codes == Reason.FITS.code, rules, codes)
    if instance.ways_chosen:
        closed = ~instance.admissible[instance.kind_of[pod.uid]] & (codes == Reason.FITS.code)
        codes = np.where(closed, Reason.GPUS_SERVED_OTHERWISE.code, codes)
    there = np.array([node is not None for node in layout.state.nodes], dtype=bool)
    return np.asarray(codes[there], dtype=np.int8)
