"""Stand-ins for streams, for the tests of whatever talks: a script, and a pair in memory.

Both have the methods of a raw stream and of a GSI stream, so that they fit in either place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from protocol.aio.raw import ConnectionLost
from protocol.gsi.chain import ChainRefused, Peer

PAIR_BUFFER: Final = 65536
"""Bytes in flight in one direction of a pair before `send` waits."""


class _Double:
    def __init__(self, peer: Peer | None, refusal: ChainRefused | None) -> None:
        self.peer = peer
        self.refusal = refusal
        self.address = self.peer_address = "127.0.0.1"

    async def send(self, data: bytes | memoryview) -> None:
        raise NotImplementedError

    async def send_token(self, data: bytes) -> None:
        """Send data; the doubles have no handshake phase."""
        await self.send(data)


class ScriptedStream(_Double):
    """Receives what a script says, records what is sent.

    script: the pieces to receive, one a call; an exception in it is raised when its turn comes.
    After the last piece comes the end, or nothing ever when `ends` is false.  `sent` lists what
    was sent, one entry a call; `closed` tells whether `aclose` or `abort` was called.
    """

    def __init__(
        self,
        *script: bytes | BaseException,
        ends: bool = True,
        peer: Peer | None = None,
        refusal: ChainRefused | None = None,
    ) -> None:
        super().__init__(peer, refusal)
        self.sent: list[bytes] = []
        self.closed = False
        self.aborted = False
        self._script = [piece for piece in script if piece != b""]
        self._ends = ends

    @classmethod
    def trickling(cls, data: bytes, *, ends: bool = True) -> ScriptedStream:
        """Receive data one byte at a time."""
        pieces: Iterable[bytes] = (data[i : i + 1] for i in range(len(data)))
        return cls(*pieces, ends=ends)

    @property
    def output(self) -> bytes:
        """Everything that was sent."""
        return b"".join(self.sent)

    async def receive(self, limit: int = 65536) -> bytes:
        """Return the script's next piece, or limit bytes of it."""
        await asyncio.sleep(0)
        if not self._script:
            if not self._ends:
                await asyncio.Event().wait()
            return b""
        piece = self._script.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        if len(piece) > limit:
            self._script.insert(0, piece[limit:])
        return piece[:limit]

    async def first_byte(self) -> int:
        """Return the next byte without consuming it."""
        piece = await self.receive()
        if not piece:
            raise ConnectionLost("the peer closed the connection without sending anything")
        self._script.insert(0, piece)
        return piece[0]

    async def send(self, data: bytes | memoryview) -> None:
        """Record data; raises ConnectionLost after closing."""
        await asyncio.sleep(0)
        if self.closed:
            raise ConnectionLost("the connection is closed")
        self.sent.append(bytes(data))

    async def aclose(self) -> None:
        """Note the closing."""
        self.closed = True

    def abort(self) -> None:
        """Note the closing and its kind."""
        self.closed = self.aborted = True


class MemoryStream(_Double):
    """One end of a pair made by `memory_pair`; one reader and one writer, like a raw stream."""

    def __init__(self, peer: Peer | None = None, refusal: ChainRefused | None = None) -> None:
        super().__init__(peer, refusal)
        self.closed = False
        self.aborted = False
        self._other = self
        self._incoming = bytearray()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    def connect(self, other: MemoryStream) -> None:
        """Join two ends."""
        self._other, other._other = other, self

    async def receive(self, limit: int = 65536) -> bytes:
        """Return 1..limit bytes, b"" at the end; ConnectionLost when the other end aborted."""
        await self._wait_for_bytes()
        data = bytes(self._incoming[:limit])
        del self._incoming[:limit]
        self._taken.set()
        return data

    async def first_byte(self) -> int:
        """Return the next byte without consuming it; raises ConnectionLost at the end."""
        await self._wait_for_bytes()
        if not self._incoming:
            raise ConnectionLost("the peer closed the connection without sending anything")
        return self._incoming[0]

    async def send(self, data: bytes | memoryview) -> None:
        """Give data to the other end; wait while it has more than PAIR_BUFFER bytes to read."""
        other = self._other
        if self.closed or other.closed:
            raise ConnectionLost("the connection is closed")
        other._incoming += data
        other._arrived.set()
        while len(other._incoming) > PAIR_BUFFER and not other.closed:
            other._taken.clear()
            await other._taken.wait()

    async def aclose(self) -> None:
        """Close: the other end reads what is left and then the end."""
        self.closed = True
        self._wake()

    def abort(self) -> None:
        """Close like a reset: the other end's next read fails."""
        self.closed = self.aborted = True
        self._wake()

    async def _wait_for_bytes(self) -> None:
        while not self._incoming and not self.closed and not self._other.closed:
            self._arrived.clear()
            await self._arrived.wait()
        if self._other.aborted:
            raise ConnectionLost("the peer reset the connection")

    def _wake(self) -> None:
        for end in (self, self._other):
            end._arrived.set()
            end._taken.set()


def memory_pair(
    first: Peer | None = None, second: Peer | None = None
) -> tuple[MemoryStream, MemoryStream]:
    """Two connected streams with bounded buffers; first and second are who each end talks to."""
    left, right = MemoryStream(first), MemoryStream(second)
    left.connect(right)
    return left, right
