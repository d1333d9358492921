"""Options that several benchmarks share, spelt once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from scheduler.core.errors import InvalidInput

__all__ = ["clock_option", "data_option", "openb_files"]

_NODE_LIST = "openb_node_list_gpu_node.csv"

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="SNUGFIT_DATA",
    default="../shared/data",
    show_default=True,
    help="Folder with openb/. [env: SNUGFIT_DATA]",
)

clock_option = click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="cpu: count processor time, for figures from a machine that does other work.",
)


def openb_files(
    data: Path, traces: Sequence[str], option: str = "--traces"
) -> tuple[Path, list[Path]]:
    """The openb node list, and the pod list of each trace; an error names what is missing."""
    folder = data / "openb"
    nodes = folder / _NODE_LIST
    if not nodes.exists():
        raise InvalidInput("--data", f"{folder} holds no openb trace", "set SNUGFIT_DATA")
    pods = [folder / f"openb_pod_list_{trace}.csv" for trace in traces]
    for path in pods:
        if not path.exists():
            raise InvalidInput(option, f"there is no {path.name}", f"see {folder}")
    return nodes, pods
