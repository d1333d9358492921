"""The real server over the cluster of a file, as a child process that a client can drive."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from scheduler.core.errors import SchedulerError

__all__ = ["running_server"]

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0


@contextmanager
def running_server(cluster: Path, *options: str) -> Iterator[str]:
    """Run ``snugfit serve --offline`` on a free port of loopback.

    The server is stopped at the end of the block, also on Ctrl-C and SIGTERM: without that, it
    would outlive a process that is merely ended.

    Parameters
    ----------
    cluster
        File of nodes, and of pods that already run.
    options
        More options of ``snugfit serve``.

    Yields
    ------
    str
        URL of the server.

    Raises
    ------
    SchedulerError
        The server did not start; says what it logged.
    """
    command = [sys.executable, "-m", "scheduler.cli.main", "serve", "--offline"]
    command += [str(cluster), "--port", "0", "--log-level", "warning", *options]
    with tempfile.TemporaryFile("w+") as log, _leaving_on_sigterm():
        process = subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL)  # noqa: S603
        try:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while True:
                log.seek(0)
                said = log.read()
                if "listening on " in said:
                    yield said.split("listening on ", 1)[1].split()[0]
                    return
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SchedulerError(f"the server did not start:\n{said}")
                time.sleep(0.05)
        finally:
            process.terminate()
            try:
                process.wait(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _leaving_on_sigterm() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that what is open gets closed; exit code 143."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
