"""Long work in short steps, so that whoever waits for the lock gets it in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Lock
from typing import TypeVar, cast

__all__ = ["BREATH_S", "in_steps"]

T = TypeVar("T")

BREATH_S = 0.0005
"""Pause between two steps, for whoever waits."""


def in_steps(work: Iterator[T], lock: Lock, begin: Callable[[], object]) -> Iterator[T]:
    """Work done step by step under a lock.

    Parameters
    ----------
    work
        Each step of it is done with the lock held.
    begin
        Called before each step, with the lock held.
    """
    done = object()
    while True:
        with lock:
            begin()
            step = next(work, done)
        if step is done:
            return
        yield cast("T", step)
        time.sleep(BREATH_S)
