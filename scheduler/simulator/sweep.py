"""Many runs in parallel processes; the result does not depend on how they were scheduled."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from scheduler.core.engine import Engine
from scheduler.core.prices import PriceWeights
from scheduler.simulator.emulator import EmulatedScheduler, SchedulerProfile
from scheduler.simulator.files import load_workload
from scheduler.simulator.inflation import Experiment, Outcome, run
from scheduler.simulator.workload import Workload

__all__ = ["Job", "experiment_of", "sweep"]


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a sweep. ``profile`` puts an emulated kube-scheduler around the engine.

    ``mix`` and ``weights`` as in :class:`Experiment`.
    """

    nodes: Path
    pods: Path | None
    policy: str
    seed: int
    protocol: str = "inflation"
    arrival: float = 1.3
    profile: SchedulerProfile | None = None
    mix: str = "given"
    weights: PriceWeights | None = None


def sweep(
    jobs: Sequence[Job],
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Run all jobs; outcomes are in the order of the jobs.

    Parameters
    ----------
    jobs
        What to run.
    processes
        Worker processes; all cores if left out, none at all with 1.
    progress
        Called with runs done and runs in all.
    """
    count = processes or os.cpu_count() or 1
    outcomes = []
    if count == 1:
        for job in jobs:
            outcomes.append(_run(job))
            if progress:
                progress(len(outcomes), len(jobs))
        return outcomes
    # Spawned workers start clean; forked ones would inherit threads and locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(count, len(jobs) or 1), mp_context=context) as pool:
        for outcome in pool.map(_run, jobs):
            outcomes.append(outcome)
            if progress:
                progress(len(outcomes), len(jobs))
    return outcomes


@lru_cache(maxsize=2)
def _workload(nodes: Path, pods: Path | None) -> tuple[Workload, str]:
    workload = load_workload(nodes, pods)
    return workload, workload.digest()


def experiment_of(job: Job) -> Experiment:
    """What a job runs, as it names its result."""
    _, digest = _workload(job.nodes, job.pods)
    return Experiment(
        job.policy,
        job.seed,
        job.protocol,
        job.arrival,
        digest,
        repr(job.profile or ""),
        job.mix,
        job.weights,
    )


def _run(job: Job) -> Outcome:
    workload, _ = _workload(job.nodes, job.pods)
    experiment = experiment_of(job)
    profile = job.profile
    if profile is None:
        return run(workload, experiment)

    def emulated(engine: Engine) -> EmulatedScheduler:
        return EmulatedScheduler(engine, profile)

    return run(workload, experiment, selector=emulated)
