"""``snugfit sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.options import json_option, pool_options, rows_options
from scheduler.cli.output import EXIT_INTERRUPTED
from scheduler.cli.units import PART

if TYPE_CHECKING:
    from scheduler.simulator.sweep.grid import Cell
    from scheduler.simulator.sweep.pools import Pool
    from scheduler.simulator.sweep.row_file import RowFile
    from scheduler.simulator.sweep.runner import Failed

__all__ = ["command"]

EXIT_FAILED = 1
EXIT_FAULT = 3


@click.command("sweep")
@click.argument("grid", type=click.Path(path_type=Path))
@rows_options
@click.option(
    "--part", type=PART, default="1/1", help="Only every N-th row, from the K-th on: 1/10."
)
@pool_options
@json_option
def command(
    grid: Path,
    rows: Path | None,
    resume: bool,
    part: tuple[int, int],
    processes: int | None,
    ray: str | None,
    as_json: bool,
) -> None:
    """Run a grid of workloads, settings, policies and seeds.

    Each row of the grid is a run of its own; everything random about it follows from the row, so
    that it is the same on whatever process or machine it is done. GRID is YAML or JSON:

    \b
    format: snugfit-sweep/v1
    workloads:
    - files: [nodes.csv, pods.csv]           # looked for beside GRID
    - name: small
      generate: {nodes: 60, load: 1.2}       # seed: that of the row, if left out
    policies: [priced, fgd, first-fit]
    seeds: 10                                # 0 to 9; or a list
    settings:
    - {protocol: inflation, arrival: 1.3}    # or as-listed
    - {protocol: replay, rate: 2, workload_profile: learnt}

    Settings may have plan_every_s, policy_file and a name, too. With --rows each row is written as
    it ends: key (a hash of everything that it depends on), job, row and seconds. After Ctrl-C, or a
    machine that went away, the same command with --resume does what is missing. A worker that dies
    is replaced and its row run again, three times at most; then the row is named, the others go on,
    and the exit code is 1.

    \b
    snugfit sweep grid.yaml --rows rows.jsonl
    snugfit sweep grid.yaml --rows rows.jsonl --resume
    """  # noqa: D301 - click looks for a real backspace
    from scheduler.cli.pools import pool_of, row_file
    from scheduler.simulator.sweep.grid import part_of, read_grid

    cells = part_of(read_grid(grid), *part)
    kept = row_file(rows, resume=resume)
    with pool_of(processes, ray) as pool:
        found = _Found(cells)
        found.run(pool, kept)
    found.show(as_json=as_json)
    raise click.exceptions.Exit(found.exit_code)


class _Found:
    """What a sweep has come to so far."""

    def __init__(self, cells: list[Cell]) -> None:
        self._cells = cells
        self._rows: dict[int, dict[str, Any]] = {}
        self._failed: list[Failed] = []
        self._known = 0
        self._stopped = False

    def run(self, pool: Pool, kept: RowFile) -> None:
        """Until all rows are there, or Ctrl-C."""
        from scheduler.cli.interrupts import heard_by
        from scheduler.cli.output import complain, one_line, progress
        from scheduler.simulator.sweep.runner import Failed, Runner
        from scheduler.simulator.sweep.runs import row_of

        before = len(kept)
        jobs = [cell.job for cell in self._cells]
        try:
            with progress("sweep") as bar, heard_by(bar) as told:
                for number, row in Runner(pool, kept).each(row_of, jobs, told):
                    if isinstance(row, Failed):
                        self._failed.append(row)
                        complain(one_line(f"failed: {self._called(number)}: {row.error}"))
                    else:
                        self._rows[number] = row.figures
        except KeyboardInterrupt:
            self._stopped = True
        self._known = len(self._rows) - (len(kept) - before)

    def _called(self, number: int) -> str:
        cell = self._cells[number]
        return f"{cell.workload}, {cell.settings}, {cell.job.policy}, seed {cell.job.seed}"

    def show(self, *, as_json: bool) -> None:
        """Means over seeds, as a table or as JSON."""
        from scheduler.cli.output import message, print_json, print_table
        from scheduler.cli.study.means import means

        found = []
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for number in sorted(self._rows):
            cell = self._cells[number]
            groups.setdefault((cell.workload, cell.settings), []).append(self._rows[number])
        for (workload, settings), rows in groups.items():
            found += [{"workload": workload, "settings": settings, **one} for one in means(rows)]
        if as_json:
            print_json(
                {
                    "rows": len(self._cells),
                    "done": len(self._rows),
                    "known_before": self._known,
                    "failed": [{"job": one.job, "error": str(one.error)} for one in self._failed],
                    "means": found,
                    "stopped": self._stopped,
                }
            )
        else:
            print_table(
                f"{len(self._rows)} rows: means over seeds, ± half of the 95 % interval",
                ("workload", "settings", "policy", "seeds", "allocated %", "placed", "pending"),
                [
                    (
                        *(one[key] for key in ("workload", "settings", "policy", "seeds")),
                        *(_interval(one[key]) for key in _SHOWN),
                    )
                    for one in found
                ],
            )
        if self._stopped:
            message(f"stopped by Ctrl-C; rows done: {len(self._rows)} of {len(self._cells)}")

    @property
    def exit_code(self) -> int:
        """As every command's; rows without a result are a "no"."""
        from scheduler.core.errors import SchedulerError

        if self._stopped:
            return EXIT_INTERRUPTED
        if any(not isinstance(one.error, SchedulerError) for one in self._failed):
            return EXIT_FAULT
        return EXIT_FAILED if self._failed else 0


_SHOWN = ("allocated_percent", "pods_placed", "pods_pending")


def _interval(figure: dict[str, float]) -> str:
    return f"{figure['mean']:,.2f} ± {figure['half_width']:,.2f}"
