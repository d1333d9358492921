"""Rows whose devices are not all alike, in the planner's terms.

See :mod:`scheduler.core.makes`. What a kind asks for on such a row is a number of *tokens* of some
devices: entire devices, a piece of one, replicas, or instances. A window decides how many tokens of
which device each kind takes; which of its pods gets which of them makes no difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scheduler.core.makes import Ask, meaning
from scheduler.core.mig import UNIT, MigType
from scheduler.core.model import DEVICE_MILLI, DeviceShare, GpuKind, GpuRequest
from scheduler.core.state import ClusterState, DeviceCode

if TYPE_CHECKING:  # a bound and a problem that is only described need no solver of windows
    from ortools.sat.python import cp_model

    Var = cp_model.IntVar
    Expr = cp_model.LinearExprT

__all__ = ["OddRooms", "OddRow", "asks_of", "odd_rows"]

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def odd_rows(state: ClusterState) -> BoolArray:
    """Which rows are odd, (N,)."""
    return np.asarray(state.make > 0)


def asks_of(state: ClusterState, gpu: GpuRequest, row: int) -> tuple[Ask, ...]:
    """What a request means on an odd row; nothing if it asks for no devices."""
    return meaning(state.makes[int(state.make[row])], gpu) if gpu.kind is not GpuKind.NONE else ()


@dataclass(frozen=True, slots=True)
class _Free:
    """What is left of the devices of one row, and what they are."""

    milli: tuple[int, ...]
    memory: tuple[int, ...]
    slots: tuple[int, ...]
    codes: tuple[int, ...]
    sizes: tuple[int, ...]
    replicas: tuple[int, ...]
    types: tuple[MigType | None, ...]

    @classmethod
    def of(
        cls, state: ClusterState, row: int, milli: IntArray, memory: IntArray, slots: IntArray
    ) -> _Free:
        width = int(state.device_count[row])

        def listed(column: NDArray[np.signedinteger]) -> tuple[int, ...]:
            return tuple(column[row, :width].tolist())

        return cls(
            listed(milli),
            listed(memory),
            listed(slots),
            listed(state.device_code),
            listed(state.device_mem),
            listed(state.replicas),
            state.mig_types_of(row),
        )

    def devices(self, ask: Ask) -> list[int]:
        """Devices that an ask accepts and that are in service."""
        code = {GpuKind.WHOLE: DeviceCode.PLAIN, GpuKind.FRACTION: DeviceCode.PLAIN,
                GpuKind.SHARED: DeviceCode.SHARED}.get(ask.gpu.kind)  # fmt: skip
        return [
            index
            for index, (yes, has) in enumerate(zip(ask.devices, self.codes, strict=True))
            if yes and (has == code if code is not None else has >= DeviceCode.MIG)
        ]

    def piece(self, gpu: GpuRequest, devices: list[int]) -> tuple[int, int]:
        """Milli-GPU and memory of a fraction here; as :func:`core.devices.fraction_need`."""
        size = self.sizes[devices[0]] if devices else 0
        if gpu.milli:
            stated = gpu.memory_mib if size else 0
            return gpu.milli, stated if gpu.memory_mib else size * gpu.milli // DEVICE_MILLI
        if not size:
            return DEVICE_MILLI, 0
        return min(max(gpu.memory_mib * DEVICE_MILLI // size, 1), DEVICE_MILLI), gpu.memory_mib


class OddRooms:
    """Room on odd rows without the pods in play; rows that look alike are looked at once.

    Parameters
    ----------
    state
        The cluster.
    base : tuple of (N, D)
        Milli-GPU, memory and slots left per device.
    """

    def __init__(self, state: ClusterState, base: tuple[IntArray, IntArray, IntArray]) -> None:
        self._state, self._base = state, base
        self._rows = np.flatnonzero(odd_rows(state))
        columns = (*base, state.device_code, state.device_mem, state.replicas)
        table = np.concatenate(
            [state.make[self._rows, None], *(column[self._rows] for column in columns)], axis=1
        ).astype(np.int64)
        firsts: dict[bytes, int] = {}
        self._twin = {
            row: firsts.setdefault(look.tobytes(), row)
            for row, look in zip(self._rows.tolist(), table, strict=True)
        }
        self._known: dict[tuple[GpuRequest, int], int] = {}
        self._rooms: dict[str, IntArray] = {}

    def most(self, gpu: GpuRequest, row: int) -> int:
        """Most pods of a request that the devices of an odd row could have."""
        key = gpu, self._twin[row]
        if key not in self._known:
            free = _Free.of(self._state, row, *self._base)
            asks = asks_of(self._state, gpu, row)
            self._known[key] = min(_most_of(free, ask) for ask in asks)
        return self._known[key]

    def units(self, resource: str) -> IntArray:
        """Units that pods could have who ask for whole devices of a resource; 0 elsewhere. (N,)"""
        if resource not in self._rooms:
            room = np.zeros(len(self._state), dtype=np.int64)
            gpu = GpuRequest(count=1, resource=resource)
            room[self._rows] = [self.most(gpu, row) for row in self._rows.tolist()]
            self._rooms[resource] = room
        return self._rooms[resource]


def _most_of(free: _Free, ask: Ask) -> int:
    devices, gpu = free.devices(ask), ask.gpu
    match gpu.kind:
        case GpuKind.WHOLE:
            return sum(free.milli[d] == DEVICE_MILLI for d in devices) // gpu.count
        case GpuKind.FRACTION:
            milli, memory = free.piece(gpu, devices)
            found = 0
            for d in devices:
                fit = max(free.milli[d], 0) // milli
                bounded = memory and free.sizes[d]
                found += min(fit, max(free.memory[d], 0) // memory) if bounded else fit
            return found
        case GpuKind.SHARED:
            return sum(max(free.slots[d], 0) for d in devices) // gpu.replicas
        case _:
            return min(
                sum(_count(free, d, profile) for d in devices) // instances
                for profile, instances in gpu.mig
            )


def _count(free: _Free, device: int, profile: str) -> int:
    mig = free.types[device]
    return mig.count(free.slots[device], profile) if mig else 0


class OddRow:
    """Variables of one odd row in a window, and what comes of them.

    Parameters
    ----------
    model
        Gets the constraints.
    state, row
        Where.
    base
        As for :class:`OddRooms`.
    asks
        What each kind that may come asks for.
    counts
        How many pods of each kind come.
    """

    def __init__(
        self,
        model: cp_model.CpModel,
        state: ClusterState,
        row: int,
        base: tuple[IntArray, IntArray, IntArray],
        asks: Mapping[int, tuple[Ask, ...]],
        counts: Mapping[int, Var],
    ) -> None:
        self._model = model
        self._free = _Free.of(state, row, *base)
        self._asks = asks
        # Tokens by kind, part of its request, profile, device and slots (0 where there are none).
        self._tokens: dict[tuple[int, int, str], dict[tuple[int, int], Var]] = {}
        self._milli: dict[int, list[Expr]] = defaultdict(list)
        self._memory: dict[int, list[Expr]] = defaultdict(list)
        self._replicas: dict[int, list[Expr]] = defaultdict(list)
        self._slots: dict[tuple[int, int], list[Var]] = defaultdict(list)
        for kind, count in counts.items():
            for part, ask in enumerate(asks[kind]):
                self._ask(kind, part, ask, count)
        for device, used in self._milli.items():
            model.add(sum(used) <= max(self._free.milli[device], 0))
        for device, used in self._memory.items():
            if self._free.sizes[device]:
                model.add(sum(used) <= max(self._free.memory[device], 0))
        for device, used in self._replicas.items():
            model.add(sum(used) <= max(self._free.slots[device], 0))
        for on_slot in self._slots.values():
            model.add_at_most_one(on_slot)

    def _ask(self, kind: int, part: int, ask: Ask, count: Var) -> None:
        free, gpu, devices = self._free, ask.gpu, self._free.devices(ask)
        match gpu.kind:
            case GpuKind.WHOLE:
                entire = [d for d in devices if free.milli[d] == DEVICE_MILLI]
                found = self._made(kind, part, dict.fromkeys(entire, 1))
                for (device, _), var in found.items():
                    self._milli[device].append(DEVICE_MILLI * var)
                self._model.add(sum(found.values()) == gpu.count * count)
            case GpuKind.FRACTION:
                milli, memory = free.piece(gpu, devices)
                found = self._made(kind, part, {d: max(free.milli[d], 0) // milli for d in devices})
                for (device, _), var in found.items():
                    self._milli[device].append(milli * var)
                    self._memory[device].append(memory * var)
                self._model.add(sum(found.values()) == count)
            case GpuKind.SHARED:
                found = self._made(kind, part, {d: max(free.slots[d], 0) for d in devices})
                for (device, _), var in found.items():
                    self._replicas[device].append(var)
                self._model.add(sum(found.values()) == gpu.replicas * count)
            case _:
                self._instances(kind, part, gpu, devices, count)

    def _made(self, kind: int, part: int, most: Mapping[int, int]) -> dict[tuple[int, int], Var]:
        """A number of tokens of each device, at most so many."""
        made = {(d, 0): self._model.new_int_var(0, n, "") for d, n in most.items() if n > 0}
        self._tokens[kind, part, UNIT] = made
        return made

    def _instances(
        self, kind: int, part: int, gpu: GpuRequest, devices: list[int], count: Var
    ) -> None:
        for profile, instances in gpu.mig:
            made: dict[tuple[int, int], Var] = {}
            for device in devices:
                mig = self._free.types[device]
                for mask in mig.placements(profile) if mig else ():
                    if self._free.slots[device] & mask == mask:
                        var = made[device, mask] = self._model.new_bool_var("")
                        for bit in range(mask.bit_length()):
                            if mask >> bit & 1:
                                self._slots[device, bit].append(var)
            self._model.add(sum(made.values()) == instances * count)
            self._tokens[kind, part, profile] = made

    def shares(self, solver: cp_model.CpSolver, kind: int) -> Iterator[tuple[DeviceShare, ...]]:
        """Devices of one pod of a kind after another, as a solution hands them out."""
        hands: list[tuple[Ask, int, Iterator[tuple[int, int]]]] = []
        for part, ask in enumerate(self._asks[kind]):
            for profile, wanted in _wants(ask.gpu):
                made = sorted(self._tokens[kind, part, profile].items())
                tokens = [key for key, var in made for _ in range(solver.value(var))]
                hands.append((ask, wanted, iter(tokens)))
        while True:
            taken: dict[int, DeviceShare] = {}
            for ask, wanted, hand in hands:
                for _ in range(wanted):
                    token = next(hand, None)
                    if token is None:
                        return
                    self._take(taken, ask, *token)
            yield tuple(self._finished(share) for _, share in sorted(taken.items()))

    def _take(self, taken: dict[int, DeviceShare], ask: Ask, device: int, mask: int) -> None:
        before = taken.get(device, DeviceShare(device, 0))
        match ask.gpu.kind:
            case GpuKind.WHOLE:
                taken[device] = DeviceShare(device, DEVICE_MILLI, self._free.sizes[device])
            case GpuKind.FRACTION:
                taken[device] = DeviceShare(
                    device, *self._free.piece(ask.gpu, self._free.devices(ask))
                )
            case GpuKind.SHARED:
                taken[device] = DeviceShare(device, 0, 0, before.slots + 1)
            case _:
                taken[device] = DeviceShare(device, 0, 0, before.slots | mask)

    def _finished(self, share: DeviceShare) -> DeviceShare:
        """The share with the milli-GPU that its slots stand for."""
        mig = self._free.types[share.index]
        if not share.slots:
            return share
        if mig is not None:
            return DeviceShare(share.index, mig.milli(share.slots), 0, share.slots)
        milli = share.slots * DEVICE_MILLI // self._free.replicas[share.index]
        return DeviceShare(share.index, milli, 0, share.slots)


def _wants(gpu: GpuRequest) -> tuple[tuple[str, int], ...]:
    """Profiles, or none in particular, and how many tokens of each one pod takes."""
    match gpu.kind:
        case GpuKind.WHOLE:
            return ((UNIT, gpu.count),)
        case GpuKind.FRACTION:
            return ((UNIT, 1),)
        case GpuKind.SHARED:
            return ((UNIT, gpu.replicas),)
        case _:
            return gpu.mig
