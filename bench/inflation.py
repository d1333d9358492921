"""Streams of the inflation protocol, run seed by seed in parallel processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.report import Report
from scheduler.simulator.sweep.row_file import Row
from scheduler.simulator.sweep.runs import Job, row_of

__all__ = ["FULL", "over_seeds", "trace_of"]

FULL = "1.00"
"""Where the requested milli-GPU pass 100 % of the capacity."""

_PREFIX = "openb_pod_list_"


def over_seeds(report: Report, cases: Sequence[Job], seeds: int) -> Iterator[list[Row]]:
    """The rows of each case with seeds 0..n-1, as soon as a case is complete.

    The seed of a run is also that of its emulated kube-scheduler, if it has one.
    """
    jobs = [_seeded(case, seed) for case in cases for seed in range(seeds)]
    group: list[Row] = []
    for row in report.sweep(row_of, jobs):
        group.append(row)
        if len(group) == seeds:
            yield group
            group = []


def _seeded(case: Job, seed: int) -> Job:
    profile = case.profile and replace(case.profile, seed=seed)
    return replace(case, seed=seed, profile=profile)


def trace_of(job: Job) -> str:
    """Name of the openb trace that a job runs."""
    return job.files[-1].stem.removeprefix(_PREFIX)
