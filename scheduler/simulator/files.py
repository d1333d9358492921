"""Picks the reader for a file: CSV is openb, JSON is ours or a kubectl dump."""

from __future__ import annotations

from pathlib import Path

from scheduler.core.errors import InvalidInput
from scheduler.core.model import Node
from scheduler.core.reading import read_bytes
from scheduler.kube.disruption import BASE_COST
from scheduler.simulator import kubedump, native, openb
from scheduler.simulator.workload import Workload

__all__ = ["load_dump", "load_nodes", "load_workload"]

_PEEK = 4096


def load_workload(nodes: Path, pods: Path | None = None) -> Workload:
    """Read a workload.

    Parameters
    ----------
    nodes
        openb node list (``.csv``), ``snugfit/v1`` file or kubectl dump (``.json``).
    pods
        openb pod list; needed with a CSV of nodes for anything that places pods, and refused
        with a JSON file, which has its own pods.
    """
    if nodes.suffix == ".csv":
        arrivals = openb.read_pods(pods) if pods else ()
        return Workload(openb.read_nodes(nodes), arrivals, (), (pods or nodes).stem)
    if nodes.suffix != ".json":
        raise InvalidInput(str(nodes), "is neither .csv nor .json", "use openb CSV or JSON")
    if pods is not None:
        raise InvalidInput(str(pods), "goes with a CSV of nodes only", "put the pods into the JSON")
    return native.read(nodes) if _is_ours(nodes) else kubedump.read(nodes)


def load_dump(path: Path) -> kubedump.Dump:
    """Read a cluster to plan for: a kubectl dump, or a ``snugfit/v1`` file.

    The latter knows no owners and annotations: all of its running pods may be moved.
    """
    if not _is_ours(path):
        return kubedump.read_dump(path)
    workload = native.read(path)
    costs = {running.request.uid: BASE_COST for running in workload.bound}
    return kubedump.Dump(workload, (), costs, ())


def _is_ours(path: Path) -> bool:
    return b'"format"' in read_bytes(path)[:_PEEK]


def load_nodes(path: Path) -> tuple[Node, ...]:
    """Only the nodes of such a file."""
    return load_workload(path).nodes
