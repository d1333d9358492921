"""Prices: what is scarce costs more, and nothing that should not matter changes them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.core.engine import Engine
from scheduler.core.model import DEVICE_MILLI, DeviceShare, Node, Placement, PodRequest
from scheduler.core.price_tables import EFFECTIVE_SCALE, PRICE_SCALE
from scheduler.core.price_weights import PriceWeights
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.files.workload import Workload
from scheduler.planner.pricing.compute import prices
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, run
from tests.builders import node, pod
from tests.depth import examples

_NO_OTHERS = PriceWeights(prior_pods=0.0)  # than those of the profile


def _priced(
    state: ClusterState,
    profile: WorkloadProfile,
    weights: PriceWeights | None = None,
    *,
    departures: float = 0.0,
) -> Engine:
    engine = Engine(state, "priced", profile=profile)
    engine.put_prices_in_force(prices(state, profile, weights, departures=departures))
    return engine


def test_a_scarce_model_is_dear_for_those_who_do_not_need_it() -> None:
    nodes = [node("rare", gpus=4, product="A100"), *(node(f"n{i}", gpus=4) for i in range(4))]
    profile = WorkloadProfile.from_requests(
        [*(pod(count=1, products=("A100",)) for _ in range(5)), *(pod(count=1) for _ in range(9))]
    )
    engine = _priced(ClusterState(nodes), profile)
    assert engine.best(pod(count=1)) != 0
    assert engine.best(pod(count=1, products=("A100",))) == 0


@pytest.mark.parametrize(("unseen", "spared"), [(3.0, True), (0.0, False)])
def test_a_model_that_nobody_has_asked_for_yet_is_spared(unseen: float, spared: bool) -> None:
    """Twenty pods that run anywhere are no proof that nobody wants the one node of another kind."""
    state = ClusterState(
        [node("rare", gpus=8, product="H100"), *(node(f"n{i}", gpus=8) for i in range(4))]
    )
    profile = WorkloadProfile.from_requests([pod(count=1) for _ in range(20)])
    engine = _priced(state, profile, PriceWeights(prior_pods=unseen, power=0.0))
    assert (engine.best(pod(count=1)) != 0) == spared
    assert engine.best(pod(count=1, products=("H100",))) == 0


def test_a_profile_that_is_said_to_be_all_is_taken_at_its_word() -> None:
    state = ClusterState([node("rare", gpus=8, product="H100"), node("n", gpus=8)])
    counted = WorkloadProfile.from_requests([pod(count=1)] * 3)
    said = replace(counted, observed=0)
    widened, plain, none = (
        prices(state, profile, weights)
        for profile, weights in ((counted, None), (said, None), (counted, _NO_OTHERS))
    )
    assert widened and plain and none
    assert (plain.worth == none.worth).all() and (plain.sets == none.sets).all()
    assert widened.shapes > plain.shapes and (widened.sets != plain.sets).any()


def test_the_more_pods_are_known_the_less_is_reckoned_with_others() -> None:
    state = ClusterState(
        [node("rare", gpus=8, product="H100"), *(node(f"n{i}", gpus=8) for i in range(4))]
    )
    cpu, gpu = np.full(2, 64_000), np.full(2, 8000 * EFFECTIVE_SCALE)
    dearer = []
    for known in (10, 100, 10_000):
        profile = WorkloadProfile.from_requests([pod(count=1, cpu=8000)] * known)
        made = _priced(state, profile).prices()
        assert made is not None
        rare, other = made.value(made.class_codes(state, np.arange(2)), cpu, gpu).tolist()
        dearer.append(rare - other)
    assert dearer[0] > dearer[1] >= dearer[2] >= 0


def test_gpus_without_cpu_are_worth_little() -> None:
    """One core per GPU for pods that want four: three of four GPUs are stranded."""
    profile = WorkloadProfile.from_requests([pod(count=1, cpu=4000) for _ in range(9)])
    state = ClusterState([node("a", cpu=16_000, gpus=4), node("b", cpu=16_000, gpus=4)])
    engine = _priced(state, profile)
    made = engine.prices()
    assert made is not None
    code = made.class_codes(state, np.arange(2))
    cpu, gpu = np.array([16_000, 4_000]), np.array([4000, 4000]) * EFFECTIVE_SCALE
    rich, poor = made.value(code, cpu, gpu)
    assert poor <= 0.3 * rich


def test_a_pod_that_needs_much_cpu_leaves_balanced_nodes_alone() -> None:
    """32 cores with one GPU go where 60 cores stand beside each GPU, whatever is tighter."""
    profile = WorkloadProfile.from_requests(
        [*(pod(count=1, cpu=8000) for _ in range(20)), pod(count=1, cpu=32_000)]
    )
    nodes = [node("even", cpu=64_000, gpus=8), node("rich", cpu=120_000, gpus=2)]
    engine = _priced(ClusterState(nodes), profile)
    assert engine.best(pod(count=1, cpu=32_000)) == 1


@pytest.mark.parametrize(("of_eight", "kept"), [(4, True), (0, False)])
def test_whole_nodes_are_kept_for_those_who_need_them(of_eight: int, kept: bool) -> None:
    """A node of eight free devices and a broken one: who takes one device goes to the broken one,
    although little cpu is left there, if pods of eight are to come and others leave."""
    nodes = [node("whole", cpu=60_000, gpus=8), node("broken", cpu=60_000, gpus=8)]
    profile = WorkloadProfile.from_requests(
        [pod(count=1, cpu=8000) for _ in range(40)]
        + [pod(count=8, cpu=8000) for _ in range(of_eight)]
    )
    state = ClusterState(nodes)
    state.apply([Placement(pod("there", count=1, cpu=44_000), "broken", (DeviceShare(0, 1000),))])
    engine = _priced(state, profile, _NO_OTHERS, departures=1.0)
    assert engine.prices() is not None
    few, eight = (
        engine.prices()
        .set_value(
            engine.prices().class_codes(state, np.arange(2)),
            np.array([60_000, 60_000]),
            np.array([7, 8]),
        )
        .tolist()
    )
    assert few == 0 and (eight > 0) == kept
    assert engine.best(pod("asked", count=1, cpu=4000)) == int(kept)


def test_sets_that_nobody_will_need_are_worth_little_where_nobody_leaves() -> None:
    """Demand takes a part of the sets: where pods come and go each is needed at times."""
    profile = WorkloadProfile.from_requests([*(pod(count=1) for _ in range(24)), pod(count=8)])
    state = ClusterState([node(f"n{i}", gpus=8) for i in range(8)])
    fills, half, holds = (
        prices(state, profile, _NO_OTHERS, departures=share) for share in (0.0, 0.5, 1.0)
    )
    assert fills and half and holds
    assert (fills.sets <= half.sets).all() and (abs(2 * half.sets - holds.sets) <= 1).all()
    assert 0 < 20 * fills.sets.max() < holds.sets.max()
    # Asked for one time in four, but a node once broken stays so: as good as always needed.
    assert holds.sets[..., 8].max() == pytest.approx(8 * DEVICE_MILLI * PRICE_SCALE, rel=0.02)
    # With a demand for all of them they are worth the same.
    eights = WorkloadProfile.from_requests([pod(count=8)])
    fills, holds = (prices(state, eights, _NO_OTHERS, departures=share) for share in (0.0, 1.0))
    assert fills and holds and (fills.sets == holds.sets).all() and fills.sets.any()


def test_sets_are_worth_no_more_than_their_devices() -> None:
    """However many kinds of pods want them, and whatever cpu each asks for."""
    kinds = [
        pod(count=count, cpu=cpu, products=products)
        for count in (2, 4, 8)
        for cpu in range(4_000, 40_000, 4_000)
        for products in ((), ("T4",))
    ]
    state = ClusterState([node(f"n{i}", cpu=96_000, gpus=8) for i in range(2)])
    made = _priced(state, WorkloadProfile.from_requests(kinds), departures=1.0).prices()
    assert made is not None
    full = np.arange(9)
    code = made.class_codes(state, np.zeros(9, dtype=np.int64))
    values = made.set_value(code, np.full(9, 96_000), full)
    assert (values <= full * DEVICE_MILLI * PRICE_SCALE).all() and values[8] > 0
    assert (np.diff(made.sets, axis=1) >= 0).all() and (np.diff(made.sets, axis=2) >= 0).all()


def test_a_set_counts_where_its_pod_needs_all_of_the_cpu() -> None:
    """94 of 94 cores: the steps of the table must not round the node below the pod."""
    state = ClusterState([node("n", cpu=94_100, gpus=8)])
    profile = WorkloadProfile.from_requests([pod(count=8, cpu=94_050)])
    made = _priced(state, profile, departures=1.0).prices()
    assert made is not None
    code = made.class_codes(state, np.arange(1))
    assert made.set_value(code, state.cpu_free, np.array([8]))[0] > 0


def test_remainders_that_no_fraction_fills_are_worth_less() -> None:
    """Fractions of 500 prevail: 300 off a half device leave 200 that nobody fills."""
    profile = WorkloadProfile.from_requests([*(pod(milli=500) for _ in range(9)), pod(milli=300)])
    made = prices(ClusterState([node("a", gpus=8)]), profile)
    assert made is not None
    assert made.effective[0] == 0 and (np.diff(made.effective) >= 0).all()
    assert made.effective[1000] == 1000 * EFFECTIVE_SCALE
    assert made.effective[200] < 200 * EFFECTIVE_SCALE <= 500 * EFFECTIVE_SCALE
    assert made.effective[500] == 500 * EFFECTIVE_SCALE


@settings(max_examples=examples(8, 50), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1000))
def test_values_are_finite_and_never_fall(seed: int) -> None:
    workload = generate(GeneratorConfig(nodes=20, load=1.0, seed=seed))
    made = prices(ClusterState(workload.nodes), WorkloadProfile.from_requests(workload.requests))
    assert made is not None
    assert (made.worth >= 0).all() and (made.effective >= 0).all()
    assert (np.diff(made.worth, axis=1) >= 0).all() and (np.diff(made.worth, axis=2) >= 0).all()
    again = prices(ClusterState(workload.nodes), WorkloadProfile.from_requests(workload.requests))
    assert again is not None and again.objective == made.objective
    assert again.worth.tobytes() == made.worth.tobytes()
    assert again.effective.tobytes() == made.effective.tobytes()


def _where(nodes: list[Node], workload: Workload) -> list[str]:
    """Names of the nodes that the pods go to, with prices computed anew every 20 pods."""
    profile = WorkloadProfile.from_requests(workload.requests)
    state = ClusterState(nodes)
    engine = Engine(state, "priced", profile=profile)
    places = []
    for number, request in enumerate(workload.requests):
        if number % 20 == 0:
            engine.put_prices_in_force(prices(state, profile))
        row = engine.best(request)
        chosen = state.nodes[row] if row >= 0 else None
        places.append(chosen.name if chosen else "")
        if chosen:
            engine.place_on(request, chosen.name)
    return places


_SCENES = settings(
    max_examples=examples(3, 12), deadline=None, suppress_health_check=list(HealthCheck)
)


def _scene(seed: int) -> Workload:
    workload = generate(GeneratorConfig(nodes=16, load=1.0, seed=seed))
    return replace(workload, arrivals=workload.arrivals[:100])


@_SCENES
@given(st.integers(0, 1000))
def test_names_of_nodes_change_no_decision(seed: int) -> None:
    workload = _scene(seed)
    named = {n.name: f"z{i:03d}" for i, n in enumerate(workload.nodes)}
    renamed = [replace(n, name=named[n.name]) for n in workload.nodes]
    assert _where(renamed, workload) == [
        named.get(name, "") for name in _where(list(workload.nodes), workload)
    ]


@_SCENES
@given(st.integers(0, 1000))
def test_the_order_of_nodes_changes_no_kind_of_node(seed: int) -> None:
    """Among equal nodes the first row wins, so that it is the choice of kind that must not move."""
    workload = _scene(seed)
    profile = WorkloadProfile.from_requests(workload.requests)
    shuffled = list(workload.nodes)
    random.Random(seed).shuffle(shuffled)
    kinds = []
    for listed in (list(workload.nodes), shuffled):
        state = ClusterState(listed)
        engine = _priced(state, profile)
        chosen = [state.nodes[row] for r in workload.requests if (row := engine.best(r)) >= 0]
        kinds.append([(n.cpu_milli, n.memory_bytes, n.devices) for n in chosen if n])
    assert kinds[0] == kinds[1]


@_SCENES
@given(st.integers(0, 1000))
def test_a_node_that_can_host_nothing_changes_no_decision(seed: int) -> None:
    workload = _scene(seed)
    more = [*workload.nodes, node("useless", cpu=0, memory=0)]
    assert _where(more, workload) == _where(list(workload.nodes), workload)


@_SCENES
@given(st.integers(0, 1000))
def test_the_unit_of_memory_changes_no_decision(seed: int) -> None:
    workload = _scene(seed)
    nodes = [replace(n, memory_bytes=4 * n.memory_bytes) for n in workload.nodes]
    arrivals = tuple(
        replace(a, request=replace(a.request, memory_bytes=4 * a.request.memory_bytes))
        for a in workload.arrivals
    )
    finer = replace(workload, arrivals=arrivals)
    assert _where(nodes, finer) == _where(list(workload.nodes), workload)


def test_solving_an_unchanged_cluster_again_changes_no_decision() -> None:
    workload = _scene(5)
    profile = WorkloadProfile.from_requests(workload.requests)
    state = ClusterState(workload.nodes)
    engine = _priced(state, profile)
    rows = np.arange(len(state))
    before = [engine.scores(request, rows).tolist() for request in workload.requests]
    engine.put_prices_in_force(prices(state, profile))
    assert [engine.scores(request, rows).tolist() for request in workload.requests] == before


def test_prices_from_a_process_that_met_the_models_in_another_order() -> None:
    a, b = node("a", gpus=2, product="A"), node("b", gpus=8, product="B")
    profile = WorkloadProfile.from_requests(
        [pod(count=1, products=("B",)), pod(count=1), pod(count=2)]
    )
    ours, theirs = ClusterState([a, b]), ClusterState([b, a])
    engine = Engine(ours, "priced", profile=profile)
    engine.put_prices_in_force(prices(theirs, profile))
    at_home = _priced(ours, profile)
    for request in (pod(count=1), pod(count=2)):
        rows = np.arange(2)
        assert engine.scores(request, rows).tolist() == at_home.scores(request, rows).tolist()


@pytest.mark.parametrize("nodes", [[], [node("a", gpus=2)], [node("cpu")]])
def test_without_a_profile_or_without_gpus_there_are_no_prices(nodes) -> None:
    assert prices(ClusterState(nodes), WorkloadProfile()) is None
    if not nodes or not nodes[0].devices:
        assert prices(ClusterState(nodes), WorkloadProfile.from_requests([pod(count=1)])) is None


def test_without_prices_or_for_an_unknown_model_the_policy_is_fgd() -> None:
    workload = generate(GeneratorConfig(nodes=30, load=0.8, seed=3))
    profile = WorkloadProfile.from_requests(workload.requests)
    state = ClusterState(workload.nodes)
    priced, fgd = (Engine(state, name, profile=profile) for name in ("priced", "fgd"))
    for request in workload.requests[:80]:
        row = fgd.best(request)
        assert priced.best(request) == row
        if row >= 0:
            fgd.place_on(request, workload.nodes[row].name)
    priced.put_prices_in_force(prices(state, profile))
    assert priced.prices() is not None
    state.add_node(replace(workload.nodes[0], name="more of the same"))
    assert priced.prices() is not None
    state.add_node(node("new", gpus=1, product="never seen"))
    assert priced.prices() is None
    assert priced.best(workload.requests[90]) == fgd.best(workload.requests[90])


def test_a_priced_run_repeats_and_packs_no_worse() -> None:
    workload = generate(GeneratorConfig(nodes=60, load=1.1, seed=4))
    priced = [run(workload, Experiment("priced", 1, "as-listed")) for _ in range(2)]
    assert priced[0].to_json() | {"seconds": 0} == priced[1].to_json() | {"seconds": 0}
    fgd = run(workload, Experiment("fgd", 1, "as-listed"))
    assert priced[0].allocated_gpu_milli >= 0.99 * fgd.allocated_gpu_milli


@pytest.mark.parametrize("another_profile", [False, True])
def test_scores_rehearsed_beforehand_are_the_scores_at_the_new_prices(
    monkeypatch, another_profile
) -> None:
    """Pods come and go, and nodes too, between the steps: what changes is scored anew."""
    monkeypatch.setattr("scheduler.core.evaluation._CELLS_PER_STEP", 56)
    workload = generate(GeneratorConfig(nodes=40, load=0.8, seed=3))
    requests = list(workload.requests)
    profile = WorkloadProfile.from_requests(requests)
    engine = Engine(ClusterState(workload.nodes), "priced", profile=profile)

    def place(some: list[PodRequest]) -> None:
        for request in some:
            row = engine.best(request)
            if row >= 0 and (there := engine.state.nodes[row]):
                engine.place_on(request, there.name)

    place(requests[:60])
    # Another profile may come into force with the prices that are made for it.
    profile = WorkloadProfile.from_requests(requests[::3]) if another_profile else profile
    made = prices(engine.state, profile)
    assert made is not None
    warmed = engine.warmup(made, profile)
    assert warmed is not None
    taken = 0
    for taken, _ in enumerate(warmed.steps(), start=1):
        if taken % 10 == 0:
            place(requests[60 + taken : 63 + taken])
        if taken % 17 == 0:
            engine.release(next(iter(engine.state.placements)))
        if taken == 25:
            engine.state.remove_node(workload.nodes[7].name)
            engine.state.add_node(replace(workload.nodes[9], name="another"))
        if taken == 30:
            engine.state.add_node(replace(workload.nodes[9], name="one more"))
    assert taken > 60 and len(warmed.scores) > 10
    fresh = Engine(engine.state, "priced", profile=profile)
    fresh.put_prices_in_force(made)
    engine.put_prices_in_force(made, warmed, profile)
    assert engine.profile is profile
    rows = np.arange(len(engine.state))
    for request in requests:
        if request.uid not in engine.state.placements:
            assert (engine.scores(request, rows) == fresh.scores(request, rows)).all()
            assert (engine.filter(request) == fresh.filter(request)).all()


def test_a_rehearsal_for_another_profile_is_not_used() -> None:
    profile = WorkloadProfile.from_requests([pod(count=1, cpu=4000) for _ in range(9)])
    other = WorkloadProfile.from_requests([pod(count=4, cpu=4000), pod(count=1, cpu=4000)])
    state = ClusterState([node("a", cpu=16_000, gpus=8), node("b", cpu=64_000, gpus=4)])
    engine = Engine(state, "priced", profile=profile)
    asked = pod("asked", count=1, cpu=4000)
    engine.best(asked)
    made = prices(state, profile)
    assert made is not None
    warmed = engine.warmup(made)
    assert warmed is not None
    assert list(warmed.steps())
    engine.put_profile_in_force(other)
    engine.put_prices_in_force(made, warmed)
    fresh = Engine(state, "priced", profile=other)
    fresh.put_prices_in_force(made)
    rows = np.arange(2)
    assert engine.scores(asked, rows).tolist() == fresh.scores(asked, rows).tolist()


def test_what_nobody_has_asked_about_since_is_not_rehearsed_again() -> None:
    profile = WorkloadProfile.from_requests([pod(count=1, cpu=4000) for _ in range(9)])
    state = ClusterState([node("a", cpu=16_000, gpus=8), node("b", cpu=64_000, gpus=4)])
    engine = Engine(state, "priced", profile=profile)
    asked = [pod(f"asked-{i}", count=i + 1, cpu=4000) for i in range(3)]
    made = prices(state, profile)
    assert made is not None
    for request in asked:
        engine.best(request)
    for expected in ([0, 1, 2], [1]):
        warmed = engine.warmup(made)
        assert warmed is not None
        assert list(warmed.steps())
        assert set(warmed.scores) == {asked[i].shape for i in expected}
        engine.put_prices_in_force(made, warmed)
        engine.best(asked[1])


@pytest.mark.parametrize("known", [True, False])
def test_a_node_that_changes_its_model_during_a_rehearsal(monkeypatch, known: bool) -> None:
    """A model that is new to the tables, or only to the prices: neither mixes two kinds of scores.

    The node may be gone again by the end.
    """
    monkeypatch.setattr("scheduler.core.evaluation._CELLS_PER_STEP", 80)
    nodes = [node(f"n{i}", cpu=64_000 - i, gpus=8) for i in range(30)]
    state = ClusterState(nodes)
    if known:
        state.add_node(node("once", gpus=8, product="H100"))
        state.remove_node("once")
    profile = WorkloadProfile.from_requests(
        [pod(count=1, cpu=4000) for _ in range(9)] + [pod(count=8)]
    )
    engine = Engine(state, "priced", profile=profile)
    asked = pod("asked", count=1, cpu=4000)
    engine.best(asked)
    made = prices(state, profile)
    assert made is not None
    for ends_as in ("H100", "T4"):
        engine.put_prices_in_force(None)
        engine.best(asked)
        warmed = engine.warmup(made)
        assert warmed is not None
        steps = warmed.steps()
        next(steps)
        state.update_node(replace(nodes[25], devices=node(gpus=8, product="H100").devices))
        next(steps)
        state.update_node(replace(nodes[25], devices=node(gpus=8, product=ends_as).devices))
        assert list(steps)
        engine.put_prices_in_force(made, warmed)
        fresh = Engine(state, "priced", profile=profile)
        fresh.put_prices_in_force(made)
        assert (engine.prices() is None) == (fresh.prices() is None) == (ends_as == "H100")
        rows = np.arange(30)
        assert (engine.scores(asked, rows) == fresh.scores(asked, rows)).all()
