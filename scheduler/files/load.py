"""Picks the reader for a file: CSV is openb, the rest is ours or lists Kubernetes objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.model import Node
from scheduler.core.reading import read_bytes
from scheduler.files import kubectl_dump, native, openb
from scheduler.files.workload import Workload
from scheduler.kube.disruption import BASE_COST

__all__ = ["load_dump", "load_nodes", "load_workload"]

_PEEK = 4096


class _Top(msgspec.Struct):
    """What tells our own format from everything else."""

    format: str | None = None
    kind: str | None = None


_top_decoder = msgspec.json.Decoder(_Top)


def load_workload(nodes: Path, pods: Path | None = None) -> Workload:
    """Read a workload.

    Parameters
    ----------
    nodes
        openb node list (``.csv``), ``snugfit/v1`` file, or Kubernetes objects: a JSON or YAML file
        or a folder of them.
    pods
        openb pod list, needed with a CSV of nodes for anything that places pods; or more Kubernetes
        objects. Refused with a ``snugfit/v1`` file, which has its own pods.
    """
    if nodes.suffix == ".csv":
        arrivals = openb.read_pods(pods) if pods else ()
        return Workload(openb.read_nodes(nodes), arrivals, (), (pods or nodes).stem)
    ours = _is_ours(nodes)
    if pods is not None and (ours or pods.suffix == ".csv"):
        raise InvalidInput(str(pods), "goes with a CSV of nodes only", "put the pods into the JSON")
    if ours:
        return native.read(nodes)
    return kubectl_dump.read([nodes] if pods is None else [nodes, pods])


def load_dump(paths: Path | Sequence[Path]) -> kubectl_dump.Dump:
    """Read a cluster to plan for: Kubernetes objects, or a ``snugfit/v1`` file.

    The latter knows no owners and annotations: all of its running pods may be moved.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    if not any(_is_ours(path) for path in paths):
        return kubectl_dump.read_dump(paths)
    if len(paths) > 1:
        raise InvalidInput(str(paths[1]), "stands beside a snugfit/v1 file", "name one of them")
    workload = native.read(paths[0])
    costs = {running.request.uid: BASE_COST for running in workload.bound}
    return kubectl_dump.Dump(workload, (), costs, ())


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        return False
    content = read_bytes(path)
    try:
        top = _top_decoder.decode(content)
    except (msgspec.DecodeError, RecursionError):  # whoever reads it says what is wrong
        return b'"format"' in content[:_PEEK] and b'"kind"' not in content[:_PEEK]
    return top.format is not None and top.kind is None


def load_nodes(path: Path) -> tuple[Node, ...]:
    """Only the nodes of such a file."""
    return load_workload(path).nodes
