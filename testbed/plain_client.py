"""A client of the extender that does next to nothing, so that what is measured is the server."""

from __future__ import annotations

import re
import socket
import time

from scheduler.simulator.kube_scheduler_client import ExtenderClient, ProtocolError

__all__ = ["PlainClient"]

_PIECE = 1 << 20
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_HEAD = (  # as Go's HTTP client writes it
    b"%b %b HTTP/1.1\r\nHost: 127.0.0.1:10262\r\nUser-Agent: Go-http-client/1.1\r\n"
    b"Content-Length: %d\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
)


class PlainClient(ExtenderClient):
    """An :class:`~scheduler.simulator.kube_scheduler_client.ExtenderClient` over a plain socket.

    Python's own HTTP client spends as long on the head of an answer as the server on a small call.
    ``elapsed_ms`` is the time from the first byte sent to the last byte received.
    """

    def _request(self, method: str, path: str, body: bytes, expect: int = 200) -> bytes:
        if self._connection.sock is None:
            self._connect()
        sock: socket.socket = self._connection.sock
        message = _HEAD % (method.encode(), path.encode(), len(body)) + body
        started = time.perf_counter()
        sock.sendall(message)
        received = _more(sock)
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += _more(sock)
        head, pieces = received[:end], [received[end + 4 :]]
        length = _LENGTH.search(head)
        missing = int(length[1]) - len(pieces[0]) if length else 0
        while missing > 0:
            pieces.append(_more(sock))
            missing -= len(pieces[-1])
        self.elapsed_ms = (time.perf_counter() - started) * 1000
        if int(head.split()[1]) != expect:
            raise ProtocolError(f"{method} {path} answered {head.split()[1].decode()}")
        return b"".join(pieces)


def _more(sock: socket.socket) -> bytes:
    received = sock.recv(_PIECE)
    if not received:
        raise ProtocolError("the server has closed the connection within an answer")
    return received
