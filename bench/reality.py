"""Does the simulator tell the truth?

The openb trace under the inflation protocol (see `online`), once in the simulator and once through
kube-apiserver, kube-scheduler and the running extender: the same nodes in the same order, the same
pods in the same order over one connection, fractions and whole devices by `snugfit.io/gpu-milli`,
models by node affinity. Beside it the same stream through kube-scheduler alone, which counts
milli-GPU per node; its row counts only pods for which their node has a device. A validator that
reads the API alone checks the end. The first run builds the control plane (needs Go).
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.options import arrival_option, data_option, openb_files
from bench.report import Report, benchmark
from scheduler.core.defaults import DEFAULT_POLICY
from scheduler.core.engine import Engine
from scheduler.core.model import Node, PodRequest, Reason
from scheduler.core.policies.table import policy_named
from scheduler.core.state import ClusterState
from scheduler.files import dump_writer, openb
from scheduler.files.workload import Arrival, Workload
from scheduler.kube.resource_names import ResourceNames
from scheduler.simulator.inflation import Experiment, inflate, run
from testbed.controlplane.assets import find
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.extender import live
from testbed.controlplane.objects import SCHEDULER
from testbed.controlplane.plane import ControlPlane
from testbed.controlplane.scheduling import extended, stock

__all__ = ["command"]

NAMES = ResourceNames()


@benchmark("reality")
@data_option
@click.option("--trace", default="default", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--policy", default=DEFAULT_POLICY, show_default=True)
@arrival_option(1.0)
@click.option(
    "--most-nodes",
    type=click.IntRange(0),
    default=0,
    help="Only so many nodes, and a share of the pods.  [default: all]",
)
def command(
    report: Report, data: Path, trace: str, seed: int, policy: str, arrival: float, most_nodes: int
) -> None:
    """A row for the simulator, for Snugfit, and for kube-scheduler alone."""
    policy_named(policy)
    workload = _workload(data, trace, seed, arrival, most_nodes)
    nodes, pods = len(workload.nodes), len(workload.arrivals)
    report.title = f"{trace}, seed {seed}: {nodes} nodes, {pods} pods"
    report.progress(0, 3)
    places = [_counted(report, _simulated(workload, policy, seed))]
    with ControlPlane(find()) as plane:
        places += [_counted(report, _real(plane, workload, who)) for who in (policy, None)]
    truth, where = places[:2]
    both = [pod for pod in truth if pod in where]
    first = next((pod for pod in truth if truth[pod] != where.get(pod)), None)
    report.facts = {
        "same_node_percent": round(100 * sum(truth[p] == where[p] for p in both) / len(both), 2),
        "only_simulated": len([p for p in truth if p not in where]),
        "only_real": len([p for p in where if p not in truth]),
        "first_difference": first and [first, truth[first], where.get(first)],
    }


def _counted(report: Report, found: tuple[dict[str, Any], dict[str, str]]) -> dict[str, str]:
    """Add the row; the node of each pod."""
    row, where = found
    report.add(**row)
    report.progress(len(report.rows), 3)
    return where


def _workload(data: Path, trace: str, seed: int, arrival: float, most_nodes: int) -> Workload:
    """The stream of the protocol under names that Kubernetes accepts, nodes in row order."""
    node_list, (pod_list,) = openb_files(data, [trace], "--trace")
    nodes, pods = openb.read_nodes(node_list), openb.read_pods(pod_list)
    if most_nodes:
        nodes, pods = nodes[:: len(nodes) // most_nodes], pods[:: len(nodes) // most_nodes]
    stream = inflate(Workload(nodes, pods), seed=seed, arrival=arrival)
    renamed = tuple(
        replace(node, name=f"node-{number:05d}") for number, node in enumerate(stream.nodes)
    )
    arrivals = [
        Arrival(replace(pod, uid=name, name=name, namespace="default"))
        for number, pod in enumerate(stream.requests)
        if (name := f"p{number:05d}-{re.sub('[^a-z0-9]+', '-', pod.name)}")
    ]
    return Workload(renamed, tuple(arrivals), source=trace)


def _simulated(workload: Workload, policy: str, seed: int) -> tuple[dict[str, Any], dict[str, str]]:
    ends: dict[str, Engine] = {}
    outcome = run(
        workload,
        Experiment(policy, seed, protocol="as-listed"),
        observe=lambda _number, _share, engine: ends.update(engine=engine),
    )
    placements = ends["engine"].state.placements.values()
    row = {
        "who": f"simulator ({policy})",
        "allocated": round(100 * outcome.allocated_gpu_milli / outcome.capacity_gpu_milli, 3),
        "placed": outcome.placed,
        "seconds": round(outcome.seconds, 1),
    }
    return row, {placement.pod.name: placement.node for placement in placements}


def _real(
    plane: ControlPlane, workload: Workload, policy: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    cluster = Cluster(plane)
    cluster.create(_node(node) for node in workload.nodes)
    profile = plane.home / "typical.json"
    dump_writer.write(Workload((), workload.arrivals), profile)
    config = stock()
    if policy:
        user = plane.kubeconfig(plane.tokens["admin"], "extender")
        extender = live(plane, user, "--policy", policy, "--workload-profile", str(profile))
        extender.start()
        config = extended(extender.url, bindVerb="bind")
        del config["extenders"][0]["managedResources"]  # pods without GPUs come to us, too
    cluster.scheduler(config)
    started = time.perf_counter()
    # One connection, so that kube-scheduler sees the pods in this order.
    cluster.create((_pod(arrival.request) for arrival in workload.arrivals), connections=1)
    where = cluster.settle(patience_s=1800, quiet_s=6.0)
    seconds = time.perf_counter() - started
    requests = {arrival.request.name: arrival.request for arrival in workload.arrivals}
    if policy:
        cluster.validator.check()
    else:
        where = _with_devices(workload, where, requests)
    allocated = sum(requests[pod].gpu.requested_milli for pod in where)
    row: dict[str, Any] = {
        "who": f"kube-scheduler and Snugfit ({policy})" if policy else "kube-scheduler alone",
        "allocated": round(100 * allocated / workload.gpu_milli, 3),
        "placed": len(where),
        "seconds": round(seconds, 1),
    }
    if policy:
        row["drift"] = int(extender.metrics()["snugfit_drift_rows"])
    cluster.close()
    return row, where


def _with_devices(
    workload: Workload, where: dict[str, str], requests: dict[str, PodRequest]
) -> dict[str, str]:
    """The pods for which their node has a device, in the order of their creation.

    kube-scheduler alone counts milli-GPU per node: it binds fractions that no device can host.
    """
    engine = Engine(ClusterState(workload.nodes), "best-fit")
    kept = {}
    for pod, node in sorted(where.items()):
        row = engine.state.row(node)
        if int(engine.filter(requests[pod], np.array([row]))[0]) == Reason.FITS.code:
            engine.place_on(requests[pod], node)
            kept[pod] = node
    return kept


def _node(node: Node) -> dict[str, Any]:
    allocatable = {
        "cpu": f"{node.cpu_milli}m",
        "memory": str(node.memory_bytes),
        "pods": str(node.pods),
    }
    if node.devices:
        allocatable[NAMES.milli] = str(node.gpu_milli)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": {NAMES.product_labels[0]: node.product}},
        "status": {"allocatable": allocatable, "capacity": allocatable},
    }


def _pod(request: PodRequest) -> dict[str, Any]:
    body = dump_writer.pod_json(request, NAMES)
    del body["metadata"]["uid"], body["spec"]["priority"]
    body["spec"]["schedulerName"] = SCHEDULER
    return body
