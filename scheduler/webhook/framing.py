"""HTTP/1.1 requests out of the bytes of a connection, as RFC 9110 and 9112 have them.

Two readers that differ about where a request ends can be made to see two different requests, so
nothing is guessed at. llhttp (by way of httptools) reads, with none of its leniencies: a length is
one field of digits or the chunked coding, never both; lines end in CRLF; nothing is folded. Checked
here is what llhttp leaves to its user: how much there may be of anything, the target, the host, the
version, fields that stand twice, and chunks in HTTP/1.0.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import httptools

__all__ = ["MOST_HEAD", "BadRequest", "Reader", "Request"]

MOST_HEAD = 1 << 16  # bytes, and of anything else that is neither a body nor the end of one
_MOST_FIELDS = 128
_MOST_DIGITS = 18
_MOST_AHEAD = 16  # whole requests that wait for the answer to the first one
_LONGEST_HOST = 300
_SHORT = 40  # names up to this length are translated once

_ABSOLUTE = re.compile(r"https?://([^/?]+)(.*)", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(:\d{0,5})?")
# Of these a second one is a contradiction; others are joined into one list.
_SINGLE = frozenset({"CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST", "HTTP_AUTHORIZATION"})
_UNKNOWN_VERSION = "Invalid HTTP version"  # as llhttp says it


class BadRequest(Exception):
    """A request that is refused before anybody has looked at what it wants.

    Parameters
    ----------
    status
        Code of the answer.
    reason
        What is wrong with it, and what would be right.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason = status, reason


@dataclass(slots=True)
class Request:
    """A whole request.

    Attributes
    ----------
    environ : dict
        What a WSGI environment says of a request: method, path, query and header fields.
    body : bytes
        As it was sent; chunks are put together.
    keep : bool
        Whether the caller means to go on.
    """

    environ: dict[str, str]
    body: bytes
    keep: bool


class Reader:
    """Takes the bytes of one connection, and puts requests together.

    Parameters
    ----------
    most_body
        Bytes that a body may have; 0 if there may be none.

    Attributes
    ----------
    whole : deque of Request
        Those that have come, oldest first.
    refused : BadRequest or None
        Why what came after them is none. Nothing is read after it.
    refusal : str
        Why this caller is let in nowhere; empty for others.
    expects : bool
        Whether the caller waits for a word before it sends the body.
    held : int
        Bytes of the request that has begun.
    in_body : bool
        Whether its head is whole, and its body is not.
    """

    def __init__(self, most_body: int) -> None:
        self.whole: deque[Request] = deque()
        self.refused: BadRequest | None = None
        self.refusal = ""
        self.expects = self.in_body = False
        self.held = 0
        self._most_body = most_body
        self._parser = httptools.HttpRequestParser(self)
        self._in_head = False
        self._quiet = 0  # bytes since something of use has come
        self._target = b""
        self._pairs: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._environ: dict[str, str] = {}
        self._keep = True

    @property
    def begun(self) -> bool:
        """Whether part of a request is there, be it an empty line."""
        return self._in_head or self.in_body or self._quiet > 0

    def feed(self, piece: bytes | memoryview) -> None:
        """Take what has arrived; it goes to ``whole`` and ``refused``."""
        self._quiet += len(piece)
        try:
            self._parse(piece)
            if self._quiet > MOST_HEAD:
                raise self._endless()
        except BadRequest as refused:
            self.refused = refused
        except httptools.HttpParserError as error:
            cause = error.__context__
            self.refused = cause if isinstance(cause, BadRequest) else _unreadable(str(error))

    def _parse(self, piece: bytes | memoryview) -> None:
        while piece:
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                piece = piece[upgrade.args[0] :]  # who offers another is answered in this protocol
            else:
                return

    def _endless(self) -> BadRequest:
        if self._in_head:
            return BadRequest(431, f"the head is too long: {MOST_HEAD} bytes are allowed")
        if self.in_body:
            return BadRequest(431, "too much between the chunks of the body")
        return BadRequest(400, "no request line: an empty one may stand before it, not thousands")

    # -- called by the parser ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_head, self._target, self._pairs = True, b"", []

    def on_url(self, piece: bytes) -> None:
        """Part of the request target."""
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or after the body a trailer field, which nobody reads."""
        self._pairs.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole: say what it asks for, and whether it may."""
        parser, version = self._parser, self._parser.get_http_version()
        latest = version == "1.1"
        if not latest and version != "1.0":
            _refuse_version(version)
        fields = self._fields()
        path, query = _split(self._target.decode("ascii"), fields)
        host = fields.get("HTTP_HOST")
        if host is None:
            if latest:
                raise BadRequest(400, "no Host: HTTP/1.1 needs one")
        elif not _is_host(host):
            raise BadRequest(400, "Host is not a host name or address: send one, and a port")
        if self.refusal:
            raise BadRequest(403, self.refusal)
        has_body = self._body_announced(fields, latest=latest)
        if has_body and parser.should_upgrade():
            # The parser leaves such a body to the other protocol, and would read it as a request.
            raise BadRequest(400, "a body with Upgrade: leave that field away")
        if "HTTP_EXPECT" in fields:
            if fields["HTTP_EXPECT"].lower() != "100-continue":
                raise BadRequest(417, "the only expectation that is met is 100-continue")
            self.expects = latest and has_body
        fields["REQUEST_METHOD"] = parser.get_method().decode("ascii")
        fields["PATH_INFO"], fields["QUERY_STRING"] = path, query
        self._environ = fields
        self._keep = latest and parser.should_keep_alive()
        self._in_head, self.in_body = False, True
        self._pairs = []  # of the trailer

    def on_body(self, piece: bytes) -> None:
        """Part of a body, out of its chunks."""
        self._quiet = 0
        self.expects = False
        self.held += len(piece)
        if self.held > self._most_body:
            raise _too_long("goes on", self._most_body)
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """The request is whole."""
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._environ["CONTENT_LENGTH"] = str(len(body))
        self.whole.append(Request(self._environ, body, self._keep))
        self._pieces = []
        self.in_body = self.expects = False
        self.held = self._quiet = 0
        if len(self.whole) > _MOST_AHEAD:
            raise BadRequest(400, "too many requests at once: wait for an answer")

    def _fields(self) -> dict[str, str]:
        """The header fields by their keys in an environment."""
        pairs = self._pairs
        if len(pairs) > _MOST_FIELDS:
            raise BadRequest(431, f"too many header fields: {_MOST_FIELDS} are allowed")
        if len(self._target) + sum(len(name) + len(value) for name, value in pairs) > MOST_HEAD:
            raise self._endless()
        fields: dict[str, str] = {}
        for name, value in pairs:
            key = _key(name) if len(name) <= _SHORT else _key.__wrapped__(name)
            if not key:
                continue  # it would pass for the name with a hyphen
            text = value.decode("latin-1").rstrip(" \t")
            if key in fields:
                if key in _SINGLE:
                    raise BadRequest(400, f"{name.decode('ascii').title()} twice: send it once")
                text = f"{fields[key]}, {text}"
            fields[key] = text
        return fields

    def _body_announced(self, fields: dict[str, str], *, latest: bool) -> bool:
        """Whether there is a body; one that is too long is refused before it comes."""
        if "HTTP_TRANSFER_ENCODING" in fields:
            if not latest:
                raise BadRequest(400, "Transfer-Encoding in HTTP/1.0: send Content-Length")
            *others, last = fields["HTTP_TRANSFER_ENCODING"].lower().split(",")
            if last.strip() != "chunked" or "chunked" in map(str.strip, others):
                raise BadRequest(400, "Transfer-Encoding: chunked comes last, and once")
            if others:
                raise BadRequest(501, "no other transfer coding than chunked is known")
            if not self._most_body:
                raise _too_long("comes in chunks", 0)
            return True
        digits = fields.get("CONTENT_LENGTH", "0")
        if len(digits) > _MOST_DIGITS:
            raise BadRequest(400, f"Content-Length has more than {_MOST_DIGITS} digits")
        if int(digits) > self._most_body:
            raise _too_long(f"has {int(digits)} bytes", self._most_body)
        return int(digits) > 0


@lru_cache(maxsize=256)
def _key(name: bytes) -> str:
    """Of a header field in an environment; empty if there is none for it."""
    text = name.decode("ascii").upper()
    if "_" in text:
        return ""
    text = text.replace("-", "_")
    return text if text in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{text}"


def _split(target: str, fields: dict[str, str]) -> tuple[str, str]:
    """Decoded path, bytes as characters as WSGI wants it, and query.

    The authority of an absolute target is the host, whatever Host says.
    """
    if not target.startswith("/"):
        found = _ABSOLUTE.fullmatch(target)
        if found is None:
            raise BadRequest(400, "no path in the request target: it begins with /")
        if "HTTP_HOST" in fields:
            fields["HTTP_HOST"] = found[1]
        target = found[2] if found[2].startswith("/") else f"/{found[2]}"
    if "#" in target:
        raise BadRequest(400, "a fragment in the request target: leave it away")
    path, _, query = target.partition("?")
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    return path, query


@lru_cache(maxsize=64)
def _is_host(host: str) -> bool:
    return len(host) <= _LONGEST_HOST and _HOST.fullmatch(host) is not None


def _refuse_version(version: str) -> None:
    if version == "0.9":
        raise BadRequest(400, "no version in the request line: HTTP/1.1 is spoken here")
    raise BadRequest(505, f"HTTP/{version}: HTTP/1.1 is spoken here")


def _unreadable(why: str) -> BadRequest:
    if why == _UNKNOWN_VERSION:
        return BadRequest(505, "unknown version: HTTP/1.1 is spoken here")
    return BadRequest(400, f"not an HTTP/1.1 request (RFC 9112): {why}")


def _too_long(what: str, most: int) -> BadRequest:
    """The refusal of a body: what it has, and the bytes that it may have."""
    if not most:
        return BadRequest(413, f"the body {what}, and nothing here takes one")
    remedy = "nodeCacheCapable: true sends names only"
    return BadRequest(413, f"the body {what}, above the {most} of max_body_mib ({remedy})")
