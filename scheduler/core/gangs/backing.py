"""Which members of a planned gang have room by our state, whatever kube-scheduler has said of one.

kube-scheduler has found room for the member that it asked about. Where our state was late, the
others were planned on the same nodes; whether these have room for them, too, the watch will tell.
"""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.core.columns import counted, counted_bytes
from scheduler.core.engine import Engine
from scheduler.core.gangs.states import Slot
from scheduler.core.model import PodRequest, Shape
from scheduler.core.state import ClusterState

__all__ = ["backed"]

_OWN = ("cpu", "memory", "pods")  # no counted resource is called so


def backed(engine: Engine, slots: Mapping[str, Slot], first: PodRequest, row: int) -> set[str]:
    """Who has room once the first member is where it is to be bound; that one always has.

    Parameters
    ----------
    engine
        Its state has the places of those whose slots are held, and knows nothing of the others'.
    slots
        Places of the gang, by uid.
    first, row
        The member to be bound, and where: kube-scheduler has found room for it there.

    Returns
    -------
    set of str
        Uids. As many of a node as there is room for, in the order of the slots.
    """
    state, sure = engine.state, {first.uid}
    left: dict[int, dict[str, int]] = {}
    for uid in {first.uid: None, **dict.fromkeys(slots)}:
        held = engine.reservations.get(uid)
        at = state.row_of.get(held.placement.node, -1) if held is not None else -1
        if held is not None and at >= 0:
            there = _left(left, state, at)
            for name, amount in _asks(state, held.placement.pod.shape).items():
                there[name] += amount if _charges(state, at, name) else 0
    _take(_left(left, state, row), _asks(state, first.shape))
    for uid, slot in slots.items():
        at = state.row_of.get(slot.node, -1)
        if uid == first.uid or at < 0:
            continue
        there, asks = _left(left, state, at), _asks(state, slot.shape)
        if all(there[name] >= amount for name, amount in asks.items()):
            _take(there, asks)
            sure.add(uid)
    return sure


def _left(known: dict[int, dict[str, int]], state: ClusterState, row: int) -> dict[str, int]:
    """What is left of a row, by name; to be written to."""
    if row not in known:
        columns = (state.cpu_free, state.mem_free, state.pods_free)
        found = {name: int(column[row]) for name, column in zip(_OWN, columns, strict=True)}
        for code, name in enumerate(state.counted.names):
            found[name] = int(state.counted.free[row, code])
        known[row] = found
    return known[row]


def _asks(state: ClusterState, shape: Shape) -> dict[str, int]:
    """What kube-scheduler looks at for a shape, by name."""
    own = (counted(shape.cpu_milli), counted_bytes(shape.memory_bytes), 1)
    asks = dict(zip(_OWN, own, strict=True))
    for name, amount in shape.counted:
        if state.counted.code(name) >= 0:  # else no node offers it, as far as we know
            asks[name] = counted_bytes(amount)
    return {name: amount for name, amount in asks.items() if amount}


def _charges(state: ClusterState, row: int, name: str) -> bool:
    """Whether a pod on this row is charged for it: nobody is for what a node does not offer."""
    if name in _OWN:
        return True
    return bool(state.counted.offered[row, state.counted.names.index(name)])


def _take(left: dict[str, int], asks: Mapping[str, int]) -> None:
    for name, amount in asks.items():
        left[name] -= amount
