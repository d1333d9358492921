"""Where a request begins and ends, on the real server: one reading, or none.

Every refused request is followed by bytes that would be a request of their own to a reader that saw
another end; nobody may answer those.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import msgspec
import pytest

from scheduler.files.dump_writer import pod_json
from scheduler.webhook.framing import MOST_HEAD, Reader
from tests.builders import node, pod
from tests.server.conftest import Running

pytestmark = pytest.mark.server

BODY = msgspec.json.encode({"Pod": pod_json(pod("p", count=1)), "Nodes": None, "NodeNames": ["n0"]})
HEAD = b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
NEXT = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

Ask = Callable[[bytes], tuple[list[int], bytes]]


@pytest.fixture
def server(start) -> Running:
    return start([node("n0", gpus=1)])


@pytest.fixture
def ask(server: Running) -> Ask:
    """Send bytes and no more; the statuses that come until the server closes, and all of it."""

    def send(data: bytes) -> tuple[list[int], bytes]:
        split = urlsplit(server.url)
        received = b""
        address = (split.hostname, split.port)
        with socket.create_connection(address, timeout=60) as sock, suppress(ConnectionError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(1 << 16):
                received += piece
        statuses = re.findall(rb"HTTP/1\.1 (\d{3}) ", received)
        return [int(each) for each in statuses if each != b"100"], received

    return send


def _length(text: bytes) -> bytes:
    return HEAD + b"Content-Length: " + text + b"\r\n\r\n" + BODY + NEXT


REFUSED = {
    "both lengths": HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "both, chunks first": HEAD + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + CHUNKED,
    "both, length 0": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + CHUNKED,
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n" + BODY,
    "chunked twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKED,
    "chunked in two fields": HEAD + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + CHUNKED,
    "chunked not last": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + CHUNKED,
    "nearly chunked": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKED,
    "quoted": HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n' + CHUNKED,
    "with parameter": HEAD + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + CHUNKED,
    "empty coding": HEAD + b"Transfer-Encoding:\r\n\r\n" + CHUNKED,
    "coding with a space": HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED,
    "chunks in 1.0": HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "length with a space": HEAD + LENGTH.replace(b":", b" :") + b"\r\n" + BODY,
    "length with a tab": HEAD + LENGTH.replace(b":", b"\t:") + b"\r\n" + BODY,
    "two lengths": HEAD + LENGTH + b"Content-Length: 3\r\n\r\n" + BODY,
    "two equal lengths": HEAD + LENGTH * 2 + b"\r\n" + BODY,
    "in another case": HEAD + LENGTH + LENGTH.lower() + b"\r\n" + BODY,
    **{
        f"length {text!r}": _length(text)
        for text in (
            b"", b"+5", b"-5", b"-0", b"0x5", b"5, 5", b"5,5", b"5;5", b"1_0", b"5.0", b"5e1",
            b"5 5",
            "\u0665".encode(), "\uff15".encode(), b"\xb2", b"\xa05", b"5\x0b", b"5\x00",
            b"1" + b"0" * 18, b"9" * 5000, b"0" * 5000, b"NaN", b"true",
        )
    },
    "folded": HEAD + LENGTH + b"X-A: b\r\n c\r\n\r\n" + BODY,
    "folded with a tab": HEAD + LENGTH + b"X-A: b\r\n\tc\r\n\r\n" + BODY,
    "folded coding": HEAD + LENGTH + b"X-A:\r\n Transfer-Encoding: chunked\r\n\r\n" + BODY,
    "a space first": HEAD[:23] + b" Host: x\r\n" + HEAD[23:] + LENGTH + b"\r\n" + BODY,
    "no colon": HEAD + LENGTH + b"garbage\r\n\r\n" + BODY,
    "no name": HEAD + LENGTH + b": x\r\n\r\n" + BODY,
    "name with a space": HEAD + LENGTH + b"X A: x\r\n\r\n" + BODY,
    "name beyond ASCII": HEAD + LENGTH + "X-\u00e9: x\r\n\r\n".encode() + BODY,
    **{
        f"{byte:#04x} in a value": HEAD + LENGTH + b"X-A: b%cc\r\n\r\n" % byte + BODY
        for byte in (0x00, 0x01, 0x08, 0x0A, 0x0B, 0x0D, 0x1B, 0x1F, 0x7F)
    },
    "lines without CR": (HEAD + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    "one line without CR": HEAD.replace(b"1.1\r\n", b"1.1\n") + LENGTH + b"\r\n" + BODY,
    "end without CR": HEAD + LENGTH + b"\n" + BODY,
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "no such Host": b"GET /healthz HTTP/1.1\r\nHost: x/y@z\r\n\r\n",
    "a tab in the line": NEXT.replace(b"GET ", b"GET\t"),
    "lower case": NEXT.replace(b"HTTP", b"http"),
    "no version": b"GET /healthz\r\nHost: x\r\n\r\n",
    "two digits": NEXT.replace(b"1.1", b"1.10"),
    "NUL in the path": NEXT.replace(b"healthz", b"health\0z"),
    "beyond ASCII in the path": NEXT.replace(b"healthz", "h\u00e9althz".encode()),
    "no path": NEXT.replace(b"/healthz", b"healthz"),
    "an asterisk": NEXT.replace(b"/healthz", b"*"),
    "a fragment": NEXT.replace(b"/healthz", b"/healthz#x"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    **{
        f"chunk size {size!r}": HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + BODY + b"\r\n0\r\n\r\n"
        for size in (
            b"", b"-5", b"+5", b"0x5", b"1_0", b"5 5", b" 5", b"g", "\u0665".encode(), b"f" * 17,
            b"5\x00", b"5;a=\x01",
        )
    },
    "chunk longer than its size": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "chunk line without CR": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n",
    "chunk end without CR": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\n0\r\n\r\n",
    "a length in the trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    + CHUNKED[:-2] + b"Content-Length: 3\r\n\r\n",
    "an upgrade with a body": HEAD + LENGTH
    + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n" + BODY,
    "an upgrade whose body is a request": HEAD + b"Content-Length: %d\r\n" % len(NEXT)
    + b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n",
    "an upgrade with chunks": HEAD + b"Transfer-Encoding: chunked\r\n"
    + b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n" + CHUNKED,
    "a tunnel": b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\ngarbage\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("request_", REFUSED.values(), ids=list(REFUSED))
def test_what_leaves_open_where_it_ends_is_refused_with_all_that_follows(
    ask: Ask, request_: bytes
) -> None:
    statuses, received = ask(request_ + NEXT)
    assert statuses == [400], received
    assert b"\r\nConnection: close\r\n" in received


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED, 501),
        (NEXT.replace(b"1.1", b"2.0"), 505),
        (NEXT.replace(b"1.1", b"9.9"), 505),
        (HEAD + LENGTH + b"Expect: wonders\r\n\r\n" + BODY, 417),
        (HEAD + b"Content-Length: %d\r\n\r\n" % (65 << 20) + b"x" * 1000, 413),
        (HEAD + LENGTH + b"".join(b"X-%d: y\r\n" % i for i in range(4000)) + b"\r\n" + BODY, 431),
        (HEAD + LENGTH + b"X-A: " + b"y" * 1_000_000 + b"\r\n\r\n" + BODY, 431),
        (b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
def test_what_cannot_be_served_has_its_own_status(ask: Ask, request_: bytes, status: int) -> None:
    statuses, received = ask(request_ + NEXT)
    assert statuses == [status], received[:1000]


def test_a_body_that_is_too_long_is_logged_and_says_what_would_do(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    """kube-scheduler logs that the call failed, not why; and a stranger fills no log."""
    for _ in range(3):
        _, received = ask(HEAD + b"Content-Length: %d\r\n\r\n" % (65 << 20))
        assert b"68157440 bytes" in received and b"nodeCacheCapable" in received
    (line,) = [r.getMessage() for r in caplog.records if "is refused" in r.getMessage()]
    assert "127.0.0.1" in line and "max_body_mib" in line


ALLOWED = {
    "plain": HEAD + LENGTH + b"\r\n" + BODY,
    "leading zeros": HEAD + b"Content-Length: 000%d\r\n\r\n" % len(BODY) + BODY,
    "white space around": HEAD + b"Content-Length: \t %d \t\r\n\r\n" % len(BODY) + BODY,
    "no white space": HEAD + b"Content-Length:%d\r\n\r\n" % len(BODY) + BODY,
    "any case": HEAD.lower().replace(b"post /filter http", b"POST /filter HTTP")
    + LENGTH.upper() + b"\r\n" + BODY,
    "an empty line before": b"\r\n" + HEAD + LENGTH + b"\r\n" + BODY,
    "empty lines before": b"\r\n\r\n" + HEAD + LENGTH + b"\r\n" + BODY,
    "four empty lines before": b"\r\n" * 4 + HEAD + LENGTH + b"\r\n" + BODY,
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "chunks in any case": HEAD + b"tRANSFER-eNCODING:\t Chunked \r\n\r\n" + CHUNKED,
    "an extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    + b'%x;a="b;c"\r\n%b\r\n000\r\n\r\n' % (len(BODY), BODY),
    "a trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"%X\r\n%b\r\n0\r\nHost: y\r\nX: y\r\n\r\n" % (len(BODY), BODY),
    "single bytes": HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
    "underscores are no hyphens": HEAD + LENGTH
    + b"Transfer_Encoding: chunked\r\nContent_Length: 3\r\n\r\n" + BODY,
    "obsolete text": HEAD + LENGTH + b"X-A: \xe9\xff\r\n\r\n" + BODY,
    "an empty field": HEAD + LENGTH + b"X-A:\r\n\r\n" + BODY,
    "an absolute target": HEAD.replace(b" /", b" http://x:1/") + LENGTH + b"\r\n" + BODY,
    "a query": HEAD.replace(b"/filter", b"/filter?timeout=1s") + LENGTH + b"\r\n" + BODY,
    "an escaped letter": HEAD.replace(b"/filter", b"/%66ilter") + LENGTH + b"\r\n" + BODY,
    "a charset": HEAD.replace(b"json", b"json; charset=utf-8") + LENGTH + b"\r\n" + BODY,
    "two spaces before the target": HEAD.replace(b"POST ", b"POST  ") + LENGTH + b"\r\n" + BODY,
    "an expectation": HEAD + LENGTH + b"Expect: 100-continue\r\n\r\n" + BODY,
}  # fmt: skip


@pytest.mark.parametrize("request_", ALLOWED.values(), ids=list(ALLOWED))
def test_what_has_one_reading_is_answered_and_the_next_one_too(ask: Ask, request_: bytes) -> None:
    statuses, received = ask(request_ + NEXT + request_)
    assert statuses == [200, 200, 200], received
    assert received.count(b'"NodeNames":["n0"]') == 2


@pytest.mark.parametrize(
    "path",
    [b"//filter", b"/./filter", b"/x/../filter", b"/filter/", b"/filter;x", b"/filter%00",
     b"/debug/%2e%2e/filter", b"/%2ffilter", b"//debug/state", b"/debug//state", b"/metrics/"],
)  # fmt: skip
def test_a_path_that_is_none_of_ours_is_not_found(ask: Ask, path: bytes) -> None:
    statuses, _ = ask(HEAD.replace(b"/filter", path) + LENGTH + b"\r\n" + BODY + NEXT)
    assert statuses == [404, 200]


def test_the_answer_to_a_head_request_has_no_body(ask: Ask) -> None:
    statuses, received = ask(NEXT.replace(b"GET", b"HEAD") + NEXT)
    assert statuses == [200, 200] and received.count(b"ok\n") == 1


def test_the_old_protocol_needs_no_host_and_ends_with_the_answer(ask: Ask) -> None:
    statuses, received = ask(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + NEXT)
    assert statuses == [200] and b"\r\nConnection: close\r\n" in received


def test_a_body_that_never_comes_is_not_answered(ask: Ask) -> None:
    assert ask(HEAD + LENGTH + b"\r\n" + BODY[:20]) == ([], b"")


# -- the body itself -------------------------------------------------------------------------


def _posted(ask: Ask, body: bytes, verb: bytes = b"filter") -> tuple[list[int], bytes]:
    head = HEAD.replace(b"filter", verb) + b"Content-Length: %d\r\n\r\n" % len(body)
    statuses, received = ask(head + body)
    return statuses, received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("verb", [b"filter", b"prioritize", b"filter-dryrun"])
@pytest.mark.parametrize(
    ("found", "put", "field"),
    [
        (b'"n0"', b'"n0","\xff\xfe"', b"NodeNames"),
        (b'"n0"', b'"\xc0\xaf"', b"NodeNames"),  # longer than it may be
        (b'"name":"p"', b'"name":"\xed\xa0\x80"', b"name"),  # half of a pair
        (b'"name":"p"', b'"name":"\xf4\x90\x80\x80"', b"name"),  # beyond Unicode
        (b'"name":"p"', b'"name":"p","nobodyReads":"\x80"', b"nobodyReads"),
        (b'"name":"p"', b'"name":"p","annotations":{"a":"\xe2\x82"}', b"annotations"),
    ],
)
def test_bytes_that_are_no_text_are_refused_by_the_field_s_name(
    ask: Ask, verb: bytes, found: bytes, put: bytes, field: bytes
) -> None:
    assert BODY.count(found) == 1
    statuses, told = _posted(ask, BODY.replace(found, put), verb)
    assert statuses == [400]
    assert field in told or (field == b"annotations" and b"body: a:" in told), told


@pytest.mark.parametrize(
    "name", [b"\\ud800", b"\\udc00", b"\\u0000", b"\xe2\x80\xae", b"a\\nb", b"\\u001b[31m"]
)
@pytest.mark.parametrize("verb", [b"filter", b"prioritize", b"filter-dryrun"])
def test_strange_names_of_nodes_are_no_fault_of_ours(ask: Ask, verb: bytes, name: bytes) -> None:
    statuses, told = _posted(ask, BODY.replace(b'"n0"', b'"n0","%b"' % name), verb)
    assert statuses in ([200], [400])
    json.loads(told) if statuses == [200] else told.decode("ascii")


@pytest.mark.parametrize(
    "begun", [b'{"Pod":{"metadata":{"name":"other"}},', b'{"Pod":1,', b'{"NodeNames":["x"],']
)
def test_of_a_key_that_stands_twice_the_last_counts(ask: Ask, begun: bytes) -> None:
    statuses, told = _posted(ask, begun + BODY[1:])
    assert statuses == [200] and json.loads(told)["NodeNames"] == ["n0"]


def test_what_looks_like_the_end_of_the_pod_within_it_is_not(ask: Ask) -> None:
    inner = b'"x":{"a":1,"Nodes":null,"NodeNames":["n9"]},'
    statuses, told = _posted(ask, BODY.replace(b'{"Pod":{', b'{"Pod":{' + inner))
    assert statuses == [200] and json.loads(told)["NodeNames"] == ["n0"]


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "..",
        ".",
        "a/b",
        "a%2fb",
        "a?b",
        "a#b",
        "a b",
        "",
        "a\nb",
        "a\\b",
        "\u0661",
        "x" * 254,
    ],
)
@pytest.mark.parametrize("field", ["PodName", "PodNamespace", "Node"])
def test_what_is_no_name_is_not_bound(ask: Ask, field: str, name: str) -> None:
    whole = {"PodName": "p", "PodNamespace": "d", "PodUID": "u", "Node": "n0", field: name}
    statuses, told = _posted(ask, json.dumps(whole).encode(), b"bind")
    if field == "PodNamespace" and not name:  # as kube-scheduler's own decoder would have it
        assert statuses == [200]
    else:
        assert statuses == [400] and field.encode() in told


# -- without a socket ------------------------------------------------------------------------


def _read(data: bytes, size: int = 1 << 20, most: int = 100) -> Reader:
    """A reader that has got these bytes in pieces of a size, until it refused."""
    reader = Reader(most)
    for at in range(0, len(data), size):
        if reader.refused is None:
            reader.feed(data[at : at + size])
    return reader


@pytest.mark.parametrize("size", range(1, 40))
def test_requests_may_come_in_pieces_of_any_size(size: int) -> None:
    chunks = b"4\r\nWiki\r\n7;x=y\r\npedia i\r\nB\r\nn \r\nchunks.\r\n0\r\nT: x\r\n\r\n"
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    lengthy = HEAD + b"Content-Length: 3\r\n\r\nabc"
    reader = _read(chunked + NEXT + b"\r\n" + lengthy + b"GET", size)
    assert [each.body for each in reader.whole] == [b"Wikipedia in \r\nchunks.", b"", b"abc"]
    assert [each.environ["PATH_INFO"] for each in reader.whole] == [
        "/filter",
        "/healthz",
        "/filter",
    ]
    assert reader.refused is None and reader.begun and reader.held == 0
    assert all("HTTP_T" not in each.environ for each in reader.whole)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_body_in_chunks_stops_at_the_limit(size: int) -> None:
    begun = HEAD + b"Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n"
    assert _read(begun, size, most=10).refused is None
    refused = _read(begun + b"1\r\nx\r\n0\r\n\r\n", size, most=10).refused
    assert refused is not None and refused.status == 413


@pytest.mark.parametrize(
    ("begun", "endless"),
    [
        (b"", b"\r\n"),
        (b"GET /", b"x"),
        (b"GET / HTTP/1.1\r\nX: ", b"y"),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"y"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    ],
)
def test_nothing_has_no_end(begun: bytes, endless: bytes) -> None:
    size = 1 << 10
    reader = _read(begun + endless * (4 * MOST_HEAD // len(endless)), size)
    assert reader.refused is not None and reader.refused.status in (400, 431)
    assert not reader.whole and reader.held == 0


def test_many_requests_at_once_are_refused_after_the_first_ones() -> None:
    reader = _read(NEXT * 1000)
    assert reader.refused is not None and reader.refused.status == 400
    assert 0 < len(reader.whole) < 50


def test_whoever_offers_another_protocol_is_answered_in_this_one() -> None:
    offer = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    reader = _read(offer + NEXT)
    assert [each.environ["PATH_INFO"] for each in reader.whole] == ["/a", "/healthz"]
    assert reader.refused is None and not reader.begun


def test_repeated_fields_become_a_list() -> None:
    fields = b"Host: a\r\nX-A: 1\r\nX-A: 2\r\nConnection: x\r\nConnection: Close\r\n\r\n"
    (request,) = _read(b"GET / HTTP/1.1\r\n" + fields).whole
    assert request.environ["HTTP_X_A"] == "1, 2" and not request.keep


def test_a_refusal_says_what_would_be_right() -> None:
    for data in (*REFUSED.values(), NEXT.replace(b"1.1", b"9.9"), HEAD + b"Expect: x\r\n\r\n"):
        refused = _read(data + NEXT).refused
        assert refused is not None and 20 < len(refused.reason) < 200, data
