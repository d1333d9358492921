"""Processes that a test may kill at any point, and that never outlive it.

Every process leads a group of its own, so that Ctrl-C at the terminal does not reach it before the
test's own clean-up does. A guardian (one small process) holds the list of groups and the reading
end of a pipe: when this process ends in whatever way, SIGKILL included, the pipe closes and the
guardian kills what is left.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TAIL_LINES = 25

_GUARDIAN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    sign, group = line[0], int(line[1:])
    groups.add(group) if sign == "+" else groups.discard(group)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


class _Guardian:
    """Kills what is still registered once this process is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def tell(self, sign: str, group: int) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _GUARDIAN],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,
                )
            assert self._process.stdin is not None
            self._process.stdin.write(f"{sign}{group}\n")
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """End it, and with it whatever is still registered."""
        with self._lock:
            if self._process is not None:
                assert self._process.stdin is not None
                self._process.stdin.close()
                self._process.wait(timeout=60)
                self._process = None


guardian = _Guardian()


class NotReady(Exception):
    """A process ended, or did not become ready in time; shows the tail of its log."""


class Daemon:
    """A process with a log file, that can be killed and started again as it was.

    Parameters
    ----------
    name
        For messages, and of the log file.
    argv
        Program and flags.
    logs
        Directory of the log file; restarts append to it.
    ready
        Says whether the process serves. May raise OSError while it does not.
    environ
        Additions to the environment.
    patience_s
        How long it may take to become ready.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        logs: Path,
        ready: Callable[[], bool],
        *,
        environ: Mapping[str, str] | None = None,
        patience_s: float = 60,
    ) -> None:
        self.name = name
        self.argv = [str(part) for part in argv]
        self.log = logs / f"{name}.log"
        self._ready = ready
        self._environ = dict(environ or {})
        self._patience_s = patience_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the one that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start it, and do not wait."""
        assert not self.running, f"{self.name} runs already"
        # Variables of the tests are no settings of the product, which refuses those it knows not.
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SNUGFIT_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean | self._environ,
                start_new_session=True,
            )
        guardian.tell("+", self._process.pid)

    def wait_ready(self) -> None:
        """Wait until it serves.

        Raises
        ------
        NotReady
            It ended, or its patience is over.
        """
        end = time.monotonic() + self._patience_s
        while time.monotonic() < end:
            if not self.running:
                raise NotReady(f"{self.name} ended with {self._code()}\n{self.tail()}")
            with contextlib.suppress(OSError):
                if self._ready():
                    return
            time.sleep(0.05)
        raise NotReady(f"{self.name} is not ready after {self._patience_s} s\n{self.tail()}")

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self.launch()
        self.wait_ready()

    def kill(self) -> None:
        """``kill -9`` of the whole group."""
        self._signal(signal.SIGKILL)
        self._gone(timeout_s=20)

    def terminate(self, timeout_s: float = 20) -> int:
        """SIGTERM, then wait.

        Returns
        -------
        int
            The exit code; negative for a signal.
        """
        self._signal(signal.SIGTERM)
        try:
            return self._gone(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NotReady(
                f"{self.name} ignored SIGTERM for {timeout_s} s\n{self.tail()}"
            ) from None

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nobody."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it without ceremony, if it runs."""
        if self.running:
            self.kill()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        if not self.log.exists():
            return f"--- {self.name}: no log"
        text = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        return "\n".join((f"--- {self.name}, last lines of {self.log}", *text))

    def memory_mib(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def threads(self) -> int:
        """Threads."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _gone(self, timeout_s: float) -> int:
        assert self._process is not None
        code = self._process.wait(timeout=timeout_s)
        guardian.tell("-", self._process.pid)
        return code

    def _code(self) -> object:
        return "nothing: it was never started" if self._process is None else self._process.poll()


_taken: set[int] = set()


def free_port() -> int:
    """A port of loopback that nobody listens on, and that no outgoing connection will be given.

    The kernel gives outgoing connections ports from 32768 on, and a component that is restarted has
    to get its port again, so this takes one from below and never hands it out twice.
    """
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(20_000, 32_000)
        if port in _taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _taken.add(port)
        return port
