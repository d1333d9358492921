"""Inflation, the emulated kube-scheduler, sweeps: protocol, reproducibility, published figures."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.state import ClusterState
from scheduler.files.workload import Arrival, Workload
from scheduler.simulator.emulator import EmulatedScheduler, SchedulerProfile, nodes_to_find
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, as_listed, inflate, run
from scheduler.simulator.sweep.pools import _ctrl_c_put_off
from scheduler.simulator.sweep.runner import Runner
from scheduler.simulator.sweep.runs import Job, experiment_of, row_of
from tests.builders import node, pod

SMALL = generate(GeneratorConfig(nodes=40, load=0.7, seed=2))


def test_inflation_stops_before_the_next_pod_would_exceed_the_arrival() -> None:
    stream = inflate(SMALL, seed=1, arrival=1.2)
    requested = sum(r.gpu.requested_milli for r in stream.requests)
    largest = max(r.gpu.requested_milli for r in SMALL.requests)
    assert 1.2 * SMALL.gpu_milli - largest < requested <= 1.2 * SMALL.gpu_milli
    assert len({r.uid for r in stream.requests}) == len(stream.requests)
    assert sorted(n.name for n in stream.nodes) == sorted(n.name for n in SMALL.nodes)
    assert {r.shape for r in stream.requests} == {r.shape for r in SMALL.requests}


def test_a_trace_above_the_arrival_is_cut_from_its_end() -> None:
    stream = inflate(SMALL, seed=1, arrival=0.3)
    full = inflate(SMALL, seed=1, arrival=1.2)
    kept = [r.uid for r in stream.requests if "+" not in r.uid]
    assert kept == [r.uid for r in full.requests][: len(kept)] and len(kept) < len(SMALL.requests)


def test_a_seed_decides_the_stream() -> None:
    assert inflate(SMALL, seed=1) == inflate(SMALL, seed=1)
    assert inflate(SMALL, seed=1).requests != inflate(SMALL, seed=2).requests
    assert inflate(SMALL, seed=1).nodes != inflate(SMALL, seed=2).nodes


def test_impossible_inflations_are_refused() -> None:
    with pytest.raises(InvalidInput, match="arrival"):
        inflate(SMALL, seed=1, arrival=0.0)
    with pytest.raises(InvalidInput, match="ask for no GPU"):
        inflate(Workload(SMALL.nodes, (Arrival(pod()),)), seed=1)
    with pytest.raises(InvalidInput, match="protocol"):
        run(SMALL, Experiment("fgd", 0, "sideways"))


def test_allocation_is_noted_when_the_requested_share_is_reached() -> None:
    """Two GPUs; pods ask for 1, 1 and 2: at 100 % requested both are taken, the last waits."""
    pods = tuple(Arrival(pod(f"p{i}", count=c)) for i, c in enumerate((1, 1, 2)))
    outcome = run(Workload((node(gpus=2),), pods), Experiment("best-fit", 0, "as-listed"))
    assert outcome.allocation_at["0.50"] == 50.0 and outcome.allocation_at["1.00"] == 100.0
    assert (outcome.placed, len(outcome.pending)) == (2, 1)
    said = outcome.to_json()
    assert said["requested_gpu_milli"] == 4000 and said["allocated_gpu_milli"] == 2000


def test_a_run_is_reproducible_and_named_by_its_configuration() -> None:
    first, second = (run(SMALL, Experiment("fgd", 3, trace=SMALL.digest())) for _ in range(2))
    assert first.power_kw_at == second.power_kw_at and list(first.power_kw_at) == list(
        first.allocation_at
    )
    drawn = [*first.power_kw_at.values(), first.power_kw]
    assert drawn[0] > 0 and drawn == sorted(drawn)  # nobody leaves
    assert first.allocation_at == second.allocation_at and first.placed == second.placed
    assert first.experiment.config_hash == second.experiment.config_hash
    assert first.experiment.config_hash != Experiment("fgd", 4, trace=SMALL.digest()).config_hash
    assert first.allocation_at["1.30"] >= first.allocation_at["1.00"]


def test_a_run_bears_the_same_name_alone_and_in_a_sweep() -> None:
    made = GeneratorConfig(nodes=40, load=0.7, seed=2)
    alone = Experiment("fgd", 3, "as-listed", trace=SMALL.digest())
    job = Job((), "fgd", 3, "as-listed", generated=made)
    assert experiment_of(job) == alone
    profile = SchedulerProfile()
    assert experiment_of(replace(job, profile=profile)).scheduler == repr(profile)


def test_the_ideal_scheduler_is_the_engine_itself() -> None:
    profile = SchedulerProfile(
        least_allocated=0, balanced=0, random_ties=False, extender_scores="exact"
    )
    alone = run(SMALL, Experiment("fgd", 1))
    behind = run(SMALL, Experiment("fgd", 1), selector=lambda e: EmulatedScheduler(e, profile))
    assert alone.allocation_at == behind.allocation_at


def test_a_unique_winner_survives_quantisation_and_random_ties() -> None:
    profile = SchedulerProfile(least_allocated=0, balanced=0, extender_scores="ranks")
    alone = run(SMALL, Experiment("fgd-published", 1))
    behind = run(
        SMALL, Experiment("fgd-published", 1), selector=lambda e: EmulatedScheduler(e, profile)
    )
    assert alone.allocation_at == behind.allocation_at


def test_weight_15_outvotes_every_default_score() -> None:
    engine = Engine(ClusterState([node("full", gpus=2), node("empty", gpus=2)]), "best-fit")
    engine.place_on(pod("x", count=1, cpu=60_000), "full")
    assert EmulatedScheduler(engine, SchedulerProfile()).best(pod(count=1)) == 0
    assert EmulatedScheduler(engine, SchedulerProfile(extender_weight=0)).best(pod(count=1)) == 1


def test_random_ties_reach_every_best_node() -> None:
    engine = Engine(ClusterState([node(f"n{i}", gpus=1) for i in range(4)]))
    emulated = EmulatedScheduler(engine, SchedulerProfile(extender_weight=0))
    assert {emulated.best(pod(count=1)) for _ in range(100)} == {0, 1, 2, 3}
    fixed = EmulatedScheduler(engine, SchedulerProfile(extender_weight=0, random_ties=False))
    assert {fixed.best(pod(count=1)) for _ in range(10)} == {0}


@pytest.mark.parametrize(
    ("nodes", "percentage", "found"),
    [
        (50, 0, 50),
        (99, 5, 99),
        (1000, 0, 420),
        (5000, 0, 500),
        (15_000, 0, 750),
        (200, 10, 100),
        (5000, 100, 5000),
    ],
)
def test_how_many_nodes_kube_scheduler_looks_for(nodes: int, percentage: int, found: int) -> None:
    assert nodes_to_find(nodes, percentage) == found


def test_the_sampling_window_rotates() -> None:
    engine = Engine(ClusterState([node(f"n{i:03}", gpus=1) for i in range(300)]), "first-fit")
    emulated = EmulatedScheduler(
        engine, SchedulerProfile(percentage_of_nodes=10, random_ties=False)
    )
    windows = [set(emulated._feasible(pod(count=1)).tolist()) for _ in range(3)]
    assert [len(w) for w in windows] == [100] * 3 and set.union(*windows) == set(range(300))


def test_selection_rules_are_part_of_the_in_tree_filter() -> None:
    engine = Engine(ClusterState([node("off", gpus=1, unschedulable=True), node("on", gpus=1)]))
    assert EmulatedScheduler(engine, SchedulerProfile()).best(pod(count=1)) == 1
    assert EmulatedScheduler(engine, SchedulerProfile()).best(pod(count=4)) == -1


def test_impossible_profiles_are_refused() -> None:
    for fields in ({"percentage_of_nodes": 101}, {"extender_scores": "guess"}):
        with pytest.raises(InvalidInput):
            SchedulerProfile(**fields)


def test_ctrl_c_waits_until_processes_have_started_whichever_thread_is_told() -> None:
    """Libraries have threads that block no signal; Python's handler runs in the main one."""
    told, began = threading.Event(), threading.Event()
    other = threading.Thread(target=told.wait)

    def start() -> None:
        with _ctrl_c_put_off():
            signal.pthread_kill(other.ident, signal.SIGINT)
            told.set()
            other.join()
            began.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        signal.signal(signal.SIGINT, before)
        told.set()
    assert began.is_set()


def test_as_listed_keeps_the_order() -> None:
    stream = as_listed(SMALL)
    assert stream.nodes == SMALL.nodes and stream.requests == SMALL.requests


@pytest.mark.data
@pytest.mark.deep
@pytest.mark.parametrize(
    ("policy", "published", "tolerance"),
    [("fgd-published", 95.23, 0.3), ("best-fit", 92.86, 0.3), ("random", 86.30, 0.6)],
)
def test_published_figures_are_reproduced(policy: str, published: float, tolerance: float) -> None:
    """Three seeds of the default trace; the benchmark runs ten and all traces."""
    folder = Path(os.environ.get("SNUGFIT_DATA", "../shared/data"), "openb")
    nodes = folder / "openb_node_list_gpu_node.csv"
    if not nodes.exists():
        pytest.skip(f"no public traces in {folder}; set SNUGFIT_DATA")
    jobs = [
        Job((nodes, folder / "openb_pod_list_default.csv"), policy, s, arrival=1.0)
        for s in range(3)
    ]
    rows = Runner().in_order(row_of, jobs)
    mean = np.mean([row.figures["allocation_at"]["1.00"] for row in rows])
    assert abs(mean - published) < tolerance
