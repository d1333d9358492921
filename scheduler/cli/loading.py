"""Files of clusters and workloads for the commands: read, and what had to be left out is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduler.core.prices import PriceWeights
    from scheduler.simulator.workload import Workload

__all__ = ["read_weights", "read_workload", "remark"]

_MOST_REMARKS = 10


def read_workload(nodes: Path, pods: Path | None = None) -> Workload:
    """As :func:`scheduler.simulator.files.load_workload`; says what was left out."""
    from scheduler.simulator.files import load_workload

    workload = load_workload(nodes, pods)
    remark(nodes, workload.remarks)
    return workload


def remark(path: Path, left_out: Sequence[str]) -> None:
    """Name what could not be read, and count it."""
    from scheduler.cli.terminal import complain, one_line

    for text in left_out[:_MOST_REMARKS]:
        complain(one_line(f"{path}: left out: {text}"))
    if left_out:
        complain(f"{path}: {len(left_out)} objects could not be read as they are")


def read_weights(path: Path) -> PriceWeights:
    """Weights of a policy file; says where others are in force than those that were given.

    Raises
    ------
    InvalidInput
        Names what is wrong.
    """
    from scheduler.cli.terminal import complain
    from scheduler.core.prices import PriceWeights
    from scheduler.core.reading import read_text

    weights = PriceWeights.from_policy_file(read_text(path), str(path))
    for text in weights.remarks():
        complain(f"{path}: {text}")
    return weights
