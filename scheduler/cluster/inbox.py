"""What the threads that watch say to the thread that applies it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scheduler.kube.salvage import InPart

if TYPE_CHECKING:
    from scheduler.cluster.watched import Watched

__all__ = [
    "Exists",
    "ExistsInPart",
    "Gone",
    "Inbox",
    "ListBegins",
    "ListEnds",
    "Message",
    "Page",
    "Unlistable",
    "WatchSink",
]

_MOST_AT_ONCE = 32
_MOST_QUEUED = 20_000
_TURN_S = 1.0


@dataclass(frozen=True, slots=True)
class ListBegins:
    """All objects of the kind are told anew."""

    watched: Watched


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects of the list."""

    watched: Watched
    objects: Sequence[Any]


@dataclass(frozen=True, slots=True)
class ListEnds:
    """That was all: what was not listed does not exist."""

    watched: Watched


@dataclass(frozen=True, slots=True)
class Unlistable:
    """Nobody can tell which objects of the kind exist."""

    watched: Watched


@dataclass(frozen=True, slots=True)
class Exists:
    """An object was added or modified."""

    watched: Watched
    obj: Any


@dataclass(frozen=True, slots=True)
class ExistsInPart:
    """An object was listed, added or modified, of which only a part could be read."""

    watched: Watched
    part: InPart[Any]


@dataclass(frozen=True, slots=True)
class Gone:
    """An object was deleted."""

    watched: Watched
    obj: Any


Message = ListBegins | Page | ListEnds | Unlistable | Exists | ExistsInPart | Gone


class Inbox:
    """Messages in the order in which they came; who puts one waits while there are too many.

    Parameters
    ----------
    stop
        Ends every wait.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._messages: queue.Queue[Message | None] = queue.Queue(_MOST_QUEUED)

    @property
    def full(self) -> bool:
        """Whether the next message has to wait."""
        return self._messages.full()

    @property
    def empty(self) -> bool:
        """Whether no message waits."""
        return self._messages.empty()

    def put(self, message: Message) -> None:
        """Hand a message over."""
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._messages.put(message, timeout=_TURN_S)
                return

    def batch(self) -> list[Message]:
        """The next messages, as many as may be applied at once; none once all is over."""
        batch: list[Message] = []
        message = self._messages.get()
        with suppress(queue.Empty):
            while message is not None:
                batch.append(message)
                if len(batch) == _MOST_AT_ONCE or isinstance(message, Page):
                    break
                message = self._messages.get_nowait()
        return batch

    def close(self) -> None:
        """Wake who waits for a message."""
        with suppress(queue.Full):  # then there is one
            self._messages.put_nowait(None)


class WatchSink:
    """Where a reflector puts what it reads of one kind.

    Parameters
    ----------
    watched
        The kind.
    inbox
        Where messages about it go.
    """

    def __init__(self, watched: Watched, inbox: Inbox) -> None:
        self._watched, self._inbox = watched, inbox

    def listing(self) -> None:
        """All objects are told anew."""
        self._inbox.put(ListBegins(self._watched))

    def page(self, objects: Sequence[Any], unread: Sequence[InPart[Any]] = ()) -> None:
        """Some objects of the list, and what could be read of others."""
        for start in range(0, len(objects), _MOST_AT_ONCE):
            self._inbox.put(Page(self._watched, objects[start : start + _MOST_AT_ONCE]))
        for part in unread:
            self._inbox.put(ExistsInPart(self._watched, part))

    def listed(self) -> None:
        """That was all."""
        self._inbox.put(ListEnds(self._watched))

    def unlistable(self) -> None:
        """An optional kind is not served, or may not be read."""
        self._inbox.put(Unlistable(self._watched))

    def event(self, kind: str, obj: Any) -> None:  # noqa: ANN401 - of the watched kind
        """A change, as a reflector tells it."""
        match kind:
            case "DELETED":
                self._inbox.put(Gone(self._watched, obj))
            case "UNREADABLE":
                self._inbox.put(ExistsInPart(self._watched, obj))
            case _:
                self._inbox.put(Exists(self._watched, obj))
