"""One run of a sweep: what it starts from, and what it comes to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from scheduler.core.engine import Engine
from scheduler.core.power import PowerModel
from scheduler.core.price_weights import PriceWeights
from scheduler.files.load import load_workload
from scheduler.files.manifests import files_of
from scheduler.files.workload import Workload
from scheduler.simulator.emulator import EmulatedScheduler, SchedulerProfile
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, Outcome, Selector, run
from scheduler.simulator.replay import ReplayOutcome, replay
from scheduler.simulator.timeline import Timeline

__all__ = [
    "Job",
    "experiment_of",
    "figures_of",
    "loaded",
    "row_of",
    "run_job",
    "stamp",
    "told_of",
    "workload_of",
]


@dataclass(frozen=True, slots=True)
class Job:
    """One run.

    Parameters
    ----------
    files
        List the workload together, as for :func:`scheduler.files.load.load_workload`; empty if it
        is ``generated``.
    policy, seed, protocol, arrival, workload_profile, weights
        As in :class:`Experiment`; ``replay`` is a protocol too.
    profile
        Puts an emulated kube-scheduler around the engine.
    watts
        How much power devices draw, for the figures of power; that of the weights if left out.
    generated
        What to make the workload from, instead of files.
    rate, plan_every_s
        As for :func:`scheduler.simulator.replay.replay`.
    bounded
        Whether the bound of an offline optimum is wanted, over the time of a replay.
    """

    files: tuple[Path, ...]
    policy: str
    seed: int
    protocol: str = "inflation"
    arrival: float = 1.3
    profile: SchedulerProfile | None = None
    workload_profile: str = "given"
    weights: PriceWeights | None = None
    watts: PowerModel | None = None
    generated: GeneratorConfig | None = None
    rate: float = 1.0
    plan_every_s: float = 0.0
    bounded: bool = False


def stamp(path: Path) -> tuple[Path, int, int]:
    """A path with what changes when its content does."""
    found = path.stat()
    return path.absolute(), found.st_mtime_ns, found.st_size


def loaded(*files: Path) -> tuple[Workload, str]:
    """A workload and its digest, read once for many jobs of a process."""
    return _loaded(files, tuple(stamp(one) for one in files_of(files) if one.exists()))


@lru_cache(maxsize=2)
def _loaded(files: tuple[Path, ...], _stamps: tuple[object, ...]) -> tuple[Workload, str]:
    workload = load_workload(*files)
    return workload, workload.digest()


@lru_cache(maxsize=2)
def _made(config: GeneratorConfig) -> tuple[Workload, str]:
    workload = generate(config)
    return workload, workload.digest()


def workload_of(job: Job) -> tuple[Workload, str]:
    """What a job runs, and its digest."""
    return loaded(*job.files) if job.generated is None else _made(job.generated)


def experiment_of(job: Job) -> Experiment:
    """What a job runs, as it names its result."""
    _, digest = workload_of(job)
    return Experiment(
        job.policy,
        job.seed,
        job.protocol,
        job.arrival,
        digest,
        "" if job.profile is None else repr(job.profile),
        job.workload_profile,
        job.weights,
    )


def run_job(job: Job) -> Outcome | ReplayOutcome:
    """What one job comes to."""
    return _run(job, None)


def row_of(job: Job) -> dict[str, Any]:
    """Figures of a job, see :func:`figures_of`."""
    row = told_of(job)
    del row["pending_pods"]
    return row


def told_of(job: Job) -> dict[str, Any]:
    """As :func:`row_of`, with the pods that stay pending under ``pending_pods``."""
    timeline = Timeline(bounded=True) if job.bounded else None
    outcome = _run(job, timeline)
    row = figures_of(outcome)
    row["pending_pods"] = [one.to_json() for one in outcome.pending]
    if timeline is not None:
        row["offline_bound"] = timeline.ceiling_json()
    return row


def figures_of(outcome: Outcome | ReplayOutcome) -> dict[str, Any]:
    """What a run came to as JSON, unrounded and without single pods.

    The one figure that depends on the machine is ``seconds``.
    """
    row = outcome.to_json()
    del row["pending_pods"]  # by far the most of it
    row["seconds"] = outcome.seconds
    if isinstance(outcome, ReplayOutcome):
        row |= {
            "allocation_percent": outcome.allocation_percent,
            "demand_percent": outcome.demand_percent,
            "peak_percent": outcome.peak_percent,
            "power_kw": outcome.power_kw,
        }
        for name, waiting in outcome.waiting.items():
            for key in ("p50_s", "p95_s", "max_s"):
                wait = getattr(waiting, key)
                row["waiting"][name][key] = wait if math.isfinite(wait) else None
    return row


def _run(job: Job, timeline: Timeline | None) -> Outcome | ReplayOutcome:
    workload, _ = workload_of(job)
    experiment = experiment_of(job)
    profile = job.profile
    watts = job.watts or (job.weights.watts if job.weights else None)
    selector = None
    if profile is not None:

        def selector(engine: Engine) -> Selector:
            return EmulatedScheduler(engine, profile)

    if job.protocol == "replay":
        return replay(
            workload,
            experiment,
            rate=job.rate,
            selector=selector,
            plan_every_s=job.plan_every_s,
            watts=watts,
            observe=timeline.observe_time if timeline else None,
        )
    return run(workload, experiment, selector=selector, watts=watts)
