"""A problem in the planner's own terms: kinds of pods, rows, levels of objective."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scheduler.core.devices import fraction_need
from scheduler.core.feasibility import static_reasons
from scheduler.core.makes import Ask, wants_those
from scheduler.core.model import (
    DEVICE_MILLI,
    GangKey,
    GpuKind,
    NodeSelection,
    Placement,
    PodRequest,
    Reason,
    Serves,
    Shape,
)
from scheduler.core.neighbours import Neighbours
from scheduler.core.omissions import NotConsidered, left_alone
from scheduler.core.plural import plural
from scheduler.core.selection import Admission
from scheduler.core.state import ClusterState, DeviceCode
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.axes import Axis, axes_of
from scheduler.planner.odd import OddRooms, asks_of, odd_rows
from scheduler.planner.problem import Kind, Problem
from scheduler.planner.queue import Queue

__all__ = ["Instance", "Level", "Residual"]

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Level:
    """One step of the lexicographic objective: maximise the sum of these weights over placed pods.

    ``weights`` is per kind, (K,) int64. ``tier`` is the position of its priority. Only the first
    level of a tier is bounded and reported; a second one breaks its ties. A level of a ``queue``
    counts no weights: its value is :meth:`Queue.value`.
    """

    tier: int
    weights: IntArray
    reported: bool = True
    queue: bool = False


@dataclass(frozen=True, slots=True)
class Residual:
    """What rows have once every pod in play is taken off them; the same for every layout.

    Attributes
    ----------
    milli, memory, slots : (N, D) int64
        Per device, as in the state's columns of the same meaning.
    whole : (N,) int64
        Plain devices that are entirely free.
    replicas : (N,) int64
        Free replicas of time-sliced devices.
    """

    milli: IntArray
    memory: IntArray
    slots: IntArray
    whole: IntArray
    replicas: IntArray


class Instance:
    """Kinds, rows and objective of a problem.

    A pod is *in play* if the plan may decide about it: every pending pod, and every movable one
    that takes no MIG slots or replicas (those stay where they are).

    Attributes
    ----------
    kinds : list of Kind
    pods : list of list of PodRequest
        Pods of each kind in the order in which they were given.
    kind_of : dict of str to int
        Kind by uid of each pod in play.
    position : dict of str to int
        Position in ``pods`` of its kind, by uid of each pod in play.
    origin : dict of str to Placement
        Where each running pod in play is now.
    priorities : list of int
        Tiers, highest first.
    levels : list of Level
    admissible : (K, N) bool
        Rows that a kind may use as far as the node itself is concerned.
    gang_fixed : dict of GangKey to Counter of str
        Running members that are not in play, by role.
    units : dict of GangKey to tuple of str
        Running members in play, by uid, of gangs that restart as a whole if one member is moved.
    gang_roles : dict of GangKey to dict of str to int
        Members of each role that a gang needs, besides as many as it needs in all.
    stay : list of PodRequest
        Running pods that might be moved, but not by what is modelled here.
    admission : Admission
        Which rows let which pods in.
    neighbours : Neighbours or None
        Who is where at first, as rules between pods tell; None if there are no such rules.
    settled : Neighbours or None
        The same of those that are not in play.
    odd : (N,) bool
        Rows whose devices are not all alike, see :mod:`scheduler.planner.odd`. Pods that have
        devices there stay.
    ways_chosen : bool
        Whether rows were closed to kinds by :meth:`settle_ways`.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.state: ClusterState = problem.state
        self.kinds: list[Kind] = []
        self.pods: list[list[PodRequest]] = []
        self.kind_of: dict[str, int] = {}
        self.position: dict[str, int] = {}
        self.odd = odd_rows(self.state)
        self.origin: dict[str, Placement] = {}
        self.relaxed: list[str] = []
        self.stay: list[PodRequest] = []
        self.left_alone = left_alone(problem.not_considered)
        self.ways_chosen = False
        self.admission = Admission(self.state.nodes)
        running = [(p.pod, self.state.row_of[p.node]) for p in self.state.placements.values()]
        everybody = [*problem.pending, *(pod for pod, _ in running)]
        self.neighbours = Neighbours.among(self.state.nodes, everybody, running)
        self.gang_roles = problem.least_of_roles()
        self._collect()
        self.units = self._units()
        self.settled = None
        if self.neighbours is not None:
            self.settled = Neighbours(self.neighbours.rules)
            for pod, row in running:
                if pod.uid not in self.kind_of:
                    self.settled.add(pod, row)
        self.priorities = sorted({kind.priority for kind in self.kinds}, reverse=True)
        self.levels = self._levels()
        self.admissible = self._admissible()
        self.gang_fixed = self._gang_fixed()
        self.gang_kinds: dict[GangKey, list[int]] = defaultdict(list)
        for index, kind in enumerate(self.kinds):
            if kind.gang:
                self.gang_kinds[kind.gang].append(index)

    # -- kinds -------------------------------------------------------------------------------

    def _collect(self) -> None:
        problem = self.problem
        budgets: dict[str, list[int]] = defaultdict(list)
        for position, budget in enumerate(problem.budgets):
            for uid in budget.uids:
                budgets[uid].append(position)
        codes: dict[Kind, int] = {}
        self._static: dict[Shape, NDArray[np.int8]] = {}

        def add(pod: PodRequest, kind: Kind) -> None:
            code = codes.setdefault(kind, len(codes))
            if code == len(self.kinds):
                self.kinds.append(kind)
                self.pods.append([])
            self.position[pod.uid] = len(self.pods[code])
            self.pods[code].append(pod)
            self.kind_of[pod.uid] = code

        for pod in problem.pending:
            names = problem.candidates.get(pod.uid)
            if pod.uid in self.left_alone:
                names = frozenset()
            add(
                pod,
                Kind(
                    pod.shape, pod.selection, pod.priority, pod.gang, None, (), names,
                    problem.preferences.get(pod.uid, ()), self._standing(pod), self._role(pod),
                ),
            )  # fmt: skip
        gangs = 0
        broken = self._gangs_that_stay()
        for uid in sorted(problem.movable):
            placement = self.state.placements[uid]
            pod = placement.pod
            if uid in self.left_alone:
                continue
            if not self._may_move(placement):
                self.stay.append(pod)
                continue
            if pod.gang in broken:
                gangs += 1
                continue
            self.origin[uid] = placement
            disruption = problem.movable[uid]
            held = tuple(budgets.get(uid, ()))
            add(
                pod,
                Kind(
                    pod.shape, pod.selection, pod.priority, pod.gang, disruption, held, None,
                    standing=self._standing(pod), role=self._role(pod),
                ),
            )  # fmt: skip
        if gangs:
            self.relaxed.append(
                f"left in place: {plural(gangs, 'movable pod')} whose gang cannot move as a whole"
            )

    def omissions(self) -> tuple[NotConsidered, ...]:
        """What is left out of this plan besides what the problem has left out."""
        if not self.stay:
            return ()
        return (
            NotConsidered(
                "moving pods that hold MIG slots, replicas, or devices of a node with several "
                "kinds of them, or whose node is over-full or would not admit them again",
                tuple(pod.key for pod in self.stay),
                "they stay where they are",
            ),
        )

    def _units(self) -> dict[GangKey, tuple[str, ...]]:
        """Running members in play of gangs that are stopped as a whole, if one of them is."""
        joint = {key.whole for key, spec in self.problem.gangs.items() if spec.joint}
        found: dict[GangKey, list[str]] = defaultdict(list)
        for uid, placement in self.origin.items() if joint else ():
            gang = placement.pod.gang
            if gang is not None and gang.whole in joint:
                found[gang.whole].append(uid)
        return {unit: tuple(uids) for unit, uids in found.items() if len(uids) > 1}

    def unit_of(self, kind: int) -> GangKey | None:
        """The unit that pods of a kind are stopped with, where they run in one."""
        described = self.kinds[kind]
        unit = described.gang.whole if described.gang and described.disruption else None
        return unit if unit in self.units else None

    def _gangs_that_stay(self) -> set[GangKey]:
        """Gangs whose running members cannot be decided about together."""
        running: dict[GangKey, int] = defaultdict(int)
        broken: set[GangKey] = set()
        stages: dict[GangKey, set[GangKey]] = defaultdict(set)
        for uid, placement in self.state.placements.items():
            gang = placement.pod.gang
            if gang:
                running[gang] += 1
                stages[gang.whole].add(gang)
                stays = uid not in self.problem.movable or uid in self.left_alone
                if stays or not self._may_move(placement):
                    broken.add(gang)
        broken |= {gang for gang, count in running.items() if count < self.problem.minimum(gang)}
        return {other for gang in broken for other in stages[gang.whole]}

    def _may_move(self, placement: Placement) -> bool:
        """Whether the model can express that this running pod stays where it is."""
        state, pod = self.state, placement.pod
        row = state.row_of[placement.node]
        return (
            pod.gpu.kind not in (GpuKind.MIG, GpuKind.SHARED)
            and not (placement.devices and self.odd[row])
            and min(state.cpu_free[row], state.mem_free[row], state.pods_free[row]) >= 0
            and not (state.counted.free[row] < 0).any()
            and len(placement.devices) == max(pod.gpu.count, pod.gpu.kind is GpuKind.FRACTION)
            and all(
                share.index < state.device_count[row]
                and state.device_code[row, share.index] == DeviceCode.PLAIN
                and state.gpu_free[row, share.index] >= 0
                for share in placement.devices
            )
            and int(self._static_of(pod.shape)[row]) == Reason.FITS.code
            and self._lets_in(pod.selection)[row]
            and self._suits(pod, row)
        )

    def _standing(self, pod: PodRequest) -> int:
        return 0 if self.neighbours is None else self.neighbours.rules.standing(pod)

    def _suits(self, pod: PodRequest, row: int) -> bool:
        """Whether a running pod is in conflict with nobody where it is."""
        there = self.neighbours
        if there is None or there.of(pod).free:
            return True
        there.remove(pod, row)
        suits = int(there.lasting(there.of(pod))[row]) == Reason.FITS.code
        there.add(pod, row)
        return suits

    def _lets_in(self, selection: NodeSelection) -> BoolArray:
        """Rows that let pods with these rules in, (N,)."""
        codes = self.admission.codes(selection)
        return np.ones(len(self.state), dtype=bool) if codes is None else codes == Reason.FITS.code

    def _static_of(self, shape: Shape) -> NDArray[np.int8]:
        if shape not in self._static:
            self._static[shape] = static_reasons(self.state, shape)
        return self._static[shape]

    def settle_ways(self, placements: Collection[Placement]) -> None:
        """Decide who may have devices that are handed out one way at a time, by a plan that fits.

        Nodes where neither way is in use yet go to pods that ask the device plugin. What is chosen
        here is not searched, so that nothing is proved about the other choice.
        """
        rows = np.flatnonzero(self.state.serves == Serves.ONE_AT_A_TIME)
        if not len(rows):
            return
        ours = np.zeros(len(self.state), dtype=bool)
        for placement in placements:
            if placement.pod.gpu.chosen_by_us:
                ours[self.state.row_of[placement.node]] = True
        there: set[tuple[int, int]] = set()
        for placement in placements:
            if placement.pod.uid in self.kind_of:
                row = self.state.row_of[placement.node]
                there.add((self.kind_of[placement.pod.uid], row))
        for code, kind in enumerate(self.kinds):
            gpu = kind.shape.gpu
            if gpu.kind is GpuKind.NONE:
                continue
            closed = [
                row
                for row in rows[ours[rows] != gpu.chosen_by_us].tolist()
                if (code, row) not in there  # both ways run there already, whatever did that
                and (not self.odd[row] or wants_those(self.state.makes[self.state.make[row]], gpu))
            ]
            self.ways_chosen |= bool(self.admissible[code, closed].any())
            self.admissible[code, closed] = False
        if self.ways_chosen:
            self.relaxed.append(
                "whether a node serves whole GPUs or fractions is as in the first plan"
            )

    def _levels(self) -> list[Level]:
        levels = []
        for tier, priority in enumerate(self.priorities):
            ours = np.array([kind.priority == priority for kind in self.kinds], dtype=np.int64)
            if self.problem.objective == "gpu":
                milli = np.array([self.gpu_milli(k) for k in range(len(self.kinds))])
                levels.append(Level(tier, ours * milli))
                levels.append(Level(tier, ours, reported=False))
                continue
            if self.problem.objective == "order":
                levels.append(Level(tier, 0 * ours, reported=False, queue=True))
                levels.append(Level(tier, ours))
            else:
                levels.append(Level(tier, ours))
        return levels

    def gpu_milli(self, kind: int) -> int:
        """Milli-GPU that a pod of this kind stands for in the objective.

        What MIG slots and replicas stand for depends on the device; the least of the cluster's
        device types counts.
        """
        gpu = self.kinds[kind].shape.gpu
        state = self.state
        match gpu.kind:
            case GpuKind.MIG:
                total = 0
                for profile, instances in gpu.mig:
                    sizes = [t.milli(t.placements(profile)[0]) for t in state.mig_types
                             if t.placements(profile)]  # fmt: skip
                    total += instances * min(sizes, default=0)
                return total
            case GpuKind.SHARED:
                shared = state.device_code == DeviceCode.SHARED
                most = int(np.where(shared, state.replicas, 0).max(initial=0))
                return gpu.replicas * DEVICE_MILLI // most if most else 0
            case GpuKind.FRACTION if not gpu.milli:
                most = int(state.device_mem.max(initial=0))
                return gpu.memory_mib * DEVICE_MILLI // most if most else 0
            case _:
                return gpu.requested_milli

    def _admissible(self) -> BoolArray:
        state = self.state
        fits = np.zeros((len(self.kinds), len(state)), dtype=bool)
        for code, kind in enumerate(self.kinds):
            possible = self._static_of(kind.shape) == Reason.FITS.code
            fits[code] = possible & self._lets_in(kind.selection)
            if kind.standing and self.settled is not None:
                standing = self.settled.rules.standings[kind.standing]
                fits[code] &= self.settled.lasting(standing) == Reason.FITS.code
            if kind.candidates is not None:
                rows = [state.row_of[name] for name in kind.candidates if name in state.row_of]
                chosen = np.zeros(len(state), dtype=bool)
                chosen[rows] = True
                fits[code] &= chosen
        return fits

    def _gang_fixed(self) -> dict[GangKey, Counter[str]]:
        fixed: dict[GangKey, Counter[str]] = defaultdict(Counter)
        for uid, placement in self.state.placements.items():
            if placement.pod.gang and uid not in self.kind_of:
                fixed[placement.pod.gang][self._role(placement.pod)] += 1
        return fixed

    def fixed(self, gang: GangKey) -> int:
        """Running members that are not in play."""
        return self.gang_fixed[gang].total() if gang in self.gang_fixed else 0

    def fixed_in_role(self, gang: GangKey, role: str) -> int:
        """Running members of a role that are not in play."""
        return self.gang_fixed[gang][role] if gang in self.gang_fixed else 0

    def _role(self, pod: PodRequest) -> str:
        return pod.role if pod.gang in self.gang_roles else ""

    # -- rows --------------------------------------------------------------------------------

    @cached_property
    def profile(self) -> WorkloadProfile:
        """The workload profile: all pods that run or wait."""
        running = [placement.pod for placement in self.state.placements.values()]
        return WorkloadProfile.from_requests([*self.problem.pending, *running])

    @cached_property
    def queue(self) -> Queue:
        """Who comes before whom."""
        return Queue(self)

    @property
    def in_order(self) -> bool:
        """Whether pods are served in their order, and not as many as possible."""
        return self.problem.objective == "order"

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """What pods take of a row by number alone, and what rows have of it without those in play.

        Cpu, memory and pod slots first.
        """
        shapes = [kind.shape for kind in self.kinds]
        return axes_of(self.state, shapes, list(self.origin.values()))

    @cached_property
    def base(self) -> Residual:
        """What the devices of every row have without the pods in play."""
        state = self.state
        milli = state.gpu_free.astype(np.int64)
        memory = state.device_mem_free.astype(np.int64)
        for placement in self.origin.values():
            row = state.row_of[placement.node]
            for share in placement.devices:
                if state.device_code[row, share.index] == DeviceCode.PLAIN:
                    milli[row, share.index] += share.milli
                    memory[row, share.index] += share.memory_mib
        slots = state.slots_free.astype(np.int64)
        shared = state.device_code == DeviceCode.SHARED
        return Residual(
            milli,
            memory,
            slots,
            (milli == DEVICE_MILLI).sum(axis=1),
            np.where(shared, np.maximum(slots, 0), 0).sum(axis=1),
        )

    @cached_property
    def simple(self) -> BoolArray:
        """Admissible rows whose columns alone say what a kind may have there, (K, N)."""
        if not self.odd.any():
            return self.admissible
        bare = np.array([kind.shape.gpu.kind is GpuKind.NONE for kind in self.kinds], dtype=bool)
        return np.asarray(self.admissible & (bare[:, None] | ~self.odd))

    @property
    def by_device(self) -> tuple[IntArray, IntArray, IntArray]:
        """Milli-GPU, memory and slots of each device without the pods in play."""
        return self.base.milli, self.base.memory, self.base.slots

    def asks(self, kind: int, row: int) -> tuple[Ask, ...]:
        """What a kind asks for on an odd row."""
        return asks_of(self.state, self.kinds[kind].shape.gpu, row)

    def unit_room(self, resource: str) -> IntArray:
        """Units of a resource that are free on odd rows without the pods in play, (N,)."""
        return self._odd_rooms.units(resource)

    @cached_property
    def _odd_rooms(self) -> OddRooms:
        return OddRooms(self.state, self.by_device)

    def fraction(self, kind: int, row: int) -> tuple[int, int]:
        """Milli-GPU and device memory that a fraction of this kind takes on a row."""
        milli, memory = fraction_need(self.state, self.kinds[kind].shape.gpu, np.array([row]))
        return int(milli[0]), int(memory[0])

    @cached_property
    def most(self) -> IntArray:
        """Most pods of each kind alone that each row could host, no other being in play, (K, N)."""
        table = np.zeros(self.admissible.shape, dtype=np.int64)
        for code, pods in enumerate(self.pods):
            rows = np.flatnonzero(self.admissible[code])
            most = np.full(len(rows), len(pods), dtype=np.int64)
            for axis in self.axes:
                if axis.need[code]:
                    most = np.minimum(most, axis.room[rows] // axis.need[code])
            most = np.minimum(most, self._most_on_devices(code, rows, most))
            if self.exclusions(code):
                most = np.minimum(most, 1)
            table[code, rows] = np.maximum(most, 0)
        return table

    def unbound(self, kind: int) -> bool:
        """Whether no rule between pods closes any row to a kind."""
        standing = self.kinds[kind].standing
        return self.neighbours is None or self.neighbours.rules.standings[standing].free

    def exclusions(self, kind: int) -> list[tuple[int, str]]:
        """Traits of a kind and topology keys: of a domain, one pod with the trait may be of it."""
        if self.neighbours is None or not self.kinds[kind].standing:
            return []
        standing = self.neighbours.rules.standings[self.kinds[kind].standing]
        return [(one.trait, one.key) for one in standing.apart if one.trait in standing.traits]

    def _most_on_devices(self, kind: int, rows: IntArray, otherwise: IntArray) -> IntArray:
        most = self._most_on_alike(kind, rows, otherwise)
        if self.odd.any() and self.kinds[kind].shape.gpu.kind is not GpuKind.NONE:
            most = most.astype(np.int64)
            gpu = self.kinds[kind].shape.gpu
            for at in np.flatnonzero(self.odd[rows]).tolist():
                most[at] = self._odd_rooms.most(gpu, int(rows[at]))
        return most

    def _most_on_alike(self, kind: int, rows: IntArray, otherwise: IntArray) -> IntArray:
        base, gpu, state = self.base, self.kinds[kind].shape.gpu, self.state
        match gpu.kind:
            case GpuKind.NONE:
                return otherwise
            case GpuKind.WHOLE:
                return base.whole[rows] // gpu.count
            case GpuKind.FRACTION:
                milli, memory = fraction_need(state, gpu, rows)
                fit = np.maximum(base.milli[rows], 0) // milli[:, None]
                bounded = (memory[:, None] > 0) & (state.device_mem[rows] > 0)
                room = np.maximum(base.memory[rows], 0) // np.maximum(memory[:, None], 1)
                return np.asarray(np.where(bounded, np.minimum(fit, room), fit).sum(axis=1))
            case GpuKind.SHARED:
                return base.replicas[rows] // gpu.replicas
            case GpuKind.MIG:
                return np.array([self._most_instances(gpu.mig, row) for row in rows.tolist()])

    def _most_instances(self, wanted: tuple[tuple[str, int], ...], row: int) -> int:
        pairs = list(zip(self.state.mig_types_of(row), self.base.slots[row].tolist(), strict=False))
        return min(
            sum(mig.count(mask, profile) for mig, mask in pairs if mig) // instances
            for profile, instances in wanted
        )
