"""A listening socket: who comes in gets a thread, and a place in the table as long as there is one.

The door accepts and does nothing else, so nobody behind it can hold it up. When the table is full,
the oldest caller that was never served a verb makes room.
"""

from __future__ import annotations

import errno
import logging
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable

from scheduler.webhook.connection import Connection, Served
from scheduler.webhook.limits import Limits
from scheduler.webhook.table import Table
from scheduler.webhook.wsgi import WsgiApp, lasting_environ

__all__ = ["Listener"]

log = logging.getLogger(__name__)

_BACKLOG = 512
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FULL_S = 0.005
_SHORT_S = 0.050
# A signal that comes just before the wait does not end it, and its handler, which runs in this
# thread where that is the main one, has to run all the same.
_LOOK_MS = 250
_LEAVE_S = 1.0


class Listener:
    """A listening socket and everything behind it.

    Parameters
    ----------
    name
        Of its threads.
    address
        Host and port; port 0 takes a free one.
    app
        Answers requests; called by several threads at once.
    threads
        So many requests are answered at once.
    limits
        What callers may use up.
    tls
        Gives the context of the next handshake; None for a listener without TLS.
    refusal
        Looks at a caller after its handshake and says why it is not let in; empty if it is.

    Raises
    ------
    OSError
        The address cannot be listened on.
    """

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        app: WsgiApp,
        *,
        threads: int,
        limits: Limits,
        tls: Callable[[], ssl.SSLContext] | None = None,
        refusal: Callable[[ssl.SSLSocket], str] | None = None,
    ) -> None:
        host = address[0]
        self._socket = socket.create_server(
            address,
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=_BACKLOG,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
        # Inherited by what is accepted: the end of an answer must not wait for an acknowledgement,
        # which can take 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(0)
        self.host, self.port = self._socket.getsockname()[:2]
        self._served = Served(
            name,
            app,
            limits,
            queue.SimpleQueue(),
            tls,
            refusal,
            lasting_environ(self.host, self.port, secure=tls is not None),
        )
        for _ in range(threads):
            self._served.workers.put(None)
        self._table = Table(limits.within_files())
        self._short = False  # of files or of threads
        self._beginning, self._serving = threading.Lock(), False
        self._ended = threading.Event()
        self._woken, self._wake = socket.socketpair()

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._table)

    @property
    def begun(self) -> int:
        """Requests that have begun to arrive, or are being answered."""
        return self._table.begun

    def serve(self) -> None:
        """Answer until :meth:`stop` is called."""
        stopping = self._served.stopping
        with self._beginning:
            if stopping.is_set():
                return
            self._serving = True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        try:
            while not stopping.is_set():
                poll.poll(_LOOK_MS)
                if not stopping.is_set():
                    self._take_in()
        finally:
            stopping.set()
            self._socket.close()
            self._ended.set()

    def stop(self, within_s: float) -> None:
        """Close the port, finish what has begun within so many seconds, close the rest."""
        with self._beginning:
            self._served.stopping.set()
            serving = self._serving
        try:
            self._wake.send(b"x")
        except OSError:
            log.debug("%s: stopped already", self._served.name)
        if serving:
            self._ended.wait()
        self._socket.close()
        self._leave(within_s, begun=False)
        self._leave(_LEAVE_S, begun=True)
        for each in (self._woken, self._wake):
            each.close()

    def _leave(self, within_s: float, *, begun: bool) -> None:
        """Ask those without a request to leave, or everybody, and wait for them."""
        until = time.monotonic() + within_s
        while self._table and time.monotonic() < until:
            self._table.shut(begun=begun)
            time.sleep(0.01)

    # -- the door ----------------------------------------------------------------------------

    def _take_in(self) -> None:
        if not self._table.has_room():
            time.sleep(_FULL_S)  # all are being served, or have been told to go
            return
        try:
            sock, peer = self._socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _FULL:
                self._fall_short(error)
            return
        sock.settimeout(0)
        connection = Connection(sock, peer, self._served, self._table)
        self._table.add(connection)
        name = f"{self._served.name} of {peer[0]}:{peer[1]}"
        try:
            threading.Thread(target=connection.run, name=name, daemon=True).start()
        except RuntimeError as error:
            self._table.remove(connection)
            sock.close()
            self._fall_short(error)
        else:
            self._short = False

    def _fall_short(self, error: Exception) -> None:
        """There are no more files or threads: wait a moment for those of somebody who leaves."""
        if not self._short:
            log.warning("%s: cannot accept: %s", self._served.name, error)
        self._short = True
        self._table.make_room()
        time.sleep(_SHORT_S)
