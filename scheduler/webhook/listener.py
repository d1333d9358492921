"""Who waits for connections: an HTTP/1.1 server whose workers never wait for a caller.

Three kinds of threads. The *door* accepts, and looks at the clock. *Readers* wait for all
connections at once and receive what arrives: one of them for TLS handshakes, whose arithmetic
costs milliseconds each, one for everything after. *Workers* get whole requests, and answer. So a
caller that sends slowly, or not at all, takes a place in a table and a buffer; both are bounded,
every wait has an end, and when the table is full, the oldest caller that was never served a verb
makes room.

A worker that is not needed elsewhere waits a moment for the next request of the connection it has
just answered, because after a filter there is a prioritize, and two changes of thread cost more
than many an answer.
"""

from __future__ import annotations

import errno
import logging
import math
import queue
import resource
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from scheduler.cluster.housekeeping import RepeatLimit
from scheduler.webhook.connection import Connection, Step, WsgiApp, lasting_environ

__all__ = ["Limits", "Listener"]

log = logging.getLogger(__name__)

_LINGER_S = 0.010  # a worker waits so long for the next request to begin
_FINISH_S = 0.050  # and for one that has begun to end
_WRITE_S = 0.100  # and for a caller to take an answer
_LOOK_S = 0.25
_TOLD_EVERY_S = 60.0
_DRAIN_AFTER_ANSWER_S = 1.0
_UNCOUNTED = 1 << 16  # a request of this size is no burden
_BACKLOG = 512
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_EDGE = select.EPOLLONESHOT


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers of a listener may use up.

    Attributes
    ----------
    connections
        Places in the table.
    head_s
        Seconds for handshake and first head together, and for every later head.
    body_s
        Seconds for a body.
    idle_s
        Seconds that a connection is kept without a request; 0 closes after each answer.
    answer_s
        Seconds in which a caller has to take its answer.
    body
        Bytes of a body.
    """

    connections: int = 512
    head_s: float = 5.0
    body_s: float = 10.0
    idle_s: float = 180.0
    answer_s: float = 30.0
    body: int = 64 << 20

    def within_files(self) -> int:
        """Places, as far as the process may open files: a third of them at most."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = self.connections
        return most if soft == resource.RLIM_INFINITY else max(16, min(most, soft // 3))


class _Worker(threading.Thread):
    """Answers requests. ``at`` is the connection in hand."""

    def __init__(self, listener: Listener, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.at: Connection | None = None
        self._listener = listener

    def run(self) -> None:
        while (connection := self._listener.requests.get()) is not None:
            self.at = connection
            self._listener.work(connection)
            self.at = None


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
        Workers.
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
        self.limits = limits
        self._name, self._app, self._tls, self._refusal = name, app, tls, refusal
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
        self._lasting = lasting_environ(self.host, self.port, secure=tls is not None)
        self._places = limits.within_files()
        self._short_of_files = False
        self._told = RepeatLimit(every_s=_TOLD_EVERY_S)
        self._lock = threading.Lock()
        self._table: dict[int, Connection] = {}  # by descriptor, oldest first
        self._handshakes, self._arrivals = select.epoll(), select.epoll()
        self.requests: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._workers = [_Worker(self, f"{name}-{number}") for number in range(threads)]
        self._readers = [
            threading.Thread(
                target=self._read, args=(epoll, handle), name=f"{name}-{what}", daemon=True
            )
            for epoll, handle, what in (
                (self._handshakes, self._secure, "handshakes"),
                (self._arrivals, self._arrived, "arrivals"),
            )
        ]
        self._beginning, self._serving = threading.Lock(), False
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._woken, self._wake = socket.socketpair()
        for epoll in (self._handshakes, self._arrivals):
            epoll.register(self._woken.fileno(), select.EPOLLIN | select.EPOLLET)

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._table)

    @property
    def begun(self) -> int:
        """Requests that have begun to arrive, or are being answered."""
        with self._lock:
            return sum(_in_hand(each) for each in self._table.values())

    # -- life --------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer until :meth:`stop` is called."""
        with self._beginning:
            if self._stopping.is_set():
                return
            self._serving = True
        for thread in (*self._readers, *self._workers):
            thread.start()
        try:
            self._accept()
        finally:
            self._stopping.set()
            self._socket.close()
            self._ended.set()

    def stop(self, within_s: float) -> None:
        """Close the port, finish what has begun within so many seconds, close the rest."""
        with self._beginning:
            self._stopping.set()
            serving = self._serving
        self._rouse()
        if serving:
            self._ended.wait()
        self._socket.close()
        until = time.monotonic() + within_s
        while self.begun and time.monotonic() < until:
            self._shut(lambda each: not _in_hand(each))
            time.sleep(0.01)
        for _ in self._workers:
            self.requests.put(None)
        until = time.monotonic() + _DRAIN_AFTER_ANSWER_S
        while self._table and time.monotonic() < until:
            self._shut(lambda _: True)
            time.sleep(0.01)
        self._rouse()
        for thread in (*self._workers, *self._readers) if serving else ():
            thread.join(timeout=within_s + 10)
        with self._lock:
            for connection in self._table.values():
                connection.close()
            self._table.clear()
        for each in (self._handshakes, self._arrivals, self._woken, self._wake):
            each.close()

    def _rouse(self) -> None:
        """Have every loop look at once whether its time is over."""
        try:
            self._wake.send(b"x")
        except OSError:
            log.debug("%s: stopped already", self._name)

    def _shut(self, which: Callable[[Connection], bool]) -> None:
        with self._lock:
            for each in self._table.values():
                if not (each.busy or each.overdue) and which(each):
                    each.shut()

    # -- the door ----------------------------------------------------------------------------

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        looked = time.monotonic()
        while not self._stopping.is_set():
            if poll.poll(_LOOK_S * 1000) and not self._stopping.is_set():
                self._take_in()
            now = time.monotonic()
            if now - looked >= _LOOK_S:
                looked = now
                self._look(now)

    def _take_in(self) -> None:
        full = len(self._table) - self._places
        if full >= 0 and (full > self._places // 2 or not self._make_room()):
            time.sleep(0.005)  # all are being served, or have been told to go
            return
        try:
            sock, peer = self._socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _FULL:
                if not self._short_of_files:
                    log.warning("%s: cannot accept: %s", self._name, error)
                self._short_of_files = True
                self._make_room()
                time.sleep(0.05)
            return
        self._short_of_files = False
        try:
            self._admit(sock, peer)
        except (OSError, ValueError) as error:
            log.debug("%s: %s has left: %r", self._name, peer[:1], error)
            sock.close()

    def _admit(self, sock: socket.socket, peer: tuple[object, ...]) -> None:
        sock.settimeout(0)
        if self._tls is not None:
            sock = self._tls().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        connection = Connection(sock, peer, self._lasting, self.limits.body)
        secure = connection.secured
        if secure and self.limits.idle_s:
            connection.deadline += self.limits.idle_s  # it has not begun to say anything
        else:
            connection.deadline += self.limits.head_s
        with self._lock:
            self._table[connection.fd] = connection
        epoll = self._arrivals if secure else self._handshakes
        epoll.register(connection.fd, select.EPOLLIN | _EDGE)

    def _make_room(self) -> bool:
        """Ask one to leave, first of all who was never served a verb; whether there is one."""
        with self._lock:
            waiting = [each for each in self._table.values() if not (each.busy or each.overdue)]
            if not waiting:
                return False
            strangers = (each for each in waiting if not each.accepted)
            leaving = next(strangers, None) or min(waiting, key=lambda each: each.deadline)
            leaving.shut()
        return True

    def _look(self, now: float) -> None:
        """Shut connections whose time is over."""
        with self._lock:
            for each in self._table.values():
                if each.deadline < now and not (each.busy or each.overdue):
                    each.shut()

    # -- readers -----------------------------------------------------------------------------

    def _read(self, epoll: select.epoll, handle: Callable[[Connection], None]) -> None:
        while not (self._ended.is_set() and not self._table):
            for fd, _ in epoll.poll(_LOOK_S):
                connection = self._table.get(fd)
                if connection is None:
                    continue
                try:
                    handle(connection)
                except Exception:
                    log.exception("%s: a connection has failed", self._name)
                    self._close(connection)

    def _secure(self, connection: Connection) -> None:
        step = connection.secure()
        if isinstance(step, int):
            self._handshakes.modify(connection.fd, step | _EDGE)
            return
        if step is Step.GONE or connection.overdue:
            self._close(connection)
            return
        if self._refusal is not None:
            assert isinstance(connection.sock, ssl.SSLSocket)
            connection.refusal = self._refusal(connection.sock)
        now = time.monotonic()
        connection.spent_s = now - connection.began
        if self.limits.idle_s and not connection.refusal:
            connection.deadline = now + self.limits.idle_s
        self._handshakes.unregister(connection.fd)
        # What came with the last message of the handshake is in no descriptor any more; that it can
        # be written to is seen at once.
        self._arrivals.register(connection.fd, select.EPOLLIN | select.EPOLLOUT | _EDGE)

    def _arrived(self, connection: Connection) -> None:
        if connection.unsent:
            self._sent_on(connection)
            return
        if connection.closing:
            if connection.overdue or not connection.discard():
                self._close(connection)
            else:
                self._arm(connection)
            return
        step = connection.receive()
        if step is Step.WHOLE:
            connection.busy = True
            connection.deadline = math.inf
            self.requests.put(connection)
        else:
            self._wait(connection, step)

    def _sent_on(self, connection: Connection) -> None:
        """The caller takes more of its answer."""
        if not connection.send() or (connection.overdue and connection.unsent):
            self._close(connection)
        elif connection.unsent:
            self._arm(connection)
        else:
            self._answered(connection)
            if connection.closing:
                self._arm(connection)
            else:
                self._arrived(connection)  # there may be another request already

    def _wait(self, connection: Connection, step: Step) -> None:
        """A connection without a whole request: wait for the rest, or end it."""
        if step is Step.MORE and connection.overdue:
            step = Step.GONE  # it sends faster than we read, and would never be seen to end
        if step is Step.GONE and connection.overdue and connection.begun:
            connection.refuse(408)
            if connection.unsent:
                self._close(connection)
            else:
                self._finish(connection)
        elif step is Step.GONE:
            self._close(connection)
        elif step is Step.REFUSED:
            self._tell_of(connection)
            connection.refuse()
            self._finish(connection)
        else:
            self._set_deadline(connection)
            self._burden(connection)
            self._arm(connection)

    def _tell_of(self, connection: Connection) -> None:
        """Log that a body was too long: kube-scheduler says of it only that the call has failed."""
        refused = connection.refused
        if refused is not None and refused.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            caller = connection.peer[:1]
            if self._told.now(caller):
                text = "%s: a request from %s is refused: %s"
                log.warning(text, self._name, ".".join(map(str, caller)), refused.reason)

    def _set_deadline(self, connection: Connection) -> None:
        """Begin a new wait where what is waited for has changed; a slow byte prolongs nothing."""
        if connection.waits_for == connection.now_waits_for:
            return
        connection.waits_for = connection.now_waits_for
        now = time.monotonic()
        if connection.in_body:
            connection.deadline = now + self.limits.body_s
        elif self.limits.idle_s:  # elsewhere the time has run since the connection was made
            connection.deadline = now + self.limits.head_s - connection.spent_s
        connection.spent_s = 0.0

    def _burden(self, connection: Connection) -> None:
        """Keep what all half-received requests hold within twice the largest."""
        if connection.held <= _UNCOUNTED:
            return
        with self._lock:
            holders = [each for each in self._table.values() if each.held > _UNCOUNTED]
            if sum(each.held for each in holders) <= 2 * self.limits.body:
                return
            waiting = [each for each in holders if not (each.busy or each.overdue)]
            strangers = [each for each in waiting if not each.accepted]
            for each in (strangers or waiting)[:1]:
                each.shut()

    # -- workers -----------------------------------------------------------------------------

    def work(self, connection: Connection) -> None:
        """Answer what a connection asks, and give it back to its reader."""
        try:
            self._serve(connection)
        except Exception:
            log.exception("%s: a request has failed", self._name)
            self._close(connection)

    def _serve(self, connection: Connection) -> None:
        while True:
            keep = bool(self.limits.idle_s) and not self._stopping.is_set()
            connection.answer(self._app, keep=keep)
            if connection.unsent:
                self._press(connection)
            if connection.unsent or connection.closing:
                self._finish(connection)
                return
            self._answered(connection)
            step = self._next_soon(connection)
            if step is Step.WHOLE and not self.requests.empty():
                self.requests.put(connection)  # others have waited longer
                return
            if step is not Step.WHOLE:
                connection.busy = False
                self._wait(connection, step)
                return

    def _next_soon(self, connection: Connection) -> Step:
        """Wait a moment for the next request, unless this thread is needed elsewhere."""
        until = time.monotonic() + _LINGER_S
        begun = False
        while True:
            step = connection.receive()
            if step is not Step.MORE or self._stopping.is_set() or not self._spare():
                return step
            now = time.monotonic()
            if connection.begun and not begun:
                begun, until = True, now + _FINISH_S
            if now >= until or not connection.poll.poll(max(1, (until - now) * 1000)):
                return step

    def _press(self, connection: Connection) -> None:
        """Give the caller a moment to take an answer, unless this thread is needed elsewhere."""
        poll = select.poll()
        poll.register(connection.fd, select.POLLOUT)
        until = time.monotonic() + _WRITE_S
        while connection.unsent and (left := until - time.monotonic()) > 0 and self._spare():
            poll.poll(left * 1000)
            if not connection.send():
                return

    def _spare(self) -> bool:
        """Whether another worker is free."""
        return any(worker.at is None for worker in self._workers)

    # -- both --------------------------------------------------------------------------------

    def _answered(self, connection: Connection) -> None:
        """An answer has left."""
        connection.waits_for = 0
        wait_s = _DRAIN_AFTER_ANSWER_S if connection.closing else self.limits.idle_s
        connection.deadline = time.monotonic() + wait_s
        if connection.closing:
            connection.end_answer()

    def _finish(self, connection: Connection) -> None:
        """Send the rest of an answer, or wait for the caller to see that it was the last one.

        A socket that is closed over what was sent and not read takes the answer with it.
        """
        connection.busy = False
        if connection.unsent:
            connection.deadline = time.monotonic() + self.limits.answer_s
        else:
            self._answered(connection)
        self._arm(connection)

    def _arm(self, connection: Connection) -> None:
        """Let the reader have it; nothing may be done with it afterwards."""
        event = select.EPOLLOUT if connection.unsent else select.EPOLLIN
        self._arrivals.modify(connection.fd, event | _EDGE)

    def _close(self, connection: Connection) -> None:
        with self._lock:
            if self._table.pop(connection.fd, None) is not None:
                connection.close()


def _in_hand(connection: Connection) -> bool:
    """Whether a request has begun to arrive, or its answer has not left."""
    return connection.busy or connection.begun or connection.unsent
