"""Queues on clusters of many sizes, and the pool without node borders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.pool import pooled
from bench.queue import POOL, QueueJob, drawn, run
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import Device, GangKey, GpuRequest, Node, PodRequest
from scheduler.files.workload import Arrival, Workload

NODE = Node("n", 64_000, 256 << 30, devices=(Device("T4", 16_000),) * 4)
KEY = GangKey("kubernetes", "default", "g")


def arrival(
    name: str, gpus: int, at_s: float, seconds: float | None, gang: GangKey | None = None
) -> Arrival:
    request = PodRequest(name, "default", name, 1000, 1 << 30, GpuRequest(count=gpus), gang=gang)
    return Arrival(request, at_s, seconds)


def pool_waits(*arrivals: Arrival, nodes: tuple[Node, ...] = (NODE,)) -> dict[str, float]:
    waits: dict[str, float] = {}
    gangs = {KEY: GangSpec(KEY, 2)}
    pooled(Workload(nodes, arrivals, (), "", gangs), lambda pod, s: waits.update({pod.name: s}))
    return waits


def test_a_pool_starts_whatever_fits_in_the_order_of_arrival() -> None:
    waits = pool_waits(
        arrival("a", 3, 0.0, 10.0),
        arrival("large", 4, 1.0, 10.0),
        arrival("small", 1, 2.0, 1.0),
        arrival("late", 4, 3.0, 5.0),
    )
    assert waits == {"a": 0.0, "small": 0.0, "large": 9.0, "late": 17.0}


def test_a_pool_has_no_borders_and_starts_gangs_whole() -> None:
    nodes = (NODE, Node("m", 64_000, 256 << 30, devices=(Device("T4", 16_000),) * 4))
    waits = pool_waits(
        arrival("a", 2, 0.0, 7.0),
        arrival("wide", 6, 1.0, 5.0),
        arrival("g0", 2, 2.0, 1.0, KEY),
        arrival("g1", 2, 2.0, 1.0, KEY),
        nodes=nodes,
    )
    assert waits == {"a": 0.0, "wide": 0.0, "g0": 4.0, "g1": 4.0}


def test_figures_of_a_pool_are_means_over_the_time_of_arrivals() -> None:
    workload = Workload((NODE,), (arrival("a", 4, 0.0, 5.0), arrival("b", 2, 10.0, None)))
    found = pooled(workload, lambda *_: None)
    assert (found.allocation_percent, found.demand_percent) == (50.0, 50.0)
    assert (found.peak_percent, found.gangs_whole, found.gangs_none) == (100.0, 0, 0)


def test_what_no_pool_holds_never_starts() -> None:
    assert pool_waits(arrival("a", 5, 0.0, 1.0), arrival("b", 1, 1.0, 1.0)) == {"b": 0.0}


def job(policy: str = "priced", queue: int = 10, load: float | None = 1.1) -> QueueJob:
    return QueueJob("seren", (), 5, queue, load, policy, 1)


@pytest.mark.parametrize("queue", [1, 10, 30])
def test_pods_arrive_so_many_at_a_time(queue: int) -> None:
    """All but the last batch are full, and exceed it by less than the last gang."""
    batches: dict[float, int] = {}
    for one in drawn(job(queue=queue)).arrivals:
        batches[one.at_s] = batches.get(one.at_s, 0) + 1
    *full, _ = batches.values()
    assert len(full) > 5 and all(queue <= size < queue + 5 for size in full)


def test_clusters_with_and_without_departures_have_the_same_nodes() -> None:
    assert drawn(job()).nodes == drawn(job(load=None)).nodes
    assert {one.duration_s for one in drawn(job(load=None)).arrivals} == {None}


@pytest.mark.parametrize("policy", ["first-fit", POOL])
def test_a_run_counts_each_job_in_one_class(policy: str) -> None:
    workload = drawn(job(load=None))
    figures = run(job(policy, load=None))
    jobs = sum(one["jobs"] for one in figures["waits"].values())
    assert jobs == len({pod.gang or pod.uid for pod in workload.requests})
    assert figures["demand_percent"] >= 130 and figures["allocation_percent"] <= 100
    assert run(job(policy, load=None)) == figures


def test_parts_are_all_of_it_and_rows_are_compared_with_ours(tmp_path: Path, bench) -> None:
    options = ("--workloads", "seren", "--nodes", "5", "--queues", "10", "--loads", "stay")
    more = ("--seeds", "2", "--policies", "priced,first-fit", "--processes", "1", "--json")
    rows = tmp_path / "rows.jsonl"
    parts = [
        json.loads(bench("queue", *options, *more, "--rows", rows, *resume, "--part", part).out)
        for part, resume in (("1/2", ()), ("2/2", ("--resume",)))
    ]
    assert [row["seeds"] for part in parts for row in part["rows"]] == [1] * 6
    whole = json.loads(bench("queue", *options, *more, "--rows", rows, "--resume").out)
    assert len(rows.read_text().splitlines()) == 6
    ours, theirs, pool = whole["rows"]
    assert [row["policy"] for row in whole["rows"]] == ["priced", "first-fit", POOL]
    assert ours["difference"] == 0 and theirs["ci95"] is not None and pool["seeds"] == 2
    assert list(whole["facts"]) == ["first-fit against priced"]


def test_seeds_for_reporting_are_others(tmp_path: Path, bench) -> None:
    rows = tmp_path / "rows.jsonl"
    options = ("--workloads", "seren", "--nodes", "5", "--queues", "1", "--loads", "stay")
    more = ("--policies", "priced", "--seeds", "2", "--rows", rows, "--processes", "1")
    assert bench("queue", *options, *more, "--seeds-for", "reporting").code == 0
    seeds = {json.loads(line)["job"]["seed"] for line in rows.read_text().splitlines()}
    assert seeds == {1000, 1001}
