"""Root of the command line, and what becomes of errors.

Exit codes of every command: 0 done, 1 the answer is "no", 2 bad input or usage, 3 internal fault,
130 stopped by Ctrl-C.
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
from scheduler.cli.output import EXIT_BAD_INPUT, EXIT_INTERRUPTED, complain, one_line
from scheduler.core.errors import InvalidInput, SchedulerError, nearest

__all__ = ["cli", "main", "run"]

_COMMANDS = {
    "Ask about a cluster": {
        "plan": ("ask.plan", "Place the whole backlog at once, with a proven bound."),
        "bound": ("ask.bound", "Most GPU that any scheduler could allocate."),
    },
    "Change a cluster": {
        "advertise": ("change.advertise", "Let nodes advertise fractions of their GPUs."),
    },
    "Run the extender": {
        "serve": ("run.serve", "Answer kube-scheduler."),
        "config": ("run.config", "Write or check kube-scheduler's configuration."),
        "doctor": ("run.doctor", "Find out what is missing, and how GPUs are understood."),
        "healthcheck": ("run.healthcheck", "Ask a running extender whether it is well."),
        "certificates": ("run.certificates", "Make and renew certificates."),
    },
    "Study packing": {
        "demo": ("study.demo", "Pack a synthetic cluster through the real webhook."),
        "simulate": ("study.simulate", "Replay a workload and report what got allocated."),
        "sweep": ("study.sweep", "Run a grid of workloads, settings, policies and seeds."),
        "policies": ("study.policies", "List the scoring policies."),
        "tune": ("study.tune", "Find weights of policy `priced` for a workload."),
        "generate": ("study.generate", "Write a synthetic workload."),
    },
}
"""What people come for; of each command the module below ``scheduler.cli``, and one line."""

_HOMES = {name: home for group in _COMMANDS.values() for name, (home, _) in group.items()}

_GONE = {"bench": "benchmarks are run in a checkout, by `python -m bench NAME`"}

EXIT_FAULT = 3

_DEBUG = "SNUGFIT_DEBUG"


class _Lazy(click.Group):
    """Imports a command's module when the command is used, not before."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _GONE:
            ctx.fail(f"{cmd_name!r} is not a command any more: {_GONE[cmd_name]}")
        if cmd_name not in _HOMES:
            meant = nearest(cmd_name, _HOMES)
            ctx.fail(f"no such command {cmd_name!r}; did you mean {meant!r}?")
        module = importlib.import_module(f"scheduler.cli.{_HOMES[cmd_name]}")
        command: click.Command = module.command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, group in _COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, said) for name, (_, said) in group.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="snugfit")
@click.option("--debug", is_flag=True, help="Show the traceback of an internal fault.")
def cli(debug: bool) -> None:
    """GPU-aware bin packing for Kubernetes: webhook, planner, simulator.

    Start with `snugfit demo`. Every command that prints a table also takes --json. Exit codes: 0
    done, 1 the answer is "no", 2 bad input or usage, 3 internal fault, 130 stopped by Ctrl-C.
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
        code = program.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        complain(error.format_message(), keep="\n")
        code = EXIT_BAD_INPUT
    except click.ClickException as error:
        text = " ".join(error.format_message().split()).rstrip(".")
        ctx = getattr(error, "ctx", None)
        where = f" (see `{ctx.command_path} --help`)" if ctx is not None else ""
        complain(one_line(f"{name}: {text}{where}"))
        code = EXIT_BAD_INPUT
    except click.Abort:
        code = EXIT_INTERRUPTED
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
    """A file that somebody has named and that cannot be written is not a fault of ours."""
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
