"""A layout counts what it disturbs as it changes; here it is counted anew."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import DEVICE_MILLI, DeviceShare, GangKey, Placement
from scheduler.core.state import ClusterState
from scheduler.planner.instance import Instance
from scheduler.planner.layout import Layout
from scheduler.planner.problem import Disruption, DisruptionBudget, Problem
from tests.builders import node, pod

GANG = GangKey("native", "default", "g")
NODES = [node(f"n{i}", gpus=4) for i in range(3)]
RUNNING = [pod(f"r{i}", count=1, gang=GANG if i < 3 else None) for i in range(6)]
PENDING = [pod(f"q{i}", count=1) for i in range(3)]


def _layout() -> Layout:
    engine = Engine(ClusterState(NODES), "first-fit")
    for number, running in enumerate(RUNNING):
        engine.place_on(running, f"n{number % 3}")
    problem = Problem(
        engine.state.snapshot(),
        tuple(PENDING),
        {running.uid: Disruption(3, 2) for running in RUNNING},
        (DisruptionBudget("b", frozenset(running.uid for running in RUNNING[2:]), 9),),
        gangs={GANG: GangSpec(GANG, 3)},
    )
    return Layout(Instance(problem))


def _moved(layout: Layout) -> set[str]:
    now = layout.state.placements
    return {
        uid
        for uid, origin in layout.instance.origin.items()
        if uid not in now or (now[uid].node, now[uid].devices) != (origin.node, origin.devices)
    }


def _disruption(layout: Layout) -> int:
    moved, cost = _moved(layout), 0
    stopped = {u for uids in layout.instance.units.values() if moved & set(uids) for u in uids}
    for uid in moved | stopped:
        if uid not in layout.state.placements:
            cost += 2
        elif uid in stopped:
            cost += 3 + (uid in moved)
        else:
            cost += 3
    return cost


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2), st.booleans()), max_size=25))
def test_what_is_counted_is_what_is_there(steps: list[tuple[int, int, bool]]) -> None:
    layout = _layout()
    everybody = RUNNING + PENDING
    order = [{p.uid: i for i, p in enumerate(pods)} for pods in layout.instance.pods]
    for number, where, at_once in steps:
        chosen = everybody[number]
        placed = chosen.uid in layout.state.placements
        free = layout.state.gpu_free[where]
        device = next((d for d, milli in enumerate(free) if milli > 0), None)
        target = None
        if device is not None:
            target = Placement(chosen, f"n{where}", (DeviceShare(device, DEVICE_MILLI),))
        if placed and at_once and target:
            layout.exchange([chosen.uid], [target])
        elif placed:
            layout.take(chosen.uid)
        elif target:
            layout.place(target)
        assert layout.displaced == _moved(layout)
        assert layout.disruption() == _disruption(layout)
        assert layout.disturbed(0) == len(_moved(layout) & {r.uid for r in RUNNING[2:]})
        for kind, waiting in enumerate(layout.unplaced):
            assert list(waiting) == sorted(waiting, key=order[kind].__getitem__)
    twin = layout.copy()
    assert (twin.displaced, twin.value()) == (layout.displaced, layout.value())
