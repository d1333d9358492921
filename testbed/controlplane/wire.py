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
        self._open: dict[tuple[socket.socket, socket.socket], threading.Event] = {}
        self._new_ones_flow = True
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
        self.cut()
        self._accepting.join(timeout=10)

    def cut(self) -> int:
        """Break every connection; new ones are accepted.

        Returns
        -------
        int
            How many were broken.
        """
        with self._lock:
            broken, self._open = self._open, {}
        for ends, flows in broken.items():
            _close(ends)
            flows.set()
        return len(broken)

    def silence(self, *, new_ones_too: bool = False) -> None:
        """Let nothing through, and close nothing: the connections are half open."""
        with self._lock:
            self._new_ones_flow = not new_ones_too
            for flows in self._open.values():
                flows.clear()

    def admit(self) -> None:
        """Let new connections flow; those that are open stay as they are."""
        with self._lock:
            self._new_ones_flow = True

    def resume(self) -> None:
        """Let bytes through again."""
        with self._lock:
            self._new_ones_flow = True
            for flows in self._open.values():
                flows.set()

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
            flows = threading.Event()
            with self._lock:
                self._open[near, far] = flows
                if self._new_ones_flow:
                    flows.set()
            for way in ((near, far), (far, near)):
                pump = threading.Thread(
                    target=self._pump, args=(*way, (near, far), flows), daemon=True
                )
                pump.start()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        ends: tuple[socket.socket, socket.socket],
        flows: threading.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                flows.wait()
                sink.sendall(data)
        with self._lock:
            mine = self._open.pop(ends, None)
        if mine is not None:
            _close(ends)


def _close(ends: tuple[socket.socket, socket.socket]) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
