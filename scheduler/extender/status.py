"""A second door for probes and Prometheus: it shows the state and takes no orders.

The webhook itself is reachable by kube-scheduler alone: on loopback, or by a client certificate.
The kubelet and Prometheus have neither, so they get a plain listener on which the verbs, which
reserve and bind, do not exist.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from cheroot.wsgi import Server

from scheduler.core.errors import InvalidInput

__all__ = ["STATUS_PATHS", "StatusListener", "split_address"]

STATUS_PATHS = frozenset({"/healthz", "/readyz", "/activez", "/metrics"})
_THREADS = 2

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``; without a host every address of the machine is meant.

    Raises
    ------
    InvalidInput
        There is no port from 0 to 65535 in it; 0 takes a free one.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65_535:
        raise InvalidInput("status_listen", f"{text!r} is no host:port", "write :10263")
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - what was asked for
    return host, int(port)


class StatusListener:
    """Serves :data:`STATUS_PATHS` of an application to GET, and 404 to everything else.

    Raises
    ------
    InvalidInput
        The address cannot be listened on.
    """

    def __init__(self, app: WsgiApp, address: str) -> None:
        host, port = split_address(address)
        self._server = Server((host, port), _only_status(app), numthreads=_THREADS)
        try:
            self._server.prepare()
        except OSError as error:
            raise InvalidInput(
                f"status_listen {address}", f"cannot be served: {error}", "choose another port"
            ) from error
        self._thread = threading.Thread(target=self._server.serve, name="status", daemon=True)

    @property
    def port(self) -> int:
        """The real port."""
        return int(self._server.bind_addr[1])

    def start(self) -> None:
        """Answer in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port; requests in flight are finished."""
        self._server.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=10)


def _only_status(app: WsgiApp) -> WsgiApp:
    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "GET" and environ.get("PATH_INFO") in STATUS_PATHS:
            return app(environ, start_response)
        start_response("404 Not Found", [("Content-Length", "0")])
        return []

    return guarded
