"""The product, run as users run it: what pages show is what it printed when they were made."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

__all__ = ["EXAMPLE", "ROOT", "Answer", "ask", "printed", "server"]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "cluster.json"
_SNUGFIT = (sys.executable, "-m", "scheduler.cli.main")
_PATIENCE_S = 120.0
Answer = tuple[int, str, str]
"""Status, media type and body."""


@cache
def printed(*arguments: str) -> str:
    """What ``snugfit ARGUMENTS`` prints on stdout; exit codes 0 and 1 are answers."""
    done = subprocess.run(
        [*_SNUGFIT, *arguments], cwd=ROOT, env=_environment(), capture_output=True, text=True,
        check=False, timeout=_PATIENCE_S,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        raise RuntimeError(f"snugfit {' '.join(arguments)}: {done.stderr}")
    return done.stdout


@contextmanager
def server(*flags: str) -> Iterator[str]:
    """``snugfit serve`` with these flags, on a free port of loopback; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*_SNUGFIT, "serve", "--port", str(port), *flags], cwd=ROOT, env=_environment(),
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=_PATIENCE_S)


def ask(url: str, method: str, path: str, body: bytes | None = None) -> Answer:
    """One request; a refusal is an answer, too."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    request = Request(url + path, body, headers, method=method)  # noqa: S310 - always http
    try:
        with urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310 - always http
            return answer.status, answer.headers.get_content_type(), answer.read().decode()
    except HTTPError as refused:
        return refused.code, refused.headers.get_content_type(), refused.read().decode()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            if ask(url, "GET", "/readyz")[0] == 200:
                return
        except (URLError, ConnectionError):
            time.sleep(0.05)
    raise RuntimeError("the server does not answer")


def _environment() -> dict[str, str]:
    """Without settings of whoever builds the pages; wide enough for every table."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SNUGFIT_")}
    return {**clean, "PYTHONPATH": str(ROOT), "COLUMNS": "110", "NO_COLOR": "1"}


def quoted(arguments: Sequence[str]) -> str:
    """A command as people type it at the root of the repository."""
    return " ".join(("snugfit", *arguments))
