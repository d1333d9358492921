"""What callers of a listener may use up."""

from __future__ import annotations

import resource
from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one listener.

    Attributes
    ----------
    connections
        Places in the table, and with that threads.
    head_s
        Seconds for handshake and first head together, and for every later head.
    body_s
        Seconds for a body.
    idle_s
        Seconds that a connection is kept without a request; 0 closes after each answer.
    answer_s
        Seconds in which a caller has to take its answer.
    body
        Bytes of a body.
    """

    connections: int = 256
    head_s: float = 5.0
    body_s: float = 10.0
    idle_s: float = 180.0
    answer_s: float = 30.0
    body: int = 64 << 20

    def within_files(self) -> int:
        """Places, as far as the process may open files: a third of them at most."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = self.connections
        return most if soft == resource.RLIM_INFINITY else max(16, min(most, soft // 3))
