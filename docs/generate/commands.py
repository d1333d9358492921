"""The command line, from its own definitions."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from docs.generate.markdown import block, code, table
from scheduler.cli.main import cli

__all__ = ["commands", "page"]

_HEAD = """# Command line

The text of this page is what `snugfit COMMAND --help` says.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the answer is "no": a pod without a place, a trap in a configuration, nothing gained |
| 2 | the input or the usage is wrong; one line names the field and the remedy |
| 3 | an internal fault; `snugfit --debug COMMAND` shows the traceback |

Every command that prints a table also takes `--json`; [Output](output.md) explains the keys.
"""


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command with its full name, groups before what they hold."""
    root = click.Context(cli, info_name="snugfit")
    yield from _below(cli, root)


def _below(
    group: click.Group, ctx: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=ctx)
        yield inner.command_path, command, inner
        if isinstance(command, click.Group):
            yield from _below(command, inner)


def page() -> str:
    """One section per command."""
    return _HEAD + "\n" + "\n\n".join(_section(*each) for each in commands()) + "\n"


def _section(path: str, command: click.Command, ctx: click.Context) -> str:
    level = "##" if path.count(" ") == 1 else "###"
    usage = " ".join([path, *command.collect_usage_pieces(ctx)])
    parts = [f"{level} `{path}`", block(usage, "text"), _text(command.help or "")]
    rows = [row for row in (_row(p, ctx) for p in command.get_params(ctx)) if row]
    if rows:
        parts.append(table(("option", "meaning"), rows))
    return "\n\n".join(part for part in parts if part)


def _row(parameter: click.Parameter, ctx: click.Context) -> tuple[str, str] | None:
    if "--help" in parameter.opts:
        return None
    record = parameter.get_help_record(ctx)
    if record is None:  # an argument, which the usage shows
        return None
    name, text = record
    return code(name), text


def _text(text: str) -> str:
    """Paragraphs; what stands behind a mark of click's is shown line by line."""
    shown = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in paragraph.splitlines()]
        if lines[0] in ("\b", "\\b"):
            shown.append(block("\n".join(lines[1:]), "text"))
        else:
            shown.append(" ".join(lines))
    return "\n\n".join(shown)
