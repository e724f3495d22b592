"""Byte streams under TLS: TCP with bounded buffers, and the interface the doubles share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

from protocol.errors import GramError
from protocol.tables import ErrorCode

READ_BUFFER: Final = 65536
"""Received bytes that wait for a reader before the transport is told to pause."""

WRITE_BUFFER: Final = 524288
"""Bytes that may wait for the kernel before `send` blocks."""

WRITE_TIMEOUT: Final = 60.0
"""Seconds a blocked `send` waits for the peer to read something."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that `aclose` gives bytes already written to leave."""

_CHUNK: Final = 262144
_MAPPED: Final = "::ffff:"  # how an IPv4 peer of a dual-stack socket is written
_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)  # Linux only


class ConnectionLost(GramError):  # noqa: N818  it names what happened
    """The transport broke or stalled, or ended where bytes had to come; code 10."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.PROTOCOL_FAILED, message)


class ByteStream(Protocol):
    """What a GSI stream needs of the transport: `RawStream` and the doubles."""

    @property
    def peer_address(self) -> str:
        """Numeric address of the peer, without port."""

    async def receive(self, limit: int = _CHUNK) -> bytes:
        """Return 1..limit bytes, b"" at the end; raises ConnectionLost."""

    async def send(self, data: bytes) -> None:
        """Hand data to the transport in one write, wait while too much is queued."""

    async def first_byte(self) -> int:
        """Return the next byte without consuming it; raises ConnectionLost at the end."""

    async def aclose(self) -> None:
        """Let what was sent leave and close; never raises ConnectionLost."""

    def abort(self) -> None:
        """Close now, dropping what was not sent."""


class RawStream(asyncio.Protocol):
    """A TCP (or Unix) connection as a byte stream; one reader, one writer.

    on_connected is called once with the stream.  linger is how many seconds `aclose` waits for the
    peer to close first: closing over unread bytes makes TCP destroy a reply that is on its way.
    """

    def __init__(
        self,
        *,
        on_connected: Callable[[RawStream], None] | None = None,
        linger: float = 0.0,
        write_timeout: float = WRITE_TIMEOUT,
    ) -> None:
        self.peer_address = ""
        self._on_connected = on_connected
        self._linger = linger
        self._write_timeout = write_timeout
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._ended = False  # the peer sends nothing more
        self._failure: str | None = None  # why the connection broke
        self._arrival = asyncio.Event()
        self._writable = asyncio.Event()
        self._closed = asyncio.Event()
        self._writable.set()

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set socket options and buffer limits (called by asyncio)."""
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER, low=WRITE_BUFFER // 2)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer_address = str(name[0]).removeprefix(_MAPPED)
            self._socket = transport.get_extra_info("socket")
            self._set_option(socket.TCP_NODELAY)
            self._acknowledge()
        if self._on_connected is not None:
            self._on_connected(self)

    def data_received(self, data: bytes) -> None:
        """Queue bytes; pause the transport when a reader is far behind (called by asyncio)."""
        self._acknowledge()
        self._chunks.append(data)
        self._buffered += len(data)
        self._arrival.set()
        if self._buffered > READ_BUFFER:
            self._open_transport().pause_reading()

    def eof_received(self) -> bool:
        """Note the end, keep our direction open: half-closed is normal (called by asyncio)."""
        self._ended = True
        self._arrival.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake everybody who waits (called by asyncio)."""
        self._ended = True
        if exc is not None:
            self._failure = str(exc) or type(exc).__name__
        self._arrival.set()
        self._writable.set()
        self._closed.set()

    def pause_writing(self) -> None:
        """Make `send` wait (called by asyncio)."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `send` go on (called by asyncio)."""
        self._writable.set()

    # The user's side

    async def receive(self, limit: int = _CHUNK) -> bytes:
        """Return 1..limit bytes, b"" at the end; raises ConnectionLost after a reset."""
        await self._wait_for_bytes()
        if not self._chunks:
            return b""
        chunk = self._chunks.popleft()
        if len(chunk) > limit:
            self._chunks.appendleft(chunk[limit:])
            chunk = chunk[:limit]
        self._buffered -= len(chunk)
        if self._buffered <= READ_BUFFER and not self._closed.is_set():
            self._open_transport().resume_reading()
        return chunk

    async def first_byte(self) -> int:
        """Return the next byte without consuming it; raises ConnectionLost at the end."""
        await self._wait_for_bytes()
        if not self._chunks:
            raise ConnectionLost("the peer closed the connection without sending anything")
        return self._chunks[0][0]

    async def send(self, data: bytes) -> None:
        """Write data in one call; wait while more than WRITE_BUFFER bytes are queued.

        Raises ConnectionLost when the connection is gone or the peer reads nothing for the write
        timeout; the connection is aborted then.
        """
        transport = self._open_transport()
        if transport.is_closing():
            raise ConnectionLost(self._failure or "the connection is closed")
        transport.write(data)
        if self._writable.is_set():
            return
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._writable.wait()
        except TimeoutError:
            self.abort()
            raise ConnectionLost("the peer does not read what is sent to it") from None
        if self._failure is not None:
            raise ConnectionLost(self._failure)

    async def aclose(self) -> None:
        """Let what was sent leave, close, and wait until it is closed; abort after a while."""
        transport = self._open_transport()
        try:
            if self._linger and not transport.is_closing():
                await self._wait_for_peer(transport)
            transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._closed.wait()
        finally:
            transport.abort()

    def abort(self) -> None:
        """Close now, dropping what was not sent."""
        self._open_transport().abort()

    async def _wait_for_peer(self, transport: asyncio.Transport) -> None:
        """Announce our end and throw away what comes until the peer's end."""
        with contextlib.suppress(TimeoutError, ConnectionLost, OSError):
            async with asyncio.timeout(self._linger):
                if transport.can_write_eof():
                    transport.write_eof()
                while await self.receive():
                    continue

    async def _wait_for_bytes(self) -> None:
        while not self._chunks and not self._ended:
            self._arrival.clear()
            await self._arrival.wait()
        if not self._chunks and self._failure is not None:
            raise ConnectionLost(self._failure)

    def _acknowledge(self) -> None:
        """Ask the kernel not to delay acknowledgements; it forgets after each exchange (P26)."""
        if _QUICKACK is not None:
            self._set_option(_QUICKACK)

    def _set_option(self, option: int) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the peer may have reset the connection already
                self._socket.setsockopt(socket.IPPROTO_TCP, option, 1)

    def _open_transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise ConnectionLost("the stream is not connected")
        return self._transport
