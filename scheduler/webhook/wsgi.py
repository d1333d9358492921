"""What an application gets of a request, and what becomes of its answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from io import BytesIO
from typing import Any

from scheduler.webhook.framing import BadRequest, Request
from scheduler.webhook.refusals import refuse

__all__ = ["Answer", "WsgiApp", "answered", "lasting_environ", "refused"]

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_BODILESS = ("204", "304")


class Answer:
    """Status and header fields that an application gives, and what it writes.

    Attributes
    ----------
    body : bytes
        Empty where there may be none.
    keep : bool
        Whether the connection goes on; settled by :meth:`head`.
    """

    def __init__(self, *, keep: bool, bodiless: bool = False) -> None:
        self.keep = keep
        self.body = b""
        self._bodiless = bodiless
        self._status = "500 Internal Server Error"
        self._fields: list[tuple[str, str]] = []

    @property
    def success(self) -> bool:
        """Whether it is a 200."""
        return self._status.startswith("200")

    def start(
        self, status: str, headers: list[tuple[str, str]], _error: object = None
    ) -> Callable[[bytes], None]:
        """WSGI's ``start_response``; nothing has been sent yet, so that it may be called again."""
        self._status, self._fields = status, headers
        return _refuse_to_write

    def take(self, chunks: Iterable[bytes]) -> None:
        """Take the body."""
        try:
            body = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        if not self._bodiless:
            self.body = body

    def head(self) -> bytes:
        """The head as bytes, with the length of what follows."""
        lines = [f"HTTP/1.1 {self._status}"]
        for name, value in self._fields:
            lower = name.lower()
            if lower == "connection":
                self.keep = self.keep and value.lower() != "close"
            elif lower != "content-length" or self._bodiless:
                lines.append(f"{name}: {value}")
        if not self.keep:
            lines.append("Connection: close")
        if not self._bodiless and not self._status.startswith(_BODILESS):
            lines.append(f"Content-Length: {len(self.body)}")
        lines.append(f"Date: {_date(int(time.time()))}\r\n\r\n")
        return "\r\n".join(lines).encode("latin-1")


def answered(app: WsgiApp, request: Request, lasting: dict[str, Any], *, keep: bool) -> Answer:
    """What the application says to a request; ``lasting`` is the rest of its environment."""
    answer = Answer(
        keep=keep and request.keep, bodiless=request.environ["REQUEST_METHOD"] == "HEAD"
    )
    environ = {**lasting, **request.environ, "wsgi.input": BytesIO(request.body)}
    answer.take(app(environ, answer.start))
    return answer


def refused(refusal: BadRequest) -> Answer:
    """What is said to a request that no application sees."""
    answer = Answer(keep=False)
    answer.take(refuse(answer.start, refusal.status, refusal.reason))
    return answer


def lasting_environ(name: str, port: int, *, secure: bool) -> dict[str, Any]:
    """What all WSGI environments of a listener have in common."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": name,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.errors": sys.stderr,
        "wsgi.multiprocess": False,
        "wsgi.multithread": True,
        "wsgi.run_once": False,
        "wsgi.url_scheme": "https" if secure else "http",
        "wsgi.version": (1, 0),
    }


def _refuse_to_write(_chunk: bytes) -> None:
    raise NotImplementedError("answers are returned, not written")


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
