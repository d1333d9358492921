"""Jobs on a Ray cluster.

Ray brings a job to a worker and its result back; what is done there is what a process of this
machine would do. Files that jobs name travel with them, so that a node needs nothing but Snugfit.
"""

from __future__ import annotations

import hashlib
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from scheduler import __version__
from scheduler.core.errors import InvalidInput
from scheduler.core.reading import read_bytes
from scheduler.files.manifests import files_of
from scheduler.simulator.sweep.pools import ATTEMPTS, Ended, WorkerDied, attempt

__all__ = ["RayPool"]

J = TypeVar("J")
R = TypeVar("R")

_MOST_HANDED_OUT = 1000
_LOOK_S = 1.0
_CONNECT_S = 5.0
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class _Sent:
    """A file, or a folder, of this machine: name, and per file its path below and its digest."""

    name: str
    parts: tuple[tuple[str, str], ...]


class RayPool:
    """Workers of a Ray cluster, as many as it has cores.

    Parameters
    ----------
    address
        As for ``ray.init``: ``auto``, ``HOST:PORT``, or ``local`` to begin a cluster of this
        machine.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._contents: dict[str, Any] = {}
        self._ray: Any = None
        self._elsewhere = redirect_stdout(sys.stderr)

    def __enter__(self) -> Self:
        try:
            import ray
        except ImportError as error:
            raise InvalidInput("--ray", f"needs {error.name}", "install snugfit[ray]") from error
        _somebody_listens(self._address)
        try:
            ray.init(self._address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError, ImportError) as error:
            said = " ".join(str(error).split())
            raise InvalidInput("--ray", f"{self._address}: {said}", "is it running?") from error
        self._ray = ray
        # Ray says there what becomes of its nodes, where somebody may be reading JSON.
        self._elsewhere.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()
        self._elsewhere.__exit__(None, None, None)

    def run(self, work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[Ended[R]]:
        """As :meth:`scheduler.simulator.sweep.pools.Pool.run`."""
        ray = self._ray
        # Ray would try again without end where memory is short; here each try is counted.
        task = ray.remote(max_retries=0, num_cpus=1)(_attempt)
        about = __version__, _PYTHON
        waiting = deque(range(len(jobs)))
        begun: Counter[int] = Counter()
        handed: dict[Any, int] = {}
        # What is handed out ends with the pool: Ray may not survive a running task's cancellation.
        while waiting or handed:
            while waiting and len(handed) < _MOST_HANDED_OUT:
                number = waiting.popleft()
                begun[number] += 1
                job = self._packed(jobs[number])
                handed[task.remote(about, self._contents, work, job)] = number
            ready, _ = ray.wait(list(handed), timeout=_LOOK_S)
            for one in ready:
                number = handed.pop(one)
                try:
                    answer = ray.get(one)
                except ray.exceptions.RayError as error:  # the worker's end, or its node's
                    if begun[number] < ATTEMPTS:
                        waiting.appendleft(number)
                    else:
                        how = str(error).partition("\n")[0]
                        yield Ended(number, None, WorkerDied(ATTEMPTS, how))
                    continue
                yield Ended(number, *answer)

    def _packed(self, value: object) -> Any:  # noqa: ANN401 - a job with other fields
        """The job with its files replaced by what is sent."""
        if isinstance(value, Path):
            return self._sent(value)
        if isinstance(value, tuple):
            return tuple(map(self._packed, value))
        return _with_fields(value, self._packed)

    def _sent(self, path: Path) -> _Sent:
        parts = []
        for file in files_of([path]):
            content = read_bytes(file)
            digest = hashlib.sha256(content).hexdigest()
            if digest not in self._contents:
                self._contents[digest] = self._ray.put(content)
            below = str(file.relative_to(path)) if file != path else ""
            parts.append((below, digest))
        return _Sent(path.name, tuple(parts))


def _somebody_listens(address: str) -> None:
    """Ray itself looks for minutes for a cluster that is not there."""
    host, found, port = address.rpartition("://")[2].rpartition(":")
    if not (found and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise InvalidInput("--ray", f"{address}: {said}", "name the head of a cluster") from error


def _with_fields(value: object, change: Callable[[object], Any]) -> Any:  # noqa: ANN401 - as given
    """A dataclass with its fields changed; anything else as it is."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    made = {one.name: change(getattr(value, one.name)) for one in fields(value) if one.init}
    other = {name: new for name, new in made.items() if new is not getattr(value, name)}
    return replace(value, **other) if other else value


# -- on a worker ---------------------------------------------------------------------------------


def _attempt(
    about: tuple[str, str], contents: dict[str, Any], work: Callable[[J], R], job: J
) -> tuple[R | None, Exception | None]:
    """A job where somebody else has put Snugfit."""
    here = __version__, _PYTHON
    if here != about:
        mine, theirs = (
            f"Snugfit {version} on Python {python}" for version, python in (here, about)
        )
        return None, InvalidInput("--ray", f"a worker has {mine}, not {theirs}", "use one image")
    return attempt(work, _unpacked(job, contents))


def _unpacked(value: object, contents: dict[str, Any]) -> Any:  # noqa: ANN401 - the job as it was
    if isinstance(value, _Sent):
        return _received(value, contents)
    if isinstance(value, tuple):
        return tuple(_unpacked(one, contents) for one in value)
    return _with_fields(value, lambda one: _unpacked(one, contents))


def _received(sent: _Sent, contents: dict[str, Any]) -> Path:
    """The file, or the folder, as a path here; written once by each worker."""
    import ray

    seal = hashlib.sha256(repr(sent.parts).encode()).hexdigest()
    path = Path(_folder().name, seal, sent.name)
    if not path.exists():
        begun = Path(tempfile.mkdtemp(dir=_folder().name), sent.name)
        for below, digest in sent.parts:
            file = begun / below if below else begun
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(ray.get(contents[digest]))
        begun.parent.replace(path.parent)  # there as a whole, or not at all
    return path


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="snugfit-sweep-")
