"""What a refused caller is told: one line that says what is wrong, and what would be right.

kube-scheduler reads only the status of a refused call; the line is for people and other clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

__all__ = ["KIND", "line", "refuse"]

KIND = "text/plain; charset=utf-8"
_MOST_TOLD = 500
_TEXTS = {
    400: "the request cannot be read: /openapi.json describes what is",
    403: "this is not shown or done here",
    404: "there is no such path: GET / shows those that there are",
    405: "the path takes another method: see Allow",
    413: "the body is too long: see max_body_mib",
    415: "the body has to be JSON: set Content-Type: application/json",
    500: "a fault of the extender: its log says more",
    503: "another replica answers, or the cluster is not known yet: connect again",
}
# 413: the body was not read to its end. 503: the next call is for the replica that acts, and a
# connection that is kept would lead kube-scheduler here again.
_CLOSING = (413, 503)


def line(code: int, text: str = "") -> bytes:
    """The body of a refusal; nothing in ``text`` can break the line."""
    told = text or _TEXTS.get(code) or HTTPStatus(code).phrase
    safe = "".join(each if each.isprintable() else "?" for each in told[:_MOST_TOLD])
    return f"{safe}\n".encode(errors="replace")


def refuse(
    start: Callable[..., Any], code: int, text: str = "", *more: tuple[str, str]
) -> Iterable[bytes]:
    """Answer a WSGI call with a refusal; ``more`` are header fields."""
    fields = [("Content-Type", KIND), *more]
    if code in _CLOSING:
        fields.append(("Connection", "close"))
    start(f"{code} {HTTPStatus(code).phrase}", fields)
    return [line(code, text)]
