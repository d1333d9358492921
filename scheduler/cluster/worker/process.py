"""A process beside this one that is spoken to in messages, none of which can block for ever.

A sender to a stopped process fills a socket's buffer and waits, unless every write has an end.
Here reads and writes never block; while one of them waits, three things say that the process lives:

- it takes or sends bytes; a thread of it sends an empty message once a second;
- it uses the processor, or waits for its turn there: a solver may hold the interpreter for long;
- it has not been silent for longer than ``SILENCE_S``.

So a long computation is told from a process that is stopped or stuck, at its start, while it is
being told of the cluster, while it computes, and while nothing is asked of it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

__all__ = ["SILENCE_S", "Companion", "CompanionFault", "Counterpart"]

SILENCE_S = 4.0
"""How long a process may give no sign of life."""

_STALL_S = 6.0  # how long it may take nothing of a message, although it lives
_START_S = 60.0  # until the first sign that it has loaded its code
_BEAT_S = 1.0
_WAITS_FOR_PROCESSOR = 6  # times its deadline may take a process that works and gets no processor
_POLL_MS = 200
_END_S = 5.0
_LENGTH = struct.Struct(">Q")
_TICKS = os.sysconf("SC_CLK_TCK")
_PIECE = 1 << 18


class CompanionFault(Exception):
    """The process is of no use any more; ``cause`` is ``crashed``, ``stuck`` or ``killed``."""

    def __init__(self, cause: str, what: str) -> None:
        self.cause = cause
        super().__init__(what)


class Companion:
    """The side that has started it. Used by one thread; :meth:`end` by any.

    Parameters
    ----------
    main
        What the process runs, with a :class:`Counterpart` and ``arguments``.
    arguments
        For ``main``.
    stopped
        Ends every wait early.
    """

    def __init__(
        self, main: Callable[..., None], arguments: tuple[Any, ...], stopped: threading.Event
    ) -> None:
        self._stopped = stopped
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(0.0)
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(
            target=_run, args=(theirs, main, arguments), name="planner", daemon=True
        )
        try:
            with _undisturbed():
                self._process.start()
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self._received = bytearray()
        self._began = self._lived = time.monotonic()
        self._worked = 0
        self._loaded = False

    @property
    def pid(self) -> int | None:
        """Process id, while it runs."""
        process = self._process
        return process.pid if process.is_alive() else None

    @property
    def loaded(self) -> bool:
        """Whether it has been heard of."""
        return self._loaded

    def send(self, message: Any) -> None:  # noqa: ANN401 - what can be pickled
        """Hand a message over; :class:`CompanionFault` if that cannot be done in time."""
        content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        left = memoryview(_LENGTH.pack(len(content)) + content)
        taken = time.monotonic()
        while left:
            self._wait(select.POLLIN | select.POLLOUT)
            sent = self._write(left)
            left = left[sent:]
            now = time.monotonic()
            if sent:
                taken = self._lived = now
            elif self._loaded and now - taken > _STALL_S:
                raise CompanionFault("stuck", f"takes no message for {now - taken:.0f} s")
            self._live_on()

    def receive(self, within_s: float) -> Any:  # noqa: ANN401 - as above
        """The next message; :class:`CompanionFault` if there is none in time.

        A process that gets little of the processor may take longer, as long as it works and has
        not had that much of it.
        """
        began = time.monotonic()
        until, latest = began + within_s, began + _WAITS_FOR_PROCESSOR * within_s
        used_before = used = _activity(self._process.pid)[0]
        while True:
            content = self._next()
            if content:
                return pickle.loads(content)  # noqa: S301 - from a process of our own
            if content is not None:
                continue  # a sign of life
            self._wait(select.POLLIN)
            self._live_on()
            now = time.monotonic()
            if now > until:
                last, (used, waiting) = used, _activity(self._process.pid)
                enough = used - used_before >= within_s * _TICKS
                if enough or now > latest or not (waiting or used > last):
                    raise CompanionFault("killed", f"is past its deadline of {within_s:.0f} s")
                until = now + SILENCE_S

    def look(self) -> None:
        """Notice, without waiting, that it has ended or gives no sign of life."""
        self._live_on()
        while (content := self._next()) is not None:
            if content:
                raise CompanionFault("crashed", "has sent a message that was not requested")

    def end(self) -> None:
        """End it, whatever it does; also where it is stopped."""
        self._socket.close()
        with suppress(ValueError):  # somebody has ended it just now
            if self._process.is_alive():
                self._process.kill()
            self._process.join(timeout=_END_S)

    # -- inside ------------------------------------------------------------------------------

    def _wait(self, events: int) -> None:
        if self._stopped.is_set():
            raise CompanionFault("killed", "is not needed any more")
        poll = select.poll()
        poll.register(self._descriptor(), events)
        poll.poll(_POLL_MS)

    def _descriptor(self) -> int:
        number = self._socket.fileno()
        if number < 0:
            raise CompanionFault("killed", "has been ended")
        return number

    def _write(self, content: memoryview) -> int:
        try:
            return self._socket.send(content[:_PIECE])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise CompanionFault("crashed", f"has died: {error}") from error

    def _live_on(self) -> None:
        """Read what is there; :class:`CompanionFault` if there is no sign of life."""
        now = time.monotonic()
        heard = self._read()
        if heard or now - self._lived > SILENCE_S / 2:
            before, (self._worked, waiting) = self._worked, _activity(self._process.pid)
            if heard or waiting or self._worked != before:
                self._lived = now
        self._loaded |= heard
        if now - self._lived > SILENCE_S:
            raise CompanionFault("stuck", f"gives no sign of life for {now - self._lived:.0f} s")
        if not self._loaded and now - self._began > _START_S:
            raise CompanionFault("stuck", f"has not begun in {now - self._began:.0f} s")

    def _read(self) -> bool:
        some = False
        while True:
            try:
                piece = self._socket.recv(_PIECE)
            except BlockingIOError:
                return some
            except OSError as error:
                raise CompanionFault("crashed", f"has died: {error}") from error
            if not piece:
                raise CompanionFault("crashed", "has died")
            self._received += piece
            some = True

    def _next(self) -> bytes | None:
        """A whole message that has been received; an empty one is a sign of life alone."""
        received, head = self._received, _LENGTH.size
        if len(received) < head:
            return None
        (length,) = _LENGTH.unpack_from(received)
        if len(received) < head + length:
            return None
        content = bytes(memoryview(received)[head : head + length])
        del received[: head + length]
        return content


class Counterpart:
    """The side of the process itself."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._writing = threading.Lock()

    def messages(self) -> Iterator[Any]:
        """What the other side sends, until it has gone."""
        stream = self._channel.makefile("rb")
        while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
            yield pickle.loads(stream.read(*_LENGTH.unpack(head)))  # noqa: S301 - from our parent

    def answer(self, message: Any) -> None:  # noqa: ANN401 - what can be pickled
        """Send a message."""
        self._send(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def beat(self) -> None:
        """Say once a second that this process lives; when nobody listens any more it ends."""
        while True:
            try:
                self._send(b"")
            except OSError:
                os._exit(1)
            time.sleep(_BEAT_S)

    def _send(self, content: bytes) -> None:
        with self._writing:
            self._channel.sendall(_LENGTH.pack(len(content)) + content)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C is for this process, which ends the other one: what is started here never sees it."""
    resource_tracker.ensure_running()  # which would let signals through again while it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(channel: socket.socket, main: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for what it starts itself
    counterpart = Counterpart(channel)
    threading.Thread(target=counterpart.beat, name="beat", daemon=True).start()
    with suppress(ConnectionError, EOFError):  # the other side has gone: so do we
        main(counterpart, *arguments)


def _activity(pid: int | None) -> tuple[int, bool]:
    """Ticks of processor time used so far, and whether a process waits for its turn."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0, False  # then only what it says counts
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[11]) + int(fields[12]), fields[0] == "R"
