"""Power: what boards are known by, what nodes draw, and that a placement is charged just that."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import Device, Node, PodRequest
from scheduler.core.power import PowerMeter, PowerModel, Watts
from scheduler.core.price_weights import PriceWeights
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.pricing.compute import prices
from tests.builders import node, pod
from tests.depth import examples

_POWER_ALONE = PriceWeights(
    scarcity=0, stranding=0, splitting=0, fragmentation=0, contiguity=0, tightness=0, power=1
)


@pytest.mark.parametrize(
    ("product", "busy"),
    [
        ("T4", 70),
        ("Tesla-T4", 70),
        ("NVIDIA-A100-SXM4-80GB", 400),
        ("NVIDIA-A100-PCIE-40GB", 300),
        ("NVIDIA-A100-80GB-PCIe", 300),
        ("NVIDIA-A10", 150),
        ("NVIDIA-A10G", 300),
        ("NVIDIA-H100-NVL", 400),
        ("NVIDIA-H100-80GB-HBM3", 700),
        ("NVIDIA-L40S", 350),
        ("NVIDIA-RTX-A6000", 300),
        ("NVIDIA-GeForce-RTX-4090", 450),
        ("AMD_Instinct_MI300X_OAM", 750),
        ("V100M32", 300),
    ],
)
def test_boards_are_known_by_the_words_of_their_labels(product: str, busy: int) -> None:
    watts = PowerModel().of(product)
    assert watts is not None and watts.busy == busy and 0 < watts.idle < busy / 3


def test_names_that_say_nothing_have_no_power() -> None:
    model = PowerModel.from_mapping({"my card": [1, 2]})
    assert model.of("") is None and model.of("NVIDIA-Z9000") is None and model.of("card") is None
    assert model.of("MY-CARD-v2") == Watts(1, 2)


def test_what_the_operator_says_comes_first() -> None:
    model = PowerModel.from_mapping({"T4": [5, 50], "cpu": [20, 200]})
    assert model.of("Tesla-T4") == Watts(5, 50) and model.socket == Watts(20, 200)
    assert PowerModel.from_mapping(model.to_json()) == model
    assert PowerModel().to_json() == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"-": [1, 2]}, "not the name of a board"),
        ({"T4": 70}, "not idle and busy watts"),
        ({"T4": [70]}, "not idle and busy watts"),
        ({"T4": [10.5, 70]}, "not idle and busy watts"),
        ({"T4": [True, 70]}, "not idle and busy watts"),
        ({"T4": [-1, 70]}, "not idle and busy watts"),
        ({"T4": [70, 10]}, "idle comes first"),
    ],
)
def test_mistakes_are_named(content, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        PowerModel.from_mapping(content)


def _mixed() -> list[Node]:
    """Plain, partitioned, time-sliced, unhealthy and unknown devices, and nodes without any."""
    return [
        node("plain", gpus=4, cpu=96_000),
        node("big", gpus=8, cpu=128_000, product="NVIDIA-H100-80GB-HBM3"),
        node("mig", devices=(Device("NVIDIA-A100-SXM4-40GB", mig="A100-40"),) * 2),
        node("sliced", devices=(Device("T4", replicas=4),) * 2, cpu=40_000),
        node("sick", devices=(Device("T4"), Device("T4", healthy=False))),
        node("strange", gpus=2, product="Z9000"),
        node("cpu", cpu=33_000),
    ]


def test_what_nodes_draw() -> None:
    state = ClusterState(_mixed())
    model = PowerModel()
    sockets = [3, 4, 2, 2, 2, 2, 2]
    idle = [4 * 10, 8 * 70, 2 * 50, 2 * 10, 2 * 10, 0, 0]
    expected = [devices + 15 * each for devices, each in zip(idle, sockets, strict=True)]
    assert model.drawn(state).tolist() == expected
    engine = Engine(state, "first-fit")
    engine.place_on(pod("a", milli=300, cpu=1), "plain")
    engine.place_on(pod("b", count=2, cpu=32_001), "big")
    engine.place_on(pod("c", mig=(("1g.5gb", 2),), cpu=32_000), "mig")
    engine.place_on(pod("d", replicas=1, cpu=1), "sliced")
    engine.place_on(pod("e", count=1, cpu=1), "strange")
    added = [60 + 105, 2 * 630 + 2 * 105, 350 + 105, 60 + 105, 0, 105, 0]
    assert (model.drawn(state) - np.array(expected)).tolist() == added


def _asked(chance: random.Random, number: int) -> PodRequest:
    kinds: list[dict] = [
        {},
        {"milli": chance.choice((200, 500, 700))},
        {"count": chance.choice((1, 2, 4))},
        {"mig": ((chance.choice(("1g.5gb", "2g.10gb", "3g.20gb")), chance.choice((1, 2))),)},
        {"replicas": chance.choice((1, 3, 5))},
    ]
    cpu = chance.choice((500, 4_000, 20_000, 40_000))
    return pod(f"p{number}", cpu=cpu, **chance.choice(kinds))


@settings(max_examples=examples(10, 50), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000))
def test_a_placement_is_charged_what_it_adds_and_the_meter_follows(seed: int) -> None:
    """Scores with every other weight off, against the nodes' power before and after."""
    chance = random.Random(seed)
    requests = [_asked(chance, number) for number in range(40)]
    state = ClusterState(_mixed())
    profile = WorkloadProfile.from_requests(requests)
    engine = Engine(state, "priced", profile=profile)
    engine.put_prices_in_force(prices(state, profile, _POWER_ALONE))
    assert engine.prices() is not None
    model, meter = PowerModel(), PowerMeter(state)
    checked = 0
    for request in requests:
        rows = np.flatnonzero(engine.filter(request) == 0)
        if not len(rows):
            continue
        row = int(chance.choice(rows.tolist()))
        chosen = state.nodes[row]
        assert chosen is not None
        score = int(engine.scores(request, rows[rows == row])[0]) >> 20  # without the tie-break
        before = int(model.drawn(state)[row])
        engine.place_on(request, chosen.name)
        added = int(model.drawn(state)[row]) - before
        assert score == -added * engine.tables().total_weight
        checked += 1
        if chance.random() < 0.3:
            engine.release(chance.choice(sorted(state.placements)))
        assert meter.read() == model.drawn(state).sum()
    assert checked > 5
    state.remove_node("big")
    state.add_node(node("more", gpus=2, product="L4"))
    state.add_node(node("one more", gpus=9, product="L40S"))
    assert meter.read() == model.drawn(state).sum()


def test_with_a_weight_pods_go_where_less_is_switched_on() -> None:
    """A fraction that fits on a device in use does not wake the other model's idle one."""
    state = ClusterState([node("idle", gpus=1), node("used", gpus=2, product="V100")])
    profile = WorkloadProfile.from_requests([pod(milli=500)])
    Engine(state, "first-fit").place_on(pod("there", milli=400), "used")
    for weight, expected in ((0.0, 0), (10.0, 1)):
        engine = Engine(state, "priced", profile=profile)
        engine.put_prices_in_force(
            prices(state, profile, PriceWeights(power=weight, tightness=1000.0, prior_pods=0))
        )
        assert engine.best(pod("asked", milli=500)) == expected
