"""Ctrl-C: the first one ends the work and keeps what it has come to, the second one ends all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

__all__ = ["heard_by", "stop_on_interrupt", "until_stopped"]

T = TypeVar("T")
_LOOK_S = 0.1


@contextmanager
def _calling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have Ctrl-C call this, where this thread may say so and Ctrl-C is not ignored."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets; a second Ctrl-C raises KeyboardInterrupt, as ever.

    Ctrl-C that is ignored, as in what a shell runs in the background, stays ignored.
    """
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    with _calling(ask):
        yield stop


@contextmanager
def heard_by(progress: Callable[[int, int], None]) -> Iterator[Callable[[int, int], None]]:
    """Progress that raises KeyboardInterrupt if Ctrl-C has come and nobody has heard of it.

    Python raises it in whatever runs just then, and some of that lets no exception out: finalizers,
    and C code that looks something up and clears errors. Ctrl-C that is ignored stays ignored.
    """
    came = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    def told(done: int, total: int) -> None:
        progress(done, total)
        if came:
            raise KeyboardInterrupt

    with _calling(ask):
        yield told


def until_stopped(work: Callable[[], T], stop: Callable[[], None]) -> tuple[T, bool]:
    """What some work comes to, and whether Ctrl-C has cut it short.

    Parameters
    ----------
    work
        Done in a thread of its own: a solver leaves its thread to no signal.
    stop
        Makes the work come to an end soon; called again until it has.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            failures.append(error)

    thread = threading.Thread(target=run, name="work", daemon=True)
    with stop_on_interrupt() as asked:
        thread.start()
        while thread.is_alive():
            thread.join(_LOOK_S)
            if asked.is_set():
                stop()
    if failures:
        raise failures[0]
    return results[0], asked.is_set()
