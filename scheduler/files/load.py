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


def load_workload(*paths: Path) -> Workload:
    """Read a workload.

    Parameters
    ----------
    paths
        Files that list it together: an openb node list (``.csv``) and at most one pod list; or one
        ``snugfit/v1`` file; or Kubernetes objects, JSON or YAML, in files and folders.

    Raises
    ------
    InvalidInput
        A file cannot be read, or they do not go together.
    """
    lists = [path for path in paths if path.suffix == ".csv"]
    if not lists:
        return _native(paths) or kubectl_dump.read(paths)
    if len(lists) < len(paths):
        other = next(path for path in paths if path not in lists)
        raise InvalidInput(str(other), "stands beside a CSV", "name lists of openb, or objects")
    nodes = [path for path in lists if not openb.lists_pods(path)]
    pods = [path for path in lists if path not in nodes]
    for found, what in ((nodes, "node list"), (pods, "pod list")):
        if len(found) > 1:
            raise InvalidInput(str(found[1]), f"is a second {what}", "name one of each")
    if not nodes:
        raise InvalidInput(str(pods[0]), "lists pods and no node", "name a list of nodes, too")
    arrivals = openb.read_pods(pods[0]) if pods else ()
    return Workload(openb.read_nodes(nodes[0]), arrivals, (), (pods or nodes)[0].stem)


def load_dump(*paths: Path) -> kubectl_dump.Dump:
    """Read a cluster to plan for: files as for :func:`load_workload`.

    ``snugfit/v1`` and openb know no owners and annotations: all running pods may be moved.
    """
    if any(path.suffix == ".csv" for path in paths):
        workload = load_workload(*paths)
    else:
        found = _native(paths)
        if found is None:
            return kubectl_dump.read_dump(paths)
        workload = found
    costs = {running.request.uid: BASE_COST for running in workload.bound}
    return kubectl_dump.Dump(workload, (), costs, ())


def _native(paths: Sequence[Path]) -> Workload | None:
    """A file of our own format, if that is what is named."""
    ours = [path for path in paths if _is_ours(path)]
    if not ours:
        return None
    if len(paths) > 1:
        other = next((path for path in paths if path not in ours), paths[1])
        raise InvalidInput(str(other), "stands beside a snugfit/v1 file", "name one of them")
    return native.read(ours[0])


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        return False
    content = read_bytes(path)
    try:
        top = _top_decoder.decode(content)
    except (msgspec.DecodeError, RecursionError):  # the reader says what is wrong
        return b'"format"' in content[:_PEEK] and b'"kind"' not in content[:_PEEK]
    return top.format is not None and top.kind is None


def load_nodes(path: Path) -> tuple[Node, ...]:
    """Only the nodes of such a file."""
    return load_workload(path).nodes
