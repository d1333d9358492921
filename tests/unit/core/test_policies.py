"""What each policy prefers, one scenario each, with the published arithmetic where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.policies.table import POLICIES, RIVALS, policies_named
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from tests.builders import node, pod


def _scores(policy: str, state: ClusterState, request) -> list[int]:
    return Engine(state, policy).scores(request, np.arange(len(state))).tolist()


def _used(state: ClusterState, placements: dict[str, dict]) -> ClusterState:
    engine = Engine(state, "first-fit")
    for serial, (name, fields) in enumerate(placements.items()):
        engine.place_on(pod(f"u{serial}", **fields), name)
    return state


def test_best_fit_takes_the_fullest_node_and_device() -> None:
    state = _used(ClusterState([node("a", gpus=2), node("b", gpus=2)]), {"b": {"milli": 400}})
    engine = Engine(state, "best-fit")
    assert engine.best(pod(milli=300)) == 1
    assert engine.choose(pod(milli=300), "b").devices[0].index == 0


def test_best_fit_arithmetic() -> None:
    """64 cores and 2 GPUs: left 63/128 cpu and 1/8 GPU, so 100 - 50 x (0.4921875 + 0.125)."""
    state = ClusterState([node("a", gpus=2)])
    assert _scores("best-fit", state, pod(count=1)) == [69]


def test_dot_product_arithmetic() -> None:
    """1 - (64/128 x 1/128 + 2/8 x 1/8) / 2 = 0.98242..., truncated."""
    assert _scores("dot-product", ClusterState([node("a", gpus=2)]), pod(count=1)) == [98]


def test_gpu_packing_prefers_used_devices_then_used_nodes_then_idle_ones() -> None:
    state = _used(
        ClusterState([node("idle", gpus=2), node("used", gpus=2), node("shared", gpus=1)]),
        {"used": {"count": 1}, "shared": {"milli": 500}},
    )
    assert _scores("gpu-packing", state, pod(milli=500)) == [31, 49, 95]
    assert _scores("gpu-packing", state, pod(count=1))[:2] == [31, 49]
    assert _scores("gpu-packing", state, pod()) == [0, 0, 0]


def test_gpu_clustering_keeps_kinds_together() -> None:
    state = _used(
        ClusterState([node("idle", gpus=4), node("same", gpus=4), node("other", gpus=4)]),
        {"same": {"milli": 500}, "other": {"count": 1}},
    )
    idle, same, other = _scores("gpu-clustering", state, pod(milli=300))
    assert (idle, same, other) == (37, 89, 15)
    Engine(state).place_on(pod("mixed", count=1), "same")
    assert _scores("gpu-clustering", state, pod(milli=300))[1] == 67
    assert _scores("gpu-clustering", state, pod()) == [0, 0, 0]


def test_kube_default_spreads() -> None:
    state = _used(ClusterState([node("used"), node("idle")]), {"used": {"cpu": 32_000}})
    assert Engine(state, "kube-default").best(pod()) == 1


def test_kube_default_arithmetic() -> None:
    """Half the cpu, a quarter of the memory: (50 + 75) // 2 + 100 x (1 - 0.25 / 2)."""
    state = ClusterState([node("a", cpu=2000, memory=4096)])
    assert _scores("kube-default", state, pod(cpu=1000, memory=1024)) == [62 + 87]


@pytest.mark.parametrize("policy", ["most-allocated", "requested-to-capacity-ratio"])
def test_packing_policies_prefer_the_fuller_node(policy: str) -> None:
    state = _used(
        ClusterState([node("idle", gpus=2), node("used", gpus=2)]), {"used": {"count": 1}}
    )
    assert Engine(state, policy).best(pod(count=1)) == 1
    bare = _used(ClusterState([node("idle"), node("used")]), {"used": {"cpu": 9000}})
    assert Engine(bare, policy).best(pod()) == 1


def test_first_fit_takes_the_first_row_and_device() -> None:
    state = _used(ClusterState([node("a", gpus=2), node("b", gpus=2)]), {"a": {"milli": 600}})
    engine = Engine(state, "first-fit")
    assert engine.choose(pod(milli=500), "a").devices[0].index == 1
    assert engine.best(pod(milli=500)) == 0


def test_random_reaches_every_node_and_device() -> None:
    engine = Engine(ClusterState([node(f"n{i}", gpus=4) for i in range(4)]), "random")
    chosen = set()
    for i in range(400):
        request = pod(f"p{i}", milli=10)
        row = engine.best(request)
        chosen.add((row, engine.choose(request, f"n{row}").devices[0].index))
    assert len(chosen) == 16


@pytest.mark.parametrize("policy", ["fgd", "fgd-published"])
def test_fgd_does_not_break_a_whole_gpu_for_a_fraction(policy: str) -> None:
    state = _used(
        ClusterState([node("whole", gpus=1), node("half", gpus=1)]), {"half": {"milli": 500}}
    )
    profile = WorkloadProfile.from_requests([pod(cpu=0, count=1)] * 3 + [pod(cpu=0, milli=500)])
    assert Engine(state, policy, profile=profile).best(pod(milli=500)) == 1


@pytest.mark.parametrize("policy", ["fgd", "fgd-published"])
def test_fgd_keeps_cpu_pods_off_the_gpus(policy: str) -> None:
    """The cpu of a GPU node is what its GPUs need; a node without GPUs loses nothing."""
    state = ClusterState([node("gpu", gpus=8, cpu=8000), node("plain", cpu=8000)])
    profile = WorkloadProfile.from_requests([pod(cpu=2000, count=4)])
    assert Engine(state, policy, profile=profile).best(pod(cpu=7000)) == 1


def test_every_policy_says_what_it_is() -> None:
    assert all(p.name == name and p.summary and p.source for name, p in POLICIES.items())


@pytest.mark.parametrize("policy", ["pwr", "pwr-fgd"])
def test_pwr_switches_on_the_fewest_watts(policy: str) -> None:
    """An A100 adds 350 W, a T4 60 W, a socket 105 W; what is in use already adds nothing."""
    nodes = [
        node("a100", gpus=1, product="A100"),
        node("t4", gpus=1, product="T4"),
        node("busy", gpus=1, product="A100"),
    ]
    state = _used(ClusterState(nodes), {"busy": {"milli": 300, "cpu": 1000}})
    cpu = 1000
    assert _scores("pwr", state, pod(milli=500, cpu=cpu)) == [0, 100 * 290 // 455, 100]
    assert Engine(state, policy).best(pod(milli=500, cpu=cpu)) == 2
    assert Engine(state, policy).best(pod(count=1, cpu=cpu)) == 1


def test_pwr_counts_sockets_of_32_threads() -> None:
    state = _used(
        ClusterState([node("idle", cpu=64_000), node("used", cpu=64_000)]),
        {"used": {"cpu": 20_000}},
    )
    assert _scores("pwr", state, pod(cpu=12_000)) == [0, 100]
    assert _scores("pwr", state, pod(cpu=13_000)) == [100, 100]


def test_pwr_fgd_is_the_published_weighted_sum() -> None:
    state = _used(
        ClusterState([node("a", gpus=2, product="T4"), node("b", gpus=2, product="A100")]),
        {"b": {"milli": 300}},
    )
    request = pod(milli=400)
    power, fgd = (_scores(name, state, request) for name in ("pwr", "fgd-published"))
    assert _scores("pwr-fgd", state, request) == [
        100 * watts + 900 * fragments for watts, fragments in zip(power, fgd, strict=True)
    ]


def test_rivals_are_policies_and_one_word_names_all_of_them() -> None:
    assert set(RIVALS) <= set(POLICIES)
    assert policies_named("priced, rivals,fgd,priced") == ["priced", *RIVALS, "fgd"]
    with pytest.raises(InvalidInput, match="did you mean 'pwr'"):
        policies_named("rivals,pwrr")


@pytest.mark.parametrize("text", ["", " , "])
def test_no_policy_is_not_a_list_of_policies(text: str) -> None:
    with pytest.raises(InvalidInput, match="policy: is empty"):
        policies_named(text)
