"""Vector bin packing: how far is a packing from the fewest bins, and is it proved?

Items with several sizes go into as few equal bins as possible, per instance file (`.vbp`), with a
proved lower bound. The published sample is the "New" set: one instance of each class (1..6), size
(20, 60, 120, 250, 500 items) and dimension (3, 5, 10), the last digit of its name being
(class + size + dimension) mod 10. With `--known` (tab-separated columns `instance_name`, `LB`,
`OPT`, `best_overall`) the optimum and the best published heuristic stand beside. A file that cannot
be read is named and stops no other; the exit code is 2 then.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.options import budget_option, clock_option
from bench.report import Report, benchmark
from bench.vectorpack.packer import VectorInstance, pack_bins
from bench.vectorpack.reader import VectorFile, read
from scheduler.core.errors import InvalidInput
from scheduler.core.reading import read_text
from scheduler.planner.effort import CLOCKS, Budget

__all__ = ["command"]


@benchmark("vector", grid=True, one_at_a_time=True)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@budget_option("10s", "Per instance")
@click.option(
    "--known", type=click.Path(path_type=Path), help="Tab-separated list of known optima."
)
@click.option("--seed", default=0, show_default=True, help="Decides where the search looks.")
@clock_option
def command(
    report: Report,
    files: tuple[Path, ...],
    budget: float,
    known: Path | None,
    seed: int,
    clock: str,
) -> None:
    """A row per instance."""
    report.title = f"Bins, {budget:g} s each ({clock} clock)"
    published = _known(known) if known else {}
    jobs = []
    for path in files:
        try:
            jobs.append(_Job(read(path), budget, seed, clock))
        except InvalidInput as error:  # the others are still worth their time
            report.refused.append(str(error))
    for row in report.sweep(_run, jobs):
        found = {**row.figures, "seconds": row.seconds}
        figures = published.get(found["instance"], {})
        if known:
            found["optimum"] = figures.get("OPT") if figures.get("OPT", -1) > 0 else None
            found["best_heuristic"] = figures.get("best_overall")
        report.add(**found)


@dataclass(frozen=True, slots=True)
class _Job:
    """One instance, seconds for it, and the clock that counts them."""

    content: VectorFile
    limit: float
    seed: int
    clock: str


def _run(job: _Job) -> dict[str, Any]:
    content = job.content
    instance = VectorInstance(
        np.array(content.capacity, dtype=np.int64),
        np.array(content.sizes, dtype=np.int64).reshape(-1, len(content.capacity)),
        np.array(content.demand, dtype=np.int64),
    )
    made = pack_bins(instance, Budget(job.limit, seed=job.seed, clock=CLOCKS[job.clock]))
    return {
        "instance": content.name,
        "bins": made.bins,
        "bound": made.bound,
        "status": made.status,
        "seconds": round(made.seconds, 3),
    }


def _known(path: Path) -> dict[str, dict[str, int]]:
    lines = read_text(path).splitlines()
    try:
        return {
            row["instance_name"]: {key: int(row[key]) for key in ("LB", "OPT", "best_overall")}
            for row in csv.DictReader(lines, delimiter="\t")
        }
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(str(path), f"cannot be read: {error}") from error
