"""The way of a verb from a request to its answer: the only one, and no framework on it.

Routing, request and response objects cost more than the whole decision about a pod that fits
nowhere. What is asked of kube-scheduler's calls stands here and nowhere else: the method, the kind
of body, and that it is this replica's turn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from scheduler.core.errors import InvalidInput
from scheduler.webhook.metrics import ExtenderMetrics
from scheduler.webhook.refusals import refuse
from scheduler.webhook.wsgi import WsgiApp

__all__ = ["VerbPath", "code_of"]

log = logging.getLogger(__name__)

_JSON = "application/json"


class VerbPath:
    """WSGI middleware: verbs are answered here, everything else by the application behind.

    Parameters
    ----------
    behind
        Answers other paths.
    verbs
        By name; each takes a body and returns the answer.
    base
        What stands before a verb in its path.
    most
        Bytes that a body may have.
    accepting
        Whether verbs may be answered.
    metrics
        Where latencies and refusals are counted.
    """

    def __init__(
        self,
        behind: WsgiApp,
        verbs: Mapping[str, Callable[[bytes], bytes]],
        *,
        base: str,
        most: int,
        accepting: Callable[[], bool],
        metrics: ExtenderMetrics,
    ) -> None:
        self._behind, self._accepting, self._metrics = behind, accepting, metrics
        self._most = most
        self._verbs = {
            f"{base}/{verb}": (verb, handle, metrics.latency.labels(verb))
            for verb, handle in verbs.items()
        }

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a verb, or pass the call on."""
        known = self._verbs.get(environ["PATH_INFO"])
        if known is None:
            return self._behind(environ, start)
        verb, handle, latency = known
        started = time.perf_counter()
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if code := self._wrong(environ, length):
            return self._refuse(start, verb, code)
        try:
            answer = handle(environ["wsgi.input"].read(length))
        except Exception as error:  # noqa: BLE001 - every fault is a status code, see code_of
            code = code_of(error, environ["PATH_INFO"])
            return self._refuse(start, verb, code, str(error) if code == 400 else "")
        latency.observe(time.perf_counter() - started)
        start("200 OK", [("Content-Type", _JSON), ("Content-Length", str(len(answer)))])
        return [answer]

    def _wrong(self, environ: dict[str, Any], length: int) -> int:
        """Status code of a call that no verb sees; 0 for others."""
        if environ["REQUEST_METHOD"] != "POST":
            return 405
        if not self._accepting():
            return 503
        kind = environ.get("CONTENT_TYPE")
        if kind != _JSON and (kind or "").partition(";")[0].strip().lower() != _JSON:
            return 415
        return 413 if length > self._most else 0

    def _refuse(
        self, start: Callable[..., Any], verb: str, code: int, text: str = ""
    ) -> Iterable[bytes]:
        self._metrics.errors.labels(verb, str(code)).inc()
        return refuse(start, code, text, *([("Allow", "POST")] if code == 405 else ()))


def code_of(error: Exception, path: str) -> int:
    """Status code of a failed request, which is logged here."""
    if isinstance(error, InvalidInput):
        log.warning("%s: %s", path, error)
        return 400
    log.error("%s failed", path, exc_info=error)
    return 500
