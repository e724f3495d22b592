"""GSI token framing: TLS records with and without a four-byte length (wire-protocol.md 1.4).

On the gatekeeper port a client puts `token-length (4 bytes, big-endian)` in front of the TLS
records of one handshake step; everywhere else, and on the gatekeeper port after the flag and the
delegation, records come bare.  The first byte of each token says which: 20..23 is a TLS record,
0 the start of a length.  Nothing here allocates what a length field announces.
"""

from __future__ import annotations

from enum import Enum

from protocol.errors import RemoteProtocolError
from protocol.tables import ErrorCode

MAX_TOKEN = 65536
"""Longest token accepted, in bytes, its four length bytes not counted."""

MAX_RECORD = 16384 + 2048
"""Longest TLS record body that any TLS version allows, in bytes."""

_HEADER = 5  # type, version (2), length (2)
_PREFIX = 4
_RECORD_TYPES = range(20, 24)  # change_cipher_spec, alert, handshake, application_data


class Framing(Enum):
    """How a token was framed."""

    BARE = "bare"
    PREFIXED = "prefixed"


class TokenError(RemoteProtocolError):
    """Bytes that are neither TLS records nor a token of acceptable length; code 10."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.PROTOCOL_FAILED, message)


def wrap_token(records: bytes) -> bytes:
    """Put the four-byte length in front of the TLS records of one token."""
    return len(records).to_bytes(_PREFIX, "big") + records


class TokenReader:
    """Cuts whole TLS records out of a byte stream, of either framing, decided token by token.

    `framing` is the framing of the first token, None before that.  What is buffered never exceeds
    one record.
    """

    def __init__(self, *, limit: int = MAX_TOKEN) -> None:
        self.framing: Framing | None = None
        self._limit = limit
        self._buffer = bytearray()
        self._token_left = 0  # bytes of the current prefixed token that are still to come

    def feed(self, data: bytes) -> bytes:
        """Add received bytes; return the TLS records complete by now, without lengths.

        Raises TokenError for anything but records of types 20 to 23 in tokens of 1..limit bytes.
        """
        self._buffer += data
        pieces = []
        position = start = 0
        while True:
            if self._token_left == 0 and self._buffer[position : position + 1] == b"\0":
                if len(self._buffer) < position + _PREFIX:
                    break
                pieces.append(bytes(self._buffer[start:position]))
                self._token_left = self._token_length(position)
                position = start = position + _PREFIX
            size = self._record_size(position)
            if size is None or len(self._buffer) < position + size:
                break
            prefixed = self._token_left > 0
            self.framing = self.framing or (Framing.PREFIXED if prefixed else Framing.BARE)
            self._token_left -= size if prefixed else 0
            position += size
        pieces.append(bytes(self._buffer[start:position]))
        del self._buffer[:position]
        return b"".join(pieces)

    def _token_length(self, position: int) -> int:
        length = int.from_bytes(self._buffer[position : position + _PREFIX], "big")
        if not _HEADER < length <= self._limit:
            raise TokenError(f"a token of {length} bytes is not acceptable")
        return length

    def _record_size(self, position: int) -> int | None:
        """Size of the record at position, header included; None when its header is incomplete."""
        header = self._buffer[position : position + _HEADER]
        if header and header[0] not in _RECORD_TYPES:
            raise TokenError(f"byte {header[0]:#04x} does not begin a TLS record or a GSI token")
        if len(header) > 1 and header[1] != 3:
            raise TokenError("this is not a TLS record")
        if len(header) < _HEADER:
            return None
        length = int.from_bytes(header[3:5], "big")
        if not 0 < length <= MAX_RECORD:
            raise TokenError(f"a TLS record of {length} bytes is not acceptable")
        size = _HEADER + length
        if self._token_left and size > self._token_left:
            raise TokenError("a TLS record is longer than its token")
        return size
