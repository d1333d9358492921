"""The command line: ``python -m bench NAME [options]``."""

from __future__ import annotations

import click

from bench import catalogue
from scheduler.cli.main import run
from scheduler.cli.output import say
from scheduler.core.errors import nearest

__all__ = ["main"]


class _Catalogue(click.Group):
    """Imports a benchmark when it is run, not before."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return [*catalogue.BENCHMARKS, "readme"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        if cmd_name not in self.list_commands(ctx):
            meant = nearest(cmd_name, self.list_commands(ctx))
            ctx.fail(f"no such benchmark {cmd_name!r}; did you mean {meant!r}?")
        return catalogue.command(cmd_name)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in catalogue.SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, catalogue.question(name)) for name in names])
        with formatter.section("The page"):
            formatter.write_dl([("readme", catalogue.question("readme"))])


def _list(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's
    """One line each, for people and for scripts."""
    if not wanted:
        return
    width = max(map(len, catalogue.BENCHMARKS))
    for name in catalogue.BENCHMARKS:
        say(f"{name:{width}}  {catalogue.question(name)}")
    ctx.exit()


@click.group(cls=_Catalogue, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="List the benchmarks, one line each.",
)
def runner() -> None:
    """Benchmarks of Snugfit. `python -m bench NAME --help` states the protocol of one.

    Every benchmark prints a table, or with --json the same rows with commit, machine and settings;
    --record TABLE keeps them in bench/results. Ctrl-C ends a benchmark and prints the rows that are
    complete. Exit codes: 0 done, 1 an expectation failed, 2 bad input or usage, 3 internal fault,
    130 stopped.
    """


def main() -> None:
    """Entry point."""
    run(runner, "bench")
