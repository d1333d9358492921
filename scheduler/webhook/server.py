"""The listeners of one process, and its life: start, signals, certificates, the end.

One process, because the state lives in it. The choice of the server is recorded in
docs/decisions/0004-server.md.
"""

from __future__ import annotations

import gc
import logging
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from types import FrameType

from flask import Flask

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.errors import InvalidInput
from scheduler.webhook.access import Api, Reviews
from scheduler.webhook.limits import Limits
from scheduler.webhook.listener import Listener
from scheduler.webhook.status import (
    content_door,
    is_loopback,
    probe_door,
    split_address,
    verb_door,
)
from scheduler.webhook.tls import Admission, Certificates
from scheduler.webhook.wsgi import WsgiApp

__all__ = ["ExtenderServer"]

log = logging.getLogger(__name__)

_SWITCH_S = 0.0005
_STATUS = Limits(connections=256, idle_s=0.0, answer_s=10.0, body=0)
_STATUS_THREADS = 2
_METRICS_THREADS = 3  # of which a slow API server can hold some


class ExtenderServer:
    """Verbs, probes and metrics on listeners of their own.

    Parameters
    ----------
    app
        Answers, whatever the listener.
    config
        Addresses and certificates.
    probes
        By path, what a probe asks; for ``status_listen``.
    api
        Says who may see metrics; needed for ``metrics_listen``.

    Raises
    ------
    InvalidInput
        An address cannot be listened on, or certificates cannot be read.
    """

    def __init__(
        self,
        app: Flask,
        config: ExtenderConfig,
        probes: dict[str, Callable[[], bool]] | None = None,
        api: Api | None = None,
    ) -> None:
        self._config = config
        self._stopping = threading.Event()
        self._names = config.served_names
        self._certificates = self._read(config.tls_cert, config.tls_key, config.tls_client_ca)
        self.status: Listener | None = None
        self.metrics: Listener | None = None
        self._metrics_certificates: Certificates | None = None
        self.verbs = self._verbs(app)
        try:
            if config.status_listen:
                self.status = self._status(app, probes or {})
            if config.metrics_listen:
                self.metrics = self._metrics(app, api)
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """Where it listens, with the real port."""
        scheme = "https" if self._config.tls_cert else "http"
        host = f"[{self.verbs.host}]" if ":" in self.verbs.host else self.verbs.host
        return f"{scheme}://{host}:{self.verbs.port}"

    def serve(self) -> None:
        """Answer until :meth:`stop` is called; then finish requests in flight and return."""
        for listener in (self.status, self.metrics):
            if listener is not None:
                name = "status" if listener is self.status else "metrics"
                threading.Thread(target=listener.serve, name=name, daemon=True).start()
        every_s = self._config.tls_reload_s
        for certificates in (self._certificates, self._metrics_certificates):
            if certificates is not None and every_s:
                threading.Thread(
                    target=certificates.follow,
                    args=(every_s, self._stopping),
                    name="certificates",
                    daemon=True,
                ).start()
        self.verbs.serve()

    def stop(self) -> None:
        """Stop accepting, drain, and let :meth:`serve` return. Callable from any thread."""
        self._stopping.set()
        self.verbs.stop(self._config.drain_s)
        for listener in (self.status, self.metrics):
            if listener is not None:
                listener.stop(0.5)

    def serve_until_signalled(self) -> None:
        """Serve in this (the main) thread until SIGTERM or SIGINT; SIGHUP reloads certificates."""
        stopper = threading.Thread(target=self.stop, name="stop")

        def stop(_signal: int, _frame: FrameType | None) -> None:
            log.info("draining")
            if stopper.ident is None:
                stopper.start()

        def reload(_signal: int, _frame: FrameType | None) -> None:
            self.reload_tls()

        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
            signal.SIGTERM: stop,
            signal.SIGINT: stop,
            signal.SIGHUP: reload,
        }
        for number, handler in handlers.items():
            signal.signal(number, handler)
        # What was loaded lives as long as the process: the collector need not look at it again and
        # again, in the middle of a request. And a request that comes while another thread computes
        # (the planner's, a scrape) does not wait the usual 5 ms for the interpreter.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_S)
        print(f"listening on {self.url}", file=sys.stderr, flush=True)  # noqa: T201 - read by drivers
        self.serve()
        if stopper.ident is not None:
            stopper.join()

    def reload_tls(self) -> bool:
        """Read certificates and keys again; connections in use keep the old ones.

        Returns whether there was something to read and it could be.
        """
        held = [each for each in (self._certificates, self._metrics_certificates) if each]
        return bool(held) and False not in [each.reload() for each in held]

    # -- listeners ---------------------------------------------------------------------------

    def _verbs(self, app: Flask) -> Listener:
        config = self._config
        private = bool(config.tls_client_ca) or self._trusted(config.host)
        admission = Admission(config.client_subjects) if config.tls_client_ca else None
        return _listen(
            "verbs",
            f"{config.host}:{config.port}",
            (config.host, config.port),
            verb_door(app, base=config.base, shows=private, names=self._names),
            config.threads,
            Limits(idle_s=config.keep_alive_s, body=config.max_body_mib << 20),
            self._certificates,
            admission,
        )

    def _status(self, app: Flask, probes: dict[str, Callable[[], bool]]) -> Listener:
        text = self._config.status_listen
        address = split_address(text)
        door = probe_door(app, probes, shows=self._trusted(address[0]), names=self._names)
        return _listen("status", f"status_listen {text}", address, door, _STATUS_THREADS, _STATUS)

    def _metrics(self, app: Flask, api: Api | None) -> Listener:
        config = self._config
        if api is None:
            raise InvalidInput(
                "metrics_listen", "needs an API server to ask who may look", "drop it offline"
            )
        certificates = self._certificates
        if config.metrics_cert or config.tls_client_ca:
            # The authority of kube-scheduler's certificate is not that of whoever scrapes.
            cert = config.metrics_cert or config.tls_cert
            certificates = self._read(cert, config.metrics_key or config.tls_key)
            self._metrics_certificates = certificates
        return _listen(
            "metrics",
            f"metrics_listen {config.metrics_listen}",
            split_address(config.metrics_listen, "metrics_listen"),
            content_door(app, Reviews(api), names=self._names),
            _METRICS_THREADS,
            _STATUS,
            certificates,
        )

    def _trusted(self, host: str) -> bool:
        """Whether whoever can connect there, without TLS, may see everything."""
        return self._config.loopback_content and is_loopback(host)

    def _read(self, cert: str, key: str, client_ca: str = "") -> Certificates | None:
        if not cert:
            return None
        try:
            return Certificates(cert, key, client_ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                cert, f"cannot be served: {error}", "give a certificate and its key in PEM"
            ) from error


def _listen(
    name: str,
    what: str,
    address: tuple[str, int],
    app: WsgiApp,
    threads: int,
    limits: Limits,
    certificates: Certificates | None = None,
    admission: Admission | None = None,
) -> Listener:
    try:
        return Listener(
            name,
            address,
            app,
            threads=threads,
            limits=limits,
            tls=certificates.context if certificates else None,
            refusal=admission.refusal if admission else None,
        )
    except OSError as error:
        raise InvalidInput(what, f"cannot be served: {error}", "choose another port") from error
