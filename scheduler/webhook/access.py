"""Who may see metrics and state: the API server is asked, and the Host of a request is looked at.

What a cluster runs, and where, is nobody's business by default. A bearer token is shown to the API
server (TokenReview), and its owner's right to ``get`` the path is asked for (SubjectAccessReview
of a non-resource URL), as other components of Kubernetes do it for their metrics. Answers are kept
for a short time and in a bounded number; how often strangers can make us ask is bounded too. What
they use up is not taken from those who were let in before: these are kept, and asked about again,
apart from them.

A page in somebody's browser can reach what the browser can, loopback and port-forwards included,
by a name of its own that resolves there. Such a request bears that name as its Host.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Protocol

import msgspec

from scheduler.core.errors import KubeApiError

__all__ = ["Api", "Reviews", "names_this_server"]

log = logging.getLogger(__name__)

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_ALLOWED_S = 60.0
_REFUSED_S = 10.0
_MOST_KEPT = 1024
_MOST_TOKEN = 1 << 14
_ASKED_PER_S = 20.0
_READ_S = 3.0

_Key = tuple[bytes, str]  # digest of a token, and a path


class Api(Protocol):
    """What is needed of the API server."""

    def post(self, path: str, content: object, *, read_s: float = ...) -> bytes:
        """Create an object; its body as it was answered."""
        ...


class _User(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class _TokenStatus(msgspec.Struct):
    authenticated: bool = False
    user: _User | None = None


class _TokenReview(msgspec.Struct):
    status: _TokenStatus | None = None


class _AccessStatus(msgspec.Struct):
    allowed: bool = False
    denied: bool = False


class _AccessReview(msgspec.Struct):
    status: _AccessStatus | None = None


_decode_token = msgspec.json.Decoder(_TokenReview)
_decode_access = msgspec.json.Decoder(_AccessReview)


def names_this_server(host: str | None, names: Collection[str]) -> bool:
    """Whether the Host of a request is an address, localhost, or one of the given names."""
    if not host:
        return False
    if host.startswith("["):
        name, closed, _ = host[1:].partition("]")
        if not closed:
            return False
    else:
        name = host.rpartition(":")[0] if ":" in host else host
    name = name.lower().removesuffix(".")
    if name == "localhost" or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Rate:
    """So many questions a second, and as many at once."""

    def __init__(self, now: float) -> None:
        self._asked, self._at = 0.0, now

    def take(self, now: float) -> bool:
        """Take one of the questions of this second, if there is one left."""
        self._asked = max(0.0, self._asked - (now - self._at) * _ASKED_PER_S)
        self._at = now
        if self._asked + 1 > _ASKED_PER_S:
            return False
        self._asked += 1
        return True


class _Callers:
    """Tokens and paths of one kind of callers, and how often may be asked about them."""

    def __init__(self, now: float) -> None:
        self.known: OrderedDict[_Key, tuple[HTTPStatus, float]] = OrderedDict()
        self.rate = _Rate(now)

    def keep(self, key: _Key, status: HTTPStatus, until: float) -> None:
        self.known[key] = status, until
        self.known.move_to_end(key)
        if len(self.known) > _MOST_KEPT:
            self.known.popitem(last=False)


class Reviews:
    """Decides by the API server who may ``get`` a path. Safe to use from several threads.

    Parameters
    ----------
    api
        The API server.
    clock
        Monotonic seconds.
    """

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._clock = api, clock
        self._lock = threading.Lock()
        now = clock()
        self._let_in, self._strangers = _Callers(now), _Callers(now)

    def status(self, authorization: str, path: str) -> HTTPStatus:
        """200 if the caller may see the path; 401, 403, 429, or 503 where the API does not say."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not 0 < len(token) <= _MOST_TOKEN or " " in token:
            return HTTPStatus.UNAUTHORIZED
        key = hashlib.sha256(token.encode("utf-8")).digest(), path
        with self._lock:
            callers = self._let_in if key in self._let_in.known else self._strangers
            known = callers.known.get(key)
            now = self._clock()
            if known is not None and now < known[1]:
                callers.known.move_to_end(key)
                return known[0]
            if not callers.rate.take(now):
                return HTTPStatus.TOO_MANY_REQUESTS
        try:
            status = self._review(token, path)
        except (KubeApiError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("who may see %s cannot be told: %s", path, error)
            return HTTPStatus.SERVICE_UNAVAILABLE
        with self._lock:
            now = self._clock()
            if status is HTTPStatus.OK:
                self._strangers.known.pop(key, None)
                self._let_in.keep(key, status, now + _ALLOWED_S)
            else:
                self._let_in.known.pop(key, None)
                self._strangers.keep(key, status, now + _REFUSED_S)
        return status

    def _review(self, token: str, path: str) -> HTTPStatus:
        question = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        answer = _decode_token.decode(self._api.post(_TOKEN_REVIEWS, question, read_s=_READ_S))
        user = answer.status.user if answer.status and answer.status.authenticated else None
        if user is None or not user.username:
            return HTTPStatus.UNAUTHORIZED
        access = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.username,
                "uid": user.uid,
                "groups": user.groups or [],
                "extra": user.extra or {},
                "nonResourceAttributes": {"path": path, "verb": "get"},
            },
        }
        decided = _decode_access.decode(self._api.post(_ACCESS_REVIEWS, access, read_s=_READ_S))
        status = decided.status
        if status is None or not status.allowed or status.denied:
            return HTTPStatus.FORBIDDEN
        return HTTPStatus.OK
