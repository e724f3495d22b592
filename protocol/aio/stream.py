"""The GSI stream: plain text over TLS records, and the two threads for public-key work.

The rules about records and ends are those of wire-protocol.md 1.4, 1.5, 1.9 and 1.10.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, ParamSpec, Protocol, TypeVar

from protocol.aio.raw import ByteStream, ConnectionLost
from protocol.aio.threads import Threads
from protocol.errors import GramError, RemoteProtocolError
from protocol.gsi.chain import ChainRefused, Peer
from protocol.gsi.tls import RECORD, TLSSession
from protocol.gsi.tokens import TokenReader, wrap_token
from protocol.tables import ErrorCode

MAX_CHATTER: Final = 32
"""How often a peer may make OpenSSL answer after the handshake (renegotiation, key updates)."""

SYNC: Final = b"\0"
"""What a gatekeeper sends after a TLS 1.3 handshake without tickets."""

_BATCH: Final = 16 * RECORD  # plain text per socket write of a long message

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

_crypto = Threads(2, "gsi")


async def run_crypto(
    function: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs
) -> _Result:
    """Run slow public-key work in one of the two threads shared by all connections."""
    return await _crypto.run(lambda: function(*args, **kwargs))


class SecureStream(Protocol):
    """What the layers above need of a GSI stream: `GsiStream` and the doubles."""

    peer: Peer | None
    refusal: ChainRefused | None
    address: str

    async def receive(self, limit: int = 65536) -> bytes:
        """Return 1..limit bytes of plain text; b"" at the end."""

    async def send(self, data: bytes | memoryview) -> None:
        """Send data as one message."""

    async def send_token(self, data: bytes) -> None:
        """Send what still belongs to the set-up of a connection."""

    async def aclose(self) -> None:
        """Let what was sent leave, and close."""

    def abort(self) -> None:
        """Close now."""


class GsiStream:
    """An established GSI connection: plain text in both directions.

    `peer` is the verified peer.  In the server role it is None when policy refuses the peer's
    certificates, and `refusal` says why (P20): such a peer gets an error message, nothing else.
    Nothing here has a time limit except a `send` that makes no progress.
    """

    def __init__(
        self, raw: ByteStream, session: TLSSession, reader: TokenReader, *, prefixes: bool = False
    ) -> None:
        self.peer: Peer | None = session.peer
        self.refusal: ChainRefused | None = session.refusal
        self.address = raw.peer_address
        self._raw = raw
        self._session = session
        self._reader = reader
        self._prefixes = prefixes
        self._skip_sync = False  # a sync byte that comes after tickets is not data (1.5)
        self._chatter = 0

    @property
    def description(self) -> str:
        """TLS version and cipher suite, for logs."""
        return self._session.description

    async def receive(self, limit: int = 65536) -> bytes:
        """Return 1..limit bytes of plain text, at most one TLS record; b"" at the end.

        A TCP end without close_notify is an end like any other (P24).  Raises ConnectionLost after
        a reset, TLSError, and RemoteProtocolError when the bytes are not TLS.
        """
        while True:
            data = self._session.decrypt(limit)
            await self._answer()
            if data is None:
                chunk = await self._raw.receive()
                if not chunk:
                    return b""
                self._session.feed(self._reader.feed(chunk))
            elif not (self._skip_sync and data[:1] == SYNC):
                self._skip_sync = False
                return data
            elif len(data) > 1:
                self._skip_sync = False
                return data[1:]
            else:
                self._skip_sync = False

    async def send(self, data: bytes | memoryview) -> None:
        """Send data; up to 16 KiB leave as one TLS record in one socket write (P4).

        Waits while the peer is slow.  Raises ConnectionLost.
        """
        view = memoryview(data)
        for start in range(0, len(view), _BATCH):
            await self._raw.send(self._session.encrypt(view[start : start + _BATCH]))

    async def send_token(self, data: bytes) -> None:
        """Send what still belongs to the set-up: flag and delegated certificate (1.4).

        The client of a gatekeeper puts the token length in front; everybody else just sends.
        """
        records = self._session.encrypt(data)
        await self._raw.send(wrap_token(records) if self._prefixes else records)

    async def aclose(self) -> None:
        """Announce the end, let what was sent leave, and close.  Never raises ConnectionLost."""
        with suppress(GramError):
            goodbye = self._session.goodbye()
            if goodbye:
                await self._raw.send(goodbye)
        await self._raw.aclose()

    def abort(self) -> None:
        """Close now, dropping what was not sent."""
        self._raw.abort()

    async def await_sync(self) -> None:
        """Client of a gatekeeper, TLS 1.3: wait for the sync byte or session tickets (1.5)."""
        fed = False
        while True:
            data = self._session.decrypt(1)
            if data == SYNC:
                return
            if data is not None:
                raise misbehaved("the gatekeeper did not complete the handshake as it should")
            if fed:  # records without data: tickets; should a sync byte follow, it is not data
                self._skip_sync = True
                return
            chunk = await self._raw.receive()
            if not chunk:
                raise ConnectionLost("the gatekeeper closed the connection after the handshake")
            records = self._reader.feed(chunk)
            self._session.feed(records)
            fed = bool(records)

    async def _answer(self) -> None:
        """Send what OpenSSL wants sent while reading; end a peer that asks for it all the time."""
        answer = self._session.output()
        if not answer:
            return
        self._chatter += 1
        if self._chatter > MAX_CHATTER:
            self._raw.abort()
            raise misbehaved("the peer keeps renegotiating instead of talking")
        await self._raw.send(answer)


def misbehaved(message: str) -> RemoteProtocolError:
    """Make the error for a peer that breaks the rules of the transport (code 10)."""
    return RemoteProtocolError(ErrorCode.PROTOCOL_FAILED, message)
