"""What processes have used, as Linux tells it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["children", "memory_mib", "processor_s"]


def children(pid: int) -> list[int]:
    """Processes that this one has started, oldest first."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text("ascii").split())


def memory_mib(pid: int, field: str = "VmRSS") -> int:
    """A line of ``/proc/PID/status``, such as the resident memory, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) >> 10


def processor_s(pid: int) -> float:
    """Processor time that a process has used so far, all threads together, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
