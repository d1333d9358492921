"""How much power nodes draw, by what runs on them: a model, not a measurement.

A device that anything runs on draws its board power, an idle one its idle power; a socket of 32
hardware threads draws one figure or the other, and as many are busy as the cpu handed out fills.
It is the model of Lettich et al., Power- and Fragmentation-aware Online Scheduling for GPU
Datacenters (arXiv 2412.17484). It says which of two placements switches more on; no bill.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.core.errors import InvalidInput
from scheduler.core.model import DEVICE_MILLI
from scheduler.core.state import ClusterState, DeviceCode

__all__ = [
    "BOARDS",
    "SOCKET",
    "SOCKET_MILLI",
    "PowerMeter",
    "PowerModel",
    "Watts",
    "entire_slots",
    "idle_devices",
]

IntArray = NDArray[np.int64]

SOCKET = "cpu"
"""Name of a socket among the boards of a policy file."""

SOCKET_MILLI = 32_000
"""Milli-CPU of a socket."""

_MOST_WATTS = 20_000


@dataclass(frozen=True, slots=True)
class Watts:
    """What a device draws while nothing runs on it, and while something does."""

    idle: int
    busy: int

    @property
    def switched_on(self) -> int:
        """What the first pod on it adds."""
        return self.busy - self.idle

    def to_json(self) -> list[int]:
        """As a policy file has it."""
        return [self.idle, self.busy]


# Board power as the makers state it (the upper one where a product has several that its label does
# not tell apart); idle power is what such boards are commonly reported to draw without work.
BOARDS: Mapping[str, Watts] = {
    "A10": Watts(30, 150),
    "A10G": Watts(30, 300),
    "A16": Watts(60, 250),
    "A2": Watts(8, 60),
    "A30": Watts(30, 165),
    "A40": Watts(30, 300),
    "A100": Watts(50, 400),
    "A100 PCIE": Watts(45, 300),
    "B200": Watts(140, 1000),
    "B300": Watts(150, 1400),
    "GB200": Watts(150, 1200),
    "GB300": Watts(150, 1400),
    "Gaudi2": Watts(100, 600),
    "Gaudi3": Watts(130, 900),
    "GH200": Watts(100, 1000),
    "H20": Watts(70, 500),
    "H100": Watts(70, 700),
    "H100 NVL": Watts(60, 400),
    "H100 PCIE": Watts(50, 350),
    "H200": Watts(75, 700),
    "H200 NVL": Watts(65, 600),
    "H800": Watts(70, 700),
    "K80": Watts(50, 300),
    "L4": Watts(13, 72),
    "L20": Watts(35, 275),
    "L40": Watts(35, 300),
    "L40S": Watts(35, 350),
    "MI210": Watts(40, 300),
    "MI250": Watts(90, 560),
    "MI250X": Watts(90, 560),
    "MI300X": Watts(140, 750),
    "MI325X": Watts(150, 1000),
    "MI355X": Watts(160, 1400),
    "P4": Watts(7, 75),
    "P40": Watts(15, 250),
    "P100": Watts(25, 250),
    "RTX 3090": Watts(25, 350),
    "RTX 4090": Watts(25, 450),
    "RTX 5090": Watts(30, 575),
    "RTX A6000": Watts(25, 300),
    "T4": Watts(10, 70),
    "V100": Watts(30, 300),
    "V100M16": Watts(30, 300),
    "V100M32": Watts(30, 300),
    # Models that the openb trace does not name.
    "G2": Watts(30, 150),
    "G3": Watts(50, 400),
}
"""Power by words of the product's name."""


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Power of boards and sockets.

    Parameters
    ----------
    boards
        Beyond :data:`BOARDS`, or instead of what it says: words of a product's name, and watts.
    socket
        Of 32 hardware threads.
    """

    boards: tuple[tuple[str, Watts], ...] = ()
    socket: Watts = Watts(15, 120)

    def of(self, product: str) -> Watts | None:
        """Power of a product; None if its name has the words of none that is known.

        Of several that fit, the one with the most words, and of those the longest, is meant.
        """
        return _watts_of(self, product)

    def by_product(self, state: ClusterState) -> IntArray:
        """Idle watts of a device, and what its first pod adds, by the state's product code; (P, 2).

        0 where the power of a product is not known.
        """
        known = [self.of(product) or Watts(0, 0) for _, product in state.products]
        return np.array([(watts.idle, watts.switched_on) for watts in known], dtype=np.int64)

    def drawn(self, state: ClusterState, rows: IntArray | slice = slice(None)) -> IntArray:
        """Watts that rows draw, (R,); devices of unknown power count 0."""
        count = state.device_count[rows].astype(np.int64)
        idle = idle_devices(state, rows).sum(axis=1)
        # An unhealthy device takes no pod, and so is as good as idle.
        idle += (state.device_code[rows] == DeviceCode.UNHEALTHY).sum(axis=1)
        idle_watts, switched_on = self.by_product(state)[state.product[rows]].T
        devices = idle_watts * count + switched_on * (count - idle)
        there = _sockets(state.cpu_alloc[rows])
        busy = np.minimum(_sockets(state.cpu_alloc[rows] - state.cpu_free[rows]), there)
        return np.asarray(devices + there * self.socket.idle + busy * self.socket.switched_on)

    def to_json(self) -> dict[str, list[int]]:
        """What differs from the built-in figures, as in a policy file."""
        told = {name: watts.to_json() for name, watts in self.boards}
        if self.socket != PowerModel().socket:
            told[SOCKET] = self.socket.to_json()
        return told

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], where: str = "watts") -> PowerModel:
        """Read ``{"L40S": [35, 350], "cpu": [15, 120]}``: idle and busy watts by words of a name.

        Raises
        ------
        InvalidInput
            A name without words, or figures that are none.
        """
        boards: list[tuple[str, Watts]] = []
        socket = cls().socket
        for name, pair in content.items():
            if not _words(name):
                raise InvalidInput(
                    f"{where}.{name}", "is not the name of a board", "give a board such as L40S"
                )
            watts = _pair(pair, f"{where}.{name}")
            if name == SOCKET:
                socket = watts
            else:
                boards.append((name, watts))
        return cls(tuple(sorted(boards, key=lambda board: board[0])), socket)


def _pair(content: object, where: str) -> Watts:
    def is_figure(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_WATTS

    if not isinstance(content, list) or len(content) != 2 or not all(map(is_figure, content)):
        remedy = f"give two whole numbers of 0..{_MOST_WATTS}, such as [35, 350]"
        raise InvalidInput(where, f"{content!r} is not idle and busy watts", remedy)
    idle, busy = content
    if busy < idle:
        raise InvalidInput(where, f"is busy at {busy} W and idle at {idle} W", "idle comes first")
    return Watts(idle, busy)


@lru_cache(maxsize=1024)
def _watts_of(model: PowerModel, product: str) -> Watts | None:
    words = _words(product)
    for known in (dict(model.boards), BOARDS):
        fitting = [name for name in known if _words(name) <= words]
        if fitting:
            return known[max(fitting, key=lambda name: (len(_words(name)), len(name), name))]
    return None


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[A-Z0-9]+", name.upper()))


def _sockets(cpu_milli: IntArray) -> IntArray:
    """Sockets that so much milli-CPU fills, the last one in part; same shape."""
    return np.asarray(-(-np.maximum(cpu_milli, 0) // SOCKET_MILLI))


def idle_devices(state: ClusterState, rows: IntArray | slice) -> NDArray[np.bool_]:
    """Healthy devices of rows that nothing runs on, (R, D), however they are shared."""
    plain = state.gpu_free[rows] == DEVICE_MILLI
    codes = state.device_code[rows]
    if not (codes >= DeviceCode.SHARED).any():
        return np.asarray(plain)
    return np.asarray(plain | (state.slots_free[rows] == entire_slots(state, rows)))


def entire_slots(state: ClusterState, rows: IntArray | slice) -> IntArray:
    """Slots or replicas of partitioned and shared devices without a pod, (R, D); else -1."""
    codes = state.device_code[rows]
    masks = np.array([0, *(mig.full_mask for mig in state.mig_types)], dtype=np.int64)
    entire = masks[np.maximum(codes - DeviceCode.MIG + 1, 0)]
    entire = np.where(codes == DeviceCode.SHARED, state.replicas[rows], entire)
    return np.asarray(np.where(codes >= DeviceCode.SHARED, entire, -1))


class PowerMeter:
    """What all nodes of a state draw together, at a cost that follows what has changed.

    Parameters
    ----------
    state
        The cluster.
    model
        Power of its devices and sockets.
    """

    def __init__(self, state: ClusterState, model: PowerModel | None = None) -> None:
        self._state, self._model = state, model or PowerModel()
        self._drawn = np.zeros(0, dtype=np.int64)
        self._position = -1
        self._watts = 0

    def read(self) -> int:
        """Watts now."""
        state = self._state
        changed, position = state.changed_since(self._position)
        if changed is None or self._position < 0 or len(state) != len(self._drawn):
            self._drawn = self._model.drawn(state)
            self._watts = int(self._drawn.sum())
        elif changed:
            rows = np.unique(np.array(changed, dtype=np.int64))
            drawn = self._model.drawn(state, rows)
            self._watts += int((drawn - self._drawn[rows]).sum())
            self._drawn[rows] = drawn
        self._position = position
        return self._watts
