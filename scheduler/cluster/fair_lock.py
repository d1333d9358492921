"""A lock that is handed over: to requests before chores, among themselves in order of arrival.

Python's own lock goes to the fastest thread, which is the one that has just released it. A
thread that applies events or makes scores in many short turns would keep kube-scheduler waiting
for all of them.
"""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["FairLock"]

_REQUESTS_IN_A_ROW = 16


class FairLock:
    """Mutual exclusion for two classes of threads. Not re-entrant: a second entry raises.

    A chore that waits lets some requests pass and then has its turn, so that no stream of requests
    keeps the news of the cluster out.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._owner: int | None = None
        self._requests: deque[_Turn] = deque()
        self._chores: deque[_Turn] = deque()
        self._in_a_row = 0

    @property
    def waiting(self) -> int:
        """Threads that wait for it."""
        return len(self._requests) + len(self._chores)

    def acquire(self, *, chore: bool = False) -> None:
        """Wait for it.

        Raises
        ------
        RuntimeError
            This thread has it already.
        """
        me = threading.get_ident()
        with self._guard:
            if self._owner is None:
                self._owner = me
                return
            if self._owner == me:
                raise RuntimeError("this thread has the cluster already: pass it on instead")
            turn = _Turn(me)
            waiting = self._chores if chore else self._requests
            waiting.append(turn)
        try:
            turn.wait()
        except BaseException:  # such as a signal's: nobody must hand the lock to a thread that left
            with self._guard:
                handed_over = turn not in waiting
                if not handed_over:
                    waiting.remove(turn)
            if handed_over:
                self.release()
            raise

    def release(self) -> None:
        """Hand it to the next one that waits."""
        with self._guard:
            overdue = self._in_a_row >= _REQUESTS_IN_A_ROW
            if self._requests and not (self._chores and overdue):
                turn = self._requests.popleft()
                self._in_a_row += bool(self._chores)
            elif self._chores:
                turn = self._chores.popleft()
                self._in_a_row = 0
            else:
                self._owner = None
                return
            self._owner = turn.thread
            turn.begin()


class _Turn:
    """A thread that waits."""

    __slots__ = ("_gate", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self) -> None:
        self._gate.acquire()

    def begin(self) -> None:
        self._gate.release()
