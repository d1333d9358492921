"""HTTP as it may come: whole, in pieces, in a row, or in ways that kube-scheduler never uses."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec
import pytest

from scheduler.files.dump_writer import pod_json
from tests.builders import node, pod
from tests.server.conftest import Running

pytestmark = pytest.mark.server

NAMES = ["n0", "n1"]
BODY = msgspec.json.encode({"Pod": pod_json(pod("p", count=1)), "Nodes": None, "NodeNames": NAMES})


class Line:
    """A plain socket to the server that reads one answer at a time."""

    def __init__(self, server: Running) -> None:
        split = urlsplit(server.url)
        self.sock = socket.create_connection((split.hostname, split.port), timeout=60)
        self.file = self.sock.makefile("rb")

    def send(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        for piece in pieces:
            self.sock.sendall(piece)
            time.sleep(pause_s)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        fields = {}
        while line := self.file.readline().strip():
            name, value = line.decode().split(": ", 1)
            fields[name.lower()] = value
        return status, fields, self.file.read(int(fields.get("content-length", "0")))

    def closed(self) -> bool:
        return self.file.read(1) == b""


@pytest.fixture
def line(start) -> Iterator[Line]:
    opened = Line(start([node("n0", gpus=1), node("n1", gpus=2)]))
    yield opened
    opened.file.close()
    opened.sock.close()


def _head(*fields: str, path: str = "/filter", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: x", "Content-Type: application/json", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


LENGTH = f"Content-Length: {len(BODY)}"
WHOLE = _head(LENGTH) + BODY


def _passes(line: Line) -> dict[str, str]:
    status, fields, body = line.answer()
    assert status == 200 and json.loads(body)["NodeNames"] == NAMES
    return fields


def test_one_after_the_other_on_one_connection(line: Line) -> None:
    for _ in range(3):
        line.send(WHOLE)
        fields = _passes(line)
        assert fields["content-type"] == "application/json" and "date" in fields
        assert "connection" not in fields


def test_several_at_once_are_answered_in_order(line: Line) -> None:
    line.send(WHOLE + _head("Content-Length: 2", path="/bind") + b"{}" + WHOLE)
    _passes(line)
    assert line.answer()[0] == 400
    _passes(line)


@pytest.mark.parametrize("cut", [1, 20, 60, len(WHOLE) - len(BODY) - 2, len(WHOLE) - 5])
def test_in_two_pieces_with_a_pause(line: Line, cut: int) -> None:
    line.send(WHOLE[:cut], WHOLE[cut:], pause_s=0.05)
    _passes(line)
    line.send(WHOLE)
    _passes(line)


def test_byte_by_byte(line: Line) -> None:
    line.send(*(WHOLE[i : i + 1] for i in range(len(WHOLE))))
    _passes(line)


@pytest.mark.parametrize(
    "fields", [("Transfer-Encoding: chunked",), ("Transfer-Encoding: CHUNKED",)]
)
def test_chunks_are_understood(line: Line, fields: tuple[str, ...]) -> None:
    line.send(_head(*fields) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
    _passes(line)
    line.send(WHOLE)
    _passes(line)


def test_an_expectation_is_met_before_the_body(line: Line) -> None:
    line.send(_head(LENGTH, "Expect: 100-continue"))
    assert line.file.readline().split()[1] == b"100"
    assert line.file.readline() == b"\r\n"
    line.send(BODY)
    _passes(line)


def test_who_wants_to_close_is_closed(line: Line) -> None:
    line.send(_head(LENGTH, "Connection: close") + BODY)
    _passes(line)
    assert line.closed()


def test_the_old_protocol_closes_by_itself(line: Line) -> None:
    line.send(_head(LENGTH, version="1.0") + BODY)
    _passes(line)
    assert line.closed()


@pytest.mark.parametrize(
    "head",
    [
        b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
        b"POST /filter HTTP/1.1\r\nHost: x\r\nno colon here\r\n\r\n",
        b"POST /filter\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\r\n\r\n",
    ],
)
def test_nonsense_is_refused_and_harms_nobody(line: Line, head: bytes, start) -> None:
    line.send(head)
    assert line.answer()[0] == 400


def test_two_lengths_that_differ_are_not_guessed_at(line: Line) -> None:
    line.send(_head(LENGTH, "Content-Length: 3") + BODY)
    status, _, _ = line.answer()
    assert status == 400


def test_views_with_a_question_mark_and_unknown_paths(line: Line) -> None:
    line.send(b"GET /debug/decisions?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    status, _, body = line.answer()
    assert status == 200 and json.loads(body) == {"decisions": []}
    line.send(b"GET /nothing/here HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert line.answer()[0] == 404
    line.send(WHOLE)
    _passes(line)


def test_many_connections_at_once_are_all_answered(start) -> None:
    """More than there are threads, and more than are kept: a waiting thread must not starve any."""
    server = start([node("n0", gpus=1), node("n1", gpus=2)], threads=2)
    lines = [Line(server) for _ in range(16)]
    for _ in range(3):
        for one in lines:
            one.send(WHOLE)
        kept = []
        for one in lines:
            fields = _passes(one)
            if fields.get("connection") == "close":
                assert one.closed()
                one.sock.close()
            else:
                kept.append(one)
        lines = kept
    assert len(lines) >= 8
    for one in lines:
        one.sock.close()
