"""HTTP as GRAM uses it (wire-protocol.md §5.1, §5.2): heads written to the byte, read with bounds.

No HTTP library fits: clients refuse replies whose headers come in another order, and `POST
ping/jobmanager` is no valid request target (pitfalls P4, P11).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.tables import CONTENT_TYPE, ErrorCode

MAX_HEAD = 8192
"""Bytes of a head, with the empty line that ends it."""
MAX_LENGTH = 10**18
"""What announced lengths beyond it are taken for."""

_HEAD_END = b"\r\n\r\n"
_NOT_IN_HEAD = re.compile(rb"\0|(?<!\r)\n|\r(?!\n|\Z)")
_NOT_IN_LINE = re.compile(rb"[\x00-\x1f\x7f]")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: .*)?")


@dataclass(frozen=True, slots=True)
class Head:
    """The first line and the headers (lower-case name, value) of a message."""

    line: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    def values(self, name: bytes) -> set[bytes]:
        """The different values of a header, given by its lower-case name."""
        return {value for key, value in self.headers if key == name}


def take_head(buffer: bytearray, *, seen: int = 0, status: int = 400) -> Head | None:
    """Remove a complete head from the buffer and return it, or None when it is not complete yet.

    `seen` is how long the buffer was in an earlier call that returned None.

    Raises RemoteProtocolError (HTTP_UNFRAME_FAILED, `status`) for more than MAX_HEAD bytes, a NUL,
    or a line end other than CR LF.
    """
    end = buffer.find(_HEAD_END, max(0, seen - len(_HEAD_END)), MAX_HEAD)
    if _NOT_IN_HEAD.search(buffer, max(0, seen - 1), MAX_HEAD if end < 0 else end):
        raise _unframed("the header holds a NUL or a lone line end", status)
    if end < 0:
        if len(buffer) >= MAX_HEAD:
            raise _unframed(f"the header is longer than {MAX_HEAD} bytes", status)
        return None
    line, *lines = bytes(buffer[:end]).split(b"\r\n")
    del buffer[: end + len(_HEAD_END)]
    pairs = (header.partition(b":") for header in lines)
    return Head(line, tuple((name.lower(), value.strip(b" \t")) for name, _, value in pairs))


def content_length(head: Head, *, status: int = 400) -> int | None:
    """The announced length of the body in bytes, or None; lengths are cut off at MAX_LENGTH.

    Raises RemoteProtocolError (HTTP_UNFRAME_FAILED, `status`) unless it is one decimal number.
    """
    values = head.values(b"content-length")
    if not all(value.isdigit() for value in values):
        raise _unframed("Content-Length is not a decimal number", status)
    lengths = {value.lstrip(b"0") or b"0" for value in values}
    if len(lengths) > 1:
        raise _unframed("there are two different Content-Lengths", status)
    for digits in lengths:
        return int(digits) if len(digits) <= 18 else MAX_LENGTH
    return None


class MessageReader:
    """Collects one message after the other: a head, then as many bytes as it announces.

    `body_length` looks at a head and returns the bytes to follow, or raises RemoteProtocolError;
    `status` is that of its errors about heads and about a stream that ends within a message.
    """

    def __init__(self, body_length: Callable[[Head], int], *, status: int = 400) -> None:
        self._body_length = body_length
        self._status = status
        self._buffer = bytearray()
        self._ended = False
        self._head: Head | None = None
        self._length = 0
        self._seen = 0

    def receive_data(self, data: bytes) -> None:
        """Take what was read; b"" is the end.  Raises LocalProtocolError after the end."""
        if self._ended:
            text = "data after the end of the stream"
            raise LocalProtocolError(ErrorCode.HTTP_UNFRAME_FAILED, text)
        self._buffer += data
        self._ended = not data

    def read(self) -> tuple[Head, bytes] | None:
        """The next head and body, or None when they are not complete."""
        if self._head is None:
            head = take_head(self._buffer, seen=self._seen, status=self._status)
            self._seen = len(self._buffer) if head is None else 0
            if head is None:
                self._check_end(within=bool(self._buffer))
                return None
            self._length = self._body_length(head)
            self._head = head
        if len(self._buffer) < self._length:
            self._check_end(within=True)
            return None
        message = self._head, bytes(self._buffer[: self._length])
        del self._buffer[: self._length]
        self._head = None
        return message

    def take_rest(self) -> bytes:
        """Remove and return what was received after the last message."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    @property
    def finished(self) -> bool:
        """Whether the stream ended and nothing is left to read."""
        return self._ended and self._head is None and not self._buffer

    def _check_end(self, *, within: bool) -> None:
        if self._ended and within:
            code, text = ErrorCode.PROTOCOL_FAILED, "the connection ended within a message"
            raise RemoteProtocolError(code, text, http_status=self._status)


def status_of(head: Head) -> int:
    """The status of a reply; raises RemoteProtocolError for anything else than HTTP/1.x."""
    match = _STATUS_LINE.fullmatch(head.line)
    if match is None:
        raise _unframed("the reply does not begin with an HTTP status", 400)
    return int(match[1])


def request(target: bytes, host: bytes, body: bytes) -> bytes:
    """A whole request, byte for byte what the fixed-pattern parsers of the reference need.

    Raises LocalProtocolError when the target or the host cannot stand in a header.
    """
    if not host or _NOT_IN_LINE.search(target + host) or b" " in target + host:
        raise LocalProtocolError(ErrorCode.HTTP_FRAME_FAILED, "not a request target or host")
    line = b"POST %s HTTP/1.1\r\nHost: %s\r\n" % (target, host)
    head = line + _entity_headers(body)
    if len(head) > MAX_HEAD:
        raise LocalProtocolError(ErrorCode.HTTP_FRAME_FAILED, "the request target is too long")
    return head + body


def reply(body: bytes) -> bytes:
    """A whole reply of status 200."""
    return b"HTTP/1.1 200 OK\r\n" + _entity_headers(body) + body


def bodiless(status: int, reason: bytes, connection: bytes = b"close") -> bytes:
    """A whole reply without body and without entity headers."""
    return b"HTTP/1.1 %d %s\r\nConnection: %s\r\n\r\n" % (status, reason, connection)


def _entity_headers(body: bytes) -> bytes:
    content_type = CONTENT_TYPE.encode("ascii")
    return b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (content_type, len(body))


def _unframed(text: str, status: int) -> RemoteProtocolError:
    return RemoteProtocolError(ErrorCode.HTTP_UNFRAME_FAILED, text, http_status=status)
