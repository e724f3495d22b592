"""An embedded GASS server, as globusrun's: remote jobs read and write local streams and files.

job-manager.md 5.5: HTTP over TLS with our own credential; only clients with our identity are
served, others get a 400.  `/dev/stdout` and `/dev/stderr` are streams of the caller's choice;
files are out of reach unless `LocalFiles` permits them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import BinaryIO, Final

from gram.client.listening import Listening
from gram.client.own import Own
from gram.client.streams import BLOCK, LocalFiles, Sink, Source
from protocol.aio.gsi import GsiStream
from protocol.aio.raw import RawStream
from protocol.aio.server import Server
from protocol.connection import NEED_DATA
from protocol.errors import GramError, RemoteProtocolError
from protocol.gass import GassRequestReader, Get, Put, response
from protocol.gass_body import BodyData, EndOfBody

IDLE_TIMEOUT: Final = 300.0
"""Seconds a sender may be silent within a request."""

STDOUT: Final = "/dev/stdout"
STDERR: Final = "/dev/stderr"

_log = logging.getLogger(__name__)


class GassServer:
    """Serves `streams` (path to sink), `sources` (path to source) and permitted local files.

    `failure` is the first exception that one of our sinks or sources raised, None if none did: the
    job only sees a failed transfer then.
    """

    def __init__(
        self,
        own: Own,
        *,
        streams: Mapping[str, Sink] | None = None,
        sources: Mapping[str, Source] | None = None,
        files: LocalFiles | None = None,
    ) -> None:
        self._own = own
        self._streams = {path: _Stream(sink) for path, sink in (streams.items() if streams else ())}
        self._sources = dict(sources or {})
        self._files = files or LocalFiles()
        self._server: Server | None = None
        self.url = ""
        self.failure: Exception | None = None

    async def start(self, listening: Listening, bind: str) -> None:
        """Start to listen; `url` (without a final slash) is set then.  Raises ConnectionFailed."""
        self._server, address = await listening.serve(self._handle, bind=bind)
        self.url = f"https://{address}"

    async def aclose(self, grace: float = 0.0) -> None:
        """Stop, after transfers under way had `grace` seconds to end."""
        if self._server is not None:
            await self._server.aclose(grace)

    async def _handle(self, raw: RawStream) -> None:
        stream = await self._own.acceptor.accept(raw, gatekeeper=False)
        try:
            if stream.peer is None or stream.peer.identity != self._own.identity:
                caller = stream.refusal if stream.peer is None else stream.peer.identity
                _log.warning("GASS client %s refused: it is %s", stream.address, caller)
                await stream.send(response(400, 0))
                return
            await self._serve(stream)
        except TimeoutError:
            _log.info("GASS client %s: silent for too long", stream.address)
        finally:
            await stream.aclose()

    async def _serve(self, stream: GsiStream) -> None:
        incoming = _Incoming(stream)
        try:
            match await incoming.request():
                case Get(path=path):
                    await self._get(stream, path)
                case Put() as put:
                    async with self._target(put) as sink:
                        async for data in incoming.body():
                            await sink(data)
                    await stream.send(response(200, 0))
        except RemoteProtocolError as error:
            _log.info("GASS client %s: %s", stream.address, error.message)
            await stream.send(response(error.http_status, 0))
        except FileNotFoundError:
            await stream.send(response(404, 0))
        except OSError as error:
            _log.warning("GASS client %s: %s", stream.address, error)
            await stream.send(response(400, 0))
        except _OwnFailure as error:
            self.failure = self.failure or error.cause
            await stream.send(response(400, 0))

    async def _get(self, stream: GsiStream, path: str) -> None:
        if path in self._sources:
            await stream.send(response(200, None))
            async for data in _guarded(self._sources[path]):
                await stream.send(data)
            return
        file = await asyncio.to_thread(self._files.open, path)
        with file:
            await _send_file(stream, file)

    @asynccontextmanager
    async def _target(self, put: Put) -> AsyncIterator[Sink]:
        known = self._streams.get(put.path)
        if known is not None:
            async with known.transfer() as sink:
                yield sink
        elif put.append:
            async with self._files.appending(put.path) as sink:
                yield sink
        else:
            async with self._files.replacing(put.path) as sink:
                yield sink


class _OwnFailure(Exception):  # noqa: N818 - carries an error, is none itself
    """A sink or source of ours failed: not the client's fault."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Stream:
    """A sink that takes one transfer at a time.

    What an interrupted transfer already delivered is left out of the next one: a job manager that
    was restarted sends the stream again from its start.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = asyncio.Lock()
        self._delivered = 0  # by the last transfer, if it was interrupted

    @asynccontextmanager
    async def transfer(self) -> AsyncIterator[Sink]:
        async with self._lock:
            known = self._delivered

            async def sink(data: bytes) -> None:
                nonlocal known
                fresh = data[known:]
                known -= len(data) - len(fresh)
                if fresh:
                    await _own(self._sink, fresh)
                    self._delivered += len(fresh)

            yield sink
            self._delivered = 0


async def _own(sink: Sink, data: bytes) -> None:
    try:
        await sink(data)
    except (OSError, ValueError, GramError) as error:
        raise _OwnFailure(error) from error


async def _guarded(source: Source) -> AsyncIterator[bytes]:
    try:
        async for data in source():
            yield data
    except (OSError, ValueError, GramError) as error:
        raise _OwnFailure(error) from error


async def _send_file(stream: GsiStream, file: BinaryIO) -> None:
    left = os.fstat(file.fileno()).st_size
    await stream.send(response(200, left))
    while left:
        data = await asyncio.to_thread(file.read, min(left, BLOCK))
        if not data:  # it was truncated meanwhile: the client notices the missing bytes
            return
        left -= len(data)
        await stream.send(data)


class _Incoming:
    """One request from a stream, its body piece by piece."""

    def __init__(self, stream: GsiStream) -> None:
        self._stream = stream
        self._reader = GassRequestReader()

    async def request(self) -> Get | Put:
        """Return the request.  Raises RemoteProtocolError."""
        event = await self._next()
        if not isinstance(event, Get | Put):
            raise TypeError("a request begins with its head")
        return event

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body to its end.  Raises RemoteProtocolError when it is cut off."""
        while isinstance(event := await self._next(), BodyData):
            yield event.data

    async def _next(self) -> Get | Put | BodyData | EndOfBody:
        while (event := self._reader.next_event()) is NEED_DATA:
            async with asyncio.timeout(IDLE_TIMEOUT):
                self._reader.receive_data(await self._stream.receive())
        return event
