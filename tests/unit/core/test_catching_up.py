"""What the engine remembers per shape is what it would compute anew, whatever has happened."""

from __future__ import annotations

import random

import numpy as np
import pytest

from scheduler.core.engine import Engine
from scheduler.core.model import Device, PodRequest
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from tests.builders import node, pod

SHAPES = (
    {"count": 1},
    {"count": 2, "products": ("A10",)},
    {"milli": 300},
    {"milli": 200, "memory_mib": 4000},
    {"mig": (("1g.5gb", 1),)},
    {"replicas": 1},
    {},
)
PROFILE = WorkloadProfile.from_requests([pod(count=1), pod(milli=300), pod(count=4)])


def _some_node(rng: random.Random, name: str):
    kind = rng.randrange(5)
    if kind == 0:
        return node(name, devices=(Device("A100", mig="A100-40"),) * 2, cpu=8000)
    if kind == 1:
        return node(name, devices=(Device("T4", replicas=4),), cpu=8000)
    if kind == 2:
        return node(name, gpus=rng.randint(1, 9), gpu_memory=16_000, cpu=8000)
    return node(name, gpus=rng.randint(0, 4), product=rng.choice(("T4", "A10")), cpu=8000)


def _happens(rng: random.Random, engine: Engine, step: int) -> None:
    state, draw = engine.state, rng.random()
    names = sorted(state.row_of)
    if draw < 0.15:
        state.add_node(_some_node(rng, f"n{step}"))
    elif draw < 0.25 and len(names) > 2:
        gone = rng.choice(names)
        for uid in [p.pod.uid for p in state.pods_on(state.row(gone))]:
            engine.release(uid)
        state.remove_node(gone)
    elif draw < 0.4:
        state.update_node(_some_node(rng, rng.choice(names)))
    elif draw < 0.5 and state.placements:
        engine.release(rng.choice(sorted(state.placements)))
    else:
        request: PodRequest = pod(f"p{step}", cpu=rng.choice((500, 3000)), **rng.choice(SHAPES))
        row = engine.best(request)
        if row >= 0:
            engine.place_on(request, state.nodes[row].name)


@pytest.mark.parametrize("policy", ["fgd", "gpu-clustering"])
@pytest.mark.parametrize("seed", range(3))
def test_remembered_and_computed_anew_are_the_same(policy: str, seed: int) -> None:
    rng = random.Random(seed)
    state = ClusterState([_some_node(rng, f"first{i}") for i in range(5)])
    engine = Engine(state, policy, profile=PROFILE)
    asked = [pod(f"ask{i}", cpu=1000, **shape) for i, shape in enumerate(SHAPES)]
    for step in range(70):
        _happens(rng, engine, step)
        fresh = Engine(state, policy, profile=PROFILE)
        rows = np.arange(len(state))
        for request in asked[:: 1 + step % 3]:  # some lag behind
            assert engine.filter(request).tolist() == fresh.filter(request).tolist(), step
            assert engine.scores(request, rows).tolist() == fresh.scores(request, rows).tolist()
            assert engine.best(request) == fresh.best(request)
