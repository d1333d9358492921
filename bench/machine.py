"""What a figure depends on besides its settings: commit, versions, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from scheduler import __version__

__all__ = ["commit", "machine", "versions"]


def commit() -> str | None:
    """The commit of the checkout, with a mark if files have been changed since; None if unknown."""
    described = ("git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty")
    try:
        said = subprocess.run(
            described, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()


def machine() -> dict[str, Any]:
    """Model of the processor, cores that this process may use, memory in GiB; None if unknown."""
    return {"model": _model(), "cores": _cores(), "memory_gib": _memory_gib()}


def versions() -> dict[str, str]:
    """Of what computes."""
    return {"snugfit": __version__, "python": platform.python_version(), "numpy": np.__version__}


def _model() -> str | None:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or None
    lines = info.read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):  # a system that does not tell
        return None
