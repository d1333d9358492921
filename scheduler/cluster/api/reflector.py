"""List and watch one kind of object, for ever: whatever breaks, it ends in the truth.

A :class:`Reflector` lists in pages, then watches from where the list ended. What goes wrong and
what follows:

=================================  ====================================================
the server ends the watch          watch again from the last version seen
silence longer than ``read_s``     the connection is taken for dead; watch again
410 Gone (compaction)              list again
429 with Retry-After               wait that long, then go on
connection refused, 5xx            wait, longer each time and never in step with others
401                                the client has renewed its credentials already; wait
404                                the kind is not served: nothing of it, ask again later
403 or 404 of an optional kind     nobody can tell of it; ask again later
a message that cannot be read      list again; also on demand
an object that cannot be read      it is told of, with what can be read of it; DELETED as ever
a watch ends at once, empty        wait, longer each time
=================================  ====================================================

It hands on decoded objects and keeps none of them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from scheduler.cluster.api.client import KubeClient, Stream
from scheduler.core.errors import KubeApiError
from scheduler.kube.salvage import InPart, salvage

__all__ = ["Reflector", "Sink", "WatchFigures", "WatchTiming"]

log = logging.getLogger(__name__)

_SHORT_S = 1.0
_STOP_S = 5.0

T = TypeVar("T", bound=msgspec.Struct)
T_contra = TypeVar("T_contra", contravariant=True)


class Sink(Protocol[T_contra]):
    """Where objects go. Called from the reflector's thread, in order."""

    def listing(self) -> None:
        """A new list begins."""

    def page(self, objects: Sequence[T_contra], unread: Sequence[InPart[Any]] = ()) -> None:
        """Some of the objects that exist; of those ``unread`` only a part could be read."""

    def listed(self) -> None:
        """That was all: whatever was not listed does not exist."""

    def unlistable(self) -> None:
        """Nobody can tell which objects exist: an optional kind is not served, or may not be read.

        What was told of it before may be false by now.
        """

    def event(self, kind: str, obj: T_contra | InPart[Any]) -> None:
        """A change; ``kind`` is ADDED, MODIFIED, DELETED, or UNREADABLE where only a part of the
        object could be read that was added or modified; then that is what ``obj`` is.
        """


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """How long things may take, in seconds.

    Parameters
    ----------
    page
        Objects per page of a list.
    watch_s
        Length of one watch; the server ends it, and the next begins where it ended.
    read_s
        Silence after which a connection is dead. The server sends a bookmark about once a minute.
    backoff_s, most_backoff_s
        First and longest wait after a failure.
    absent_s
        Wait before a kind that is not served is asked for again.
    """

    page: int = 500
    watch_s: int = 300
    read_s: float = 100.0
    backoff_s: float = 0.1
    most_backoff_s: float = 10.0
    absent_s: float = 300.0


@dataclass
class WatchFigures:
    """What a reflector has gone through, for metrics.

    Attributes
    ----------
    evidence_at : float or None
        Monotonic time of the last list, event or bookmark; None before the first list.
    restarts : Counter of str
        Failures by cause.
    served : bool
        Whether the API server knows the kind and, if it is optional, lets us read it.
    """

    evidence_at: float | None = None
    restarts: Counter[str] = field(default_factory=Counter)
    events: int = 0
    lists: int = 0
    served: bool = True


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Versioned(msgspec.Struct):
    metadata: _ListMeta


class _Failure(msgspec.Struct):
    code: int = 0
    message: str = ""


_page_decoder = msgspec.json.Decoder(_Page)
_event_decoder = msgspec.json.Decoder(_Event)
_version_decoder = msgspec.json.Decoder(_Versioned)
_failure_decoder = msgspec.json.Decoder(_Failure)


class _Expired(Exception):
    """The version to watch from is no longer known to the server."""


class Reflector(Generic[T]):
    """Keeps a sink informed about one kind of object.

    Parameters
    ----------
    client
        The API.
    path
        Such as ``/api/v1/pods``.
    decoder
        Of the struct that objects are read into; it has a field ``metadata``, the others have
        defaults. It is made before the first reflector starts, see :mod:`scheduler.kube.objects`.
    sink
        Where they go.
    label
        Name in logs and metrics.
    selector
        Field selector; an object that leaves it is reported as deleted.
    timing
        Waits and limits.
    optional
        Whether a right to read the kind may be missing.
    unreadable
        Called with the error text of an object that cannot be decoded.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        decoder: msgspec.json.Decoder[T],
        sink: Sink[T],
        *,
        label: str,
        selector: str = "",
        timing: WatchTiming | None = None,
        optional: bool = False,
        unreadable: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.label = label
        self.figures = WatchFigures()
        self.synced = threading.Event()
        self._client, self._path, self._sink = client, path, sink
        self._selection = {"fieldSelector": selector} if selector else {}
        self._decoder = decoder
        self._timing = timing or WatchTiming()
        self._optional = optional
        self._unreadable = unreadable
        self._stop, self._again = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {label}", daemon=True)
        self._stream: Stream | None = None
        self._version = ""
        self._failures = 0
        self._jitter = random.Random()  # noqa: S311 - spreads retries, decides nothing

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, *, wait: bool = True) -> None:
        """End; returns once the thread has ended or is out of reach in a call, or at once."""
        self._stop.set()
        self.interrupt()
        if wait and self._thread.is_alive():
            self._thread.join(timeout=min(self._timing.read_s, _STOP_S))

    def interrupt(self) -> None:
        """Cut the present watch, as a network failure would; it goes on by itself."""
        stream = self._stream
        if stream is not None:
            stream.stop()

    def relist(self) -> None:
        """List anew, as after an answer 410."""
        self._again.set()
        self.interrupt()

    # -- the loop ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._again.is_set():
                    self._failed("relisted")
                    self._wait(0.0)
                    self._version = ""  # until a list has ended, whatever becomes of this one
                    self._again.clear()
                if not self._version:
                    self._list()
                self._watch()
            except _Expired:
                self._failed("expired")
                self._version = ""
                self._wait(0.0)
            except KubeApiError as error:
                self._refused(error)
            except msgspec.MsgspecError as error:
                self._failed("unreadable")
                log.warning("watch of %s is listed anew: %s", self.label, error)
                self._version = ""
                self._wait(0.0)
            except Exception:  # the loop must outlive whatever an object does
                self._failed("fault")
                log.exception("watch of %s is listed anew", self.label)
                self._version = ""
                self._wait(0.0)

    def _refused(self, error: KubeApiError) -> None:
        if self._stop.is_set():
            return
        if error.status == 404 or (self._optional and error.status == 403):
            self._absent(error)
            return
        self._failed(f"http_{error.status}" if error.status else "connection")
        level = logging.WARNING if self._failures <= 3 else logging.DEBUG
        log.log(level, "watch of %s is interrupted: %s", self.label, error)
        if error.status == 410:
            self._version = ""
        self._wait(error.retry_after_s)

    def _absent(self, error: KubeApiError) -> None:
        """The kind is not served: there are no objects of it, or none can be listed."""
        if self._optional and (self.figures.served or not self.synced.is_set()):
            log.info("%s are not known: %s", self.label, error)
        self.figures.served = False
        self.figures.evidence_at = time.monotonic()
        self._version = ""
        if self._optional:
            self._sink.unlistable()
        else:
            self._sink.listing()
            self._sink.listed()
        self.synced.set()
        self._stop.wait(self._timing.absent_s)

    def _failed(self, cause: str) -> None:
        self._failures += 1
        self.figures.restarts[cause] += 1

    def _wait(self, at_least_s: float) -> None:
        """Wait after a failure: exponential, with jitter, and as long as the server asks for."""
        timing = self._timing
        exponential = timing.backoff_s * 2 ** min(self._failures - 1, 16)
        wait = min(timing.most_backoff_s, exponential) * self._jitter.uniform(0.5, 1.0)
        self._stop.wait(max(wait, at_least_s))

    def _list(self) -> None:
        self._sink.listing()
        params = {"limit": str(self._timing.page), **self._selection}
        while not self._stop.is_set():
            page = _page_decoder.decode(self._client.get(self._path, params))
            read = [self._decode(raw) for raw in page.items or ()]
            unread = [part for part in read if isinstance(part, InPart)]
            objects = [obj for obj in read if obj is not None and not isinstance(obj, InPart)]
            self._sink.page(objects, unread)
            if not page.metadata.continue_:
                self._sink.listed()
                self._version = page.metadata.resource_version
                self.figures.evidence_at = time.monotonic()
                self.figures.served = True
                self.figures.lists += 1
                self.synced.set()
                return
            params["continue"] = page.metadata.continue_

    def _decode(self, raw: msgspec.Raw) -> T | InPart[T] | None:
        """An object, or what can be read of it; one that cannot be read is told of.

        Such an object exists all the same, and what can be read of it counts: which it is, so that
        what was known of it neither vanishes with the next list nor stays after its deletion, where
        it runs, what it asks for. None if not even that can be read.
        """
        try:
            return self._decoder.decode(raw)
        except msgspec.MsgspecError as error:
            self._unreadable(str(error))
        return salvage(self._decoder, raw)

    def _watch(self) -> None:
        timing = self._timing
        params = {
            **self._selection,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(timing.watch_s * self._jitter.uniform(1.0, 1.5))),
        }
        began = time.monotonic()
        stream = self._client.stream(self._path, params, read_s=timing.read_s)
        self._stream = stream
        heard = False
        try:
            if self._stop.is_set() or self._again.is_set():
                return  # stop() or relist() came before there was a stream to cut
            for line in stream.lines():
                self._handle(line)
                self.figures.evidence_at = time.monotonic()
                self._failures, heard = 0, True
                if self._stop.is_set():
                    return
        finally:
            self._stream = None
            stream.close()
        if heard or time.monotonic() - began >= _SHORT_S:
            self._stop.wait(timing.backoff_s)  # an orderly end is not a failure
        elif not self._stop.is_set():
            self._failed("short")
            self._wait(0.0)

    def _handle(self, line: bytes) -> None:
        event = _event_decoder.decode(line)
        if event.type == "ERROR":
            failure = _failure_decoder.decode(event.object)
            if failure.code == 410:
                raise _Expired
            raise KubeApiError(f"watch {self._path}", failure.code or 500, failure.message)
        version = _version_decoder.decode(event.object).metadata.resource_version
        if event.type != "BOOKMARK":
            obj = self._decode(event.object)
            if isinstance(obj, InPart) and event.type != "DELETED":
                self._sink.event("UNREADABLE", obj)
            elif obj is not None:
                self._sink.event(event.type, obj.obj if isinstance(obj, InPart) else obj)
            self.figures.events += 1
        self._version = version
