"""What each door shows, to whom, and what it costs to ask."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from scheduler.core.errors import InvalidInput, KubeApiError
from scheduler.webhook.access import Reviews, names_this_server
from scheduler.webhook.routes import create_app
from scheduler.webhook.status import CONTENT_PATHS, OFFLINE_PATHS, VERBS, open_paths
from tests.builders import node
from tests.server.conftest import Running

pytestmark = pytest.mark.server

VERB_PATHS = {f"/{verb}" for verb in VERBS}
RIGHTS = {"prometheus": {"/metrics"}, "operator": CONTENT_PATHS, "tenant": set()}


class Cluster:
    """Answers reviews as an API server does: tokens are names of users here."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.broken: Callable[[], bytes] | None = None

    def post(self, path: str, content: Any, *, read_s: float = 0.0) -> bytes:
        assert 0 < read_s <= 5
        self.asked.append(content)
        if self.broken:
            return self.broken()
        spec = content["spec"]
        assert path.endswith(f"/{content['kind'].lower()}s")
        if content["kind"] == "TokenReview":
            known = spec["token"] in RIGHTS
            user = {"username": spec["token"], "uid": "u", "groups": ["g"], "extra": {"k": ["v"]}}
            return msgspec.json.encode(
                {"status": {"authenticated": known} | ({"user": user} if known else {})}
            )
        assert (spec["uid"], spec["groups"], spec["extra"]) == ("u", ["g"], {"k": ["v"]})
        asked = spec["nonResourceAttributes"]
        assert asked["verb"] == "get"
        return msgspec.json.encode({"status": {"allowed": asked["path"] in RIGHTS[spec["user"]]}})


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(start, cluster: Cluster, authority: trustme.CA, tmp_path: Path) -> Running:
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "metrics.pem"))
    file = str(tmp_path / "metrics.pem")
    return start(
        [node("n0", gpus=1)],
        api=cluster,
        status_listen=":0",
        metrics_listen="127.0.0.1:0",
        metrics_cert=file,
        metrics_key=file,
        host_names="snugfit.kube-system.svc, metrics.example",
    )


Get = Callable[..., tuple[int, bytes]]


@pytest.fixture
def get(server: Running, authority: trustme.CA) -> Get:
    """Ask the listener for metrics."""
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def ask(
        path: str, token: str | None = None, method: str = "GET", **fields: str
    ) -> tuple[int, bytes]:
        if token is not None:
            fields["Authorization"] = f"Bearer {token}"
        port = server.server.metrics.port
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
        try:
            connection.request(method, path, headers=fields)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    return ask


def _plain(port: int, path: str, method: str = "GET", **fields: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, headers=fields)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_metrics_are_shown_to_whom_the_api_server_lets_see_them(get: Get) -> None:
    assert get("/metrics")[0] == 401
    assert get("/metrics", "nobody")[0] == 401
    assert get("/metrics", "tenant")[0] == 403
    status, text = get("/metrics", "prometheus")
    assert status == 200 and b"snugfit_nodes" in text
    assert get("/debug/state", "prometheus")[0] == 403
    for path in CONTENT_PATHS:
        assert get(path, "operator")[0] == 200, path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/filter"),
        ("POST", "/bind"),
        ("DELETE", "/offline/pods/x"),
        ("POST", "/metrics"),
        ("GET", "/healthz"),
        ("GET", "//debug/state"),
        ("GET", "/debug/state/"),
        ("GET", "/DEBUG/state"),
    ],
)
def test_the_door_of_metrics_leads_nowhere_else(get: Get, method: str, path: str) -> None:
    assert get(path, "operator", method)[0] == 404


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Basic b3BlcmF0b3I6", "operator", "Bearer a b",
     "Bearer " + "x" * 20_000],
)  # fmt: skip
def test_what_is_no_token_is_not_asked_about(get: Get, cluster, authorization: str) -> None:
    assert get("/metrics", Authorization=authorization)[0] == 401
    assert cluster.asked == []


def test_answers_are_kept_for_a_while_by_token_and_path(cluster: Cluster) -> None:
    now = [0.0]
    reviews = Reviews(cluster, lambda: now[0])

    def ask(token: str, path: str) -> tuple[int, int]:
        before = len(cluster.asked)
        return reviews.status(f"bearer {token}", path).value, len(cluster.asked) - before

    assert ask("prometheus", "/metrics") == (200, 2)
    assert ask("prometheus", "/metrics") == (200, 0)
    assert ask("prometheus", "/debug/state") == (403, 2)
    assert ask("nobody", "/metrics") == (401, 1)
    assert ask("nobody", "/metrics") == (401, 0)
    now[0] += 30
    assert ask("nobody", "/metrics") == (401, 1)
    assert ask("prometheus", "/metrics") == (200, 0)
    now[0] += 60
    assert ask("prometheus", "/metrics") == (200, 2), "a right that was taken away is noticed"


def test_strangers_cannot_make_us_ask_without_end(cluster: Cluster) -> None:
    now = [0.0]
    reviews = Reviews(cluster, lambda: now[0])
    assert reviews.status("Bearer prometheus", "/metrics") == 200
    statuses = [reviews.status(f"Bearer x{number}", "/metrics") for number in range(5000)]
    assert statuses.count(HTTPStatus.TOO_MANY_REQUESTS) > 4900 and len(cluster.asked) < 50
    assert reviews.status("Bearer prometheus", "/metrics") == 200, "who is known is still served"
    for number in range(5000):
        now[0] += 0.1
        reviews.status(f"Bearer y{number}", "/metrics")
    assert len(reviews._strangers.known) == 1024 and len(reviews._let_in.known) == 1


@pytest.mark.parametrize("every_s", [30, 70, 600])
def test_who_was_let_in_before_is_let_in_again_beside_strangers(cluster: Cluster, every_s) -> None:
    now = [0.0]
    reviews = Reviews(cluster, lambda: now[0])
    assert reviews.status("Bearer prometheus", "/metrics") == 200
    for second in range(1, 4 * every_s + 1):
        for number in range(25):
            now[0] = second + number / 25
            reviews.status(f"Bearer x{second}-{number}", "/metrics")
        if second % every_s == 0:
            assert reviews.status("Bearer prometheus", "/metrics") == 200, second
    assert reviews.status("Bearer x", "/metrics") == 429, "the rate was used up"


def test_a_right_that_was_taken_away_makes_a_stranger(cluster: Cluster, monkeypatch) -> None:
    now = [0.0]
    reviews = Reviews(cluster, lambda: now[0])
    assert reviews.status("Bearer prometheus", "/metrics") == 200
    monkeypatch.setitem(RIGHTS, "prometheus", set())
    now[0] += 61
    assert reviews.status("Bearer prometheus", "/metrics") == 403
    now[0] += 11
    while reviews.status("Bearer nobody-" + str(len(cluster.asked)), "/metrics") != 429:
        pass
    assert reviews.status("Bearer prometheus", "/metrics") == 429
    monkeypatch.setitem(RIGHTS, "prometheus", {"/metrics"})
    now[0] += 1
    assert reviews.status("Bearer prometheus", "/metrics") == 200, "and one may be let in again"


def test_who_was_let_in_before_cannot_make_us_ask_without_end_either(cluster: Cluster) -> None:
    def away() -> bytes:
        raise KubeApiError("POST", 0, "nobody there")

    now = [0.0]
    reviews = Reviews(cluster, lambda: now[0])
    assert reviews.status("Bearer prometheus", "/metrics") == 200
    now[0] += 61
    cluster.broken = away
    before = len(cluster.asked)
    statuses = [reviews.status("Bearer prometheus", "/metrics") for _ in range(500)]
    assert set(statuses) == {503, 429} and len(cluster.asked) - before <= 20
    cluster.broken = None
    assert reviews.status("Bearer operator", "/metrics") == 200, "strangers have their own rate"
    now[0] += 1
    assert reviews.status("Bearer prometheus", "/metrics") == 200, "it is still known"


@pytest.mark.parametrize(
    "answer",
    [b"", b"null", b"[]", b"<html>", b'{"status":[]}', b'{"status":{"authenticated":"yes"}}',
     b"\xff"],
)  # fmt: skip
def test_an_answer_that_is_none_lets_nobody_in(cluster: Cluster, answer: bytes) -> None:
    cluster.broken = lambda: answer
    assert Reviews(cluster).status("Bearer operator", "/metrics") in (503, 401)


@pytest.mark.parametrize(
    "status",
    [{}, {"authenticated": True}, {"authenticated": True, "user": {}},
     {"user": {"username": "operator"}},
     {"authenticated": False, "user": {"username": "operator"}}],
)  # fmt: skip
def test_a_user_is_one_that_was_authenticated(cluster: Cluster, status: dict[str, Any]) -> None:
    cluster.broken = lambda: msgspec.json.encode({"status": status})
    assert Reviews(cluster).status("Bearer operator", "/metrics") == 401


def test_an_api_server_that_is_away_lets_nobody_new_in(get: Get, cluster: Cluster) -> None:
    def away() -> bytes:
        raise KubeApiError("POST", 0, "nobody there")

    assert get("/metrics", "prometheus")[0] == 200
    cluster.broken = away
    assert get("/metrics", "prometheus")[0] == 200
    assert get("/metrics", "operator")[0] == 503
    cluster.broken = None
    assert get("/metrics", "operator")[0] == 200, "the failure is not kept"


def test_a_slow_api_server_holds_up_no_verb_and_no_probe(get: Get, cluster, server) -> None:
    stuck, free = threading.Event(), threading.Event()

    def slow() -> bytes:
        stuck.set()
        assert free.wait(60)
        raise KubeApiError("POST", 0, "too late")

    cluster.broken = slow
    callers = [
        threading.Thread(target=get, args=("/metrics", f"x{number}"), daemon=True)
        for number in range(12)
    ]
    for caller in callers:
        caller.start()
    try:
        assert stuck.wait(60)
        assert _plain(server.server.status.port, "/healthz")[0] == 200
        assert _plain(server.server.verbs.port, "/healthz")[0] == 200
    finally:
        free.set()
        for caller in callers:
            caller.join(timeout=60)


def test_probes_are_open_and_say_one_word(server: Running) -> None:
    port = server.server.status.port
    for path in ("/healthz", "/readyz", "/activez"):
        assert _plain(port, path, Host="anything.example") == (200, b"ok\n")
    server.accepting = False
    with server.service.exclusive():  # whatever holds the lock
        assert _plain(port, "/activez")[0] == 503
        assert _plain(port, "/healthz") == (200, b"ok\n")
        assert _plain(port, "/readyz") == (200, b"ok\n")


def test_a_door_for_probes_that_all_can_reach_shows_no_metrics(server: Running) -> None:
    port = server.server.status.port
    assert _plain(port, "/metrics")[0] == 403
    for path in (*CONTENT_PATHS - {"/metrics", "/readyz"}, "//metrics", "/x", "/offline/pods/x"):
        assert _plain(port, path)[0] == 404, path
    for path in open_paths(""):
        assert _plain(port, path, "POST")[0] == 404, path


def test_every_listener_has_a_page_that_says_what_there_is(server: Running, get: Get) -> None:
    pages = [
        get("/"),
        *(_plain(each.port, "/") for each in (server.server.verbs, server.server.status)),
    ]
    for status, page in pages:
        assert status == 200 and page.startswith(b"<!doctype html>")
        for path in (*CONTENT_PATHS, "/healthz", "/activez"):
            assert f'href="{path}"'.encode() in page
        for verb in VERBS:
            assert f"POST /{verb}<".encode() in page
    assert _plain(server.server.verbs.port, "/", "POST")[0] == 404


HOSTS = {
    "127.0.0.1": True, "127.0.0.1:10262": True, "[::1]:1": True, "10.1.2.3:1": True,
    "localhost": True, "LocalHost.:80": True, "snugfit.kube-system.svc:10264": True,
    "Metrics.Example": True, "[fd00::1]": True,
    "evil.example": False, "snugfit": False, "localhost.evil.example": False, "": False,
    "127.0.0.1.evil.example": False, "x.snugfit.kube-system.svc": False, "[::1": False,
    "2130706433": False, "0x7f000001": False, "127.1": False, "1.2.3.4.5": False,
}  # fmt: skip


@pytest.mark.parametrize(("host", "ours"), HOSTS.items(), ids=[repr(each) for each in HOSTS])
def test_a_host_is_ours_by_address_or_by_a_name_that_was_given(host: str, *, ours: bool) -> None:
    assert names_this_server(host, {"snugfit.kube-system.svc", "metrics.example"}) == ours


@pytest.mark.parametrize("host", [host for host in HOSTS if not host.startswith("[::1")])
def test_content_is_shown_under_names_of_ours_alone(get: Get, server, host: str) -> None:
    verbs = server.server.verbs.port
    for path in ("/metrics", "/debug/state", "/debug/prices", "/openapi.json"):
        ours = HOSTS[host]
        assert _plain(verbs, path, Host=host)[0] == (200 if ours else 421)
        assert get(path, "operator", Host=host)[0] == (200 if ours else 421)
    assert _plain(verbs, "/offline/pods/x", "DELETE", Host=host)[0] == (404 if ours else 421)
    assert _plain(verbs, "/healthz", Host=host)[0] == 200
    status, ready = _plain(verbs, "/readyz", Host=host)
    assert status == 200 and (b"generation" in ready) == ours


def test_loopback_shows_nothing_where_it_is_shared(start) -> None:
    server = start([node("n0", gpus=1)], loopback_content=False, status_listen="127.0.0.1:0")
    for path in CONTENT_PATHS - {"/readyz"}:
        assert _plain(server.server.verbs.port, path)[0] == 403, path
    assert _plain(server.server.status.port, "/metrics")[0] == 403
    assert _plain(server.server.verbs.port, "/readyz") == (200, b'{"ready":true}')
    assert _plain(server.server.verbs.port, "/offline/pods/x", "DELETE")[0] == 403


def test_every_address_shows_nothing_without_certificates(start) -> None:
    server = start([node("n0", gpus=1)], host="0.0.0.0", offline=True)
    for path in CONTENT_PATHS - {"/readyz"}:
        assert _plain(server.server.verbs.port, path)[0] == 403, path
    assert _plain(server.server.verbs.port, "/readyz") == (200, b'{"ready":true}')


def test_metrics_need_somebody_to_ask(start, authority, tmp_path: Path) -> None:
    file = str(tmp_path / "metrics.pem")
    authority.issue_cert("x").private_key_and_cert_chain_pem.write_to_path(file)
    with pytest.raises(InvalidInput, match="metrics_listen"):
        start([node("n0", gpus=1)], metrics_listen=":0", metrics_cert=file, metrics_key=file)


def test_every_route_has_a_door(server: Running) -> None:
    """A route that no list names would be shown nowhere, and nobody would know why."""
    app = create_app(server.service.webhook)
    routes = {str(rule) for rule in app.url_map.iter_rules()}
    offline = {route for route in routes if route.startswith(OFFLINE_PATHS)}
    assert offline and routes - offline == open_paths("") - VERB_PATHS | CONTENT_PATHS
