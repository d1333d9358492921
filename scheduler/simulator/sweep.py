"""Many runs in parallel processes; the result does not depend on how they were scheduled."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from scheduler.core.engine import Engine
from scheduler.core.prices import PriceWeights
from scheduler.files.load import load_workload
from scheduler.files.workload import Workload
from scheduler.simulator.emulator import EmulatedScheduler, SchedulerProfile
from scheduler.simulator.inflation import Experiment, Outcome, run

__all__ = ["Job", "experiment_of", "in_processes", "loaded", "sweep"]

J = TypeVar("J")
R = TypeVar("R")


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
    """Run all jobs; as :func:`in_processes`."""
    return in_processes(_run, jobs, processes=processes, progress=progress)


def in_processes(
    work: Callable[[J], R],
    jobs: Sequence[J],
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[R]:
    """Do all jobs; results are in the order of the jobs.

    Parameters
    ----------
    work
        What to do with a job; a function of a module, as are jobs and results to be pickled.
    jobs
        What to run.
    processes
        Worker processes; all cores if left out, none at all with 1.
    progress
        Called with runs done and runs in all.
    """
    count = processes or os.cpu_count() or 1
    results = []
    if count == 1:
        for job in jobs:
            results.append(work(job))
            if progress:
                progress(len(results), len(jobs))
        return results
    # Spawned workers start clean; forked ones would inherit threads and locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(count, len(jobs) or 1), mp_context=context) as pool:
        for result in pool.map(work, jobs):
            results.append(result)
            if progress:
                progress(len(results), len(jobs))
    return results


@lru_cache(maxsize=2)
def loaded(nodes: Path, pods: Path | None) -> tuple[Workload, str]:
    """A workload and its digest, read once for many jobs of a process."""
    workload = load_workload(nodes, pods)
    return workload, workload.digest()


def experiment_of(job: Job) -> Experiment:
    """What a job runs, as it names its result."""
    _, digest = loaded(job.nodes, job.pods)
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
    workload, _ = loaded(job.nodes, job.pods)
    experiment = experiment_of(job)
    profile = job.profile
    if profile is None:
        return run(workload, experiment)

    def emulated(engine: Engine) -> EmulatedScheduler:
        return EmulatedScheduler(engine, profile)

    return run(workload, experiment, selector=emulated)
