"""Options that commands share, and what becomes of those that have another name now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

__all__ = [
    "connection_gone",
    "gone",
    "inapplicable",
    "json_option",
    "kubeconfig_option",
    "pool_options",
    "rows_options",
    "seed_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]

MOST_SEED = (1 << 31) - 1

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")

seed_option = click.option(
    "--seed",
    type=click.IntRange(0, MOST_SEED),
    default=0,
    show_default=True,
    help="Decides everything random.",
)

kubeconfig_option = click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    help="With `live`: this kubeconfig.  [default: as kubectl]",
)


def pool_options(command: Command) -> Command:
    """``--processes`` and ``--ray``: who does the runs of a sweep, for ``cli.pools``."""
    for option in (
        click.option(
            "--ray",
            metavar="ADDRESS",
            help="Run on this Ray cluster: `auto`, HOST:PORT, or `local` for one of this machine. "
            "Needs snugfit[ray].",
        ),
        click.option(
            "--processes",
            type=click.IntRange(1, 1024),
            help="Worker processes.  [default: all cores]",
        ),
    ):
        command = option(command)
    return command


def rows_options(command: Command) -> Command:
    """``--rows`` and ``--resume``: the file that keeps the rows of a sweep."""
    for option in (
        click.option("--resume", is_flag=True, help="Leave out what --rows has already."),
        click.option(
            "--rows",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write each row here as it ends (JSON lines).",
        ),
    ):
        command = option(command)
    return command


_IN_LIVE = {
    "--context": "write CLUSTER live:CONTEXT",
    "--in-cluster": "CLUSTER `live` finds the service account of a pod by itself",
}


def connection_gone(command: Command) -> Command:
    """Options of commands that had ways of their own to name a live cluster."""
    command = gone("--context", instead=_IN_LIVE["--context"])(command)
    return gone("--in-cluster", instead=_IN_LIVE["--in-cluster"], is_flag=True)(command)


def gone(*names: str, instead: str, is_flag: bool = False) -> Callable[[Command], Command]:
    """An option that was renamed: giving it is an error that says what to write instead.

    Parameters
    ----------
    names
        The old spellings.
    instead
        A sentence that names the new one.
    is_flag
        Whether it took no value.
    """

    def refuse(ctx: click.Context, parameter: click.Parameter, _value: object) -> None:
        if ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{'/'.join(names)} is not an option any more: {instead}", ctx)

    return click.option(
        *names, hidden=True, expose_value=False, is_flag=is_flag, multiple=not is_flag,
        is_eager=True, callback=refuse,
    )  # fmt: skip


def inapplicable(**unless: tuple[bool, str]) -> None:
    """Refuse options that were given where they change nothing.

    Parameters
    ----------
    unless
        By parameter of the running command: whether it means something here, and if not, why.

    Raises
    ------
    click.UsageError
        Names the option and the reason.
    """
    ctx = click.get_current_context()
    for name, (applies, why) in unless.items():
        given = ctx.get_parameter_source(name) in (
            ParameterSource.COMMANDLINE,
            ParameterSource.ENVIRONMENT,
        )
        if given and not applies:
            (option,) = (p.opts[0] for p in ctx.command.params if p.name == name)
            raise click.UsageError(f"{option} changes nothing here: {why}", ctx)
