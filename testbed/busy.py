"""A machine that has other things to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["busy_loops"]


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes compute nothing for as long as the block lasts."""
    loop = [sys.executable, "-c", "while True: pass"]
    # A session of their own, so that a Ctrl-C of the terminal does not reach them.
    loops = [subprocess.Popen(loop, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in loops:
            process.kill()
            process.wait()
