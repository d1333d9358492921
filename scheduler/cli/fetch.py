"""One GET of an address that somebody names: an extender's, mostly."""

from __future__ import annotations

import urllib.error
import urllib.request
from urllib.parse import urlsplit

from scheduler.core.errors import InvalidInput

__all__ = ["fetch"]

_MOST = 16 << 20


def fetch(url: str, *, field: str, timeout_s: float = 5.0, most: int = _MOST) -> tuple[int, bytes]:
    """Status and body.

    Parameters
    ----------
    url
        What to get, over HTTP or HTTPS.
    field
        Who named it, for errors.
    timeout_s
        Seconds of silence after which there is no answer.
    most
        Bytes that an answer may have; a longer one counts as none.

    Returns
    -------
    tuple of int and bytes
        Status 0 and the reason if there is no answer.

    Raises
    ------
    InvalidInput
        It is not such a URL.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # half an IPv6 address
        fine = False
    if not fine:
        raise InvalidInput(field, f"{url!r} is not a URL", "write http://127.0.0.1:10262")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - checked above
            body = answer.read(most + 1)
            if len(body) > most:
                return 0, f"more than {most >> 20} MiB".encode()
            return int(answer.status), body
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read(most)
    except (OSError, ValueError) as error:
        return 0, str(error).encode()
