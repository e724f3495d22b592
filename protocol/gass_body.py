"""Bodies of GASS messages: counted, chunked, or ended by the end of the stream."""

import re
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from protocol.connection import NEED_DATA, NeedData
from protocol.errors import RemoteProtocolError
from protocol.http import MAX_HEAD, Head, content_length
from protocol.tables import ErrorCode

_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?")


@dataclass(frozen=True, slots=True)
class BodyData:
    """Some bytes of a body, at least one."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfBody:
    """The body is complete."""


BodyEvent: TypeAlias = BodyData | EndOfBody | NeedData


class Body(Protocol):
    """Takes a body out of a buffer."""

    def read(self, buffer: bytearray, *, ended: bool) -> BodyEvent:
        """The next piece, removed from the buffer; raises RemoteProtocolError."""


def body_of(head: Head, *, default: Body) -> Body:
    """The kind of body that a head announces; `default` when it announces none.

    Raises RemoteProtocolError (HTTP status 400).
    """
    encodings = head.values(b"transfer-encoding")
    if encodings:
        if {encoding.lower() for encoding in encodings} != {b"chunked"}:
            raise malformed("an unknown transfer encoding")
        return ChunkedBody()
    length = content_length(head)
    return default if length is None else CountedBody(length)


class CountedBody:
    """A body of so many bytes."""

    def __init__(self, length: int) -> None:
        self._left = length

    def read(self, buffer: bytearray, *, ended: bool) -> BodyEvent:
        """See Body."""
        if not self._left:
            return EndOfBody()
        if not buffer:
            return _wait(ended=ended)
        data = _take(buffer, self._left)
        self._left -= len(data)
        return BodyData(data)


class BodyUntilClose:
    """A body that goes on to the end of the stream."""

    def read(self, buffer: bytearray, *, ended: bool) -> BodyEvent:
        """See Body."""
        if buffer:
            return BodyData(_take(buffer, len(buffer)))
        return EndOfBody() if ended else NEED_DATA


class ChunkedBody:
    """A body in chunks; extensions and trailers are read over, within MAX_HEAD bytes each."""

    def __init__(self) -> None:
        self._left = 0
        self._in_chunk = False
        self._in_trailer = False
        self._trailer = 0
        self._done = False

    def read(self, buffer: bytearray, *, ended: bool) -> BodyEvent:
        """See Body."""
        while not self._done:
            if self._left:
                if not buffer:
                    return _wait(ended=ended)
                data = _take(buffer, self._left)
                self._left -= len(data)
                return BodyData(data)
            line = _take_line(buffer)
            if line is None:
                return _wait(ended=ended)
            self._line(line)
        return EndOfBody()

    def _line(self, line: bytes) -> None:
        if self._in_trailer:
            self._trailer += len(line) + 2
            if self._trailer > MAX_HEAD:
                raise malformed("the trailer is too long")
            self._done = not line
        elif self._in_chunk:
            if line:
                raise malformed("a chunk is longer than it says")
            self._in_chunk = False
        else:
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise malformed("this is no chunk size")
            self._left = int(match[1], 16)
            self._in_chunk = self._left > 0
            self._in_trailer = not self._in_chunk


def malformed(text: str) -> RemoteProtocolError:
    """The error for what breaks the rules of HTTP."""
    return RemoteProtocolError(ErrorCode.HTTP_UNFRAME_FAILED, text, http_status=400)


def _take(buffer: bytearray, length: int) -> bytes:
    data = bytes(buffer[:length])
    del buffer[:length]
    return data


def _take_line(buffer: bytearray) -> bytes | None:
    end = buffer.find(b"\r\n", 0, MAX_HEAD)
    if end < 0:
        if len(buffer) >= MAX_HEAD:
            raise malformed("a line is too long")
        return None
    return _take(buffer, end + 2)[:-2]


def _wait(*, ended: bool) -> NeedData:
    if ended:
        text = "the connection ended within a body"
        raise RemoteProtocolError(ErrorCode.PROTOCOL_FAILED, text)
    return NEED_DATA
