"""Version 0.1 of the product, from the history of this repository, to upgrade from."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from testbed.controlplane.extender import Extender
from testbed.controlplane.plane import ControlPlane

__all__ = ["Earlier", "EarlierMissing"]

_ROOT = Path(__file__).parents[2]
# The last commit with the settings and the records of 0.1.
_COMMIT = "7686e1ff2785d2d1665a824b5343ba0d66266eba"
_REQUIRED = ("cheroot", "jaraco-functools", "more-itertools")  # that later versions do without


class EarlierMissing(Exception):
    """Version 0.1 cannot be had; the text says why."""


class Earlier:
    """A tree of version 0.1 with what it needs.

    Parameters
    ----------
    folder
        Empty; it is written into.

    Raises
    ------
    EarlierMissing
        This is no checkout with its history, or the packages cannot be installed.
    """

    def __init__(self, folder: Path) -> None:
        self._tree, self._packages = folder / "tree", folder / "packages"
        files = _run(["git", "-C", str(_ROOT), "archive", _COMMIT, "scheduler", "requirements"])
        with tarfile.open(fileobj=io.BytesIO(files)) as archive:
            archive.extractall(self._tree, filter="data")
        wanted = folder / "required.lock"
        lock = (self._tree / "requirements/runtime.lock").read_text(encoding="utf-8")
        wanted.write_text(_blocks(lock), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        _run([*pip, "--no-deps", "--require-hashes", "-t", str(self._packages), "-r", str(wanted)])

    def extender(self, plane: ControlPlane, flags: Sequence[str | Path], name: str) -> Extender:
        """An extender of this version, not started yet."""
        # Modules are looked for there, and not in the folder where the tests run.
        where = {"PYTHONPATH": f"{self._tree}:{self._packages}", "PYTHONSAFEPATH": "1"}
        return Extender(plane, flags, name=name, environ=where)


def _blocks(lock: str) -> str:
    """The lines of a lock that are about what is required: a name with its version, and hashes."""
    kept, keep = [], False
    for line in lock.splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            keep = line.split("==")[0] in _REQUIRED
        if keep:
            kept.append(line)
    return "".join(kept)


def _run(command: Sequence[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise EarlierMissing(f"`{' '.join(command[:4])} ...` failed: {said}")
    return done.stdout
