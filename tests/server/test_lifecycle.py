"""Connections over time: mutual TLS with reload, idle connections, draining, packets at once."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.errors import InvalidInput
from scheduler.webhook.status import split_address
from testbed.fake_api import eventually
from tests.builders import node

pytestmark = pytest.mark.server


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def _issue(authority: trustme.CA, folder: Path, name: str = "localhost") -> dict[str, str]:
    leaf = authority.issue_cert(name)
    leaf.private_key_pem.write_to_path(str(folder / "tls.key"))
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    return {
        "tls_cert": str(folder / "tls.crt"),
        "tls_key": str(folder / "tls.key"),
        "tls_client_ca": str(folder / "ca.crt"),
    }


def _context(authority: trustme.CA, *, client: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client:
        authority.issue_cert(common_name="kube-scheduler").configure_cert(context)
    return context


def _get(port: int, context: ssl.SSLContext) -> tuple[int, bytes]:
    """Status of a health check, and the certificate that was shown."""
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
        assert isinstance(connection.sock, ssl.SSLSocket)
        shown = connection.sock.getpeercert(binary_form=True)
    finally:
        connection.close()
    assert shown
    return status, shown


def _port(server) -> int:
    return int(server.url.rsplit(":", 1)[1])


def test_a_caller_without_a_certificate_is_refused(start, authority, tmp_path) -> None:
    server = start([node(gpus=1)], **_issue(authority, tmp_path))
    assert server.url.startswith("https://")
    assert _get(_port(server), _context(authority))[0] == 200
    with pytest.raises((ssl.SSLError, OSError)):
        _get(_port(server), _context(authority, client=False))
    stranger = _context(authority, client=False)
    trustme.CA().issue_cert(common_name="kube-scheduler").configure_cert(stranger)
    with pytest.raises((ssl.SSLError, OSError)):
        _get(_port(server), stranger)
    assert _get(_port(server), _context(authority))[0] == 200  # and it keeps serving


def test_renewed_certificates_are_read_without_a_restart(start, authority, tmp_path) -> None:
    server = start([node(gpus=1)], tls_reload_s=0, **_issue(authority, tmp_path))
    context = _context(authority)
    _, before = _get(_port(server), context)
    _issue(authority, tmp_path)
    assert _get(_port(server), context)[1] == before
    server.server.reload_tls()
    assert _get(_port(server), context)[1] != before


def test_the_status_door_shows_health_and_takes_no_orders(start, authority, tmp_path) -> None:
    """Probes and Prometheus have no client certificate; verbs stay behind it."""
    server = start([node(gpus=1)], status_listen="127.0.0.1:0", **_issue(authority, tmp_path))
    answers = {}
    for method, path in (
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/activez"),
        ("GET", "/metrics"),
        ("POST", "/filter"),
        ("POST", "/bind"),
        ("GET", "/debug/state"),
        ("DELETE", "/offline/pods/x"),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", server.server.status.port, timeout=60)
        connection.request(method, path)
        response = connection.getresponse()
        answers[path] = response.status
        assert response.getheader("Connection") == "close"
        assert (b"snugfit_nodes" in response.read()) == (path == "/metrics")
        connection.close()
    assert answers == {
        "/healthz": 200,
        "/readyz": 200,
        "/activez": 200,
        "/metrics": 200,
        "/filter": 404,
        "/bind": 404,
        "/debug/state": 404,
        "/offline/pods/x": 404,
    }


def test_a_replica_that_waits_for_its_turn_sends_callers_elsewhere(start) -> None:
    """A connection kept alive would lead kube-scheduler to it again, past the Service."""
    server = start([node(gpus=1)])
    server.accepting = False
    connection = http.client.HTTPConnection("127.0.0.1", _port(server), timeout=60)
    statuses = {}
    for method, path in (("GET", "/activez"), ("GET", "/healthz"), ("POST", "/filter")):
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        statuses[path] = (response.status, response.getheader("Connection"))
    connection.close()
    assert statuses == {
        "/activez": (503, None),
        "/healthz": (200, None),
        "/filter": (503, "close"),
    }


@pytest.mark.parametrize("text", ["10263", "host:", "host:port", ":70000", ""])
def test_a_status_address_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="host:port"):
        split_address(text)


def test_a_status_address_without_a_host_means_every_address() -> None:
    assert split_address(":10263")[0] in ("::", "0.0.0.0")
    assert split_address("[::1]:0") == ("::1", 0)


def test_a_broken_renewal_keeps_the_old_certificate(start, authority, tmp_path) -> None:
    server = start([node(gpus=1)], **_issue(authority, tmp_path))
    context = _context(authority)
    _, before = _get(_port(server), context)
    (tmp_path / "tls.crt").write_text("half written")
    server.server.reload_tls()
    assert _get(_port(server), context) == (200, before)


def test_a_secret_that_is_renewed_in_place_is_noticed(start, authority, tmp_path) -> None:
    """As the kubelet does it: a new folder, and a link that is switched over to it."""
    data, folders = tmp_path / "data", [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
        _issue(authority, folder)

    def switch(folder: Path) -> None:
        (tmp_path / "next").symlink_to(folder)
        (tmp_path / "next").rename(data)

    switch(folders[0])
    files = {f"tls_{key}": str(data / name) for key, name in
             (("cert", "tls.crt"), ("key", "tls.key"), ("client_ca", "ca.crt"))}  # fmt: skip
    server = start([node(gpus=1)], tls_reload_s=0.05, **files)
    context = _context(authority)
    _, before = _get(_port(server), context)
    (folders[1] / "tls.key").write_text("half written")
    switch(folders[1])
    assert not server.server.reload_tls()  # as its thread finds by and by
    assert _get(_port(server), context) == (200, before)
    switch(folders[2])
    until = time.monotonic() + 60
    while _get(_port(server), context)[1] == before:
        assert time.monotonic() < until, "never noticed"


def test_unreadable_certificates_stop_the_start(start, tmp_path) -> None:
    files = {"tls_cert": str(tmp_path / "no.crt"), "tls_key": str(tmp_path / "no.key")}
    with pytest.raises(InvalidInput, match="cannot be served"):
        start([node(gpus=1)], **files)


def test_idle_connections_are_kept_longer_than_kube_scheduler_keeps_them() -> None:
    """It does not retry a POST on a connection that the server has just closed."""
    assert ExtenderConfig().keep_alive_s >= 120


def test_a_connection_outlives_an_idle_time_and_is_closed_after_the_limit(start) -> None:
    server = start([node(gpus=1)], keep_alive_s=4)
    with socket.create_connection(("127.0.0.1", _port(server)), timeout=60) as sock:
        for idle in (0.0, 1.5):
            time.sleep(idle)
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok\n"):  # head and body may come apart
                piece = sock.recv(4096)
                assert piece, "closed too early"
                answer += piece
            assert answer.startswith(b"HTTP/1.1 200") and b"content-length: 3" in answer.lower()
        assert sock.recv(4096) == b""  # closed by the server, after the limit


def test_a_request_in_flight_is_answered_before_the_server_stops(start) -> None:
    server = start([node(gpus=1)], drain_s=60)
    body = b'{"Pod":{"metadata":{"name":"p","uid":"p"}},"NodeNames":["n0"]}'
    with socket.create_connection(("127.0.0.1", _port(server)), timeout=60) as sock:
        head = b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body[:20])
        eventually(lambda: server.server.verbs.begun)
        stopping = threading.Thread(target=server.server.stop)
        stopping.start()
        eventually(lambda: _refused(_port(server)))  # nobody is let in any more
        sock.sendall(body[20:])
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
        stopping.join(timeout=60)
    assert answer.startswith(b"HTTP/1.1 200") and b'"NodeNames":["n0"]' in answer
    assert b"Connection: close" in answer


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return True
    return False


def test_a_request_that_never_ends_is_cut_off_when_draining_has_taken_long_enough(start) -> None:
    server = start([node(gpus=1)], drain_s=1)
    with socket.create_connection(("127.0.0.1", _port(server)), timeout=60) as sock:
        sock.sendall(b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        eventually(lambda: server.server.verbs.begun)
        stopping = threading.Thread(target=server.server.stop)
        stopping.start()
        with suppress(ConnectionResetError):
            list(iter(lambda: sock.recv(65536), b""))
        stopping.join(timeout=60)
        assert not stopping.is_alive()


def test_no_thread_of_a_server_that_stops_waits_for_its_caller(start) -> None:
    server = start([node("n", gpus=1)], keep_alive_s=3600)
    assert server.client.get("/readyz")["ready"]
    name = f"verbs of 127.0.0.1:{server.client._connection.sock.getsockname()[1]}"
    assert name in {thread.name for thread in threading.enumerate()}
    server.server.stop()
    eventually(lambda: name not in {thread.name for thread in threading.enumerate()})


def test_small_answers_are_sent_at_once(start) -> None:
    """Without TCP_NODELAY each answer of two writes would wait for an acknowledgement."""
    server = start([node(gpus=1)])
    assert server.server.verbs._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
