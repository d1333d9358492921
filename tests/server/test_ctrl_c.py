"""Ctrl-C in every long command: soon, without a traceback, and with what is known so far."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.files import native
from scheduler.simulator.generate import GeneratorConfig, generate
from testbed.fake_api import eventually

pytestmark = pytest.mark.server

Begin = Callable[..., "Command"]


class Command:
    """A command in a session of its own, so that Ctrl-C reaches it and all that it has started."""

    def __init__(self, folder: Path, *args: str) -> None:
        # A shell hands SIGINT down as ignored to what it runs in the background, and so would we.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scheduler.cli.main", *args],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folder,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())},
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        self.said: list[str] = []
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=self.said.extend, args=(self.process.stderr,))
        self._reader.start()

    def ctrl_c(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr after one Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=60)
        return code, out, "".join(self.said)

    def end(self) -> None:
        """Whatever became of it."""
        self.process.kill()
        self.process.wait(timeout=60)
        self._reader.join(timeout=60)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def children(self) -> list[int]:
        """Processes that any of its threads has started."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    native.write(generate(GeneratorConfig(nodes=60, load=1.3, seed=2)), tmp_path / "w.json")
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


def _ticks(task: Path) -> int:
    text = (task / "stat").read_text()
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
    ended = command.process.poll
    eventually(lambda: any("fgd on" in line for line in command.said) or ended() is not None)
    if ended() is not None:
        pytest.skip("this machine is done before there is anything to stop")
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
    assert f"{kept} are kept in j.jsonl" in err


def test_a_server_that_is_stopped_is_silent(begin: Begin) -> None:
    """Also the process that computes prices beside it."""
    command = begin("serve", "--offline", "w.json", "--port", "0", "--log-level", "warning")
    eventually(lambda: any("listening" in line for line in command.said), within_s=240)
    eventually(command.children, within_s=240)
    code, _, err = command.ctrl_c()
    assert code == 0 and "Traceback" not in err and "KeyboardInterrupt" not in err, err
