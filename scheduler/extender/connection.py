"""What one HTTP connection does, where cheroot's own way costs more than the answer.

kube-scheduler sends small heads and large bodies on connections that it keeps. cheroot reads and
writes through Python's own ``_pyio``, parses a head line by line, and hands a connection back to
its selector thread after each answer. Here a head that arrives whole is parsed at once, the body
is received straight into place, head and body of an answer leave in one system call, and a worker
that is not needed elsewhere waits a moment for the next request, because after a filter there is
a prioritize. Whatever is unusual about a request (chunks, expectations, odd spellings, a head in
pieces) is left to cheroot, bytes and all.
"""

from __future__ import annotations

import logging
import re
import select
import socket
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from io import BytesIO
from typing import Any

from cheroot.server import HTTPConnection

__all__ = ["Connection"]

_REQUEST_LINE = re.compile(rb"(GET|POST|DELETE) (/[\w/.-]*) HTTP/1\.1")
_FIELD = re.compile(rb"([\w-]+): ?([\x20-\x7e]*)")
_NOT_OURS = frozenset({"TRANSFER_ENCODING", "EXPECT", "CONNECTION", "UPGRADE", "TE"})
_PIECE = 1 << 16
_LINGER_MS = 10
_READING = select.POLLIN | select.POLLHUP | select.POLLERR


class _Reader:
    """The receiving half of a socket: what cheroot needs of a file, and whole heads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = b""
        self.bytes_read = 0

    def head(self) -> bytes:
        """Request line and header fields up to the blank line, if one receive brings them whole.

        Else nothing, and nothing is consumed.
        """
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            self._held += self._sock.recv(_PIECE)
            end = self._held.find(b"\r\n\r\n")
        return self._held[:end] if end > 0 else b""

    def take(self, count: int) -> None:
        """Consume bytes that :meth:`head` has shown."""
        self._held = self._held[count:]
        self.bytes_read += count

    def read(self, size: int | None = None) -> bytes:
        """So many bytes, fewer only at the end of the stream; all of it without a size."""
        if size is None or size < 0:
            pieces = []
            while piece := self._some(_PIECE):
                pieces.append(piece)
            return b"".join(pieces)
        if size <= len(self._held):
            piece = self._held[:size]
            self.take(size)
            return piece
        body = bytearray(size)
        have = len(self._held)
        body[:have] = self._held
        self._held = b""
        with memoryview(body) as room:
            while have < size:
                count = self._sock.recv_into(room[have:])
                if not count:
                    break
                have += count
        self.bytes_read += have
        return bytes(body) if have == size else bytes(body[:have])

    def readline(self, size: int | None = None) -> bytes:
        """Up to a line's end, or so many bytes."""
        most = size if size is not None and size >= 0 else 1 << 62
        end = self._held.find(b"\n") + 1
        while not end and len(self._held) < most:
            more = self._sock.recv(_PIECE)
            if not more:
                end = len(self._held)
                break
            end = more.find(b"\n") + 1 + len(self._held) if b"\n" in more else 0
            self._held += more
        return self.read(min(end or most, most))

    def _some(self, most: int) -> bytes:
        if self._held:
            return self.read(min(most, len(self._held)))
        piece = self._sock.recv(most)
        self.bytes_read += len(piece)
        return piece

    def has_data(self) -> bool:
        """Whether something is there that the socket's descriptor no longer shows."""
        pending: Callable[[], int] | None = getattr(self._sock, "pending", None)
        return bool(self._held) or (pending is not None and pending() > 0)

    @property
    def closed(self) -> bool:
        """Whether the socket is closed; cheroot asks before it cuts a connection off."""
        return self._sock.fileno() < 0

    def close(self) -> None:
        """Nothing: the connection closes its socket."""


class _Writer:
    """The sending half of a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.bytes_written = 0

    def write(self, data: bytes) -> int:
        """Send all of it."""
        self._sock.sendall(data)
        self.bytes_written += len(data)
        return len(data)

    def answer(self, head: bytes, body: bytes) -> None:
        """Send both, in one system call if the socket takes them."""
        if hasattr(self._sock, "pending"):  # TLS has no gathering write
            self._sock.sendall(head + body)
        else:
            sent = self._sock.sendmsg((head, body))
            if sent < len(head):
                self._sock.sendall(head[sent:] + body)
            elif sent < len(head) + len(body):
                self._sock.sendall(memoryview(body)[sent - len(head) :])
        self.bytes_written += len(head) + len(body)

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """Nothing: the connection closes its socket."""


def _half(sock: socket.socket, mode: str, _size: int = -1) -> _Reader | _Writer:
    return _Reader(sock) if "r" in mode else _Writer(sock)


class _Answer:
    """Status and header fields that an application has given."""

    def __init__(self) -> None:
        self._status = ""
        self._fields: list[tuple[str, str]] = []
        self.keep = True

    def start(
        self, status: str, headers: list[tuple[str, str]], _error: object = None
    ) -> Callable[[bytes], None]:
        """WSGI's ``start_response``; nothing has been sent yet, so that it may be called again."""
        self._status, self._fields = status, headers
        return _refuse_to_write

    def head(self, length: int, *, keep: bool) -> bytes:
        """The head as bytes, with the length of what follows."""
        lines = [f"HTTP/1.1 {self._status}"]
        for name, value in self._fields:
            if name.lower() == "connection":
                keep = keep and value.lower() != "close"
            elif name.lower() != "content-length":
                lines.append(f"{name}: {value}")
        self.keep = keep
        if not keep:
            lines.append("Connection: close")
        if not self._status.startswith(("204", "304")):
            lines.append(f"Content-Length: {length}")
        lines.append(f"Date: {_date(int(time.time()))}\r\n\r\n")
        return "\r\n".join(lines).encode("latin-1")


def _refuse_to_write(_chunk: bytes) -> None:
    raise NotImplementedError("answers are returned, not written")


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class Connection(HTTPConnection):
    """cheroot's connection with a short way for what kube-scheduler sends."""

    def __init__(self, server: Any, sock: socket.socket, _makefile: object = None) -> None:  # noqa: ANN401 - cheroot has no types
        super().__init__(server, sock, _half)
        self._poll = select.poll()
        self._poll.register(sock, _READING)
        self._environ: dict[str, Any] = {}

    def communicate(self) -> bool:
        """Answer requests as they come; whether the connection stays open."""
        while True:
            keep = self._answer_at_once()
            if keep is None:
                keep = bool(super().communicate())  # type: ignore[no-untyped-call] # cheroot
            if not keep or not self._more_soon():
                return keep

    def _more_soon(self) -> bool:
        """Wait a moment for the next request, unless this thread is needed elsewhere."""
        if self.rfile.has_data():
            return True
        pool = self.server.requests
        return bool(self.server.ready and pool.idle > 0 and self._poll.poll(_LINGER_MS))

    def _answer_at_once(self) -> bool | None:
        """The short way; None leaves the request, unread, to cheroot."""
        try:
            head = self.rfile.head()
            environ = self._parsed(head) if head else None
            if environ is None:
                return None
            self.rfile.take(len(head) + 4)
            length = int(environ.get("CONTENT_LENGTH", "0"))
            body = self.rfile.read(length) if length else b""
        except OSError as error:
            self._gone(error)
            return False
        if len(body) < length:
            return False  # the caller has gone in the middle of its request
        environ["wsgi.input"] = BytesIO(body)
        answer = _Answer()
        chunks = self.server.wsgi_app(environ, answer.start)
        try:
            content = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        head = answer.head(len(content), keep=bool(self.server.can_add_keepalive_connection))
        try:
            self.wfile.answer(head, content)
        except OSError as error:
            self._gone(error)
            return False
        return answer.keep

    def _gone(self, error: OSError) -> None:
        """Whoever it was no longer listens, or has fallen silent: nothing can be answered."""
        self.server.error_log(f"{self.remote_addr} has left: {error!r}", level=logging.DEBUG)

    def _parsed(self, head: bytes) -> dict[str, Any] | None:
        """The WSGI environment of a plain request; None if anything about it is unusual."""
        first, *fields = head.split(b"\r\n")
        line = _REQUEST_LINE.fullmatch(first)
        if line is None or len(head) > (self.server.max_request_header_size or len(head)):
            return None
        environ = {**(self._environ or self._lasting()), "PATH_INFO": line[2].decode("ascii")}
        environ["REQUEST_METHOD"] = line[1].decode("ascii")
        environ["REQUEST_URI"] = environ["PATH_INFO"]
        for field in fields:
            found = _FIELD.fullmatch(field)
            if found is None:
                return None
            name = found[1].decode("ascii").upper().replace("-", "_")
            key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
            if name in _NOT_OURS or key in environ or b"_" in found[1]:
                return None
            environ[key] = found[2].decode("ascii").strip()
        length = environ.get("CONTENT_LENGTH", "0")
        most = self.server.max_request_body_size
        if not length.isdecimal() or (most and int(length) > most):
            return None
        return environ

    def _lasting(self) -> dict[str, Any]:
        """What all requests of this connection have in common."""
        server = self.server
        self._environ = {
            "ACTUAL_SERVER_PROTOCOL": server.protocol,
            "QUERY_STRING": "",
            "REMOTE_ADDR": self.remote_addr or "",
            "REMOTE_PORT": str(self.remote_port or ""),
            "SCRIPT_NAME": "",
            "SERVER_NAME": server.server_name,
            "SERVER_PORT": str(server.bind_addr[1]),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": server.software,
            "wsgi.errors": sys.stderr,
            "wsgi.input_terminated": False,
            "wsgi.multiprocess": False,
            "wsgi.multithread": True,
            "wsgi.run_once": False,
            "wsgi.url_scheme": "https" if server.ssl_adapter else "http",
            "wsgi.version": (1, 0),
            **(self.ssl_env or {}),
        }
        return self._environ
