"""``snugfit bench vector``: vector bin packing with known optima."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scheduler.cli.options import clock_option
from scheduler.cli.terminal import EXIT_BAD_INPUT, complain, one_line

__all__ = ["command"]


@click.command("vector")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--budget", default="10s", show_default=True, help="Per instance.")
@click.option(
    "--known", type=click.Path(path_type=Path), help="Tab-separated list of known optima."
)
@click.option("--seed", default=0, show_default=True, help="Decides where the search looks.")
@clock_option
@click.option("--json", "as_json", is_flag=True, help="A row per instance as JSON.")
def command(
    files: tuple[Path, ...], budget: str, known: Path | None, seed: int, clock: str, as_json: bool
) -> None:
    """Fewest bins for items with several sizes, per instance file (.vbp), with a proved bound.

    With --known (columns instance_name, LB, OPT, best_overall) the gap to the optimum and to the
    best published heuristic is shown. A file that cannot be read is named and stops no other; the
    exit code is 2 then.
    """
    from scheduler.cli.ask.plan import parse_budget
    from scheduler.cli.console import print_json, print_table, progress
    from scheduler.cli.provenance import provenance
    from scheduler.core.errors import InvalidInput

    limit = parse_budget(budget)
    published = _known(known) if known else {}
    rows, refused = [], []
    with progress("instances") as bar:
        for done, path in enumerate(files, start=1):
            try:
                rows.append(_row(path, limit, seed, clock, published))
            except InvalidInput as error:  # the others are still worth their time
                refused.append(str(error))
            bar(done, len(files))
    for text in refused:
        complain(one_line(f"snugfit: {text}"))
    if refused and not rows:
        raise click.exceptions.Exit(EXIT_BAD_INPUT)
    if as_json:
        print_json(
            {
                "provenance": provenance(),
                "budget_seconds": limit,
                "clock": clock,
                "rows": rows,
                "refused": refused,
            }
        )
    else:
        columns = list(rows[0])
        print_table(f"Bins, {limit:g} s each", columns, [tuple(row.values()) for row in rows])
    if refused:
        raise click.exceptions.Exit(EXIT_BAD_INPUT)


def _row(
    path: Path, limit: float, seed: int, clock: str, published: dict[str, dict[str, int]]
) -> dict[str, Any]:
    import numpy as np

    from scheduler.planner.effort import CLOCKS, Budget
    from scheduler.planner.vector import VectorInstance, pack_bins
    from scheduler.simulator.vectorpack import read

    content = read(path)
    instance = VectorInstance(
        np.array(content.capacity, dtype=np.int64),
        np.array(content.sizes, dtype=np.int64).reshape(-1, len(content.capacity)),
        np.array(content.demand, dtype=np.int64),
    )
    made = pack_bins(instance, Budget(limit, seed=seed, clock=CLOCKS[clock]))
    row: dict[str, Any] = {
        "instance": content.name,
        "bins": made.bins,
        "bound": made.bound,
        "status": made.status,
        "seconds": round(made.seconds, 3),
    }
    if published:
        figures = published.get(content.name, {})
        row["optimum"] = figures.get("OPT") if figures.get("OPT", -1) > 0 else None
        row["best_heuristic"] = figures.get("best_overall")
    return row


def _known(path: Path) -> dict[str, dict[str, int]]:
    import csv

    from scheduler.core.errors import InvalidInput
    from scheduler.core.reading import read_text

    lines = read_text(path).splitlines()
    try:
        return {
            row["instance_name"]: {key: int(row[key]) for key in ("LB", "OPT", "best_overall")}
            for row in csv.DictReader(lines, delimiter="\t")
        }
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(str(path), f"cannot be read: {error}") from error
