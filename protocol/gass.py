"""GASS over HTTP without IO, both roles (job-manager.md §5.5).

A client writes a request head, for uploads then chunks and LAST_CHUNK, and reads the answer with
GassResponseReader. A server reads with GassRequestReader and writes `response`. One connection
carries one request. Both readers give BodyData with whatever has arrived: memory stays bounded when
`receive_data` and `next_event` take turns.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from protocol import body as syntax
from protocol.connection import NEED_DATA, NeedData
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.gass_body import (
    Body,
    BodyData,
    BodyEvent,
    BodyUntilClose,
    CountedBody,
    EndOfBody,
    body_of,
    malformed,
)
from protocol.http import Head, status_of, take_head
from protocol.tables import ErrorCode

MAX_CHUNK: Final = 1024 * 1024
"""Bytes the reference puts into one chunk at most."""
LAST_CHUNK: Final = b"0\r\n\r\n"
APPEND: Final = "/globus-bins/GASSappend?"

_USER_AGENT = b"Globus-GASS-HTTP/1.1.0"
_REASONS = {200: b"Ok", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found"}
_REQUEST_LINE = re.compile(
    rb"(GET|PUT|POST) (?:[Hh][Tt][Tt][Pp][Ss]?://[^/]*)?(/[!-~\x80-\xff]*) HTTP/1\.[01]"
)
_REASON = re.compile(rb"HTTP/1\.[01] [0-9]{3} ?(.*)")
_UNQUOTED = "".join(map(chr, range(0x21, 0x7F)))
Start = TypeVar("Start")

_HOST = re.compile(r"[!-~]+")


# --- client: writing ------------------------------------------------------------------------------


def get_request(path: str, host: str) -> bytes:
    """The request to download `path`, which is that of a URL: `%XX` in it stays as it is.

    `host` is the host of the URL without port. Raises LocalProtocolError.
    """
    return _request(b"GET", path, host)


def put_request(path: str, host: str) -> bytes:
    """The head of a request to replace `path`; chunks follow.  Arguments as for `get_request`."""
    return _request(b"PUT", path, host, upload=True)


def append_request(path: str, host: str) -> bytes:
    """The head of a request to append to `path`; chunks follow.  Arguments as for `get_request`."""
    return _request(b"POST", APPEND + path, host, upload=True)


def chunk(data: bytes) -> bytes:
    """One chunk of an upload; raises LocalProtocolError when it is empty or above MAX_CHUNK."""
    if not 0 < len(data) <= MAX_CHUNK:
        text = f"a chunk has 1 to {MAX_CHUNK} bytes"
        raise LocalProtocolError(ErrorCode.HTTP_FRAME_FAILED, text)
    return b"%x\r\n%s\r\n" % (len(data), data)


def _request(method: bytes, path: str, host: str, *, upload: bool = False) -> bytes:
    target = quote_from_bytes(syntax.to_bytes(path), safe=_UNQUOTED)
    if not target.startswith("/") or not _HOST.fullmatch(host):
        text = "this is no path or no host of a GASS URL"
        raise LocalProtocolError(ErrorCode.HTTP_FRAME_FAILED, text)
    head = b"%s %s HTTP/1.1\r\nUser-Agent: %s\r\nHost: %s\r\nConnection: close\r\n" % (
        method,
        target.encode("ascii"),
        _USER_AGENT,
        host.encode("ascii"),
    )
    if upload:
        head += b"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n"
    return head + b"\r\n"


# --- client: reading ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GassResponse:
    """The server's answer; only 200 is a success."""

    status: int
    reason: str


class _Reader(ABC, Generic[Start]):
    """What both readers share: a start event made of a head, then the body."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._ended = False
        self._body: Body | None = None
        self._finished = False
        self._seen = 0
        self._error: RemoteProtocolError | None = None

    def receive_data(self, data: bytes) -> None:
        """Take what was read from the stream; b"" is its end.

        Raises LocalProtocolError when called again after the end.
        """
        if self._ended:
            text = "data after the end of the stream"
            raise LocalProtocolError(ErrorCode.HTTP_UNFRAME_FAILED, text)
        self._buffer += data
        self._ended = not data

    def next_event(self) -> Start | BodyData | EndOfBody | NeedData:
        """The next event, or NEED_DATA.

        Raises RemoteProtocolError, again whenever it is called, for what breaks the rules or ends
        too early; LocalProtocolError after EndOfBody.
        """
        if self._error is not None:
            raise self._error
        if self._finished:
            text = "the whole message was read already"
            raise LocalProtocolError(ErrorCode.HTTP_UNFRAME_FAILED, text)
        try:
            event = self._read_start() if self._body is None else self._read_body(self._body)
        except RemoteProtocolError as error:
            self._error = error
            raise
        self._finished = isinstance(event, EndOfBody)
        return event

    @abstractmethod
    def _start(self, head: Head) -> Start | None:
        """Set `_body` and return the event that a head stands for; None: skip this head."""

    def _read_start(self) -> Start | NeedData:
        while (head := take_head(self._buffer, seen=self._seen)) is not None:
            self._seen = 0
            start = self._start(head)
            if start is not None:
                return start
        self._seen = len(self._buffer)
        if self._ended:
            text = "the connection ended before the header was complete"
            raise RemoteProtocolError(ErrorCode.PROTOCOL_FAILED, text)
        return NEED_DATA

    def _read_body(self, body: Body) -> BodyEvent:
        return body.read(self._buffer, ended=self._ended)


class GassResponseReader(_Reader[GassResponse]):
    """Reads the answer of a GASS server: GassResponse, then BodyData…, EndOfBody.

    After an upload, and when the status is not 200, the caller may stop at the GassResponse. A body
    shorter than announced is an error only with status 200: the reference's 404 is like that.
    """

    def __init__(self) -> None:
        super().__init__()
        self._status = 0

    def _start(self, head: Head) -> GassResponse | None:
        self._status = status_of(head)
        if self._status < 200:  # only announces the real answer
            return None
        self._body = body_of(head, default=BodyUntilClose())
        reason = _REASON.fullmatch(head.line)
        return GassResponse(self._status, syntax.to_text(reason[1]) if reason else "")

    def _read_body(self, body: Body) -> BodyEvent:
        try:
            return super()._read_body(body)
        except RemoteProtocolError:
            if self._status == 200:
                raise
            return EndOfBody()


# --- server ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Get:
    """Send this file; EndOfBody follows."""

    path: str


@dataclass(frozen=True, slots=True)
class Put:
    """Replace this file, or append to it; BodyData… and EndOfBody follow."""

    path: str
    append: bool


GassRequest: TypeAlias = Get | Put


class GassRequestReader(_Reader[GassRequest]):
    """Reads one request: Get or Put, then BodyData…, EndOfBody.

    Paths are decoded (`%XX`), begin with a slash and hold no NUL; whether they may be touched is
    for the caller to say. Errors are answered with `response(error.http_status, 0)`. A truncated
    upload is an error, so that nobody takes it for complete.
    """

    def _start(self, head: Head) -> GassRequest:
        request = _read_request(head.line)
        announced = head.values(b"content-length") or head.values(b"transfer-encoding")
        if isinstance(request, Put) and not announced:
            raise malformed("an upload needs a length or chunks")
        self._body = body_of(head, default=CountedBody(0))
        return request


def response(status: int, length: int | None = None) -> bytes:
    """The head of a response, to be followed by `length` bytes, or by bytes until the close (None).

    For a status other than 200 and for uploads `length` is 0. Raises LocalProtocolError.
    """
    reason = _REASONS.get(status)
    if reason is None:
        text = f"a GASS server does not answer with HTTP status {status}"
        raise LocalProtocolError(ErrorCode.HTTP_FRAME_FAILED, text)
    head = b"HTTP/1.1 %d %s\r\nConnection: close\r\n" % (status, reason)
    head += b"Server: Gram\r\nContent-Type: application/octet-stream\r\n"
    if length is not None:
        head += b"Content-Length: %d\r\n" % length
    return head + b"\r\n"


def _read_request(line: bytes) -> GassRequest:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise malformed("this is no GASS request")
    method, target = match.groups()
    append = APPEND.encode("ascii")
    if method == b"POST":
        if not target.startswith(append):
            text = "only appending can be posted"
            raise RemoteProtocolError(ErrorCode.HTTP_UNFRAME_FAILED, text, http_status=404)
        target = target.removeprefix(append)
    path = unquote_to_bytes(target)
    if not path.startswith(b"/") or b"\0" in path:
        raise malformed("this is no path of a file")
    name = syntax.to_text(path)
    return Get(name) if method == b"GET" else Put(name, append=method == b"POST")
