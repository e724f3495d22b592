"""A small GASS server for tests: files in memory, over https or http, with faults on request."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from protocol.aio.gsi import Acceptor
from protocol.aio.raw import RawStream
from protocol.aio.server import Server, serve
from protocol.errors import GramError
from protocol.gass import LAST_CHUNK, GassRequestReader, Get, Put, chunk, response
from protocol.gass_body import BodyData, EndOfBody


@dataclass
class GassServer:
    """What came in by path, and how the server shall misbehave.

    `puts`: (path, append) of every upload that began; `complete`: paths whose upload ended well.
    `die_after`: bytes of one upload after which the connection is dropped, once; `refuse`: the
    status answered to everything; `hold`: while set, nothing is answered.
    """

    acceptor: Acceptor | None = None
    files: dict[str, bytearray] = field(default_factory=dict)
    puts: list[tuple[str, bool]] = field(default_factory=list)
    complete: list[str] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)
    die_after: int | None = None
    refuse: int | None = None
    chunked: bool = False
    hold: asyncio.Event | None = None
    port: int = 0
    connections: int = 0
    _server: Server | None = None

    @property
    def url(self) -> str:
        """Where the server is, without a final slash."""
        return f"{'http' if self.acceptor is None else 'https'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port as before when started again."""
        self._server = await serve(self._handle, host="127.0.0.1", port=self.port)
        self.port = self._server.port

    async def stop(self) -> None:
        """Drop all connections and stop listening."""
        if self._server is not None:
            await self._server.aclose()
            self._server = None

    async def until(self, condition: "object") -> None:
        """Wait until `condition()` holds."""
        assert callable(condition)
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)

    async def _handle(self, raw: RawStream) -> None:
        self.connections += 1
        if self.acceptor is None:
            await self._serve(raw)
            return
        with contextlib.suppress(GramError):
            stream = await self.acceptor.accept(raw, gatekeeper=False)
            self.peers.append("" if stream.peer is None else stream.peer.identity)
            await self._serve(stream)

    async def _serve(self, stream: "RawStream | object") -> None:
        reader = GassRequestReader()
        path, received = "", 0
        while True:
            match reader.next_event():
                case Get(name):
                    self.gets.append(name)
                    await self._answer(stream, name)
                    return
                case Put(path, append):
                    self.puts.append((path, append))
                    if self.refuse is not None:
                        await self._end(stream, response(self.refuse, 0))
                        return
                    if not append and path not in ("/dev/stdout", "/dev/stderr"):
                        self.files[path] = bytearray()
                    self.files.setdefault(path, bytearray())
                case BodyData(data):
                    self.files[path] += data
                    received += len(data)
                    if self.die_after is not None and received >= self.die_after:
                        self.die_after = None
                        stream.abort()  # type: ignore[attr-defined]
                        return
                case EndOfBody():
                    if self.hold is not None:
                        await self.hold.wait()
                    self.complete.append(path)
                    await self._end(stream, response(200, 0))
                    return
                case _:
                    data = await stream.receive()  # type: ignore[attr-defined]
                    reader.receive_data(data)

    async def _answer(self, stream: "RawStream | object", name: str) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.refuse is not None or name not in self.files:
            # The reference announces more than it sends (job-manager.md §5.5).
            head = response(self.refuse or 404, 500)
            await self._end(stream, head + b"<html>")
            return
        data = bytes(self.files[name])
        if self.chunked:
            head = response(200).replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
            body = b"".join(chunk(data[i : i + 9]) for i in range(0, len(data), 9)) + LAST_CHUNK
            await self._end(stream, head + body)
        elif self.die_after is not None:
            await self._end(stream, response(200, len(data)) + data[: self.die_after])
        else:
            await self._end(stream, response(200, len(data) or None) + data)

    async def _end(self, stream: "RawStream | object", data: bytes) -> None:
        await stream.send(data)  # type: ignore[attr-defined]
        await stream.aclose()  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def gass_server(acceptor: Acceptor | None = None) -> AsyncIterator[GassServer]:
    """A running server."""
    server = GassServer(acceptor)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
