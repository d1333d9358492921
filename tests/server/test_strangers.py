"""Callers that are slow, silent or many take nothing from those that are served."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from scheduler.files.dump_writer import pod_json
from scheduler.webhook.framing import MOST_HEAD
from scheduler.webhook.limits import Limits
from scheduler.webhook.listener import Listener
from scheduler.webhook.tls import Certificates
from testbed.fake_api import eventually
from tests.builders import node, pod
from tests.server.conftest import Running

pytestmark = pytest.mark.server

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
STRANGERS = 200


def _app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Says how long the body was; `/big` is more than a socket holds."""
    body = environ["wsgi.input"].read()
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"x" * (16 << 20)] if environ["PATH_INFO"] == "/big" else [b"%d" % len(body)]


Listen = Callable[..., Listener]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start listeners; they are stopped after the test."""
    with ExitStack() as stack:

        def begin(*, threads: int = 2, tls: Any = None, **limits: Any) -> Listener:
            listener = Listener(
                "test", ("127.0.0.1", 0), _app, threads=threads, limits=Limits(**limits), tls=tls
            )
            thread = threading.Thread(target=listener.serve, daemon=True)
            thread.start()
            stack.callback(thread.join, 60)
            stack.callback(listener.stop, 0)
            return listener

        yield begin


class Caller:
    """A plain connection."""

    def __init__(self, port: int, sent: bytes = b"") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.sock.sendall(sent)

    def status(self, sent: bytes = b"") -> int:
        """Of the next answer; 0 if there is none."""
        self.sock.sendall(sent)
        with suppress(ConnectionError):
            response = http.client.HTTPResponse(self.sock)
            with suppress(http.client.HTTPException):
                response.begin()
                response.read()
                return response.status
        return 0

    def ended(self) -> bytes:
        """What comes until the server closes."""
        received = b""
        with suppress(ConnectionError):
            while piece := self.sock.recv(1 << 16):
                received += piece
        return received

    def open(self) -> bool:
        """Whether the server has not closed it."""
        self.sock.settimeout(0)
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        finally:
            self.sock.settimeout(60)

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def call() -> Iterator[Callable[..., Caller]]:
    """Open connections; they are closed after the test."""
    with ExitStack() as stack:

        def begin(port: int, sent: bytes = b"") -> Caller:
            caller = Caller(port, sent)
            stack.callback(caller.close)
            return caller

        yield begin


def _verb_works(server: Running) -> bool:
    answer = server.client.filter(msgspec.json.encode(pod_json(pod("p", count=1))), ["n0"])
    return "n0" in str(answer)


WAYS = {
    "silent": b"",
    "a byte of a head": b"P",
    "a head without an end": b"GET /healthz HTTP/1.1\r\nX: ",
    "a length without a body": POST + b"Content-Length: 100\r\n\r\n",
    "half of a body": POST + b"Content-Length: 100\r\n\r\n{",
    "a chunk without an end": POST + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{",
    "an expectation": POST + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
    "served before": GET,
}


@pytest.mark.parametrize("sent", WAYS.values(), ids=list(WAYS))
def test_verbs_and_probes_are_answered_beside_strangers(start, call, sent: bytes) -> None:
    server = start([node("n0", gpus=1)], status_listen="127.0.0.1:0", threads=2)
    for listener in (server.server.verbs, server.server.status):
        for _ in range(STRANGERS):
            call(listener.port, sent)
    eventually(lambda: server.server.verbs.connections >= STRANGERS)
    for _ in range(3):
        assert _verb_works(server)
        assert call(server.server.status.port).status(GET) == 200
        assert call(server.server.verbs.port).status(GET) == 200


def test_strangers_to_tls_hold_up_nobody(start, call, tmp_path: Path) -> None:
    """Silent ones, and ones in the middle of a handshake, from before the first caller on."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    leaf.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    (tmp_path / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    server = start(
        [node("n0", gpus=1)],
        tls_cert=str(tmp_path / "tls.crt"),
        tls_key=str(tmp_path / "tls.key"),
        tls_client_ca=str(tmp_path / "ca.crt"),
    )
    port = server.server.verbs.port
    for number in range(STRANGERS):
        call(port, (b"", b"\x16\x03\x01\x02\x00\x01", b"\x16")[number % 3])
    context = ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert(common_name="kube-scheduler").configure_cert(context)
    for _ in range(3):
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


def test_a_silent_handshake_ends_by_itself(listen, call, tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    certificates = Certificates(str(tmp_path / "both.pem"), str(tmp_path / "both.pem"))
    listener = listen(tls=certificates.context, head_s=0.5)
    callers = [call(listener.port, sent) for sent in (b"", b"\x16\x03\x01\x02\x00\x01")]
    assert [caller.ended() for caller in callers] == [b"", b""]
    eventually(lambda: listener.connections == 0)


def test_plain_http_to_a_tls_port_is_told_so(listen, call, tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    certificates = Certificates(str(tmp_path / "both.pem"), str(tmp_path / "both.pem"))
    listener = listen(tls=certificates.context)
    assert call(listener.port, GET).ended().startswith(b"HTTP/1.1 400 ")


def _trickle(caller: Caller, pieces: Iterable[bytes], every_s: float) -> None:
    with suppress(OSError):
        for piece in pieces:
            caller.sock.sendall(piece)
            time.sleep(every_s)


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"GET / HTTP/1.1\r\nX: ", b"a"),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        (b"", b"\r\n"),
        (b"\r\n\r\nGET /", b"e"),
        (POST + b"Content-Length: 9999\r\n\r\n", b" "),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
    ids=["field", "fields", "empty lines", "target", "body", "chunks"],
)
def test_bytes_that_come_slowly_prolong_nothing(listen, call, begun: bytes, piece: bytes) -> None:
    listener = listen(head_s=0.5, body_s=0.5)
    caller = call(listener.port, begun)
    trickle = threading.Thread(target=_trickle, args=(caller, [piece] * 600, 0.1), daemon=True)
    trickle.start()
    answer = caller.ended()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
    eventually(lambda: listener.connections == 0)
    caller.close()
    trickle.join(timeout=60)
    assert not trickle.is_alive()


def test_who_says_nothing_yet_is_idle_not_slow(listen, call) -> None:
    """Go dials ahead: the first request of a connection may come much later."""
    listener = listen(head_s=0.3, idle_s=60)
    caller = call(listener.port)
    slow = call(listener.port, b"G")
    assert slow.ended().startswith(b"HTTP/1.1 408 ")
    assert caller.open() and caller.status(GET) == 200


def test_a_listener_for_probes_keeps_nothing(listen, call) -> None:
    listener = listen(idle_s=0, head_s=0.5)
    answered = call(listener.port, GET).ended()
    assert answered.startswith(b"HTTP/1.1 200 ") and b"\r\nConnection: close\r\n" in answered
    assert call(listener.port).ended() == b""  # silent
    eventually(lambda: listener.connections == 0)


def test_when_full_the_oldest_that_was_served_no_verb_makes_room(listen, call) -> None:
    listener = listen(connections=16, idle_s=60)
    scheduler = call(listener.port)
    assert scheduler.status(POST + b"Content-Length: 2\r\n\r\n{}") == 200
    reader = call(listener.port)
    assert reader.status(GET) == 200
    others = [call(listener.port) for _ in range(14)]
    eventually(lambda: listener.connections == 16 and listener.begun == 0)
    assert all(each.open() for each in (scheduler, reader, *others))
    late = [call(listener.port) for _ in range(3)]
    assert [each.status(GET) for each in late] == [200] * 3
    eventually(lambda: [each.open() for each in (reader, *others[:3])] == [False] * 3 + [True])
    assert scheduler.open() and scheduler.status(POST + b"Content-Length: 2\r\n\r\n{}") == 200
    for _ in range(100):
        call(listener.port)
    assert call(listener.port).status(GET) == 200
    assert scheduler.status(POST + b"Content-Length: 2\r\n\r\n{}") == 200
    eventually(lambda: listener.connections <= 16)


def test_when_all_were_served_a_verb_the_longest_idle_makes_room(listen, call) -> None:
    listener = listen(connections=16, idle_s=60)
    callers = [call(listener.port) for _ in range(16)]
    for caller in callers:
        assert caller.status(POST + b"Content-Length: 2\r\n\r\n{}") == 200
        eventually(lambda: listener.begun == 0)
    callers.append(call(listener.port))
    assert callers[-1].status(GET) == 200
    assert callers[0].ended() == b""
    assert all(each.open() for each in callers[1:])


@pytest.mark.parametrize(
    "piece", [b"a" * 1000, b"X-A: b\r\n", b"\r\nX", b"G"], ids=["field", "fields", "lines", "word"]
)
def test_a_head_without_an_end_is_refused_not_stored(listen, call, piece: bytes) -> None:
    listener = listen()
    caller = call(listener.port, b"GET /healthz HTTP/1.1\r\nX: ")
    with suppress(ConnectionError):
        for _ in range(8 * MOST_HEAD // len(piece)):
            caller.sock.sendall(piece)
    assert caller.ended()[:13] in (b"HTTP/1.1 431 ", b"HTTP/1.1 400 ", b"")
    eventually(lambda: listener.connections == 0)


@pytest.mark.parametrize("piece", [1 << 16, 998])
def test_empty_lines_without_end_hold_up_nobody(start, call, piece: int) -> None:
    """Each of them is nothing, and all of them cost the one reader of a port its time."""
    server = start([node("n0", gpus=1)], status_listen="127.0.0.1:0")
    ports = server.server.status.port, server.server.verbs.port
    lines = b"\r\n" * (1 << 19)
    for port in ports:
        callers = [call(port) for _ in range(4)]
        for caller in callers:
            with suppress(ConnectionError):
                for at in range(0, len(lines), piece):
                    caller.sock.sendall(lines[at : at + piece])
                caller.sock.sendall(GET)
        for each in ports:
            assert call(each).status(GET) == 200
        for caller in callers:
            assert caller.ended()[:13] in (b"HTTP/1.1 400 ", b"")
        for each in ports:  # a few are usual
            assert call(each).status(b"\r\n\r\n" + GET) == 200
    assert _verb_works(server)


def test_who_sends_without_a_pause_ends_all_the_same_and_holds_up_nobody(listen, call) -> None:
    """The end of such a connection lies behind all that was sent, and may never come into sight."""
    listener = listen(threads=1, body_s=1.0, connections=64)
    verb = POST + b"Content-Length: 2\r\n\r\n{}"
    chunks = b"1\r\n \r\n" * 10_000

    def flood(caller: Caller) -> None:
        with suppress(OSError):
            while True:
                caller.sock.sendall(chunks)

    callers = [call(listener.port, POST + b"Transfer-Encoding: chunked\r\n\r\n") for _ in range(8)]
    floods = [threading.Thread(target=flood, args=(each,), daemon=True) for each in callers]
    for each in floods:
        each.start()
    answered = 0
    while any(each.is_alive() for each in floods):
        honest = call(listener.port)
        assert honest.status(verb) == 200
        honest.sock.close()
        answered += 1
    assert answered
    eventually(lambda: listener.begun == 0)


def test_bodies_are_bounded_one_by_one_and_together(listen, call) -> None:
    listener = listen(body=1 << 20, connections=64)
    assert call(listener.port, POST + b"Content-Length: 1048577\r\n\r\n").status() == 413
    chunked = call(listener.port, POST + b"Transfer-Encoding: chunked\r\n\r\n")
    with suppress(ConnectionError):
        for _ in range(64):
            chunked.sock.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
    assert chunked.ended()[:13] in (b"HTTP/1.1 413 ", b"")
    # Announced and half sent: together they may hold twice the largest body, the oldest ones go.
    holders = []
    for _ in range(8):
        holder = call(listener.port, POST + b"Content-Length: 1048576\r\n\r\n")
        with suppress(ConnectionError):
            holder.sock.sendall(b" " * (1 << 19))
        holders.append(holder)
    eventually(lambda: listener.connections <= 5)
    assert call(listener.port).status(POST + b"Content-Length: 2\r\n\r\n{}") == 200


def test_announced_bytes_take_no_memory(listen, call) -> None:
    listener = listen(body=1 << 30)
    callers = [
        call(listener.port, POST + b"Content-Length: %d\r\n\r\n{" % (1 << 30)) for _ in range(20)
    ]
    eventually(lambda: listener.begun == len(callers))
    assert sum(each.held for each in listener._table._held) <= len(callers) << 20


def test_who_takes_no_answer_holds_no_worker(listen, call) -> None:
    big = b"GET /big HTTP/1.1\r\nHost: x\r\n"
    patient, listener = listen(threads=2, answer_s=600.0), listen(threads=2, answer_s=0.5)
    deaf = [call(each.port, big + b"\r\n") for each in (patient, listener) for _ in range(6)]
    assert call(patient.port).status(GET) == 200 and call(listener.port).status(GET) == 200
    reader = call(patient.port, big + b"Connection: close\r\n\r\n")
    assert len(reader.ended()) > 16 << 20  # who does take it gets all of it
    eventually(lambda: listener.connections <= 1)
    assert all(len(each.ended()) < 16 << 20 for each in deaf[6:])
    assert patient.connections >= 6


def test_a_caller_that_was_served_and_turns_slow_holds_no_worker(listen, call) -> None:
    """Workers linger for the next request of those that they have answered."""
    listener = listen(threads=2)
    slow = [call(listener.port) for _ in range(8)]
    for each in slow:
        assert each.status(POST + b"Content-Length: 2\r\n\r\n{}") == 200
    stop = threading.Event()

    def trickle() -> None:
        with suppress(OSError):
            for each in slow:
                each.sock.sendall(POST + b"Content-Length: 10000\r\n\r\n")
            while not stop.wait(0.002):
                for each in slow:
                    each.sock.sendall(b" ")

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    try:
        for _ in range(20):
            assert call(listener.port).status(GET) == 200
    finally:
        stop.set()
        thread.join(timeout=60)


def test_a_storm_of_callers_that_leave_at_any_point_leaves_nothing_behind(listen, call) -> None:
    listener = listen(idle_s=60)
    whole = POST + b"Content-Length: 64\r\n\r\n" + b" " * 64
    for cut in range(0, len(whole) + 1, 3):
        call(listener.port, whole[:cut]).close()
        abort = call(listener.port, whole[:cut])
        abort.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        abort.close()
    assert call(listener.port).status(GET) == 200
    eventually(lambda: listener.connections <= 1 and listener.begun == 0)


def test_a_listener_may_be_stopped_at_any_moment_of_its_start() -> None:
    for number in range(50):
        listener = Listener("test", ("127.0.0.1", 0), _app, threads=2, limits=Limits())
        thread = threading.Thread(target=listener.serve)
        thread.start()
        time.sleep(number % 5 / 2000)
        listener.stop(0)
        thread.join(timeout=60)
        assert not thread.is_alive()
