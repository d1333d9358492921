"""Root of the command line, and what becomes of errors.

Exit codes of every command: 0 done, 1 the answer is "no", 2 bad input or usage, 3 internal fault.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from typing import NoReturn

import click

from scheduler import __version__
from scheduler.cli.terminal import EXIT_BAD_INPUT, complain, one_line
from scheduler.core.errors import InvalidInput, SchedulerError, nearest

__all__ = ["cli", "main", "run"]

_COMMANDS = {
    "advertise": "Let nodes advertise fractions of their GPUs.",
    "bound": "Best possible GPU allocation of a workload on a cluster.",
    "certificates": "Make and renew the certificates of topology `service`.",
    "config": "Write or check the configuration by which kube-scheduler calls us.",
    "demo": "Pack a synthetic cluster through the real webhook.",
    "doctor": "Look at a live cluster: what Snugfit needs, and how its GPUs are understood.",
    "generate": "Write a synthetic workload to a file.",
    "healthcheck": "Ask a running extender whether it is well.",
    "plan": "Plan the whole backlog of a cluster, with a proven bound.",
    "policies": "List the scoring policies.",
    "serve": "Run the extender webhook.",
    "simulate": "Replay a workload and report what got allocated.",
    "tune": "Find the weights of policy `priced` for your own workload.",
}

_HOMES = {
    "advertise": "change.advertise",
    "bound": "ask.bound",
    "certificates": "run.certificates",
    "config": "run.config",
    "demo": "study.demo",
    "doctor": "run.doctor",
    "generate": "study.generate",
    "healthcheck": "run.healthcheck",
    "plan": "ask.plan",
    "policies": "study.policies",
    "serve": "run.serve",
    "simulate": "study.simulate",
    "tune": "study.tune",
}
"""Where each command lives, below ``scheduler.cli``."""

_GONE = {"bench": "benchmarks are run in a checkout, by `python -m bench NAME`"}

EXIT_FAULT = 3

_DEBUG = "SNUGFIT_DEBUG"


class _Lazy(click.Group):
    """Imports a command's module when the command is used, not before."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _GONE:
            ctx.fail(f"{cmd_name!r} is not a command any more: {_GONE[cmd_name]}")
        if cmd_name not in _COMMANDS:
            meant = nearest(cmd_name, _COMMANDS)
            ctx.fail(f"no such command {cmd_name!r}; did you mean {meant!r}?")
        module = importlib.import_module(f"scheduler.cli.{_HOMES[cmd_name]}")
        command: click.Command = module.command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="snugfit")
@click.option("--debug", is_flag=True, help="Show the traceback of an internal fault.")
def cli(debug: bool) -> None:
    """GPU-aware bin packing for Kubernetes: webhook, planner, simulator.

    Start with `snugfit demo`. Every command that prints a table also takes --json. Exit codes: 0
    done, 1 the answer is "no", 2 bad input or usage, 3 internal fault.
    """
    if debug:
        os.environ[_DEBUG] = "1"


def main() -> None:
    """Entry point."""
    run(cli, "snugfit")


def run(program: click.Command, name: str) -> NoReturn:
    """Run a command line; every outcome becomes an exit code and one clear line.

    Parameters
    ----------
    program
        All of its commands.
    name
        What it is called by, before errors.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        code = program.main(standalone_mode=False)
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        complain(shown.getvalue().rstrip(), keep="\n")
        code = EXIT_BAD_INPUT
    except click.Abort:
        code = 130
    except InvalidInput as error:
        complain(one_line(f"{name}: {error}"))
        code = EXIT_BAD_INPUT
    except SchedulerError as error:
        complain(one_line(f"{name}: {error}"))
        code = EXIT_FAULT
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; there is nobody to tell
        code = 0
    except OSError as error:
        code = _unusable(error, name)
    except Exception as error:  # noqa: BLE001 - the last resort, turned into an exit code
        code = _fault(error, name)
    sys.exit(code if isinstance(code, int) else 0)


def _unusable(error: OSError, name: str) -> int:
    """A file that somebody has named and that cannot be written is no fault of ours."""
    if error.filename is None:
        return _fault(error, name)
    complain(one_line(f"{name}: {error.filename}: cannot be used: {error.strerror}"))
    return EXIT_BAD_INPUT


def _fault(error: Exception, name: str) -> int:
    if os.environ.get(_DEBUG):
        complain("".join(traceback.format_exception(error)), keep="\n")
    complain(
        one_line(f"{name}: internal fault: {type(error).__name__}: {error}")
        + " (set SNUGFIT_DEBUG=1 for the traceback, and please report it)"
    )
    return EXIT_FAULT


if __name__ == "__main__":
    main()
