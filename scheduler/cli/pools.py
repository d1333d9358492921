"""Who does the runs of a sweep, and which file keeps them, as options say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scheduler.core.errors import InvalidInput

if TYPE_CHECKING:
    from scheduler.simulator.sweep.pools import Pool
    from scheduler.simulator.sweep.row_file import RowFile

__all__ = ["pool_of", "row_file"]


def pool_of(processes: int | None, ray: str | None, *, apart: bool = False) -> Pool:
    """The pool of ``options.pool_options``.

    Parameters
    ----------
    processes, ray
        The options.
    apart
        A single worker is a process, too: a solver keeps Ctrl-C from the process that it runs in.
    """
    from scheduler.simulator.sweep.pools import InThisProcess, ProcessPool

    if ray is not None:
        from scheduler.simulator.sweep.ray_pool import RayPool

        if processes is not None:
            raise InvalidInput(
                "--processes", "changes nothing here", "--ray says who does the runs"
            )
        return RayPool(ray)
    if processes == 1 and not apart:
        return InThisProcess()
    return ProcessPool(processes)


def row_file(rows: Path | None, *, resume: bool) -> RowFile:
    """The file of ``options.rows_options``.

    Raises
    ------
    InvalidInput
        There are rows in it and nobody says that they count, or there is no file to go on with.
    """
    from scheduler.cli.output import writable
    from scheduler.simulator.sweep.row_file import RowFile

    if rows is None and resume:
        raise InvalidInput("--resume", "needs the rows to go on from", "name them by --rows FILE")
    kept = RowFile(rows)
    if len(kept) and not resume:
        raise InvalidInput(
            f"--rows {rows}", f"has {len(kept)} rows already", "--resume goes on; or name another"
        )
    writable(rows, "--rows")
    return kept
