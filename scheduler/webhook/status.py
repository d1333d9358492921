"""What each listener shows, and to whom.

Three doors lead to one application. The *verbs* are kube-scheduler's: on loopback, or by a client
certificate. *Probes* are the kubelet's, which has neither a certificate nor an address that a
network policy could select, so they are open to everybody and say one word that costs nothing.
*Metrics* and state go over TLS to whom the API server lets see them. A door without TLS on a
loopback address shows them too, unless loopback is shared with others (``loopback_content``).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from scheduler.core.errors import InvalidInput
from scheduler.webhook.access import Reviews, names_this_server
from scheduler.webhook.refusals import KIND, refuse
from scheduler.webhook.wsgi import WsgiApp

__all__ = [
    "BRIEFLY",
    "CONTENT_PATHS",
    "OFFLINE_PATHS",
    "PAGE",
    "VERBS",
    "content_door",
    "is_loopback",
    "open_paths",
    "probe_door",
    "split_address",
    "verb_door",
]

CONTENT_PATHS = frozenset(
    {
        "/metrics",
        "/readyz",
        "/openapi.json",
        "/debug/cluster",
        "/debug/state",
        "/debug/prices",
        "/debug/decisions",
    }
)
OFFLINE_PATHS = "/offline/"
VERBS = frozenset({"filter", "prioritize", "bind", "preempt", "filter-dryrun"})
PAGE = "/"
_PROBES = frozenset({PAGE, "/healthz", "/activez"})  # and what there is to see, for people
# In an environment: the caller may know whether we are ready, and no more.
BRIEFLY = "snugfit.briefly"
_READING = ("GET", "HEAD")

Probes = Mapping[str, Callable[[], bool]]


def split_address(text: str, setting: str = "status_listen") -> tuple[str, int]:
    """Host and port of ``host:port``; without a host every address of the machine is meant.

    Raises
    ------
    InvalidInput
        There is no port from 0 to 65535 in it; 0 takes a free one.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not (port.isascii() and port.isdecimal()) or int(port[:6]) > 65_535:
        raise InvalidInput(setting, f"{text!r} is not host:port", "write :10263")
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - what was asked for
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_paths(base: str) -> frozenset[str]:
    """What the door of the verbs answers to whom it lets in; ``base`` stands before each verb."""
    return _PROBES | {f"{base}/{verb}" for verb in VERBS}


def verb_door(app: WsgiApp, *, base: str, shows: bool, names: Collection[str]) -> WsgiApp:
    """Verbs and probes; content too where ``shows``, and under a name of this server."""
    answered = open_paths(base)

    def door(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path in answered and (path != PAGE or environ["REQUEST_METHOD"] in _READING):
            return app(environ, start)
        if path not in CONTENT_PATHS and not path.startswith(OFFLINE_PATHS):
            # Here, not in the application, which takes `//debug/state` for what it is not.
            return refuse(start, HTTPStatus.NOT_FOUND)
        named = names_this_server(environ.get("HTTP_HOST"), names)
        if path == "/readyz":
            if not (shows and named):
                environ[BRIEFLY] = True
            return app(environ, start)
        if not shows:
            return refuse(start, HTTPStatus.FORBIDDEN, "this is shown by metrics_listen")
        return app(environ, start) if named else _elsewhere(start)

    return door


def probe_door(app: WsgiApp, probes: Probes, *, shows: bool, names: Collection[str]) -> WsgiApp:
    """Probes alone; metrics too where ``shows``."""

    def door(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in _READING:
            return refuse(start, HTTPStatus.NOT_FOUND)
        probe = probes.get(path)
        if probe is not None:
            return _say(start, ready=probe())
        if path == PAGE:
            return app(environ, start)
        if path != "/metrics":
            return refuse(start, HTTPStatus.NOT_FOUND)
        if not shows:
            return refuse(start, HTTPStatus.FORBIDDEN, "metrics are shown by metrics_listen")
        if not names_this_server(environ.get("HTTP_HOST"), names):
            return _elsewhere(start)
        return app(environ, start)

    return door


def content_door(app: WsgiApp, reviews: Reviews, *, names: Collection[str]) -> WsgiApp:
    """Metrics and state, to whom the API server lets see them."""

    def door(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in _READING:
            return refuse(start, HTTPStatus.NOT_FOUND)
        if path == PAGE:
            return app(environ, start)
        if path not in CONTENT_PATHS:
            return refuse(start, HTTPStatus.NOT_FOUND)
        if not names_this_server(environ.get("HTTP_HOST"), names):
            return _elsewhere(start)
        status = reviews.status(environ.get("HTTP_AUTHORIZATION", ""), path)
        if status is HTTPStatus.OK:
            return app(environ, start)
        unknown = [("WWW-Authenticate", "Bearer")] if status is HTTPStatus.UNAUTHORIZED else []
        return refuse(start, status, "show a bearer token that may get this path", *unknown)

    return door


def _elsewhere(start: Callable[..., Any]) -> Iterable[bytes]:
    return refuse(
        start, HTTPStatus.MISDIRECTED_REQUEST, "Host names another server: see host_names"
    )


def _say(start: Callable[..., Any], *, ready: bool) -> Iterable[bytes]:
    """The word of a probe."""
    if not ready:
        return refuse(start, HTTPStatus.SERVICE_UNAVAILABLE, "not yet")
    start("200 OK", [("Content-Type", KIND)])
    return [b"ok\n"]
