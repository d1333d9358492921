"""Options that several benchmarks share, spelt once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from scheduler.cli.units import DURATION
from scheduler.core.errors import InvalidInput
from scheduler.core.policies.table import policy_named

__all__ = [
    "ListOf",
    "arrival_option",
    "budget_option",
    "clock_option",
    "data_option",
    "openb_files",
    "policies_option",
    "profile_option",
    "seeds_option",
    "traces_option",
]

_NODE_LIST = "openb_node_list_gpu_node.csv"
_MOST = 1_000_000
T = TypeVar("T", int, float, str)


class ListOf(click.ParamType[tuple[T, ...]], Generic[T]):
    """Values with commas between, as a tuple.

    Parameters
    ----------
    kind
        What each value is.
    least
        Numbers have to be this or more; they may be a million at most.
    """

    name = "a,b,..."

    def __init__(self, kind: Callable[[str], T], least: float = 0.0) -> None:
        self._kind: Callable[[str], T] = kind
        self._least = least

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[T, ...]:
        """The values; says which one is wrong."""
        if isinstance(value, tuple):
            return value
        made = []
        for part in str(value).split(","):
            try:
                one = self._kind(part.strip())
            except ValueError:
                self.fail(f"{part!r} is not a number; write 4,8,16", param, ctx)
            if isinstance(one, str):
                if not one:
                    self.fail("a value is empty; write a,b,c", param, ctx)
            elif not self._least <= one <= _MOST:
                self.fail(f"{part} is out of range; use {self._least:g} to {_MOST:,}", param, ctx)
            made.append(one)
        return tuple(made)


class _Policies(ListOf[str]):
    """Names of policies."""

    def __init__(self) -> None:
        super().__init__(str)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        names = super().convert(value, param, ctx)
        for name in names:
            policy_named(name)
        return names


Decorator = Callable[[Any], Any]

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="SNUGFIT_DATA",
    default="../shared/data",
    show_default=True,
    help="Folder with openb/, the public traces.  [env: SNUGFIT_DATA]",
)

clock_option = click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="cpu: count processor time, for figures from a machine that does other work.",
)


def arrival_option(default: float) -> Decorator:
    """``--arrival``: how long the stream of the inflation protocol is."""
    return click.option(
        "--arrival",
        type=click.FloatRange(0.0, 100.0, min_open=True),
        default=default,
        show_default=True,
        help="Requested share of the GPUs at which the stream ends.",
    )


def seeds_option(default: int, what: str = "Seeds 0..n-1.") -> Decorator:
    """``--seeds``: how many."""
    return click.option(
        "--seeds", type=click.IntRange(1, 10_000), default=default, show_default=True, help=what
    )


def traces_option(default: str) -> Decorator:
    """``--traces``: of openb, with commas between."""
    return click.option("--traces", type=ListOf(str), default=default, show_default=True)


def policies_option(default: str) -> Decorator:
    """``--policies``, with commas between; see ``snugfit policies``."""
    return click.option(
        "--policies",
        type=_Policies(),
        default=default,
        show_default=True,
        help="See `snugfit policies`.",
    )


def profile_option(default: str) -> Decorator:
    """``--profile``: which workload profile prices and fragmentation refer to."""
    return click.option(
        "--profile",
        type=click.Choice(["given", "learnt"]),
        default=default,
        show_default=True,
        help="given: the workload profile is that of the whole trace. learnt: of the pods so far.",
    )


def budget_option(default: str, what: str) -> Decorator:
    """``--budget``: time of the planner, as seconds."""
    return click.option(
        "--budget",
        type=DURATION,
        default=default,
        show_default=True,
        help=f"{what}: 500ms, 1s, 10s ...",
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
