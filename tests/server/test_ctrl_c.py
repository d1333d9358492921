"""Ctrl-C in every long command: soon, without a traceback, and with what is known so far."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from scheduler.files import native
from scheduler.simulator.generate import GeneratorConfig, generate
from testbed.fake_api import eventually

pytestmark = pytest.mark.server

Begin = Callable[..., "Command"]


class Command:
    """A command in a session of its own, so that Ctrl-C reaches it and all that it has started.

    Its stderr is a terminal, where progress is drawn at once; what it prints is read all the time,
    since a command whose pipe is full stands still.
    """

    def __init__(self, folder: Path, *args: str) -> None:
        terminal, theirs = pty.openpty()
        # A shell hands SIGINT down as ignored to what it runs in the background, and so would we.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scheduler.cli.main", *args],
                stdout=subprocess.PIPE,
                stderr=theirs,
                cwd=folder,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(Path.cwd()),
                    "TERM": "xterm",
                    "COLUMNS": "200",
                },
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)
            os.close(theirs)
        assert self.process.stdout is not None
        self._parts: dict[int, list[bytes]] = {self.process.stdout.fileno(): [], terminal: []}
        self._out, self._terminal = self.process.stdout.fileno(), terminal
        self._readers = [threading.Thread(target=self._read, args=(fd,)) for fd in self._parts]
        for reader in self._readers:
            reader.start()

    def _read(self, fd: int) -> None:
        with suppress(OSError):  # EIO: nobody has the terminal open any more
            while part := os.read(fd, 1 << 16):
                self._parts[fd].append(part)

    @property
    def said(self) -> str:
        """All of stderr so far."""
        return b"".join(self._parts[self._terminal]).decode()

    def ctrl_c(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr after one Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(timeout=60)
        self._join()
        return code, b"".join(self._parts[self._out]).decode(), self.said

    def end(self) -> None:
        """Whatever became of it."""
        self.process.kill()
        self.process.wait(timeout=60)
        self._join()
        os.close(self._terminal)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(timeout=60)

    def children(self) -> list[int]:
        """Processes that any of its threads has started."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    # More than can be proved while a test waits for it to begin.
    native.write(generate(GeneratorConfig(nodes=200, load=1.0, seed=2)), tmp_path / "w.json")
    begun: list[Command] = []

    def start(*args: str) -> Command:
        begun.append(Command(tmp_path, *args))
        return begun[-1]

    yield start
    for command in begun:
        command.end()


def _work_began(command: Command) -> bool:
    """Whether a thread beside the main one has computed for a while: the one that plans."""
    assert command.process.poll() is None, command.said
    tasks = Path(f"/proc/{command.process.pid}/task").iterdir()
    return any(_ticks(task) > 20 for task in tasks if task.name != str(command.process.pid))


def _began(command: Command, said: str) -> bool:
    """Whether it has said so, and still runs."""
    assert command.process.poll() is None, command.said
    return re.search(said, command.said) is not None


def _ticks(task: Path) -> int:
    try:
        text = (task / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # a thread that has just ended
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
@pytest.mark.parametrize("name", ["plan", "bound"])
def test_a_plan_that_is_stopped_is_printed(begin: Begin, name: str) -> None:
    command = begin(name, "w.json", "--budget", "1h", "--json")
    eventually(lambda: _work_began(command), within_s=240)
    code, out, err = command.ctrl_c()
    assert code == 130 and "Traceback" not in err, err
    said = json.loads(out)
    assert said["stopped"] and "stopped by Ctrl-C" in err
    assert said.get("placements") or said["planned_gpu_milli"] > 0


def test_a_simulation_that_is_stopped_prints_what_it_has(begin: Begin, tmp_path: Path) -> None:
    native.write(generate(GeneratorConfig(nodes=3000, load=3.0, seed=2)), tmp_path / "large.json")
    command = begin("simulate", "large.json", "--policy", "fgd", "--compare", "best-fit", "--json")
    eventually(lambda: _began(command, "fgd on .* [1-9][0-9]*/[1-9]"), within_s=240)
    code, out, err = command.ctrl_c()
    assert code == 130 and "Traceback" not in err, err
    (run,) = json.loads(out)["runs"]
    assert run["stopped"] and run["placed"] > 0 and "stopped by Ctrl-C" in err


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_search_that_is_stopped_says_what_is_kept(
    begin: Begin, tmp_path: Path, processes: str
) -> None:
    journal = tmp_path / "j.jsonl"
    command = begin(
        "tune", "w.json", "--journal", "j.jsonl", "--processes", processes, "--rounds", "50"
    )
    eventually(lambda: journal.exists() and journal.stat().st_size > 0, within_s=240)
    code, out, err = command.ctrl_c()
    assert code == 130 and "Traceback" not in err and out == "", err
    kept = len(journal.read_text().splitlines())
    assert f"kept in j.jsonl: {kept};" in err


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_sweep_that_is_stopped_keeps_its_rows(
    begin: Begin, tmp_path: Path, processes: str
) -> None:
    rows = tmp_path / "r.jsonl"
    (tmp_path / "grid.json").write_text(
        json.dumps(
            {
                "format": "snugfit-sweep/v1",
                "workloads": [{"files": ["w.json"]}],
                "policies": ["fgd", "best-fit"],
                "seeds": 1000,
            }
        )
    )
    args = ("sweep", "grid.json", "--rows", "r.jsonl", "--processes", processes, "--json")
    command = begin(*args)
    eventually(lambda: rows.exists() and rows.stat().st_size > 0, within_s=240)
    code, out, err = command.ctrl_c()
    assert code == 130 and "Traceback" not in err, err
    said, kept = json.loads(out), len(rows.read_text().splitlines())
    assert said["stopped"] and 0 < said["done"] == kept < 2000
    again = begin(*args, "--resume")
    eventually(lambda: len(rows.read_text().splitlines()) > kept, within_s=240)
    code, out, _ = again.ctrl_c()
    assert code == 130 and json.loads(out)["known_before"] == kept


def test_a_server_that_is_stopped_is_silent(begin: Begin) -> None:
    """Also the process that computes prices beside it."""
    command = begin("serve", "--offline", "w.json", "--port", "0", "--log-level", "warning")
    eventually(lambda: _began(command, "listening"), within_s=240)
    eventually(command.children, within_s=240)
    code, _, err = command.ctrl_c()
    assert code == 0 and "Traceback" not in err and "KeyboardInterrupt" not in err, err
