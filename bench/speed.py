"""How long does an inflation run take, and does the time per pod grow with the number of pods?

One run of the openb trace `default` (see `online`) with 2,000 to 20,000 pods: the decision loop
alone, without reading files and without the validator.
"""

from __future__ import annotations

from pathlib import Path

from bench.options import data_option, openb_files, policies_option
from bench.report import Report, benchmark
from scheduler.files.load import load_workload
from scheduler.simulator.inflation import Experiment, run

__all__ = ["command"]

_SIZES = (2_000, 5_000, 10_801, 20_000)


@benchmark("speed")
@data_option
@policies_option("fgd,fgd-published,best-fit,random")
def command(report: Report, data: Path, policies: tuple[str, ...]) -> None:
    """A row per policy and number of pods."""
    report.title = "One inflation run on 1,213 nodes"
    node_list, pod_lists = openb_files(data, ["default"])
    workload = load_workload(node_list, pod_lists[0])
    total = sum(request.gpu.requested_milli for request in workload.requests)
    for policy in policies:
        for pods in _SIZES:
            arrival = total / len(workload.requests) * pods / workload.gpu_milli
            outcome = run(workload, Experiment(policy, 0, arrival=arrival))
            count = outcome.placed + len(outcome.pending)
            report.add(
                policy=policy,
                pods=count,
                seconds=round(outcome.seconds, 3),
                microseconds_per_pod=round(1e6 * outcome.seconds / count, 1),
            )
            report.progress(len(report.rows), len(policies) * len(_SIZES))
