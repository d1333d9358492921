"""Does anything get lost or doubled when everything gets killed at random?

Real etcd, kube-apiserver and kube-scheduler, and the extender, with the accounts and the
configuration that the chart ships. 300 pods that all fit (halves and quarters of devices, whole
devices) are created on 39 nodes while one or two components are killed with SIGKILL at six random
points and started again within a second. A validator that reads the API alone watches every moment.
In the end every pod has to be placed, no device promised twice at any moment, no reservation left,
and the state of the extender has to be what the API says; a traceback in its log or an event that
it could not apply counts as a failure too. One control plane serves all runs. A shorter storm is
part of `make e2e`. The first run builds the control plane (needs Go).
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from pathlib import Path

import click

from bench.report import Report, benchmark
from testbed.controlplane.assets import find
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.plane import ControlPlane, keep_logs_in
from testbed.controlplane.process import NotReady
from testbed.controlplane.storm import crash_storm, revive
from testbed.controlplane.system import System
from testbed.controlplane.validator import InvalidSchedule

__all__ = ["command"]

_KILLED = ("extender", "kube-scheduler", "kube-apiserver", "etcd")


@benchmark("crashes")
@click.option("--runs", type=click.IntRange(1), default=100, show_default=True)
@click.option(
    "--pods", type=click.IntRange(1, 300), default=300, show_default=True, help="Of each run."
)
@click.option("--seed", default=0, show_default=True, help="Of the first run; the next adds 1.")
@click.option("--minutes", default=0.0, help="Begin no run after this time.  [default: no end]")
@click.option("--logs", type=click.Path(path_type=Path), help="Where logs of failed runs go.")
def command(
    report: Report, runs: int, pods: int, seed: int, minutes: float, logs: Path | None
) -> None:
    """One row that sums up the runs."""
    report.title = f"Crashes, {pods} pods a run"
    row = Counter(over_commits=0)
    kills: Counter[str] = Counter()
    seconds: list[float] = []
    report.rows.append({})
    begun = time.monotonic()
    with ControlPlane(find(), durable=True) as plane:
        for number in range(seed, seed + runs):
            if minutes and time.monotonic() - begun > 60 * minutes:
                break
            started = time.perf_counter()
            cluster = Cluster(plane)
            system = System(cluster)
            try:
                kills += crash_storm(system, pods, number)
                row["pods"] += pods
                row.update(_look(system))
            except (AssertionError, NotReady) as error:
                row["over_commits"] += isinstance(error, InvalidSchedule)
                report.failures.append(f"seed {number}: {str(error)[:2000]}")
                if logs:
                    keep_logs_in(logs / str(number), plane)
            revive((plane.etcd, plane.apiserver))
            cluster.close()
            seconds.append(time.perf_counter() - started)
            report.rows[0] = {
                "runs": len(seconds),
                "pods": row["pods"],
                **{f"killed_{name.replace('-', '_')}": kills[name] for name in _KILLED},
                **{key: row[key] for key in row if key != "pods"},
                "failed": len(report.failures),
                "seconds_per_run": round(statistics.median(seconds), 1),
            }
            report.progress(len(seconds), runs)
            report.say(f"seed {number}: {seconds[-1]:.0f} s; failed so far: {len(report.failures)}")
            for log in plane.home.glob("*.log"):
                log.write_bytes(b"")  # so that the logs of a failed run are of that run alone


def _look(system: System) -> Counter[str]:
    """What the extender itself says at the end of a run."""
    metrics = system.extender.metrics()
    state = system.extender.get("/debug/state")
    found = Counter[str]()
    found["stuck_reservations"] = sum(
        pod["reserved"] for node in state["nodes"] for pod in node["pods"]
    )
    found["drift"] = int(metrics["snugfit_drift_rows"]) + len(state["recount_differences"])
    found["faults"] = int(metrics["snugfit_watch_faults_total"])
    # Of all its processes, also those that were killed.
    found["tracebacks"] = system.extender.log.read_text(encoding="utf-8").count("Traceback")
    return found
