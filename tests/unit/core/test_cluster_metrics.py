"""Allocation, fragmentation and stranding, scenario by scenario."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.core.cluster_metrics import cluster_metrics, overfull_rows
from scheduler.core.engine import Engine
from scheduler.core.fragmentation import Fragmentation
from scheduler.core.model import Device, DeviceShare, Placement
from scheduler.core.power import PowerModel
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from tests.builders import node, pod


def _stranded(one_node, typical, *running) -> dict[str, float]:
    state = ClusterState([one_node])
    engine = Engine(state, "first-fit")
    for request in running:
        engine.place_on(request, "n0")
    metrics = cluster_metrics(state, WorkloadProfile.from_requests([typical]))
    assert metrics.power_watts == PowerModel().drawn(state).sum() > 0
    return {cause: milli for cause, milli in metrics.stranded_milli.items() if milli}


@pytest.mark.parametrize(
    ("one_node", "typical", "running", "stranded"),
    [
        (node(gpus=2), pod(count=1), [], {}),
        (node(gpus=2), pod(count=1, products=("A10",)), [], {"model": 2000.0}),
        (node(gpus=2, cpu=4000), pod(count=1, cpu=2000), [pod(cpu=3000)], {"cpu": 2000.0}),
        (
            node(gpus=2, memory=4096),
            pod(count=1, memory=2048),
            [pod(memory=3000)],
            {"memory": 2000.0},
        ),
        (node(gpus=2), pod(count=2), [pod(milli=300)], {"shape": 1700.0}),
        (node(gpus=2), pod(milli=800), [pod(milli=300)], {"shape": 700.0}),
        (
            node(devices=(Device("T4", replicas=4),)),
            pod(replicas=3),
            [pod(replicas=2)],
            {"shape": 500.0},
        ),
        (
            node(devices=(Device("A100", mig="A100-40"),)),
            pod(mig=(("7g.40gb", 1),)),
            [pod(mig=(("1g.5gb", 1),))],
            {"shape": 875.0},
        ),
        (
            node(devices=(Device("A100", mig="A100-40"),)),
            pod(mig=(("3g.20gb", 1),)),
            [pod(mig=(("1g.5gb", 1),))],
            {"shape": 375.0},
        ),
    ],
)
def test_each_cause(one_node, typical, running, stranded) -> None:
    assert _stranded(one_node, typical, *running) == stranded


def test_figures_of_a_cluster() -> None:
    state = ClusterState([node("a", gpus=4), node("b", gpus=2, product="A10"), node("c")])
    Engine(state).place_on(pod("p", count=3), "a")
    metrics = cluster_metrics(state, WorkloadProfile.from_requests([pod(cpu=0, count=2)]))
    assert (metrics.nodes, metrics.pods) == (3, 1)
    assert (metrics.capacity_milli, metrics.allocated_milli, metrics.free_milli) == (
        6000,
        3000,
        3000,
    )
    assert metrics.allocation == 0.5 and metrics.fragmentation_milli == 1000.0
    assert metrics.by_product["T4"].fragmentation_milli == 1000.0
    assert metrics.by_product["A10"].capacity_milli == 2000 and set(metrics.by_product) == {
        "T4",
        "A10",
    }


def test_an_empty_cluster_has_no_allocation() -> None:
    assert cluster_metrics(ClusterState()).allocation == 0.0


def test_stranding_adds_up_to_the_published_fragmentation() -> None:
    rng = np.random.default_rng(5)
    state = ClusterState([node(f"n{i}", gpus=4, cpu=8000, memory=1 << 20) for i in range(20)])
    sizes = [{"milli": 300}, {"count": 1}, {"milli": 550}, {"count": 2}]
    requests = [pod(f"p{i}", cpu=int(rng.integers(0, 3000)), **sizes[i % 4]) for i in range(60)]
    profile = WorkloadProfile.from_requests(requests, coverage=1.0)
    engine = Engine(state, "random", profile=profile)
    for request in requests:
        row = engine.best(request)
        if row >= 0:
            engine.place_on(request, f"n{row}")
    tables = Fragmentation(state, profile)
    published = tables.fragmentation(state, np.arange(20)).sum() / tables.total_weight
    metrics = cluster_metrics(state, profile)
    assert metrics.fragmentation_milli == pytest.approx(published)
    assert sum(metrics.stranded_milli.values()) == pytest.approx(published)


_MIG = (Device("A100", mig="A100-40"),) * 2


@pytest.mark.parametrize(
    ("one_node", "claims", "over"),
    [
        (node(gpus=2), [{"index": 0, "milli": 1000}, {"index": 1, "milli": 1000}], False),
        (node(gpus=2), [{"index": 0, "milli": 600}, {"index": 0, "milli": 401}], True),
        (
            node(gpus=2, gpu_memory=100),
            [{"index": 1, "milli": 1, "memory_mib": 60}] * 2,
            True,
        ),
        (node(gpus=1), [{"index": 0, "milli": 1, "memory_mib": 60}] * 2, False),
        (node(devices=(Device("T4", replicas=4),)), [{"index": 0, "milli": 1, "slots": 2}] * 2,
         False),
        (node(devices=(Device("T4", replicas=4),)), [{"index": 0, "milli": 1, "slots": 2}] * 3,
         True),
        (node(devices=_MIG), [{"index": 0, "milli": 1, "slots": 1}] * 2, True),
        (node(devices=_MIG), [{"index": i, "milli": 1, "slots": 1} for i in (0, 1)], False),
        (node(devices=_MIG), [{"index": 0, "milli": 1, "slots": s} for s in (1, 2, 6)], True),
        (node(pods=2), [None] * 2, False),
        (node(pods=2), [None] * 3, True),
    ],
)  # fmt: skip
def test_a_node_is_overfull_where_one_device_is(one_node, claims, over: bool) -> None:
    """Claimed as facts, which nobody checks."""
    state = ClusterState([node("other", gpus=2), one_node])
    for claim in claims:
        shares = () if claim is None else (DeviceShare(**claim),)
        state.apply([Placement(pod(cpu=1, memory=1), "n0", shares)], enforce=False)
    assert overfull_rows(state).tolist() == [False, over]
    assert cluster_metrics(state).overfull_nodes == over
    state.remove_node("n0")
    assert not overfull_rows(state).any(), "an empty row has nothing left, and nobody on it"


@pytest.mark.parametrize("claimed", [4, 9])
def test_replicas_claimed_beyond_a_device_take_nothing_from_the_others(claimed: int) -> None:
    state = ClusterState([node(devices=(Device("T4", replicas=4),) * 2)])
    running = Placement(pod(replicas=claimed), "n0", (DeviceShare(0, 0, 0, claimed),))
    state.apply([running], enforce=False)
    profile = WorkloadProfile.from_requests([pod(replicas=1), pod(replicas=4)])
    metrics, tables = cluster_metrics(state, profile), Fragmentation(state, profile)
    assert metrics.free_milli == 1000 and metrics.fragmentation_milli == 0
    assert tables.fragmentation(state, np.array([0])).tolist() == [0]
