"""Files of clusters and workloads for the commands: read, and what had to be left out is said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduler.core.price_weights import PriceWeights
    from scheduler.files.workload import Workload

__all__ = ["read_weights", "read_workload", "remark", "said_of"]

_MOST_REMARKS = 10


def read_workload(nodes: Path, pods: Path | None = None) -> Workload:
    """As :func:`scheduler.files.load.load_workload`; says what was left out."""
    from scheduler.files.load import load_workload

    workload = load_workload(nodes, pods)
    remark(str(nodes), workload)
    return workload


def remark(name: str, workload: Workload) -> None:
    """Name what is not understood, and count it; then what else there is to say of a file."""
    from scheduler.cli.terminal import complain, one_line

    misread = workload.not_understood
    for one in misread[:_MOST_REMARKS]:
        complain(one_line(f"{name}: not understood: {one.text}"))
    if len(misread) > _MOST_REMARKS:
        complain(f"{name}: {len(misread)} objects in all are not understood (--json lists them)")
    if not workload.nodes:
        complain(f"{name}: lists no node")
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
    from scheduler.cli.terminal import complain
    from scheduler.core.price_weights import PriceWeights
    from scheduler.core.reading import read_text

    weights = PriceWeights.from_policy_file(read_text(path), str(path))
    for text in weights.remarks():
        complain(f"{path}: {text}")
    return weights
