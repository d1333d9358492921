"""Certificates: those that a listener shows, and whose it accepts.

The chain, the time and what a certificate is for are OpenSSL's to check: for a server it verifies
callers for the purpose of a TLS client, so that an extended key usage, if there is one, must name
client authentication, and a key usage must allow to sign. Who the caller *is* stays to be asked,
since an authority may sign for others as well.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Collection
from pathlib import Path

__all__ = ["Admission", "Certificates"]

log = logging.getLogger(__name__)

_ALTERNATIVES = ("DNS", "URI")
_MOST_NAMED = 64  # refused callers that are logged by name


class Certificates:
    """Certificate, key and authority of a listener, read again when their files change.

    Parameters
    ----------
    cert, key
        Files in PEM.
    client_ca
        Authority of the callers; empty if they need no certificate.

    Raises
    ------
    OSError, ssl.SSLError
        They cannot be read, or do not belong together.
    """

    def __init__(self, cert: str, key: str, client_ca: str = "") -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        # Looked at before they are read: what changes in between is noticed the next time.
        self._loaded = self._refused = self._versions()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """That of the next handshake."""
        return self._context

    def reload(self) -> bool:
        """Read the files again; whether they could be.

        Files that cannot be read (half written, a key of another certificate) change nothing: an
        old certificate is better than none.
        """
        try:
            self._context = self._load()
        except (OSError, ssl.SSLError) as error:
            log.error("certificates not reloaded, the old ones stay: %s", error)  # noqa: TRY400
            return False
        log.info("certificates reloaded")
        return True

    def follow(self, every_s: float, stop: threading.Event) -> None:
        """Reload when the files have changed: Kubernetes renews a mounted Secret in place."""
        while not stop.wait(every_s):
            versions = self._versions()
            if versions in (self._loaded, self._refused):
                continue
            if self.reload():
                self._loaded = versions
            else:
                self._refused = versions

    def _versions(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What tells one version of the files from another; None for a missing one."""
        found: list[tuple[int, int, int] | None] = []
        for name in filter(None, (self._cert, self._key, self._client_ca)):
            try:
                at = Path(name).stat()
            except OSError:
                found.append(None)
            else:
                found.append((at.st_ino, at.st_mtime_ns, at.st_size))
        return tuple(found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._cert, self._key)
        # Every connection proves who it is: there are no tickets to take up an old one with.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        if self._client_ca:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            # As everywhere in Kubernetes, whatever stands in the file is trusted, be it the root or
            # the authority in between that cert-manager hands out.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


class Admission:
    """Says whether the holder of a valid certificate is let in.

    Parameters
    ----------
    subjects
        Common names, or ``DNS:name`` and ``URI:name`` for subject alternative names. They are
        compared as they are; a wildcard is a name like any other.
    """

    def __init__(self, subjects: Collection[str]) -> None:
        self._subjects = frozenset(subjects)
        self._named: set[str] = set()

    def refusal(self, sock: ssl.SSLSocket) -> str:
        """Why the caller is not let in; empty if it is."""
        names = _names(sock.getpeercert() or {})
        if self._subjects & names:
            return ""
        shown = ", ".join(sorted(names)) or "nobody"
        if shown not in self._named and len(self._named) < _MOST_NAMED:
            self._named.add(shown)
            log.warning("refused the certificate of %.200r: see tls_client_subjects", shown)
        return "the certificate is not that of a caller named in tls_client_subjects"


def _names(certificate: object) -> frozenset[str]:
    """Who a certificate says its holder is; of several common names none counts."""
    content = certificate if isinstance(certificate, dict) else {}
    common = [
        value
        for attributes in content.get("subject", ())
        for kind, value in attributes
        if kind == "commonName"
    ]
    names = {
        f"{kind}:{value}"
        for kind, value in content.get("subjectAltName", ())
        if kind in _ALTERNATIVES
    }
    # A common name that is spelt like an alternative one is not an alternative name.
    if len(common) == 1 and common[0].partition(":")[0] not in _ALTERNATIVES:
        names.add(common[0])
    return frozenset(names)
