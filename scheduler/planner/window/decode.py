"""A solution of a window, read back: which pods the counts stand for, and on which devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ortools.sat.python import cp_model

from scheduler.core.model import GpuKind, Placement, PodRequest
from scheduler.planner.window.device_assignment import DeviceAssigner
from scheduler.planner.window.model import WindowModel
from scheduler.planner.window.rows import RowVariables

__all__ = ["Decoder"]


class Decoder:
    """Reads one solution.

    Parameters
    ----------
    window
        The model that was solved.
    solver
        Holds a solution of it.
    """

    def __init__(self, window: WindowModel, solver: cp_model.CpSolver) -> None:
        self._window, self._solver = window, solver
        self._instance = window.instance

    def placements(self) -> list[Placement]:
        """The pods of the window that have a place, with devices; undisturbed ones first."""
        left = {kind: {pod.uid: pod for pod in pods} for kind, pods in self._window.pool.items()}
        settled: dict[int, list[Placement]] = {row: [] for row in self._window.rows}
        for row, made in self._window.variables.items():
            for origin in self._staying(row, made):
                settled[row].append(origin)
                del left[self._instance.kind_of[origin.pod.uid]][origin.pod.uid]
        placements = [placement for listed in settled.values() for placement in listed]
        for row, made in self._window.variables.items():
            placements += self._newcomers(row, made, settled[row], left)
        return placements

    def _staying(self, row: int, made: RowVariables) -> list[Placement]:
        """Running pods of the window that this solution leaves exactly in place."""
        instance, solver = self._instance, self._solver
        quota: dict[tuple[int, int], int] = {
            key: solver.value(var) for key, var in made.kept_fractions.items()
        }
        quota.update({(kind, -1): solver.value(var) for kind, var in made.kept_counts.items()})
        node = instance.state.node(row)
        staying = []
        for kind, pods in self._window.pool.items():
            for pod in pods:
                origin = instance.origin.get(pod.uid)
                if origin is None or origin.node != node.name:
                    continue
                if pod.uid in made.kept:
                    if solver.value(made.kept[pod.uid]):
                        staying.append(origin)
                    continue
                fraction = pod.gpu.kind is GpuKind.FRACTION
                key = (kind, origin.devices[0].index if fraction else -1)
                if quota.get(key, 0) > 0:
                    quota[key] -= 1
                    staying.append(origin)
        return staying

    def _newcomers(
        self,
        row: int,
        made: RowVariables,
        settled: Sequence[Placement],
        left: dict[int, dict[str, PodRequest]],
    ) -> list[Placement]:
        """Pods that are put on the row, on devices that those staying leave."""
        instance, solver = self._instance, self._solver
        node = instance.state.node(row)
        devices = DeviceAssigner(instance, row, settled)
        stay: dict[int, int] = defaultdict(int)
        stay_on: dict[tuple[int, int], int] = defaultdict(int)
        for placement in settled:
            kind = instance.kind_of[placement.pod.uid]
            stay[kind] += 1
            if placement.pod.gpu.kind is GpuKind.FRACTION:
                stay_on[kind, placement.devices[0].index] += 1
        if made.whole:
            chosen = {device for device, var in made.whole.items() if solver.value(var)}
            devices.allow_whole(chosen)
        placements: list[Placement] = []
        if made.odd is not None:
            for kind, var in made.counts.items():
                hands = made.odd.shares(solver, kind)
                for _ in range(solver.value(var) - stay[kind]):
                    pod = left[kind].pop(self._next(left[kind], node.name))
                    placements.append(Placement(pod, node.name, next(hands)))
            return placements
        devices.allow_instances([key for key, var in made.instances.items() if solver.value(var)])
        for kind, var in made.counts.items():
            gpu = instance.kinds[kind].shape.gpu
            where = [
                device
                for (k, device), on in sorted(made.fractions.items())
                if k == kind
                for _ in range(solver.value(on) - stay_on[kind, device])
            ]
            for number in range(solver.value(var) - stay[kind]):
                uid = self._next(left[kind], node.name)
                pod = left[kind].pop(uid)
                device = where[number] if gpu.kind is GpuKind.FRACTION else -1
                placements.append(Placement(pod, node.name, devices.take(pod, kind, device)))
        return placements

    def _next(self, pods: dict[str, PodRequest], node: str) -> str:
        """Which of the interchangeable pods comes: one that is here already, else the first."""
        placed = self._window.layout.state.placements
        for uid in pods:
            if uid in placed and placed[uid].node == node and uid not in self._instance.origin:
                return uid
        return next(iter(pods))
