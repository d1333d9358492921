"""One HTTP connection, and the thread that serves it: handshake, requests, answers, the end.

The thread waits for its own caller and for nobody else, so a caller that is slow costs a place in
the table, its buffer and a thread that sleeps. It never waits without a deadline: for the handshake
and a head, for a body, for the next request, and for an answer to be taken. Bytes that come slowly
prolong nothing. Whoever else wants a connection to end (its place is needed, the listener stops)
calls :meth:`Connection.shut`, which its thread sees at once.
"""

from __future__ import annotations

import enum
import logging
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from scheduler.cluster.housekeeping import RepeatLimit
from scheduler.webhook.framing import BadRequest, Reader, Request
from scheduler.webhook.limits import Limits
from scheduler.webhook.table import Table
from scheduler.webhook.wsgi import Answer, WsgiApp, answered, refused

__all__ = ["Connection", "Served"]

log = logging.getLogger(__name__)

_PIECE = 1 << 16  # received at once
_ROOM = 1 << 18  # of a caller that was served a verb: a question about 5,000 nodes at once
_UNCOUNTED = 1 << 16  # a request of this size is no burden
_LINGER_S = 1.0
_TOLD_EVERY_S = 60.0
_BLOCKED = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SPOKE_PLAIN = BadRequest(400, "this port speaks HTTPS: write https://")


class _Overdue(Exception):
    """The time for what it waits for is over, or it was asked to leave."""


class _Gone(Exception):
    """The caller has left."""


class _Phase(enum.Enum):
    """What a connection waits for."""

    REQUEST = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


@dataclass(frozen=True)
class Served:
    """What the connections of a listener have in common.

    Attributes
    ----------
    name : str
        Of the listener, in the log.
    app : callable
        Answers requests; called by several threads at once.
    limits : Limits
        What callers may use up.
    workers : SimpleQueue
        One thing in it for each request that may be answered at once.
    tls : callable or None
        Gives the context of the next handshake.
    refusal : callable or None
        Says after a handshake why a caller is not let in; empty if it is.
    lasting : dict
        What all WSGI environments of the listener have in common.
    stopping : Event
        Set once nobody is kept any longer.
    reading : Lock
        Held by the one stranger whose bytes are parsed. Those that send as fast as they can are as
        many as their threads; together they get the interpreter as often as one.
    """

    name: str
    app: WsgiApp
    limits: Limits
    workers: queue.SimpleQueue[None]
    tls: Callable[[], ssl.SSLContext] | None
    refusal: Callable[[ssl.SSLSocket], str] | None
    lasting: dict[str, Any]
    stopping: threading.Event = field(default_factory=threading.Event)
    reading: threading.Lock = field(default_factory=threading.Lock)
    told: RepeatLimit = field(default_factory=lambda: RepeatLimit(every_s=_TOLD_EVERY_S))


class Connection:
    """A caller, and what it has sent so far.

    Parameters
    ----------
    sock
        Accepted, and not blocking. With TLS its handshake is still to come.
    peer
        Address of the caller.
    served
        What it is served.
    table
        Where it has its place until it ends.

    Attributes
    ----------
    deadline : float
        Monotonic time by which what it waits for has to have happened.
    accepted : bool
        Whether a verb of this caller was answered with success.
    busy : bool
        Whether a request of it is being answered; it is not asked to leave then.
    overdue : bool
        Whether it was asked to leave.
    """

    def __init__(
        self, sock: socket.socket, peer: tuple[Any, ...], served: Served, table: Table
    ) -> None:
        self.peer, self._sock, self._served, self._table = peer, sock, served, table
        self._lasting = {
            **served.lasting,
            "REMOTE_ADDR": str(peer[0]) if peer else "",
            "REMOTE_PORT": str(peer[1]) if peer else "",
        }
        self._reader = Reader(served.limits.body)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._phase = _Phase.REQUEST
        self._spent_s = 0.0  # of the time for handshake and first head
        self._secured = served.tls is None
        self._sending = False
        self._room: memoryview | None = None
        self.accepted = self.busy = self.overdue = False
        began = time.monotonic()
        kept = served.limits.idle_s if self._secured else 0.0  # nothing was said so far: no hurry
        self.deadline = began + (kept or served.limits.head_s)

    @property
    def begun(self) -> bool:
        """Whether a request has begun to arrive, or its answer has not left."""
        return self.busy or self._sending or self._reader.begun or bool(self._reader.whole)

    @property
    def held(self) -> int:
        """Bytes of a body that is not whole yet."""
        return self._reader.held

    def shut(self) -> None:
        """Ask it to leave. From any thread.

        A TLS socket's own method would drop its state under the thread that uses it.
        """
        self.overdue = True
        both = self._sending or not self._secured
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR if both else socket.SHUT_RD)
        except OSError as error:
            log.debug("%s has left: %r", self.peer[:1], error)

    # -- the life of its thread --------------------------------------------------------------

    def run(self) -> None:
        """Serve the caller until one of both has had enough."""
        try:
            self._serve()
        except (_Gone, _Overdue, OSError, ValueError) as error:
            log.debug("%s has left: %r", self.peer[:1], error)
        except Exception:
            log.exception("%s: a request has failed", self._served.name)
        finally:
            self._table.remove(self)
            self._sock.close()

    def _serve(self) -> None:
        if self._served.tls is not None:
            self._secure(self._served.tls())
        try:
            while self._answer(self._next()):
                pass
        except _Overdue:
            if not self._reader.begun:
                return
            self._send(refused(BadRequest(408, "the request took too long: send it at once")))
        except BadRequest as refusal:
            self._tell_of(refusal)
            self._send(refused(refusal))
        self._linger()

    def _secure(self, context: ssl.SSLContext) -> None:
        began = time.monotonic()
        self._sock = sock = context.wrap_socket(
            self._sock, server_side=True, do_handshake_on_connect=False
        )
        while True:
            try:
                sock.do_handshake()
            except _BLOCKED as blocked:
                self._wait(select.POLLIN, blocked)
            except ssl.SSLError as error:
                if error.reason == "HTTP_REQUEST":
                    answer = refused(_SPOKE_PLAIN)
                    socket.socket.send(sock, answer.head() + answer.body)
                raise
            else:
                break
        self._secured = True
        if self._served.refusal is not None:
            self._reader.refusal = self._served.refusal(sock)
        now = time.monotonic()
        self._spent_s = now - began
        if self._served.limits.idle_s and not self._reader.refusal:
            self.deadline = now + self._served.limits.idle_s

    def _next(self) -> Request:
        """The next request, however long it takes within the limits.

        Raises
        ------
        BadRequest
            What has come is none.
        """
        reader = self._reader
        while not reader.whole:
            if reader.refused is not None:
                raise reader.refused
            self._set_deadline()
            piece = self._receive()
            if self.accepted:  # who was served a verb need not queue with strangers
                reader.feed(piece)
            else:
                with self._served.reading:
                    reader.feed(piece)
            if reader.expects:
                reader.expects = False
                self._send_all(_CONTINUE)
            if reader.held > _UNCOUNTED:
                self._table.relieve(2 * self._served.limits.body, _UNCOUNTED)
        return reader.whole.popleft()

    def _answer(self, request: Request) -> bool:
        """Answer a request; whether the connection goes on."""
        served = self._served
        self.busy = True
        keep = bool(served.limits.idle_s) and not served.stopping.is_set()
        worker = served.workers.get()
        try:
            answer = answered(served.app, request, self._lasting, keep=keep)
        finally:
            served.workers.put(worker)
        if answer.success and request.environ["REQUEST_METHOD"] == "POST":
            self.accepted = True
            self._room = self._room or memoryview(bytearray(_ROOM))
        self._sending, self.busy = True, False
        self._send(answer)
        self._phase = _Phase.REQUEST
        self.deadline = time.monotonic() + served.limits.idle_s
        return answer.keep

    def _linger(self) -> None:
        """Let the caller see that this was the last answer.

        A socket that is closed over what was sent and not read takes the answer with it.
        """
        self.deadline = time.monotonic() + _LINGER_S
        socket.socket.shutdown(self._sock, socket.SHUT_WR)
        self._poll.modify(self._sock, select.POLLIN)
        while (left := self.deadline - time.monotonic()) > 0 and self._poll.poll(left * 1000):
            if not socket.socket.recv(self._sock, _UNCOUNTED):
                return

    def _tell_of(self, refusal: BadRequest) -> None:
        """Log that a body was too long: kube-scheduler says of it only that the call has failed."""
        if refusal.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            caller = self.peer[:1]
            if self._served.told.now(caller):
                text = "%s: a request from %s is refused: %s"
                log.warning(text, self._served.name, ".".join(map(str, caller)), refusal.reason)

    # -- waiting -----------------------------------------------------------------------------

    def _set_deadline(self) -> None:
        """Begin a new wait where what is waited for has changed."""
        reader, limits = self._reader, self._served.limits
        phase = _Phase.REQUEST
        if reader.begun:
            phase = _Phase.BODY if reader.in_body else _Phase.HEAD
        if phase is self._phase:
            return
        self._phase = phase
        if phase is _Phase.BODY:
            self.deadline = time.monotonic() + limits.body_s
        elif limits.idle_s:  # elsewhere the time has run since the connection was made
            self.deadline = time.monotonic() + limits.head_s - self._spent_s
        self._spent_s = 0.0

    def _wait(self, event: int, blocked: BaseException | None = None) -> None:
        """Wait until the socket can be read from or written to; TLS may want the other of both."""
        if isinstance(blocked, ssl.SSLWantReadError):
            event = select.POLLIN
        elif isinstance(blocked, ssl.SSLWantWriteError):
            event = select.POLLOUT
        self._poll.modify(self._sock, event)
        left = self.deadline - time.monotonic()
        if self.overdue or left <= 0 or not self._poll.poll(left * 1000):
            raise _Overdue

    def _receive(self) -> bytes | memoryview:
        """What has come next, good until it is called again; :class:`_Gone` at the end."""
        sock = self._sock
        if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            self._wait(select.POLLIN)
        elif self.overdue or time.monotonic() > self.deadline:
            raise _Overdue
        while True:
            try:
                room = self._room
                piece = sock.recv(_PIECE) if room is None else room[: sock.recv_into(room)]
            except _BLOCKED as blocked:
                self._wait(select.POLLIN, blocked)
            else:
                break
        if piece:
            return piece
        raise _Overdue if self.overdue else _Gone

    def _send(self, answer: Answer) -> None:
        """Send an answer; who does not take it in time has gone."""
        self._sending = True
        self.deadline = time.monotonic() + self._served.limits.answer_s
        head = answer.head()
        if isinstance(self._sock, ssl.SSLSocket):  # TLS has no gathering write
            self._send_all(head + answer.body)
        else:
            try:
                sent = self._sock.sendmsg((head, answer.body))
            except _BLOCKED:
                sent = 0
            if sent < len(head) + len(answer.body):
                self._send_all(memoryview(head + answer.body)[sent:])
        self._sending = False

    def _send_all(self, content: bytes | memoryview) -> None:
        left = memoryview(content)
        while left:
            try:
                left = left[self._sock.send(left) :]
            except _BLOCKED as blocked:
                try:
                    self._wait(select.POLLOUT, blocked)
                except _Overdue as error:
                    raise _Gone from error
