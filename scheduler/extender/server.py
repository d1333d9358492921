"""Runs the application on cheroot, in one process with several threads.

One process, because the state lives in it. The choice of the server is recorded in DECISIONS.
"""

from __future__ import annotations

import gc
import logging
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server
from flask import Flask

from scheduler.core.errors import InvalidInput
from scheduler.extender.config import ExtenderConfig
from scheduler.extender.connection import Connection
from scheduler.extender.status import StatusListener

__all__ = ["ExtenderServer"]

log = logging.getLogger(__name__)

_SWITCH_S = 0.0005


class ExtenderServer:
    """A listening server.

    Raises
    ------
    InvalidInput
        The address cannot be listened on, or the TLS files cannot be read.
    """

    def __init__(self, app: Flask, config: ExtenderConfig) -> None:
        self._config = config
        self._server = Server(
            (config.host, config.port),
            app,
            numthreads=config.threads,
            timeout=config.keep_alive_s,
            request_queue_size=128,
            shutdown_timeout=config.drain_s,
        )
        self._server.ConnectionClass = Connection
        # The end of an answer must not wait for an acknowledgement, which can take 40 ms.
        self._server.nodelay = True
        self._server.max_request_body_size = config.max_body_mib << 20
        setattr(self._server, "error_log", _log_errors)  # noqa: B010 - cheroot's hook is a method
        self._stopping = threading.Event()
        self._loaded = self._refused = self._files()
        try:
            if config.tls_cert:
                self._server.ssl_adapter = self._tls()
            self._server.prepare()
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                f"{config.host}:{config.port}", f"cannot be served: {error}", "choose another port"
            ) from error
        self.status = StatusListener(app, config.status_listen) if config.status_listen else None

    @property
    def url(self) -> str:
        """Where it listens, with the real port."""
        host, port = self._server.bind_addr[:2]
        return f"{'https' if self._config.tls_cert else 'http'}://{host}:{port}"

    def serve(self) -> None:
        """Answer until :meth:`stop` is called; then finish requests in flight and return."""
        if self.status:
            self.status.start()
        if self._config.tls_cert and self._config.tls_reload_s:
            threading.Thread(target=self._follow_files, name="certificates", daemon=True).start()
        self._server.serve()

    def stop(self) -> None:
        """Stop accepting, drain, and let :meth:`serve` return. Callable from any thread."""
        self._stopping.set()
        self._server.stop()
        if self.status:
            self.status.stop()

    def serve_until_signalled(self) -> None:
        """Serve in this (the main) thread until SIGTERM or SIGINT; SIGHUP reloads certificates."""

        def stop(_signal: int, _frame: FrameType | None) -> None:
            log.info("draining")
            threading.Thread(target=self.stop, name="stop").start()

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

    def reload_tls(self) -> bool:
        """Read certificate and key again; connections in use keep the old ones.

        Returns whether there was something to read and it could be. Files that cannot be read (half
        written, a key of another certificate) change nothing: an old certificate is better than
        none.
        """
        if not self._config.tls_cert:
            return False
        try:
            self._server.ssl_adapter = self._tls()
        except (OSError, ssl.SSLError) as error:
            log.error("certificates not reloaded, the old ones stay: %s", error)  # noqa: TRY400
            return False
        log.info("certificates reloaded")
        return True

    def _follow_files(self) -> None:
        """Reload when the files have changed: Kubernetes renews a mounted Secret in place."""
        while not self._stopping.wait(self._config.tls_reload_s):
            files = self._files()
            if files in (self._loaded, self._refused):
                continue
            # Looked at before they are read: what changes in between is noticed the next time.
            if self.reload_tls():
                self._loaded = files
            else:
                self._refused = files

    def _files(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What tells one version of the certificate files from another; None for a missing one."""
        config = self._config
        found: list[tuple[int, int, int] | None] = []
        for name in filter(None, (config.tls_cert, config.tls_key, config.tls_client_ca)):
            try:
                at = Path(name).stat()
            except OSError:
                found.append(None)
            else:
                found.append((at.st_ino, at.st_mtime_ns, at.st_size))
        return tuple(found)

    def _tls(self) -> BuiltinSSLAdapter:
        config = self._config
        adapter = BuiltinSSLAdapter(config.tls_cert, config.tls_key)
        context = adapter.context
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.tls_client_ca:
            context.load_verify_locations(config.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return adapter


def _log_errors(msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:  # noqa: FBT001, FBT002 - cheroot's signature
    log.log(level, "%s", msg, exc_info=traceback)
