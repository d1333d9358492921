"""Learner and prices beside the engine, as the simulator runs them."""

from __future__ import annotations

import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import GpuKind
from scheduler.core.price_tables import reprice_after
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.pricing.learner import ProfileLearner
from scheduler.planner.pricing.lifecycle import PricingRules
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, run
from scheduler.simulator.pricing import Pricing
from tests.builders import node, pod

SMALL = generate(GeneratorConfig(nodes=30, load=1.0, seed=6))


def test_prices_are_computed_again_when_enough_has_changed() -> None:
    profile = WorkloadProfile.from_requests(SMALL.requests)
    engine = Engine(ClusterState(SMALL.nodes), "priced", profile=profile)
    pricing = Pricing(engine)
    for _ in range(3):
        pricing.refresh()
    assert pricing.solved == 1 and engine.prices() is not None
    requests = iter(SMALL.requests)
    placed = 0
    while placed <= reprice_after(1):
        request = next(requests)
        row = engine.best(request)
        if row >= 0:
            engine.place_on(request, SMALL.nodes[row].name)
            pricing.starts(request)
            placed += 1
        pricing.refresh()
    assert pricing.solved == 2


def test_the_last_good_prices_stay() -> None:
    """Once no GPU is free there is nothing to price; what was good stays in force."""
    profile = WorkloadProfile.from_requests([pod(count=1)])
    engine = Engine(ClusterState([node("a", gpus=2)]), "priced", profile=profile)
    pricing = Pricing(engine)
    pricing.refresh()
    good = engine.prices()
    for _ in range(reprice_after(1)):  # binding and releasing counts as change
        engine.place_on(filler := pod(count=2), "a")
        pricing.starts(filler)
        pricing.refresh()
        engine.release(filler.uid)
        pricing.departs(filler)
    engine.place_on(pod(count=2), "a")
    pricing.refresh()
    assert good is not None and engine.prices() is not None


def test_a_policy_without_prices_is_left_alone() -> None:
    engine = Engine(ClusterState([node("a", gpus=2)]), "fgd")
    pricing = Pricing(engine)
    pricing.refresh()
    assert pricing.solved == 0 and engine.prices() is None


def test_the_learnt_profile_is_what_the_webhook_would_have_learnt() -> None:
    engine = Engine(ClusterState(SMALL.nodes), "fgd", profile=WorkloadProfile())
    pricing, learner = Pricing(engine, "learnt"), ProfileLearner()
    every = PricingRules().relearn_pods
    asked_about = [pod for pod in SMALL.requests if pod.gpu.kind is not GpuKind.NONE]
    for number, request in enumerate(asked_about[:70], start=1):
        pricing.arrives(request)
        learner.observe(request)
        if number in (1, 2, 4, 8, 16, 32, 64):
            assert learner.due(every) and engine.profile == learner.profile()
    assert not learner.due(every) and engine.profile != learner.profile()


def test_pods_that_kube_scheduler_would_not_ask_about_teach_nothing() -> None:
    engine = Engine(ClusterState([node("a", gpus=4)]), "fgd", profile=WorkloadProfile())
    engine.place_on(pod(count=0), "a")
    pricing = Pricing(engine, "learnt")
    pricing.arrives(pod(count=0))
    assert engine.profile.all_shapes == ()
    pricing.arrives(pod(count=1))
    assert [shape.gpu.count for shape in engine.profile.shapes] == [1]


def test_the_rules_are_those_of_the_settings() -> None:
    settings, rules = ExtenderConfig(), PricingRules()
    assert (
        settings.relearns_every,
        settings.workload_profile_half_life_pods,
        settings.reprice_bindings,
    ) == (
        rules.relearn_pods,
        rules.half_life_pods,
        rules.reprice_changes,
    )


def test_learning_starts_from_the_pods_that_run() -> None:
    engine = Engine(ClusterState([node("a", gpus=4)]), "fgd", profile=WorkloadProfile())
    engine.place_on(pod(count=2), "a")
    Pricing(engine, "learnt")
    assert [shape.gpu.count for shape in engine.profile.shapes] == [2]


@pytest.mark.parametrize("policy", ["fgd", "priced"])
def test_a_run_with_a_learnt_profile_repeats_and_is_another_run(policy: str) -> None:
    learnt = Experiment(policy, 1, "as-listed", workload_profile="learnt")
    one, two = (run(SMALL, learnt).to_json() | {"seconds": 0} for _ in range(2))
    assert one == two and one["workload_profile"] == "learnt"
    assert learnt.config_hash != Experiment(policy, 1, "as-listed").config_hash


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(InvalidInput, match="workload_profile"):
        Pricing(Engine(ClusterState([])), "guessed")
