"""One HTTP connection: bytes in, a request; an answer, bytes out. It never waits.

kube-scheduler sends small heads and large bodies on connections that it keeps. A head that arrives
whole is parsed at once, the body is received straight into place, and head and body of an answer
leave in one system call. Nothing here blocks: a caller that is slow costs its own buffer and no
thread. Who waits for a connection, and for how long, is decided by :mod:`listener`.
"""

from __future__ import annotations

import enum
import logging
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from io import BytesIO
from typing import Any

from scheduler.webhook.framing import (
    MOST_HEAD,
    BadRequest,
    Chunks,
    Head,
    parse_head,
    too_long,
    visibly_wrong,
)

__all__ = ["Connection", "Step", "WsgiApp"]

log = logging.getLogger(__name__)

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_PIECE = 1 << 16
_MOST_BLANK = 8  # bytes of empty lines before a request
_MOST_AT_ONCE = 1 << 20  # read from one connection before others have their turn
_BLOCKED = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SPOKE_PLAIN = b"This port speaks HTTPS.\n"
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Step(enum.Enum):
    """What a connection has come to."""

    WHOLE = enum.auto()  # a request is there
    MORE = enum.auto()  # it waits for the caller
    REFUSED = enum.auto()  # what came is no request; an answer says so, and it closes
    GONE = enum.auto()  # the caller has left


class _Answer:
    """Status and header fields that an application has given."""

    def __init__(self) -> None:
        self.status = "500 Internal Server Error"
        self._fields: list[tuple[str, str]] = []
        self.keep = True

    def start(
        self, status: str, headers: list[tuple[str, str]], _error: object = None
    ) -> Callable[[bytes], None]:
        """WSGI's ``start_response``; nothing has been sent yet, so that it may be called again."""
        self.status, self._fields = status, headers
        return _refuse_to_write

    def head(self, length: int, *, keep: bool, bodiless: bool = False) -> bytes:
        """The head as bytes, with the length of what follows."""
        lines = [f"HTTP/1.1 {self.status}"]
        for name, value in self._fields:
            lower = name.lower()
            if lower == "connection":
                keep = keep and value.lower() != "close"
            elif lower != "content-length" or bodiless:
                lines.append(f"{name}: {value}")
        self.keep = keep
        if not keep:
            lines.append("Connection: close")
        if not bodiless and not self.status.startswith(("204", "304")):
            lines.append(f"Content-Length: {length}")
        lines.append(f"Date: {_date(int(time.time()))}\r\n\r\n")
        return "\r\n".join(lines).encode("latin-1")


def _refuse_to_write(_chunk: bytes) -> None:
    raise NotImplementedError("answers are returned, not written")


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class Connection:
    """A connection of a listener, used by one thread at a time.

    Parameters
    ----------
    sock
        Accepted, and not blocking. With TLS its handshake is still to come.
    peer
        Address of the caller.
    lasting
        What all WSGI environments of the listener have in common.
    most_body
        Bytes that the body of a request may have.

    Attributes
    ----------
    deadline : float
        Monotonic time by which what it waits for has to have happened.
    accepted : bool
        Whether a verb of this caller was answered with success.
    refusal : str
        Why this caller is let in nowhere; empty for others.
    busy : bool
        Whether a worker has it.
    overdue : bool
        Whether its time is over; it has been shut, and its owner will see that.
    """

    __slots__ = (
        "_at",
        "_body",
        "_chunks",
        "_head",
        "_held",
        "_lasting",
        "_most_body",
        "_out",
        "_refused",
        "_seen",
        "accepted",
        "began",
        "busy",
        "closing",
        "deadline",
        "fd",
        "overdue",
        "peer",
        "poll",
        "refusal",
        "secured",
        "sock",
        "spent_s",
        "waits_for",
    )

    def __init__(
        self, sock: socket.socket, peer: tuple[Any, ...], lasting: dict[str, Any], most_body: int
    ) -> None:
        self.sock, self.peer, self.fd = sock, peer, sock.fileno()
        self._lasting = {
            **lasting,
            "REMOTE_ADDR": str(peer[0]) if peer else "",
            "REMOTE_PORT": str(peer[1]) if peer else "",
        }
        self._most_body = most_body
        self._held = b""
        self._seen = 0  # so much of it holds no end of a head
        self._head: Head | None = None
        self._body: bytearray | None = None
        self._at = 0
        self._chunks: Chunks | None = None
        self._out: bytes | memoryview = b""
        self._refused: BadRequest | None = None
        self.deadline = self.began = time.monotonic()
        self.spent_s = 0.0  # of the time for handshake and first head
        self.waits_for = 0
        self.accepted = self.busy = self.overdue = self.closing = False
        self.secured = not isinstance(sock, ssl.SSLSocket)
        self.refusal = ""
        self.poll = select.poll()
        self.poll.register(sock, select.POLLIN)

    # -- TLS ---------------------------------------------------------------------------------

    def secure(self) -> Step | int:
        """Go on with the handshake: whole, gone, or the event of the socket to wait for."""
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            return select.EPOLLIN
        except ssl.SSLWantWriteError:
            return select.EPOLLOUT
        except (OSError, ValueError) as error:
            if getattr(error, "reason", "") == "HTTP_REQUEST":
                self._say_in_plain()
            log.debug("%s: no handshake: %r", self.peer[:1], error)
            return Step.GONE
        self.secured = True
        return Step.WHOLE

    def _say_in_plain(self) -> None:
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(_SPOKE_PLAIN)}\r\n"
        text = head.encode() + b"Connection: close\r\n\r\n" + _SPOKE_PLAIN
        try:
            socket.socket.send(self.sock, text)
        except OSError as error:
            log.debug("%s: not told that this is TLS: %r", self.peer[:1], error)

    # -- a request ---------------------------------------------------------------------------

    @property
    def refused(self) -> BadRequest | None:
        """Why what came is no request; of :attr:`Step.REFUSED`."""
        return self._refused

    @property
    def begun(self) -> bool:
        """Whether part of a request is there."""
        return bool(self._held) or self._head is not None

    @property
    def in_body(self) -> bool:
        """Whether the head is whole, and the body is not."""
        return self._head is not None

    @property
    def now_waits_for(self) -> int:
        """0: a request; 1: the rest of a head; 2: the rest of a body."""
        return 2 if self._head is not None else int(bool(self._held))

    @property
    def held(self) -> int:
        """Bytes that a request takes until it is answered."""
        body = len(self._body) if self._body is not None else 0
        return body + (len(self._chunks.body) if self._chunks else 0) + len(self._held)

    def receive(self) -> Step:
        """Take what has arrived."""
        try:
            return self._receive()
        except _BLOCKED:
            return Step.MORE
        except BadRequest as refused:
            self._refused = refused
            return Step.REFUSED
        except OSError as error:
            log.debug("%s has left: %r", self.peer[:1], error)
            return Step.GONE

    def _receive(self) -> Step:
        taken = 0
        while True:
            if self._head is None and self._next_head():
                self._begin_body()
            if self._head is not None and self._complete():
                return Step.WHOLE
            # Chunks may be of a byte each, and then cost more than they bring.
            if taken >= (_PIECE if self._chunks else _MOST_AT_ONCE) and not self._hidden():
                return Step.MORE
            if self._body is not None:
                count = self._into_place()
            else:
                piece = self.sock.recv(_PIECE)
                count = len(piece)
                self._took(piece)
            if not count:
                return Step.GONE
            taken += count

    def _into_place(self) -> int:
        assert self._body is not None and self._head is not None and self._head.length is not None
        if self._at == len(self._body):  # grows with what has come, not with what was announced
            self._body.extend(bytes(min(self._at, self._head.length - self._at)))
        with memoryview(self._body) as room:
            count = self.sock.recv_into(room[self._at :])
        self._at += count
        return count

    def _took(self, piece: bytes) -> None:
        if self._chunks is None:
            self._held = self._held + piece if self._held else piece
            return
        rest = self._chunks.feed(piece)
        if rest is not None:
            self._body, self._chunks = self._chunks.body, None
            self._at = len(self._body)
            assert self._head is not None
            self._head.length = self._at
            self._held = rest

    def _next_head(self) -> bool:
        """Parse the head if it is there whole."""
        held = self._held
        blank = 0
        while blank < _MOST_BLANK and held.startswith(b"\r\n", blank):
            blank += 2
        if blank:
            held = self._held = held[blank:]
            self._seen = 0
        if not held:
            return False
        end = held.find(b"\r\n\r\n", max(0, self._seen - 3))
        if end > MOST_HEAD or (end < 0 and len(held) > MOST_HEAD):
            raise BadRequest(431, "the head is too long")
        if end < 0:
            if visibly_wrong(held, max(0, self._seen - 1)):
                raise BadRequest(400, "no head of a request")
            self._seen = len(held)
            return False
        self._seen = 0
        self._head = parse_head(held[:end])
        self._held = held[end + 4 :]
        return True

    def _begin_body(self) -> None:
        head = self._head
        assert head is not None
        if self.refusal:
            raise BadRequest(403, self.refusal)
        if head.length is not None and head.length > self._most_body:
            raise too_long(f"has {head.length} bytes", self._most_body)
        if head.length is None:
            if not self._most_body:
                raise too_long("comes in chunks", 0)
            self._chunks = Chunks(self._most_body)
            held, self._held = self._held, b""
            self._took(held)
        elif head.length > len(self._held):
            self._body = bytearray(min(head.length, _MOST_AT_ONCE))
            self._at = len(self._held)
            self._body[: self._at] = self._held
            self._held = b""
        if head.expects and not (self._at or self._held):
            self._say(_CONTINUE)

    def _complete(self) -> bool:
        assert self._head is not None
        length = self._head.length
        if length is None:
            return False
        return self._body is None or self._at >= length

    def _hidden(self) -> bool:
        """Whether something is there that the socket's descriptor no longer shows."""
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    # -- an answer ---------------------------------------------------------------------------

    def answer(self, app: WsgiApp, *, keep: bool) -> None:
        """Let the application answer the request; :attr:`unsent` says whether something is left."""
        head, self._head = self._head, None
        assert head is not None and head.length is not None
        if self._body is None:
            body, self._held = self._held[: head.length], self._held[head.length :]
        else:
            body, self._body, self._at = bytes(self._body), None, 0
        environ = {
            **self._lasting,
            **head.fields,
            "PATH_INFO": head.path,
            "QUERY_STRING": head.query,
            "REQUEST_METHOD": head.method,
            "CONTENT_LENGTH": str(head.length),
            "wsgi.input": BytesIO(body),
        }
        answer = _Answer()
        chunks = app(environ, answer.start)
        try:
            content = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        bodiless = head.method == "HEAD"
        text = answer.head(len(content), keep=keep and head.keep, bodiless=bodiless)
        self.closing = not answer.keep
        if head.method == "POST" and answer.status.startswith("200"):
            self.accepted = True
        self._send(text, b"" if bodiless else content)

    def refuse(self, status: int = 0) -> None:
        """Answer what was no request, or whose time was over, and close."""
        refused = self._refused or BadRequest(status, "")
        self._head = self._body = self._chunks = None
        self._held = b""
        text = f"{refused.reason}\n".encode() if refused.reason else b""
        answer = _Answer()
        kind = [("Content-Type", "text/plain; charset=utf-8")] if text else []
        answer.start(f"{refused.status} {_REASONS[refused.status]}", kind)
        self.closing = True
        self._send(answer.head(len(text), keep=False), text)

    @property
    def unsent(self) -> bool:
        """Whether part of an answer still has to leave."""
        return bool(self._out)

    def send(self) -> bool:
        """Send what is left; False if the caller has gone."""
        try:
            while self._out:
                sent = self.sock.send(self._out)
                self._out = memoryview(self._out)[sent:]
        except _BLOCKED:
            return True
        except OSError as error:
            log.debug("%s has left: %r", self.peer[:1], error)
            self._out = b""
            self.closing = True
            return False
        self._out = b""
        return True

    def _send(self, head: bytes, body: bytes) -> None:
        if self._out or isinstance(self.sock, ssl.SSLSocket):  # TLS has no gathering write
            self._out = bytes(self._out) + head + body
            self.send()
            return
        try:
            sent = self.sock.sendmsg((head, body))
        except _BLOCKED:
            sent = 0
        except OSError as error:
            log.debug("%s has left: %r", self.peer[:1], error)
            self.closing = True
            return
        if sent < len(head):
            self._out = head[sent:] + body
        elif sent < len(head) + len(body):
            self._out = memoryview(body)[sent - len(head) :]

    def _say(self, text: bytes) -> None:
        """Send a few bytes in the middle of a request."""
        self._out = text
        self.send()

    # -- the end -----------------------------------------------------------------------------

    def shut(self) -> None:
        """Let the thread that waits for this connection see its end. From any thread.

        A socket's own method would drop the state of TLS under whoever uses it.
        """
        self.overdue = True
        try:
            both = bool(self._out) or not self.secured
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR if both else socket.SHUT_RD)
        except OSError as error:
            log.debug("%s has left: %r", self.peer[:1], error)

    def end_answer(self) -> bool:
        """Tell the caller that nothing more comes; False if it has gone."""
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
        except OSError:
            return False
        return True

    def discard(self) -> bool:
        """Read what is sent after the answer; False at its end."""
        try:
            return bool(socket.socket.recv(self.sock, _PIECE))
        except _BLOCKED:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


def lasting_environ(name: str, port: int, *, secure: bool) -> dict[str, Any]:
    """What all WSGI environments of a listener have in common."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": name,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.errors": sys.stderr,
        "wsgi.multiprocess": False,
        "wsgi.multithread": True,
        "wsgi.run_once": False,
        "wsgi.url_scheme": "https" if secure else "http",
        "wsgi.version": (1, 0),
    }
