"""What does it cost a policy that its order has to pass through kube-scheduler?

The order of the engine passes through scores of 0..10, ties that are broken at random, sampled
nodes and in-tree scores. Inflation (see `online`) up to 100 % behind an emulated kube-scheduler;
GPU allocated in percent, mean over the seeds. "No extender" scores all nodes by the in-tree
plugins; its figure still depends on the policy, which chooses the devices of a node for fractions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

from bench.inflation import FULL, over_seeds, trace_of
from bench.options import data_option, openb_files, policies_option, seeds_option, traces_option
from bench.report import Report, benchmark
from scheduler.simulator.emulator import SchedulerProfile
from scheduler.simulator.sweep.runs import Job

__all__ = ["command"]

_ALONE = SchedulerProfile(least_allocated=0, balanced=0, random_ties=False)
_CASES = {
    "engine's own order": replace(_ALONE, extender_scores="exact"),
    "exact scores, random ties": replace(_ALONE, extender_scores="exact", random_ties=True),
    "0..10 by rank, unique winner": replace(_ALONE, random_ties=True),
    "0..10 scaled, random ties": replace(_ALONE, extender_scores="scaled", random_ties=True),
    "unique winner, sampled nodes": replace(_ALONE, random_ties=True, percentage_of_nodes=0),
    "unique winner, in-tree scores, weight 15": SchedulerProfile(),
    "unique winner, in-tree scores, weight 1": SchedulerProfile(extender_weight=1),
    "no extender": SchedulerProfile(extender_weight=0),
}


@benchmark("realism", grid=True)
@data_option
@traces_option("default,gpushare100,cpu250")
@policies_option("fgd-published,priced")
@seeds_option(3)
def command(
    report: Report, data: Path, traces: tuple[str, ...], policies: tuple[str, ...], seeds: int
) -> None:
    """A row per case and policy, a column per trace."""
    report.title = f"Behind an emulated kube-scheduler: GPU allocated %, {seeds} seeds"
    nodes, pods = openb_files(data, traces)
    labels = [(case, policy) for case in _CASES for policy in policies]
    jobs = [
        Job((nodes, path), policy, 0, arrival=1.0, profile=_CASES[case])
        for case, policy in labels
        for path in pods
    ]
    groups = over_seeds(report, jobs, seeds)
    for case, policy in labels:
        figures = {
            trace_of(job): round(fmean(row.figures["allocation_at"][FULL] for row in group), 2)
            for job, group in zip(jobs[: len(pods)], groups, strict=False)
        }
        report.add(case=case, policy=policy, **figures)
