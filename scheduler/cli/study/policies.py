"""``snugfit policies``."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("policies")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(as_json: bool) -> None:
    """List the scoring policies, what they prefer and where they come from."""
    from scheduler.cli.output import message, print_json, print_table
    from scheduler.core.policies.table import policies

    known, problems = policies()
    for problem in problems:
        message(str(problem))
    rows = [(p.name, p.summary, p.source) for p in known.values()]
    if as_json:
        print_json([{"name": n, "summary": s, "source": o} for n, s, o in rows])
        return
    print_table("Policies", ("policy", "prefers", "source"), rows)
