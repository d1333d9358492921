"""A tap on the line between kube-scheduler and the extender: records, delays, cuts.

It passes every request on to the real extender as it came, byte for byte, and keeps what went both
ways, so that a test can assert what kube-scheduler really sends.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One request and its answer.

    Parameters
    ----------
    verb
        Last part of the path.
    headers
        Of the request, names in lower case.
    body, answer
        JSON of the request and of the answer (None unless the status is 200).
    status
        Of the answer; 0 if the extender gave none.
    at
        Seconds on the monotonic clock when the request came.
    """

    verb: str
    headers: dict[str, str]
    body: Json
    answer: Any
    status: int
    at: float

    @property
    def pod(self) -> str:
        """Name of the pod that it is about."""
        named = self.body.get("PodName")
        return str(named or self.body["Pod"]["metadata"]["name"])


class Tap:
    """A proxy on a port of loopback.

    Parameters
    ----------
    target
        URL of the extender.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.delay_s = 0.0
        self.cut = False
        self._calls: list[Call] = []
        self._lock = threading.Lock()
        tap = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                tap._pass(self)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    def calls(self, *verbs: str, pod: str = "") -> list[Call]:
        """What has come so far, oldest first."""
        with self._lock:
            seen = list(self._calls)
        return [c for c in seen if (not verbs or c.verb in verbs) and (not pod or c.pod == pod)]

    def _pass(self, handler: BaseHTTPRequestHandler) -> None:
        at = time.monotonic()
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if self.delay_s:
            time.sleep(self.delay_s)
        status, answer = (0, b"") if self.cut else self._ask(handler.path, body)
        call = Call(
            handler.path.rsplit("/", 1)[-1],
            {name.lower(): value for name, value in handler.headers.items()},
            json.loads(body),
            json.loads(answer) if status == 200 else None,
            status,
            at,
        )
        with self._lock:
            self._calls.append(call)
        if not status:
            handler.close_connection = True
            return
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    def _ask(self, path: str, body: bytes) -> tuple[int, bytes]:
        where = urlsplit(self.target)
        assert where.hostname is not None
        line = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
        try:
            line.request("POST", path, body, {"Content-Type": "application/json"})
            answer = line.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            line.close()
