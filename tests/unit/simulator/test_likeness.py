"""Workloads drawn from published shares and from other workloads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import Device, GangKey, GpuRequest, Node, NodeSelection, PodRequest
from scheduler.files.workload import Arrival, BoundPod, Workload
from scheduler.simulator.generate import GeneratorConfig, at_demand, generate
from scheduler.simulator.likeness import LIKENESSES, generate_like, likeness_of

PUBLISHED = {"philly": (18_006, 874), "seren": (1_414, 122)}
"""Mean and median of run times in seconds."""

NODE = Node("n", 64_000, 256 << 30, devices=(Device("T4", 16_000, uuid="GPU-1"),) * 4)


def pod(name: str, gpus: int = 1, **more: object) -> PodRequest:
    return replace(PodRequest(name, "default", name, 1000, 1 << 30, GpuRequest(count=gpus)), **more)


@pytest.mark.parametrize("name", PUBLISHED)
def test_training_clusters_have_the_published_run_times(name: str) -> None:
    """The median over all jobs is the published one; the mean lacks what is cut and left out."""
    mean, median = PUBLISHED[name]
    config = GeneratorConfig(nodes=286, pods=60_000, seed=11)
    workload = generate_like(LIKENESSES[name], config)
    jobs = {a.request.gang or a.request.uid: a.duration_s for a in workload.arrivals}
    seconds = np.array(list(jobs.values()))
    assert abs(np.median(seconds) / median - 1) < 0.1
    assert 0.6 < seconds.mean() / mean < 1.4


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_have_the_published_shares(name: str) -> None:
    workload = generate_like(LIKENESSES[name], GeneratorConfig(nodes=286, pods=20_000, seed=3))
    gangs = Counter(a.request.gang for a in workload.arrivals if a.request.gang)
    sizes = Counter(8 * members for members in gangs.values())
    sizes += Counter(a.request.gpu.count for a in workload.arrivals if not a.request.gang)
    for job in LIKENESSES[name].jobs:
        if job.weight > 1:
            found = 100 * sizes[job.gpu_milli // 1000] / sizes.total()
            assert abs(found - job.weight) < 2


def test_larger_jobs_are_gangs_of_whole_nodes_that_come_and_go_together() -> None:
    workload = generate_like(LIKENESSES["seren"], GeneratorConfig(nodes=64, load=30, seed=2))
    members: dict[GangKey, list[Arrival]] = {}
    for arrival in workload.arrivals:
        if arrival.request.gang:
            members.setdefault(arrival.request.gang, []).append(arrival)
    assert members and members.keys() == workload.gangs.keys()
    for key, of_gang in members.items():
        assert workload.gangs[key] == GangSpec(key, len(of_gang))
        assert {a.request.gpu for a in of_gang} == {GpuRequest(count=8)}
        assert len({(a.at_s, a.duration_s) for a in of_gang}) == 1


def test_no_job_is_larger_than_its_fleet() -> None:
    workload = generate_like(LIKENESSES["seren"], GeneratorConfig(nodes=5, load=100, seed=2))
    assert {spec.minimum for spec in workload.gangs.values()} == {2, 4}


def test_the_same_seed_gives_the_same_workload_and_another_one_another() -> None:
    def digest(seed: int) -> str:
        config = GeneratorConfig(nodes=20, load=4, seed=seed)
        return at_demand(generate_like(LIKENESSES["philly"], config), 0.9).digest()

    assert digest(1) == digest(1) != digest(2)


def test_workloads_of_shapes_are_what_they_were() -> None:
    """Bit for bit: figures that were recorded refer to them."""
    config = GeneratorConfig(nodes=20, load=2.0, seed=5, gang_share=0.3, durations="lognormal")
    assert generate(config).digest()[:16] == "11fb99de9b01ab02"


def test_run_times_can_be_others_or_none() -> None:
    config = GeneratorConfig(nodes=8, load=2, seed=1)
    likeness = LIKENESSES["philly"]
    staying = generate_like(likeness, config, own_run_times=False)
    assert {a.duration_s for a in staying.arrivals} == {None}
    drawn = replace(config, durations="exponential", mean_duration_s=10.0)
    other = generate_like(likeness, drawn, own_run_times=False)
    seconds = [a.duration_s for a in other.arrivals if a.duration_s is not None]
    assert 0 < max(seconds) < 200 and len(seconds) == len(other.arrivals)


# -- demand ------------------------------------------------------------------------------------


def test_demand_is_gpu_time_over_capacity() -> None:
    workload = at_demand(
        generate_like(LIKENESSES["philly"], GeneratorConfig(nodes=20, load=4, seed=9)), 0.9
    )
    spent = sum(a.request.gpu.requested_milli * (a.duration_s or 0) for a in workload.arrivals)
    last = max(a.at_s for a in workload.arrivals)
    assert spent / (workload.gpu_milli * last) == pytest.approx(0.9, rel=1e-6)


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (Workload((NODE,), (Arrival(pod("p"), 1.0),)), "default/p stays for ever"),
        (Workload((NODE,), (Arrival(pod("p"), 0.0, 5.0),)), "one after the other"),
        (Workload((), (Arrival(pod("p"), 1.0, 5.0),)), "needs GPUs"),
        (Workload((NODE,)), "needs GPUs"),
    ],
)
def test_a_demand_that_cannot_be_is_refused(workload: Workload, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        at_demand(workload, 0.9)


# -- files -------------------------------------------------------------------------------------


def test_nodes_and_pods_of_a_workload_are_drawn_as_they_are() -> None:
    key = GangKey("volcano", "ml", "g")
    ours = (
        Arrival(pod("a", 2, priority=7, owner="Job/a"), 3.0, 60.0),
        Arrival(pod("g0", 4, gang=key), 4.0, 5.0),
        Arrival(pod("g1", 4, gang=key), 4.0, 9.0),
    )
    running = (BoundPod(pod("r", 3), "n"),)
    spec = {key: GangSpec(key, 2)}
    likeness = likeness_of(Workload((NODE,), ours, running, "ours", spec))
    drawn = generate_like(likeness, GeneratorConfig(nodes=3, pods=60, seed=1))
    assert {(n.cpu_milli, len(n.devices), n.devices[0].uuid) for n in drawn.nodes} == {
        (64_000, 4, "")
    }
    kinds = {
        (a.request.gpu.count, a.request.priority, bool(a.request.gang), a.duration_s)
        for a in drawn.arrivals
    }
    assert kinds == {(2, 7, False, 60.0), (4, 0, True, 9.0), (3, 0, False, None)}
    assert {spec.minimum for spec in drawn.gangs.values()} == {2}
    assert len({a.request.uid for a in drawn.arrivals}) == len(drawn.arrivals)
    assert drawn.source == "like-ours-1"


def test_pods_that_belong_to_a_node_are_left_out_and_counted() -> None:
    tied = NodeSelection(node_selector=(("kubernetes.io/hostname", "n"),))
    arrivals = (Arrival(pod("a", selection=tied)), Arrival(pod("b")))
    likeness = likeness_of(Workload((NODE,), arrivals))
    assert len(likeness.jobs) == 1
    assert likeness.remarks == ("pods that name their node are not drawn: 1",)


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (Workload((NODE,), source="f"), "f: has no pod to draw from"),
        (Workload((), (Arrival(pod("a")),), source="f"), "f: has no node to draw from"),
    ],
)
def test_a_file_with_nothing_to_draw_from_is_refused(workload: Workload, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        likeness_of(workload)


@pytest.mark.parametrize(
    ("gpus", "words"), [(5, "less than any job"), (0, "no pod that the fleet can hold")]
)
def test_a_fleet_without_jobs_for_it_is_refused(gpus: int, words: str) -> None:
    request = pod("a", gpus) if gpus else replace(pod("a"), gpu=GpuRequest())
    likeness = likeness_of(Workload((NODE,), (Arrival(request),)))
    with pytest.raises(InvalidInput, match=words):
        generate_like(likeness, GeneratorConfig(nodes=1))
