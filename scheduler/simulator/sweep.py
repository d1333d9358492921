"""Many runs in parallel processes; the result does not depend on how they were scheduled."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TypeVar

from scheduler.core.engine import Engine
from scheduler.core.price_weights import PriceWeights
from scheduler.files.load import load_workload
from scheduler.files.workload import Workload
from scheduler.simulator.emulator import EmulatedScheduler, SchedulerProfile
from scheduler.simulator.inflation import Experiment, Outcome, run

__all__ = ["Job", "experiment_of", "in_processes", "loaded", "one_by_one", "run_job", "sweep"]

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a sweep. ``profile`` puts an emulated kube-scheduler around the engine.

    ``files`` list the workload together, as for :func:`scheduler.files.load.load_workload`;
    ``workload_profile`` and ``weights`` as in :class:`Experiment`.
    """

    files: tuple[Path, ...]
    policy: str
    seed: int
    protocol: str = "inflation"
    arrival: float = 1.3
    profile: SchedulerProfile | None = None
    workload_profile: str = "given"
    weights: PriceWeights | None = None


def sweep(
    jobs: Sequence[Job],
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Run all jobs; as :func:`in_processes`."""
    return in_processes(run_job, jobs, processes=processes, progress=progress)


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
    work, jobs, processes
        As for :func:`one_by_one`.
    progress
        Called with runs done and runs in all.
    """
    results = []
    for result in one_by_one(work, jobs, processes=processes):
        results.append(result)
        if progress:
            progress(len(results), len(jobs))
    return results


def one_by_one(
    work: Callable[[J], R],
    jobs: Sequence[J],
    *,
    processes: int | None = None,
    apart: bool = False,
) -> Iterator[R]:
    """Results in the order of the jobs, each as soon as it and those before it are there.

    Ctrl-C, an error, or a caller that wants no more ends the worker processes at once.

    Parameters
    ----------
    work
        What to do with a job; a function of a module, as are jobs and results to be pickled.
    jobs
        What to run.
    processes
        Worker processes; all cores if left out, none at all with 1.
    apart
        A single worker is a process, too: a solver keeps Ctrl-C from the process that it runs in.
    """
    count = processes or os.cpu_count() or 1
    if count == 1 and not apart:
        yield from map(work, jobs)
        return
    # Spawned workers start clean; forked ones would inherit threads and locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(count, len(jobs) or 1), mp_context=context) as pool:
        before = set(multiprocessing.active_children())
        resource_tracker.ensure_running()  # which would let signals through again while it starts
        try:
            with _ctrl_c_put_off():  # the workers leave Ctrl-C to this process
                results = deque(pool.submit(work, job) for job in jobs)
            while results:
                yield results.popleft().result()
        except BaseException:
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()
            raise


@contextmanager
def _ctrl_c_put_off() -> Iterator[None]:
    """Keep SIGINT from processes begun here for good, and from this one until the end.

    Processes inherit the mask. In this one it is of one thread, and libraries have threads of their
    own (NumPy's), any of which may be the one that is told: then the handler waits.
    """
    told: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread() and handler is not None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if main:
        signal.signal(signal.SIGINT, lambda number, _frame: told.append(number))
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if told:
            signal.raise_signal(told[0])


@lru_cache(maxsize=2)
def loaded(*files: Path) -> tuple[Workload, str]:
    """A workload and its digest, read once for many jobs of a process."""
    workload = load_workload(*files)
    return workload, workload.digest()


def experiment_of(job: Job) -> Experiment:
    """What a job runs, as it names its result."""
    _, digest = loaded(*job.files)
    return Experiment(
        job.policy,
        job.seed,
        job.protocol,
        job.arrival,
        digest,
        repr(job.profile or ""),
        job.workload_profile,
        job.weights,
    )


def run_job(job: Job) -> Outcome:
    """What one job comes to."""
    workload, _ = loaded(*job.files)
    experiment = experiment_of(job)
    profile = job.profile
    if profile is None:
        return run(workload, experiment)

    def emulated(engine: Engine) -> EmulatedScheduler:
        return EmulatedScheduler(engine, profile)

    return run(workload, experiment, selector=emulated)
