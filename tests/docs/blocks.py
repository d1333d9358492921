"""Shell blocks of pages: read from Markdown, run, and compared with the output that is shown.

A block is a fence ``sh``; ``sh background`` starts a program that runs until the page ends. A fence
``output`` after a block shows what it prints. In it, ``<number>``, ``<time>`` and ``<any>`` stand
for what may differ. Two comments may stand around a block::

    <!-- runs: WHERE -->       before it; see Where
    <!-- exit code: 1 -->      behind it, if that is not 0
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

_FENCE = re.compile(
    r"(?:<!-- runs: (?P<where>[\w ]+) -->\n)?"
    r"^```sh(?P<background> background)?\n(?P<text>.*?)^```$"
    r"(?:\n+```output\n(?P<output>.*?)^```$)?"
    r"(?:\n+<!-- exit code: (?P<code>\d+) -->)?",
    re.MULTILINE | re.DOTALL,
)
_LOOSE = {"<number>": r"[\d.,]+", "<time>": r"[\dhms.]+", "<any>": r"\S+"}
_DECISIONS = "curl -s localhost:10262/debug/decisions localhost:10262/debug/state"
_PATIENCE_S = 300.0


class Where(Enum):
    """Where a block runs."""

    HERE = "here"
    """In a copy of the repository, with the environment of the tests."""
    CI = "CI"
    """Line by line in `.ci/run`, since it takes minutes or runs these very tests."""
    CONTROL_PLANE = "control plane"
    """In a copy of the repository, on a real control plane; `make e2e`."""
    CONTAINERS = "a container runtime"
    """Nowhere here: there is none. Files that it names have to exist."""


@dataclass(frozen=True)
class Block:
    """One block."""

    page: str
    number: int
    text: str
    where: Where
    background: bool
    output: str | None
    code: int

    def __str__(self) -> str:
        return f"{self.page}:{self.number}"


def blocks(page: Path, root: Path) -> Iterator[Block]:
    """Every block of a page, in its order."""
    name = str(page.relative_to(root))
    text = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    assert len(found) == len(re.findall(r"^```sh\b", text, re.MULTILINE)), page
    for number, match in enumerate(found, start=1):
        yield Block(
            page=name,
            number=number,
            text=match["text"],
            where=Where(match["where"] or "here"),
            background=bool(match["background"]),
            output=match["output"],
            code=int(match["code"] or 0),
        )


def copy_of(root: Path, target: Path) -> Path:
    """The files that git knows, as they are now, with the environment that runs this.

    Locks get the oldest of all dates: the environment is complete, and make is not to renew it.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (root / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target / name)
    for path in (target / "pyproject.toml", *(target / "requirements").iterdir()):
        os.utime(path, (0, 0))
    (target / ".venv").symlink_to(Path(sys.executable).parents[1])
    return target


class Shell:
    """Runs the blocks of one page in one shell, so that what it exports stays.

    Parameters
    ----------
    folder
        Where the commands run.
    environ
        Additions to a clean environment.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._state = folder / ".exports"
        self._state.write_text("", encoding="utf-8")
        self._started: list[subprocess.Popen[bytes]] = []
        names = ("HOME", "PATH", "XDG_CACHE_HOME", "SNUGFIT_KUBE_ASSETS")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        self._environ = {**kept, "COLUMNS": "110", "LC_ALL": "C.UTF-8", **environ}

    def run(self, block: Block) -> None:
        """Run a block and compare what it prints."""
        if block.background:
            self._start(block)
            return
        script = f"set -e\n. {self._state}\n{block.text}\nexport -p > {self._state}\n"
        try:
            done = subprocess.run(
                ["bash", "-c", script], cwd=self._folder, env=self._environ,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=_PATIENCE_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"").decode(errors="replace")
            raise AssertionError(
                f"{block} does not end; so far:\n{said}\n{self.logs()}\n{self._pods()}"
            ) from error
        assert done.returncode == block.code, f"{block}: exit code {done.returncode}\n{done.stdout}"
        if block.output is not None:
            assert same(block.output, done.stdout), f"{block} prints\n{done.stdout}"

    def _start(self, block: Block) -> None:
        """Start a program of the page; the next block asks for what it does until it is there."""
        script = f". {self._state}\n{block.text}"
        with (self._folder / f".background-{block.number}.log").open("wb") as log:
            self._started.append(
                subprocess.Popen(
                    ["bash", "-c", script], cwd=self._folder, env=self._environ,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip

    def until(self, condition: str) -> None:
        """Wait until a command succeeds; a background program that has ended is an error."""
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            script = f". {self._state}\n{condition}"
            done = subprocess.run(
                ["bash", "-c", script], cwd=self._folder, env=self._environ, check=False,
                capture_output=True,
            )  # fmt: skip
            if done.returncode == 0:
                return
            ended = [process.returncode for process in self._started if process.poll() is not None]
            assert not ended, f"a program ended with {ended}: {self.logs()}"
            time.sleep(0.2)
        raise AssertionError(f"{condition!r} never holds: {self.logs()}")

    def logs(self) -> str:
        """What background programs have said."""
        return "\n".join(
            path.read_text(encoding="utf-8", errors="replace")
            for path in sorted(self._folder.glob(".background-*.log"))
        )

    def _pods(self) -> str:
        """Pods and events of the cluster, where the page has one."""
        script = (
            f". {self._state}\n(kubectl get pods -o yaml; kubectl get events; {_DECISIONS}) 2>&1"
        )
        done = subprocess.run(
            ["bash", "-c", script], cwd=self._folder, env=self._environ, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S,
        )  # fmt: skip
        return done.stdout

    def close(self) -> None:
        """End what is still running, the last one first, as Ctrl-C would."""
        for process in reversed(self._started):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(timeout=60)


def same(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; trailing blanks do not count."""

    def lines(text: str) -> list[str]:
        return [line.rstrip() for line in text.strip().splitlines()]

    wanted, found = lines(shown), lines(printed)
    return len(wanted) == len(found) and all(
        re.fullmatch(_pattern(one), other) for one, other in zip(wanted, found, strict=True)
    )


def _pattern(line: str) -> str:
    """A line of a page as a pattern; columns behind a loose word may be narrower or wider."""
    if not any(word in line for word in _LOOSE):
        return re.escape(line)
    pattern = r"\s+".join(re.escape(part) for part in line.split())
    for word, stands_for in _LOOSE.items():
        pattern = pattern.replace(re.escape(word), stands_for)
    return pattern
