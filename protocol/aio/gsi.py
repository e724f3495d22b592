"""GSI handshakes over any byte stream, both roles (wire-protocol.md 1.2 to 1.5).

`Acceptor` and `Connector` serve the three kinds of connection; what they return is a `GsiStream`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from protocol.aio.raw import ByteStream, ConnectionLost, RawStream
from protocol.aio.stream import SYNC, GsiStream, misbehaved, run_crypto
from protocol.errors import GramError
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.gsi.tls import TLSContext, TLSSession
from protocol.gsi.tokens import Framing, TokenReader, wrap_token
from protocol.tables import ErrorCode

__all__ = ["HANDSHAKE_TIMEOUT", "Acceptor", "Connector", "GsiStream"]

HANDSHAKE_TIMEOUT: Final = 30.0
"""Seconds for everything until a connection is established."""

MAX_HANDSHAKE: Final = 262144
"""Bytes a peer may send before the connection is established."""

CONTEXT_LIFETIME: Final = 300.0
"""Seconds after which OpenSSL is made to read the CA directory afresh."""


class Acceptor:
    """The TLS server side for one credential: gatekeeper, job manager or callback listener.

    Raises TLSError when OpenSSL cannot use the credential.
    """

    def __init__(self, credential: Credential, directory: CADirectory) -> None:
        self._contexts = _Contexts(credential, directory, server=True)

    async def accept(
        self, raw: ByteStream, *, gatekeeper: bool, timeout: float = HANDSHAKE_TIMEOUT
    ) -> GsiStream:
        """Do the handshake; gatekeeper: with what a gatekeeper's client waits for after it.

        Raises ConnectionLost, TLSError or RemoteProtocolError; the stream is closed then.
        """
        session, reader = TLSSession(self._contexts.current()), TokenReader()
        async with _closing_on_failure(raw, session, timeout):
            last = await _handshake(raw, session, reader)
            if gatekeeper and session.is_tls13:
                last = _with_sync(session, reader, last)
            if last:
                await raw.send(last)
        return GsiStream(raw, session, reader)


class Connector:
    """The TLS client side for one credential: GRAM client, callback sender, GASS client.

    Raises TLSError when OpenSSL cannot use the credential.
    """

    def __init__(self, credential: Credential, directory: CADirectory) -> None:
        self._contexts = _Contexts(credential, directory, server=False)

    async def connect(
        self,
        host: str,
        port: int,
        *,
        gatekeeper: bool,
        server_name: str | None = None,
        timeout: float = HANDSHAKE_TIMEOUT,
    ) -> GsiStream:
        """Connect and do the handshake within timeout seconds.

        The caller compares the peer's identity or host name.  Raises GramError: CONNECTION_FAILED
        when there is no connection, AUTHORIZATION when a side refuses the other (ChainRefused when
        it is us), PROTOCOL_FAILED when the other side does not speak TLS.
        """
        where = f"{host}:{port}"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, raw = await loop.create_connection(RawStream, host, port)
                name = host if gatekeeper and server_name is None else server_name
                return await self.establish(raw, gatekeeper=gatekeeper, server_name=name)
        except TimeoutError:
            raise GramError(
                ErrorCode.CONNECTION_FAILED, f"no connection to {where} in {timeout:g} seconds"
            ) from None
        except (OSError, OverflowError, UnicodeError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise GramError(
                ErrorCode.CONNECTION_FAILED, f"cannot connect to {where}: {text}"
            ) from None
        except ConnectionLost as error:
            raise GramError(
                ErrorCode.CONNECTION_FAILED, f"lost the connection to {where}: {error.message}"
            ) from None

    async def establish(
        self,
        raw: ByteStream,
        *,
        gatekeeper: bool,
        server_name: str | None = None,
        timeout: float = HANDSHAKE_TIMEOUT,
    ) -> GsiStream:
        """Do the handshake over a connected stream; the stream is closed when it fails.

        server_name: for the SNI extension, left out when it cannot be sent.  Raises ConnectionLost,
        TLSError, ChainRefused, RemoteProtocolError.
        """
        session = TLSSession(self._contexts.current(), server_name=server_name)
        reader = TokenReader()
        async with _closing_on_failure(raw, session, timeout):
            first = session.advance()  # no private key and no file is needed for a hello
            last = await _handshake(raw, session, reader, first, prefixes=gatekeeper)
            if last:
                await raw.send(wrap_token(last) if gatekeeper else last)
            stream = GsiStream(raw, session, reader, prefixes=gatekeeper)
            if gatekeeper and session.is_tls13:
                await stream.await_sync()
        return stream


class _Contexts:
    """The TLS context of one credential, renewed so that replaced CA files are noticed."""

    def __init__(self, credential: Credential, directory: CADirectory, *, server: bool) -> None:
        self._credential = credential
        self._directory = directory
        self._server = server
        self._context = self._make()

    def current(self) -> TLSContext:
        if time.monotonic() - self._made > CONTEXT_LIFETIME:
            self._context = self._make()
        return self._context

    def _make(self) -> TLSContext:
        self._made = time.monotonic()
        return TLSContext(self._credential, self._directory, server=self._server)


async def _handshake(
    raw: ByteStream,
    session: TLSSession,
    reader: TokenReader,
    output: bytes = b"",
    *,
    prefixes: bool = False,
) -> bytes:
    """Exchange flights until the session is established; return the last one, not yet sent."""
    received = 0
    while not session.established:
        if output:
            await raw.send(wrap_token(output) if prefixes else output)
        chunk = await raw.receive()
        if not chunk:
            raise ConnectionLost("the peer closed the connection during the handshake")
        received += len(chunk)
        if received > MAX_HANDSHAKE:
            raise misbehaved("the handshake is too long")
        records = reader.feed(chunk)
        output = await run_crypto(session.advance, records) if records else b""
    return output


def _with_sync(session: TLSSession, reader: TokenReader, tickets: bytes) -> bytes:
    """What follows the client's last flight on the gatekeeper port in TLS 1.3 (1.5, P1, P3).

    The client waits for one token.  Without session tickets that is a record with a zero byte.
    pyOpenSSL cannot turn tickets off: for a client that frames tokens they are that token, in one
    piece.  A client that sends bare records has an ordinary TLS library, which swallows tickets:
    it gets the zero byte too, in the same write.
    """
    if tickets and reader.framing is Framing.PREFIXED:
        return wrap_token(tickets)
    return tickets + session.encrypt(SYNC)


@asynccontextmanager
async def _closing_on_failure(
    raw: ByteStream, session: TLSSession, timeout: float
) -> AsyncIterator[None]:
    """Limit the handshake's time; when it fails send the alert, if any, and close the stream."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        raw.abort()
        raise ConnectionLost(f"no handshake in {timeout:g} seconds") from None
    except GramError:
        alert = session.output()
        with suppress(GramError):
            if alert:
                await raw.send(alert)
        await raw.aclose()
        raise
    except BaseException:  # cancelled, or a bug: either way nobody else will close the stream
        raw.abort()
        raise
