"""A wire between a client and the API server that can be cut, or go silent without a word."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Wire:
    """Passes bytes both ways between a port of loopback and a target port.

    TLS goes through untouched, so a client that trusts the target's certificate for 127.0.0.1
    notices nothing, until something happens to the wire.

    Parameters
    ----------
    target_port
        Port of loopback that connections are passed on to.
    """

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._flows = threading.Event()
        self._flows.set()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flows.set()
        self.cut()
        self._accepting.join(timeout=10)

    def cut(self) -> int:
        """Break every connection; new ones are accepted.

        Returns
        -------
        int
            How many ends were closed.
        """
        with self._lock:
            broken, self._open = self._open, set()
        for end in broken:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        return len(broken)

    def silence(self) -> None:
        """Let nothing through any more, and close nothing: a half-open connection."""
        self._flows.clear()

    def resume(self) -> None:
        """Let bytes through again."""
        self._flows.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                near.close()  # the target is down: the client sees that at once
                continue
            far.settimeout(None)
            with self._lock:
                self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                self._flows.wait()
                other.sendall(data)
        with self._lock:
            mine = {one, other} & self._open
            self._open -= mine
        for end in mine:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
