"""Who does the jobs of a sweep: this process, or others beside it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, Self, TypeVar

from scheduler.core.errors import SchedulerError

__all__ = ["ATTEMPTS", "Ended", "InThisProcess", "Pool", "ProcessPool", "WorkerDied", "attempt"]

J = TypeVar("J")
R = TypeVar("R")

ATTEMPTS = 3
"""How often a job is begun at most, if its workers die."""

_END_S = 10.0


class WorkerDied(SchedulerError):
    """Every worker that was given a job has died of it, or beside it."""

    def __init__(self, attempts: int, how: str) -> None:
        super().__init__(f"its worker died {attempts} times, the last time {how}")


@dataclass(frozen=True, slots=True)
class Ended(Generic[R]):
    """A job that is over: what it came to, or why it came to nothing."""

    number: int
    result: R | None
    error: Exception | None = None

    def value(self) -> R:
        """The result; raises the error if there is none."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


class Pool(Protocol):
    """Does jobs. A context manager: at its end no job is left that anybody works on."""

    def run(self, work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[Ended[R]]:
        """Every job as it ends, in any order.

        Parameters
        ----------
        work
            What to do with a job; a function of a module. Jobs and results can be pickled.
        jobs
            What to do.
        """

    def __enter__(self) -> Self:
        """Get ready."""

    def __exit__(self, *_: object) -> None:
        """End every worker."""


def attempt(work: Callable[[J], R], job: J) -> tuple[R | None, Exception | None]:
    """The result of a job, or the error that it has raised."""
    try:
        return work(job), None
    except Exception as error:  # noqa: BLE001 - raised, or named, where the job was given
        error.add_note("".join(traceback.format_exception(error)))
        return None, error


class InThisProcess:
    """No worker at all: jobs one after another, here."""

    def run(self, work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[Ended[R]]:
        """As :meth:`Pool.run`, in order."""
        for number, job in enumerate(jobs):
            yield Ended(number, *attempt(work, job))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class ProcessPool:
    """Worker processes of this machine, each with one job at a time.

    A worker that dies is replaced, and its job begun again, up to :data:`ATTEMPTS` times. Ctrl-C is
    left to this process.

    Parameters
    ----------
    processes
        Workers at most; all cores if left out.
    """

    def __init__(self, processes: int | None = None) -> None:
        self._most = processes or os.cpu_count() or 1
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self._workers)

    def run(self, work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[Ended[R]]:
        """As :meth:`Pool.run`."""
        waiting = deque(range(len(jobs)))
        begun: Counter[int] = Counter()
        busy: dict[Connection, tuple[_Worker, int]] = {}
        try:
            while waiting or busy:
                while waiting and (worker := self._idle(busy)) is not None:
                    number = waiting.popleft()
                    begun[number] += 1
                    busy[worker.connection] = worker, number
                    worker.give(work, jobs[number])
                for ready in wait(list(busy)):
                    assert isinstance(ready, Connection)
                    worker, number = busy.pop(ready)
                    answer = worker.answer()
                    if answer is not None:
                        yield Ended(number, *answer)
                        continue
                    how = self._buried(worker)
                    if begun[number] < ATTEMPTS:
                        waiting.appendleft(number)
                    else:
                        yield Ended(number, None, WorkerDied(ATTEMPTS, how))
        finally:
            self._end([worker for worker, _ in busy.values()])

    def _idle(self, busy: dict[Connection, Any]) -> _Worker | None:
        """A worker with nothing to do, begun if need be; None if all that there may be work."""
        for worker in self._workers:
            if worker.connection not in busy:
                return worker
        if len(self._workers) == self._most:
            return None
        self._workers.append(_Worker())
        return self._workers[-1]

    def _buried(self, worker: _Worker) -> str:
        self._end([worker])
        code = worker.process.exitcode or 0
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"

    def _end(self, workers: Sequence[_Worker]) -> None:
        """Idle workers leave when nobody can give them work any more, busy ones are ended."""
        for worker in list(workers):
            worker.connection.close()
            worker.process.terminate()
            self._workers.remove(worker)
            worker.process.join(_END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


class _Worker:
    """A process, and the pipe through which it is given work."""

    def __init__(self) -> None:
        # Spawned workers start clean; forked ones would inherit threads and locks.
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # which would let signals through again while it starts
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        with theirs, _ctrl_c_put_off():  # a worker leaves Ctrl-C to this process
            self.process.start()

    def give(self, work: Callable[[J], R], job: J) -> None:
        """Hand a job over; whether the worker lives to take it is seen by its answer."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((work, job))

    def answer(self) -> tuple[Any, Exception | None] | None:
        """What came of the job; None if the worker has died."""
        try:
            answer: tuple[Any, Exception | None] = self.connection.recv()
        except (EOFError, OSError):
            return None
        return answer


@contextmanager
def _ctrl_c_put_off() -> Iterator[None]:
    """Keep SIGINT from processes begun here for good, and from this one until the end.

    Processes inherit the mask. In this one it is of one thread, and libraries have threads of their
    own (NumPy's), any of which may be the one that is told: then the handler waits.
    """
    told: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread() and handler is not None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if main:
        signal.signal(signal.SIGINT, lambda number, _frame: told.append(number))
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if told:
            signal.raise_signal(told[0])


def _serve(jobs: Connection) -> None:
    """Do what comes until nothing can come any more."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            jobs.send(attempt(*jobs.recv()))
