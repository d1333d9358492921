"""What every grid goes through: known rows are not run again, others are kept as they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from scheduler.simulator.sweep.pools import Ended, InThisProcess, Pool
from scheduler.simulator.sweep.row_file import Row, RowFile, job_json, key_of

__all__ = ["Failed", "Runner"]

J = TypeVar("J")
Work = Callable[[J], dict[str, Any]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Failed:
    """A job that came to nothing."""

    number: int
    job: dict[str, Any]
    error: Exception


@dataclass
class Runner:
    """Where rows are run, and where they are kept.

    Parameters
    ----------
    pool
        Entered by whoever has made it.
    rows
        Rows that are there, and the file for those that come.
    """

    pool: Pool = field(default_factory=InThisProcess)
    rows: RowFile = field(default_factory=RowFile)

    def each(
        self, work: Work[J], jobs: Sequence[J], progress: Progress | None = None
    ) -> Iterator[tuple[int, Row | Failed]]:
        """Number of a job and its row, known ones first, the others as they end.

        Parameters
        ----------
        work
            Figures of a job, JSON; what it took may stand under ``seconds``. A function of a
            module, to be pickled like the jobs.
        jobs
            Everything random about a row follows from its job.
        progress
            Called with rows that are there and rows in all.
        """
        keys = [key_of(work, job) for job in jobs]
        missing = []
        done = 0
        for number, key in enumerate(keys):
            if key in self.rows:
                done += 1
                yield number, self.rows[key]
            else:
                missing.append(number)
        if progress:
            progress(done, len(jobs))
        for ended in self.pool.run(_Timed(work), [jobs[number] for number in missing]):
            number = missing[ended.number]
            done += 1
            yield number, self._kept(ended, number, keys[number], jobs[number])
            if progress:
                progress(done, len(jobs))

    def in_order(
        self, work: Work[J], jobs: Sequence[J], progress: Progress | None = None
    ) -> Iterator[Row]:
        """The rows in the order of the jobs, each as soon as it and those before it are there.

        Parameters as for :meth:`each`. The error of a job is raised.
        """
        early: dict[int, Row] = {}
        due = 0
        for number, row in self.each(work, jobs, progress):
            if isinstance(row, Failed):
                raise row.error
            early[number] = row
            while due in early:
                yield early.pop(due)
                due += 1

    def _kept(
        self, ended: Ended[tuple[dict[str, Any], float]], number: int, key: str, job: object
    ) -> Row | Failed:
        if ended.error is not None:
            return Failed(number, job_json(job), ended.error)
        figures, seconds = ended.value()
        row = Row(key, job_json(job), figures, seconds)
        self.rows.add(row)
        return row


@dataclass(frozen=True, slots=True)
class _Timed:
    """Work whose time is taken where it is done."""

    work: Work[Any]

    def __call__(self, job: object) -> tuple[dict[str, Any], float]:
        began = time.perf_counter()
        figures = dict(self.work(job))
        seconds = time.perf_counter() - began
        return figures, float(figures.pop("seconds", seconds))
