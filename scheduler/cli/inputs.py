"""What commands read: the cluster that they are about, and weights.

A cluster is named in one way by every command: CLUSTER, see :data:`CLUSTER_HELP`. Whatever could
not be read of it is said on stderr.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scheduler.core.errors import InvalidInput

if TYPE_CHECKING:
    from scheduler.cluster.api.client import KubeClient
    from scheduler.core.price_weights import PriceWeights
    from scheduler.files.kubectl_dump import Dump
    from scheduler.files.workload import Workload

__all__ = [
    "CLUSTER_HELP",
    "cluster_argument",
    "cluster_files",
    "live_argument",
    "live_client",
    "read_dump",
    "read_weights",
    "read_workload",
    "said_of",
    "some_pending",
    "workload_files",
]

CLUSTER_HELP = """
    \b
    CLUSTER is one of
      FILE...         openb lists (.csv), a snugfit/v1 file, or Kubernetes
                      objects as JSON or YAML, for which a folder may stand
                      (its .json and .yaml files); several list one cluster
                      together
      -               such a file from standard input
      live[:CONTEXT]  what the API server lists, by the kubeconfig as kubectl
                      finds it, or by the service account of this pod
      extender:URL    what a running extender knows
"""

_STDIN, _LIVE, _EXTENDER = "-", "live", "extender:"
_MOST_REMARKS = 10
_ANSWER_S = 30.0
_OF_EXTENDER = "rules between pods, volumes, owners and disruption budgets"

Command = TypeVar("Command", bound=Callable[..., Any])


def cluster_argument(*, required: bool = True) -> Callable[[Command], Command]:
    """The argument CLUSTER as ``cluster``, a tuple of texts; explained at the end of the help."""

    def decorate(command: Command) -> Command:
        command.__doc__ = (command.__doc__ or "").rstrip() + "\n" + CLUSTER_HELP
        metavar = "CLUSTER" if required else "[CLUSTER]"
        argument = click.argument("cluster", nargs=-1, required=required, metavar=metavar)
        return argument(command)

    return decorate


live_argument = click.argument("cluster", nargs=-1, metavar="[CLUSTER]")
"""CLUSTER of commands that need the API server: ``live`` if it is left out."""


@contextmanager
def cluster_files(cluster: Sequence[str], kubeconfig: Path | None = None) -> Iterator[list[Path]]:
    """Files that list a cluster, for the time of the block.

    Parameters
    ----------
    cluster
        The argument CLUSTER.
    kubeconfig
        Of ``live``.

    Raises
    ------
    InvalidInput
        It names nothing, or nothing that can be read.
    KubeApiError
        The API server did not list its nodes or pods.
    """
    special = next((name for name in cluster if _is_special(name)), None)
    if kubeconfig is not None and (special is None or not _is_live(special)):
        raise InvalidInput("--kubeconfig", "changes nothing here", "it is for CLUSTER `live`")
    if special is None:
        yield [Path(name) for name in cluster]
        return
    if len(cluster) > 1:
        raise InvalidInput(f"CLUSTER {special}", "stands beside others", "name it alone")
    with tempfile.TemporaryDirectory(prefix="snugfit-") as folder:
        try:
            yield [_fetched(special, Path(folder), kubeconfig)]
        except InvalidInput as error:
            if folder not in error.field:
                raise
            # Its temporary name would tell nobody anything.
            field = error.field.replace(str(next(Path(folder).iterdir())), _shown(special))
            raise InvalidInput(field, error.problem, error.remedy) from error


def _is_special(name: str) -> bool:
    return name == _STDIN or _is_live(name) or name.startswith(_EXTENDER)


def _is_live(name: str) -> bool:
    return name.partition(":")[0] == _LIVE


def _shown(name: str) -> str:
    return "standard input" if name == _STDIN else name


def _fetched(name: str, folder: Path, kubeconfig: Path | None) -> Path:
    """A CLUSTER that is not a file, as one."""
    from scheduler.core.reading import LARGEST_WORKLOAD, read_stream

    if name == _STDIN:
        content = read_stream(sys.stdin.buffer, _shown(name), LARGEST_WORKLOAD)
        path = folder / ("stdin.csv" if content.startswith(b"sn,") else "stdin")
        path.write_bytes(content)
    elif name.startswith(_EXTENDER):
        path = folder / "extender"
        path.write_bytes(_dump_of_extender(name.removeprefix(_EXTENDER)))
    else:
        path = folder / "live"
        _list(live_client([name], kubeconfig), path)
    return path


def live_client(cluster: Sequence[str], kubeconfig: Path | None = None) -> KubeClient:
    """A client for the cluster ``live[:CONTEXT]``, or ``live`` if nothing is named.

    Without any kubeconfig, in a pod, it is the cluster that the pod runs in.

    Raises
    ------
    InvalidInput
        The name is not of that form, or there are no credentials.
    """
    from scheduler.cluster.api.client import KubeClient, in_a_pod, kubeconfigs

    name = " ".join(cluster) or _LIVE
    if not _is_live(name) or len(cluster) > 1:
        remedy = "write live or live:CONTEXT; nodes are named by --node"
        raise InvalidInput(f"CLUSTER {name}", "is not a live cluster", remedy)
    context = name.partition(":")[2]
    if context or kubeconfig is not None or kubeconfigs(None) or not in_a_pod():
        return KubeClient.from_kubeconfig(kubeconfig, context or None)
    return KubeClient.in_cluster()


def _list(client: KubeClient, path: Path) -> None:
    from scheduler.cli.output import complain, one_line
    from scheduler.cluster.api.dump import Dump

    dump = Dump(client)
    with path.open("wb") as file:
        for document in dump.lists():
            file.write(document + b"\n")
    for text in dump.refused:
        complain(one_line(f"live: not listed: {text}"))


def _dump_of_extender(url: str) -> bytes:
    from scheduler.cli.fetch import fetch
    from scheduler.core.reading import LARGEST_WORKLOAD

    status, body = fetch(
        url.rstrip("/") + "/debug/cluster", field="CLUSTER extender", timeout_s=_ANSWER_S,
        most=LARGEST_WORKLOAD,
    )  # fmt: skip
    if status != 200:
        said = body.decode(errors="replace")[:200].strip()
        raise InvalidInput(
            f"CLUSTER extender:{url}",
            f"answered {status or 'nothing'}: {said}",
            "forward its port: kubectl -n snugfit port-forward deploy/snugfit 10262",
        )
    return body


# -- workloads -----------------------------------------------------------------------------------


@contextmanager
def workload_files(
    cluster: Sequence[str], kubeconfig: Path | None = None
) -> Iterator[tuple[list[Path], Workload]]:
    """A cluster with its pods, and files that say the same for the time of the block.

    Raises
    ------
    InvalidInput, KubeApiError
        As :func:`cluster_files`.
    """
    from scheduler.files.load import load_workload

    with cluster_files(cluster, kubeconfig) as files:
        workload = load_workload(*files)
        if _is_special(cluster[0]):
            workload = replace(workload, source=_shown(cluster[0]))
        _remark(cluster, workload)
        yield files, workload


def read_workload(cluster: Sequence[str], kubeconfig: Path | None = None) -> Workload:
    """A cluster with its pods; raises as :func:`cluster_files`."""
    with workload_files(cluster, kubeconfig) as (_, workload):
        return workload


def some_pending(cluster: Sequence[str], workload: Workload) -> None:
    """Make sure that a workload has pods to place; :class:`InvalidInput` if it has none."""
    if not workload.arrivals:
        raise InvalidInput(
            f"CLUSTER {' '.join(map(_shown, cluster))}",
            "no pod is pending",
            "add an openb pod list, or a file with pods that have no node",
        )


def read_dump(cluster: Sequence[str], kubeconfig: Path | None = None) -> Dump:
    """A cluster to plan for; raises as :func:`cluster_files`."""
    from scheduler.core.omissions import NotConsidered
    from scheduler.files.load import load_dump

    with cluster_files(cluster, kubeconfig) as files:
        dump = load_dump(*files)
    if cluster[0].startswith(_EXTENDER):
        unknown = NotConsidered(_OF_EXTENDER, (), "nobody is moved; CLUSTER `live` knows them")
        workload = replace(dump.workload, not_considered=(*dump.workload.not_considered, unknown))
        dump = replace(dump, workload=workload, move_costs={})
    _remark(cluster, dump.workload)
    return dump


def _remark(cluster: Sequence[str], workload: Workload) -> None:
    """Name what is not understood, and count it; then what else there is to say of a file."""
    from scheduler.cli.output import complain, one_line

    name = ", ".join(map(_shown, cluster))
    misread = workload.not_understood
    for one in misread[:_MOST_REMARKS]:
        complain(one_line(f"{name}: not understood: {one.text}"))
    if len(misread) > _MOST_REMARKS:
        complain(f"{name}: {len(misread)} objects in all are not understood (--json lists them)")
    if not workload.nodes:
        complain(one_line(f"{name}: lists no node"))
    for text in workload.remarks:
        complain(one_line(f"{name}: {text}"))


def said_of(workload: Workload) -> dict[str, Any]:
    """For JSON: what of a file is not understood, and what of it nobody takes into account."""
    return {
        "not_understood": [one.to_json() for one in workload.not_understood],
        "not_considered": [one.to_json() for one in workload.not_considered],
    }


def read_weights(path: Path) -> PriceWeights:
    """Weights of a policy file; says where others are in force than those that were given.

    Raises
    ------
    InvalidInput
        Names what is wrong.
    """
    from scheduler.cli.output import complain
    from scheduler.core.price_weights import PriceWeights
    from scheduler.core.reading import read_text

    weights = PriceWeights.from_policy_file(read_text(path), str(path))
    for text in weights.remarks():
        complain(f"{path}: {text}")
    return weights
