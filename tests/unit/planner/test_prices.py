"""Prices: what is scarce costs more, and nothing that should not matter changes them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.mix import TypicalMix
from scheduler.core.prices import PRICE_SCALE
from scheduler.core.state import ClusterState
from scheduler.planner.prices import prices
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, run
from tests.builders import node, pod


def test_a_scarce_model_is_dear_for_those_who_do_not_need_it() -> None:
    nodes = [node("rare", gpus=4, product="A100"), *(node(f"n{i}", gpus=4) for i in range(4))]
    mix = TypicalMix.from_requests(
        [*(pod(count=1, products=("A100",)) for _ in range(5)), *(pod(count=1) for _ in range(9))]
    )
    state = ClusterState(nodes)
    made = prices(state, mix)
    assert made is not None
    rows = np.arange(len(nodes))
    penalty = made.penalty(state, pod(count=1).shape, rows)
    assert penalty[0] > 0 and not penalty[1:].any()
    picky = made.penalty(state, pod(count=1, products=("A100",)).shape, rows[:1])
    assert picky.tolist() == [0]
    engine = Engine(state, "priced", mix=mix)
    engine.set_prices(made)
    assert engine.best(pod(count=1)) != 0


def test_remainders_that_no_fraction_fills_are_worth_less() -> None:
    """Fractions of 500 prevail: cutting 300 off a half device costs more than 300."""
    mix = TypicalMix.from_requests([*(pod(milli=500) for _ in range(9)), pod(milli=300)])
    made = prices(ClusterState([node("a", gpus=8)]), mix)
    assert made is not None
    assert made.remainder[0] == 0 and (np.diff(made.remainder) >= 0).all()
    cut = made.cut(np.array([500, 1000]), np.array([300, 500]))
    assert cut[0] > 300 * PRICE_SCALE and cut[1] <= 500 * PRICE_SCALE


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1000))
def test_the_order_of_nodes_changes_no_price(seed: int) -> None:
    workload = generate(GeneratorConfig(nodes=20, load=1.0, seed=seed))
    mix = TypicalMix.from_requests(workload.requests)
    shuffled = list(workload.nodes)
    random.Random(seed).shuffle(shuffled)
    one, two = (prices(ClusterState(listed), mix) for listed in (workload.nodes, shuffled))
    assert one is not None and two is not None
    assert (one.remainder == two.remainder).all() and (one.duals == two.duals).all()
    assert (one.duals >= 0).all()


@pytest.mark.parametrize("nodes", [[], [node("a", gpus=2)], [node("cpu")]])
def test_without_a_mix_or_without_gpus_there_are_no_prices(nodes) -> None:
    assert prices(ClusterState(nodes), TypicalMix()) is None
    if not nodes or not nodes[0].devices:
        assert prices(ClusterState(nodes), TypicalMix.from_requests([pod(count=1)])) is None


def test_without_prices_or_with_stale_ones_the_policy_is_fgd() -> None:
    workload = generate(GeneratorConfig(nodes=30, load=0.8, seed=3))
    mix = TypicalMix.from_requests(workload.requests)
    state = ClusterState(workload.nodes)
    priced, fgd = (Engine(state, name, mix=mix) for name in ("priced", "fgd"))
    for request in workload.requests[:80]:
        row = fgd.best(request)
        assert priced.best(request) == row
        if row >= 0:
            fgd.reserve(request, workload.nodes[row].name)
    priced.set_prices(prices(state, mix))
    assert priced.prices is not None
    state.add_node(node("new", gpus=1))
    assert priced.prices is None


def test_a_priced_run_repeats_and_packs_no_worse() -> None:
    workload = generate(GeneratorConfig(nodes=60, load=1.1, seed=4))
    priced = [run(workload, Experiment("priced", 1, "as-listed")) for _ in range(2)]
    assert priced[0].to_json() | {"seconds": 0} == priced[1].to_json() | {"seconds": 0}
    fgd = run(workload, Experiment("fgd", 1, "as-listed"))
    assert priced[0].allocated_gpu_milli >= 0.99 * fgd.allocated_gpu_milli
