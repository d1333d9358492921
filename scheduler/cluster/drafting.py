"""Large gangs are planned by the request that asks, beside the lock and for a bounded time.

kube-scheduler waits for the answer, and nobody else is asked about meanwhile: what is not done in
time is gone on with when the next member asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Lock

from scheduler.cluster.steps import BREATH_S
from scheduler.core.gangs.coordinator import Adoption
from scheduler.core.gangs.drafts import Draft

__all__ = ["Drafting"]

_LONGEST_S = 0.25
_STEPS = 4


class Drafting:
    """Makes drafts.

    Parameters
    ----------
    adoption
        Whose drafts they are.
    lock
        Guards it.
    clock
        The driver's time.
    longest_s
        How long one request may be at it.
    """

    def __init__(
        self,
        adoption: Adoption,
        lock: Lock,
        clock: Callable[[], float],
        *,
        longest_s: float = _LONGEST_S,
    ) -> None:
        self._adoption, self._lock, self._clock = adoption, lock, clock
        self._longest_s = longest_s

    def make(self, draft: Draft, in_steps: Callable[[Iterator[None]], Iterator[None]]) -> None:
        """Go on with a draft for some time, and take it over if it is done by then.

        Parameters
        ----------
        draft
            From :meth:`Adoption.draft`.
        in_steps
            Does work under the lock, step by step.
        """
        made = False
        try:
            made = self._work(draft)
        finally:
            if not made:
                with self._lock:  # what has failed cannot be gone on with
                    self._adoption.put_down(draft, self._clock(), for_good=draft.broken)
        if made:
            for _ in in_steps(self._adoption.take_over(draft, self._clock())):
                pass

    def _work(self, draft: Draft) -> bool:
        until = time.monotonic() + self._longest_s
        for step, _ in enumerate(draft.steps(), 1):
            if step % _STEPS == 0:
                if time.monotonic() >= until:
                    break
                time.sleep(BREATH_S)
        return draft.done
