"""Log lines about what others write: each object once an hour, each line of bounded length.

Every author of an object may change it as often as they like, and each change is read. What is
wrong with it is worth a line; a line for every change is a way to fill a disk.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Complaints", "cut"]

_EVERY_S = 3600.0
_MOST = 4096
_LONGEST = 400


def cut(text: object, longest: int = _LONGEST) -> str:
    """A text in one line of bounded length; control characters are escaped."""
    said = str(text)
    short = said if len(said) <= longest else f"{said[: longest - 3]}..."
    if short.isprintable():
        return short
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in short
    )


class Complaints:
    """Remembers what has been complained about.

    Parameters
    ----------
    log
        Where lines go, as warnings.
    clock
        Monotonic seconds.
    most
        Objects remembered; what was complained about longest ago is forgotten first.
    """

    def __init__(
        self,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        most: int = _MOST,
    ) -> None:
        self._log, self._clock, self._most = log, clock, most
        self._said: OrderedDict[str, float] = OrderedDict()

    def about(self, what: str, text: object) -> bool:
        """Say this about an object, unless something was said about it within the hour.

        Parameters
        ----------
        what
            The object; of very long names the beginning counts.
        text
            What is wrong with it.

        Returns
        -------
        bool
            Whether it was said.
        """
        key, now = cut(what), self._clock()
        last = self._said.get(key)
        if last is not None and now - last < _EVERY_S:
            return False
        self._said[key] = now
        self._said.move_to_end(key)
        if len(self._said) > self._most:
            self._said.popitem(last=False)
        self._log.warning("%s: %s", key, cut(text))
        return True
