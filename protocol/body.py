r"""The syntax of message bodies: `name: value\r\n` lines, then one NUL (wire-protocol.md §5.4)."""

import re
from collections.abc import Iterator
from typing import NoReturn

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.tables import PROTOCOL_VERSION, ErrorCode

END = b"\0"
MAX_NUMBER = 2**32 - 1

_LINE = re.compile(
    rb"""([^:\r\n]+):[ ]                          # name
         (?: "([^"\\]*(?:\\.[^"\\]*)*)"           # quoted value, may hold anything
         |   ((?:[^"\r][^\r]*)?) ) \r\n           # bare value
    """,
    re.DOTALL | re.VERBOSE,
)
_ESCAPE = re.compile(rb'[\\"]')
_UNESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)


def to_text(data: bytes) -> str:
    """Decode UTF-8; bytes that are none survive as surrogate escapes."""
    return data.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Encode what `to_text` decoded; raises LocalProtocolError for text that has no bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, str(error)) from error


def escape(text: str) -> bytes:
    """Put a backslash before quotes and backslashes; raises LocalProtocolError for a NUL."""
    data = to_bytes(text)
    if END in data:
        raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, "a NUL cannot be sent")
    return _ESCAPE.sub(rb"\\\g<0>", data)


def unescape(data: bytes) -> str:
    """Remove a backslash before any character."""
    return to_text(_UNESCAPE.sub(rb"\1", data))


def quoted_line(name: str, text: str) -> bytes:
    """A line with a quoted value, which may hold everything but NUL."""
    return b'%s: "%s"\r\n' % (name.encode("ascii"), escape(text))


def bare_line(name: str, value: str | int) -> bytes:
    """A line with a number or URL; the empty text is sent as a pair of quotes.

    Raises LocalProtocolError when the text has control characters.
    """
    data = escape(str(value)) or b'""'
    if _CONTROL.search(data):
        text = f"the attribute {name} cannot have control characters"
        raise LocalProtocolError(ErrorCode.HTTP_PACK_FAILED, text)
    return b"%s: %s\r\n" % (name.encode("ascii"), data)


def version_line() -> bytes:
    """The first line of almost every body."""
    return bare_line("protocol-version", PROTOCOL_VERSION)


def before_nul(body: bytes) -> bytes:
    """The part of a body that counts; the final NUL may be missing."""
    return body.partition(END)[0]


class Attributes:
    """The attributes of a body; of several with one name the first counts.

    Everything here raises RemoteProtocolError with HTTP_UNPACK_FAILED.
    """

    def __init__(self, body: bytes) -> None:
        self._values: dict[str, str] = {}
        data = before_nul(body)
        position = 0
        while position < len(data):
            match = _LINE.match(data, position)
            if match is None:
                _refuse(f"no attribute begins at byte {position} of the body")
            name, quoted, bare = match.groups()
            self._values.setdefault(to_text(name), unescape(quoted if bare is None else bare))
            position = match.end()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._values.items())

    def get(self, name: str) -> str | None:
        """The value, or None when there is no such attribute."""
        return self._values.get(name)

    def text(self, name: str) -> str:
        """The value of an attribute that must be there."""
        value = self._values.get(name)
        if value is None:
            _refuse(f"the attribute {name} is missing")
        return value

    def number(self, name: str) -> int:
        """The value of an attribute that must be a decimal number of at most 32 bits."""
        value = self.text(name)
        if not _NUMBER.fullmatch(value) or int(value) > MAX_NUMBER:
            _refuse(f"the attribute {name} is not a number")
        return int(value)

    def check_version(self) -> None:
        """Raise VERSION_MISMATCH unless the protocol version is ours."""
        version = self.number("protocol-version")
        if version != PROTOCOL_VERSION:
            text = f"the other side speaks protocol version {version}, not {PROTOCOL_VERSION}"
            raise RemoteProtocolError(ErrorCode.VERSION_MISMATCH, text)


def _refuse(text: str) -> NoReturn:
    raise RemoteProtocolError(ErrorCode.HTTP_UNPACK_FAILED, text)
