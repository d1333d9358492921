"""Is every policy reproducible, and is the expected order of the policies kept?

A small synthetic cluster of 120 nodes, two seeds, every policy; the validator replays each
decision. Small enough for every change: `make bench-smoke`. Exit code 1 if an expectation fails.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from bench.report import Report, benchmark
from scheduler.core.policies.table import POLICIES
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, run

__all__ = ["command"]

_SEEDS = (1, 2)
_ORDER = (("fgd", "best-fit"), ("best-fit", "random"), ("best-fit", "kube-default"))


@benchmark("smoke")
def command(report: Report) -> None:
    """A row per policy."""
    report.title = "120 synthetic nodes, 2 seeds: GPU allocated %"
    workload = generate(GeneratorConfig(nodes=120, load=1.0, seed=7))
    for policy in POLICIES:
        outcomes = [run(workload, Experiment(policy, seed, arrival=1.1)) for seed in _SEEDS]
        again = run(workload, Experiment(policy, _SEEDS[0], arrival=1.1))
        same = replace(again, seconds=0) == replace(outcomes[0], seconds=0)
        share = fmean(outcome.allocation_at["1.00"] for outcome in outcomes)
        report.add(policy=policy, allocated=round(share, 2), reproducible=same)
        report.progress(len(report.rows), len(POLICIES))
        if not same:
            report.failures.append(f"{policy} is not reproducible")
    figures = {row["policy"]: row["allocated"] for row in report.rows}
    report.failures += [
        f"{better} allocates less than {worse}"
        for better, worse in _ORDER
        if figures[better] < figures[worse]
    ]
