"""HTTP/1.1 requests as RFC 9110 and 9112 have them: what a head says, and where a body ends.

Two readers that differ about where a request ends can be made to see two different requests, so
nothing is guessed at here. A length is one field of ASCII digits or the chunked coding, never both;
lines end in CRLF; nothing is folded; a character that has no place in a field is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote_to_bytes

__all__ = ["MOST_HEAD", "BadRequest", "Chunks", "Head", "parse_head", "too_long", "visibly_wrong"]

MOST_HEAD = 1 << 16
_MOST_FIELDS = 128
_MOST_DIGITS = 18
_SHORT = 40  # fields up to this length are read once
_SECRET = b"authorization:"
_MOST_LINE = 1 << 10  # of a chunk's size with its extensions, or of a trailer field
_MOST_TRAILERS = 1 << 13

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/(\d)\.(\d)")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_ABSOLUTE = re.compile(r"https?://([^/?]+)(.*)", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(:\d{0,5})?")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_DIGITS = re.compile(r"[0-9]+")
# Of these a second one is a contradiction; others are joined into one list.
_SINGLE = frozenset({"CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST", "HTTP_AUTHORIZATION"})


class BadRequest(Exception):
    """A request that is refused before anybody has looked at what it wants.

    Parameters
    ----------
    status
        Code of the answer.
    reason
        What is wrong with it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason = status, reason


def too_long(what: str, most: int) -> BadRequest:
    """The refusal of a body: what it has, and the bytes that it may have."""
    if not most:
        return BadRequest(413, f"the body {what}, and nothing here takes one")
    remedy = "nodeCacheCapable: true sends names only"
    return BadRequest(413, f"the body {what}, above the {most} of max_body_mib ({remedy})")


@dataclass(slots=True)
class Head:
    """Request line and header fields.

    Attributes
    ----------
    method, path, query
        ``path`` is decoded, as WSGI wants it: bytes as characters.
    fields : dict of str to str
        By their names in a WSGI environment.
    length : int or None
        Bytes of the body; None if it comes in chunks.
    keep : bool
        Whether the caller means to go on.
    expects : bool
        Whether the caller waits for a word before it sends the body.
    """

    method: str
    path: str
    query: str
    fields: dict[str, str] = field(default_factory=dict)
    length: int | None = 0
    keep: bool = True
    expects: bool = False


def visibly_wrong(begun: bytes, seen: int = 0) -> bool:
    """Whether the beginning of a head is that of none, however it goes on.

    What lies before ``seen`` was looked at before.
    """
    return not 0x41 <= begun[0] <= 0x5A or _BARE_LF.search(begun, seen) is not None


def parse_head(block: bytes) -> Head:
    """Read a head; ``block`` ends before the blank line.

    Raises
    ------
    BadRequest
        It is none, or leaves open where the body ends.
    """
    first, *lines = block.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadRequest(400, "no request line")
    if line[3] != b"1":
        raise BadRequest(505, "HTTP/1.1 is spoken here")
    if len(lines) > _MOST_FIELDS:
        raise BadRequest(431, "too many header fields")
    fields = _fields(lines)
    target = line[2].decode("ascii")
    if not target.startswith("/"):
        target = _without_authority(target, fields)
    path, _, query = target.partition("?")
    if "#" in target:
        raise BadRequest(400, "a fragment in the request target")
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    head = Head(line[1].decode("ascii"), path, query, fields)
    latest = line[4] != b"0"
    _check_host(fields.get("HTTP_HOST"), needed=latest)
    head.length = _length(fields, latest=latest)
    head.keep = latest
    if "HTTP_CONNECTION" in fields:
        options = fields["HTTP_CONNECTION"].lower().split(",")
        head.keep = latest and "close" not in (option.strip() for option in options)
    if "HTTP_EXPECT" in fields:
        if fields["HTTP_EXPECT"].lower() != "100-continue":
            raise BadRequest(417, "an expectation that nobody can meet")
        head.expects = latest and head.length != 0
    return head


def _fields(lines: list[bytes]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        usual = len(line) <= _SHORT and line[: len(_SECRET)].lower() != _SECRET
        key, value = _usual_field(line) if usual else _field(line)
        if not key:
            continue  # in an environment it would pass for the name with a hyphen
        if key in fields:
            if key in _SINGLE:
                raise BadRequest(
                    400, f"{key.removeprefix('HTTP_').replace('_', '-').title()} twice"
                )
            value = f"{fields[key]}, {value}"
        fields[key] = value
    return fields


def _field(line: bytes) -> tuple[str, str]:
    """Key in an environment, empty for a name that has none, and value of a header field."""
    found = _FIELD.fullmatch(line)
    if found is None:
        raise BadRequest(400, "no header field")
    name = found[1].decode("ascii").upper()
    if "_" in name:
        return "", ""
    name = name.replace("-", "_")
    key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
    return key, found[2].decode("latin-1").rstrip(" \t")


# A client says the same of itself with every request; credentials are not kept.
_usual_field = lru_cache(maxsize=256)(_field)


def _without_authority(target: str, fields: dict[str, str]) -> str:
    """Path and query of an absolute target, whose authority is the host, whatever Host says."""
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise BadRequest(400, "no path in the request target")
    if "HTTP_HOST" in fields:
        fields["HTTP_HOST"] = found[1]
    return found[2] if found[2].startswith("/") else f"/{found[2]}"


def _check_host(host: str | None, *, needed: bool) -> None:
    if host is None:
        if needed:
            raise BadRequest(400, "no Host")
    elif not _HOST.fullmatch(host):
        raise BadRequest(400, "Host is not a host name or address")


def _length(fields: dict[str, str], *, latest: bool) -> int | None:
    """Bytes of the body; None for chunks."""
    length = fields.get("CONTENT_LENGTH")
    coding = fields.get("HTTP_TRANSFER_ENCODING")
    if coding is not None:
        if length is not None:
            raise BadRequest(400, "both Content-Length and Transfer-Encoding")
        if not latest:
            raise BadRequest(400, "Transfer-Encoding in HTTP/1.0")
        *others, last = (each.strip().lower() for each in coding.split(","))
        if last != "chunked" or "chunked" in others:
            raise BadRequest(400, "the chunked coding is not the last one")
        if others:
            raise BadRequest(501, "no other transfer coding than chunked is known")
        return None
    if length is None:
        return 0
    if not _DIGITS.fullmatch(length) or len(length) > _MOST_DIGITS:
        raise BadRequest(400, "Content-Length is not a length")
    return int(length)


class Chunks:
    """A body in chunks, put together as its pieces come.

    Parameters
    ----------
    most
        Bytes that the body may have.
    """

    def __init__(self, most: int) -> None:
        self.body = bytearray()
        self._most = most
        self._held = bytearray()
        self._wanted = 0  # bytes of the present chunk that are still to come
        self._after_data = False
        self._trailers = -1  # bytes of trailer fields so far, once the last chunk was seen

    def feed(self, piece: bytes) -> bytes | None:
        """Take the next piece; what follows the body once it is whole, None until then.

        Raises
        ------
        BadRequest
            It is no chunked body, or too long.
        """
        self._held += piece
        while True:
            if self._wanted:
                taken = min(self._wanted, len(self._held))
                self.body += self._held[:taken]
                del self._held[:taken]
                self._wanted -= taken
                if self._wanted:
                    return None
                self._after_data = True
            end = self._held.find(b"\n")
            if end < 0:
                if len(self._held) > _MOST_LINE:
                    raise BadRequest(400, "a chunk's size has no end")
                return None
            if end > _MOST_LINE:
                raise BadRequest(400, "a chunk's size is too long")
            if end == 0 or self._held[end - 1] != 0x0D:
                raise BadRequest(400, "a line of the body does not end in CRLF")
            line = bytes(self._held[: end - 1])
            del self._held[: end + 1]
            if self._line(line):
                return bytes(self._held)

    def _line(self, line: bytes) -> bool:
        """One line between the data; whether the body ends with it."""
        if self._after_data:
            if line:
                raise BadRequest(400, "a chunk is longer than its size")
            self._after_data = False
        elif self._trailers >= 0:
            if not line:
                return True
            self._trailers += len(line)
            if self._trailers > _MOST_TRAILERS:
                raise BadRequest(431, "too many trailer fields")
            if not _FIELD.fullmatch(line):
                raise BadRequest(400, "no trailer field")
        else:
            found = _SIZE.fullmatch(line)
            if found is None:
                raise BadRequest(400, "no size of a chunk")
            self._wanted = int(found[1], 16)
            if self._wanted + len(self.body) > self._most:
                raise too_long("goes on", self._most)
            if not self._wanted:
                self._trailers = 0
        return False
