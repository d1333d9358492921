"""What rows have left while a plan is drafted, in columns: nothing is written to a state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.core.devices import fraction_need
from scheduler.core.model import DEVICE_MILLI, GpuKind, Serves
from scheduler.core.state import DeviceCode
from scheduler.planner.layout import Layout

__all__ = ["Columns", "Shares"]

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Shares = tuple[tuple[int, int, int], ...]
"""Devices of a pod: index, milli-GPU, memory in MiB (0 for a whole one)."""


class Columns:
    """Columns of rows, and what kinds of pods take of them.

    Attributes
    ----------
    free : (A, N) int64
        By axis of the instance.
    milli : (N, D) int64
        Milli-GPU of usual devices; 0 for all others.
    whole : (N,) int64
        Usual devices that are entirely free.
    """

    def __init__(self, layout: Layout) -> None:
        instance, state = layout.instance, layout.state
        self._instance, self._state = instance, state
        self.free = np.stack([axis.free(state) for axis in instance.axes]).astype(np.int64)
        self._axis_needs = np.stack([axis.need for axis in instance.axes])
        self._scale = np.array([[axis.scale] for axis in instance.axes])
        plain = state.device_code == DeviceCode.PLAIN
        self.milli = np.where(plain, state.gpu_free, 0).astype(np.int64)
        self._memory = state.device_mem_free.astype(np.int64)
        self.whole = (self.milli == DEVICE_MILLI).sum(axis=1)
        self._sure = state.serves != Serves.ONE_AT_A_TIME
        self._needs: dict[int, tuple[IntArray, IntArray]] = {}

    def rows(self, code: int) -> BoolArray:
        """Rows whose columns say all that a kind needs to know, (N,)."""
        allowed = self._instance.simple[code]
        bare = self._instance.kinds[code].shape.gpu.kind is GpuKind.NONE
        return allowed if bare else np.asarray(allowed & self._sure)

    def is_piece(self, kind: int) -> bool:
        """Whether a kind asks for a fraction of a device."""
        return self._instance.kinds[kind].shape.gpu.kind is GpuKind.FRACTION

    def piece(self, kind: int, rows: IntArray) -> int:
        """Most milli-GPU that a fraction of a kind takes on these rows; 0 for others."""
        gpu = self._instance.kinds[kind].shape.gpu
        if gpu.kind is not GpuKind.FRACTION:
            return 0
        return int(self.fraction(kind)[0][rows].max(initial=0))

    def fraction(self, kind: int) -> tuple[IntArray, IntArray]:
        """Milli-GPU and memory of a fraction on each row, (N,)."""
        if kind not in self._needs:
            gpu = self._instance.kinds[kind].shape.gpu
            rows = np.arange(len(self._state))
            self._needs[kind] = fraction_need(self._state, gpu, rows)
        return self._needs[kind]

    def room(self, kind: int, rows: IntArray) -> IntArray:
        """Pods of a kind that each of these rows could take as things are, (R,)."""
        instance = self._instance
        room = np.where(self.rows(kind)[rows], len(instance.position), 0)
        for number, axis in enumerate(instance.axes):
            need = int(axis.need[kind])
            if need:
                room = np.minimum(room, self.free[number, rows] // need)
        gpu = instance.kinds[kind].shape.gpu
        if gpu.kind is GpuKind.WHOLE:
            room = np.minimum(room, self.whole[rows] // gpu.count)
        elif gpu.kind is GpuKind.FRACTION:
            room = np.minimum(room, self.pieces(kind, rows).sum(axis=1))
        return np.maximum(room, 0)

    def pieces(self, kind: int, rows: IntArray) -> IntArray:
        """Fractions of a kind that each device of these rows could take, (R, D)."""
        milli, memory = self.fraction(kind)
        fit = self.milli[rows] // milli[rows][:, None]
        bounded = (memory[rows][:, None] > 0) & (self._state.device_mem[rows] > 0)
        by_memory = np.maximum(self._memory[rows], 0) // np.maximum(memory[rows][:, None], 1)
        return np.asarray(np.where(bounded, np.minimum(fit, by_memory), fit))

    def usual_cpu(self, rows: IntArray) -> float:
        """Cpu that these rows have left per milli-GPU that they have left."""
        return float(np.maximum(self.free[0, rows], 0).sum() / max(1, self.milli[rows].sum()))

    def misplaced(self, kind: int, rows: IntArray, usual: float) -> NDArray[np.float64]:
        """Less where a pod suits better, (R,).

        Pods that ask for much cpu per device go where much is left of it per device, and the
        others where little is, so that no device is left without cpu. Before that, holes that a
        kind fills exactly come first.
        """
        gpu, free = self._instance.kinds[kind].shape.gpu, self.free[0, rows]
        milli = self.milli[rows].sum(axis=1)
        surplus = (free - usual * milli) / self._scale[0]
        if gpu.kind is GpuKind.NONE:
            return np.asarray((milli > 0) * 10.0 - surplus)
        asks = gpu.count * DEVICE_MILLI + int(self.fraction(kind)[0][rows].max(initial=0)) * (
            gpu.kind is GpuKind.FRACTION
        )
        heavy = float(self._instance.axes[0].need[kind]) > usual * asks
        even = -surplus if heavy else surplus
        if gpu.kind is GpuKind.WHOLE:
            return np.asarray(10.0 * (self.whole[rows] % gpu.count != 0) + even)
        broken = self.milli[rows] % DEVICE_MILLI
        fits = (broken >= asks).any(axis=1)
        return np.asarray(10.0 * ~fits + even)

    def take(self, kind: int, row: int) -> Shares | None:
        """Take a pod's worth of a kind off a row, and on which devices; None if it has no room."""
        if not bool((self.free[:, row] >= self._axis_needs[:, kind]).all()):
            return None
        gpu = self._instance.kinds[kind].shape.gpu
        devices: Shares = ()
        if gpu.kind is GpuKind.WHOLE:
            chosen = np.flatnonzero(self.milli[row] == DEVICE_MILLI)[: gpu.count].tolist()
            if len(chosen) < gpu.count:
                return None
            devices = tuple((d, DEVICE_MILLI, 0) for d in chosen)
        elif gpu.kind is GpuKind.FRACTION:
            milli, memory = self.fraction(kind)
            fits = self.pieces(kind, np.array([row]))[0] > 0
            if not fits.any():
                return None
            device = int(np.where(fits, self.milli[row], DEVICE_MILLI + 1).argmin())
            devices = ((device, int(milli[row]), int(memory[row])),)
        self._book(kind, row, devices, 1)
        return devices

    def give_back(self, kind: int, row: int, devices: Shares) -> None:
        """Undo :meth:`take`."""
        self._book(kind, row, devices, -1)

    def _book(self, kind: int, row: int, devices: Shares, sign: int) -> None:
        self.free[:, row] -= sign * self._axis_needs[:, kind]
        for device, milli, memory in devices:
            was = self.milli[row, device] == DEVICE_MILLI
            self.milli[row, device] -= sign * milli
            size = int(self._state.device_mem[row, device])
            self._memory[row, device] -= sign * (size if milli == DEVICE_MILLI else memory)
            self.whole[row] += int(self.milli[row, device] == DEVICE_MILLI) - int(was)
