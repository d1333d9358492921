"""Does anything get lost or doubled when everything gets killed at random?

etcd, kube-apiserver, kube-scheduler and the extender run with the accounts and the configuration
that the chart ships. 300 pods that all fit are created while components are killed with SIGKILL at
random points and started again; a referee watches the API all the while. In the end every pod has
to be placed, no device promised twice at any moment, no hold left, and the extender's state has to
be what the API says.

    python -m bench.crashes --runs 100 --pods 300 --seed 0

One control plane serves all runs. The same storm with other seeds is part of the end-to-end tests.
Needs Go for the first run (the control plane is built once).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from testbed.controlplane.assets import find
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.plane import ControlPlane, keep_logs_in
from testbed.controlplane.process import NotReady
from testbed.controlplane.referee import Foul
from testbed.controlplane.storm import crash_storm, revive
from testbed.controlplane.system import System


@click.command()
@click.option("--runs", default=100, show_default=True)
@click.option("--pods", default=300, show_default=True, help="Of each run, at most 300.")
@click.option("--seed", default=0, show_default=True, help="Of the first run; the next adds 1.")
@click.option("--minutes", default=0.0, help="Begin no run after this time.")
@click.option("--logs", type=click.Path(path_type=Path), help="Where logs of failed runs go.")
def main(runs: int, pods: int, seed: int, minutes: float, logs: Path | None) -> None:
    """Print what was killed and what came of it; exit code 1 if a run failed."""
    content: dict[str, Any] = {
        "runs": 0, "pods": 0, "over_commits": 0, "held": 0, "drift": 0, "faults": 0,
        "tracebacks": 0, "failed": [],
    }  # fmt: skip
    kills: Counter[str] = Counter()
    seconds: list[float] = []
    begun = time.monotonic()
    with ControlPlane(find(), durable=True) as plane:
        for number in range(seed, seed + runs):
            if minutes and time.monotonic() - begun > 60 * minutes:
                break
            started = time.perf_counter()
            cluster = Cluster(plane)
            system = System(cluster)
            said = "placed all"
            try:
                kills += crash_storm(system, pods, number)
                content["pods"] += pods
                _look(system, content)
            except (AssertionError, NotReady) as error:
                said = str(error)
                content["over_commits"] += isinstance(error, Foul)
                content["failed"].append({"seed": number, "what": said[:2000]})
                if logs:
                    keep_logs_in(logs / str(number), plane)
            revive((plane.etcd, plane.apiserver))
            cluster.close()
            seconds.append(time.perf_counter() - started)
            content["runs"] += 1
            sys.stderr.write(f"seed {number}: {seconds[-1]:.0f} s, {dict(kills)} so far, {said}\n")
            for log in plane.home.glob("*.log"):
                log.write_bytes(b"")  # so that the logs of a failed run are of that run alone
    content |= {
        "kills": dict(kills),
        "seconds": round(sum(seconds)),
        "seconds_of_a_run": round(statistics.median(seconds), 1),
    }
    json.dump(content, sys.stdout, indent=1)
    sys.stdout.write("\n")
    sys.exit(1 if content["failed"] else 0)


def _look(system: System, content: dict[str, Any]) -> None:
    """What the extender itself says at the end of a run."""
    metrics = system.extender.metrics()
    state = system.extender.get("/debug/state")
    content["held"] += sum(pod["held"] for node in state["nodes"] for pod in node["pods"])
    content["drift"] += int(metrics["snugfit_drift_rows"]) + len(state["recount_differences"])
    content["faults"] += int(metrics["snugfit_watch_faults_total"])
    # Of all its processes, also those that were killed.
    content["tracebacks"] += system.extender.log.read_text(encoding="utf-8").count("Traceback")


if __name__ == "__main__":
    main()
