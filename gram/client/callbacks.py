"""The callback listener: job managers connect to it and report state changes.

wire-protocol.md 4.3, 5.9, B.4: a TLS server with our own credential; the caller must have our
identity; callbacks may come before the reply to the job request, twice, and from another port
after the job manager was restarted (the path of the contact stays).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from gram.client.feed import JobFeed
from gram.client.listening import Listening
from gram.client.models import JobEvent, JobStatus
from gram.client.own import Own
from protocol.aio.exchange import read_message
from protocol.aio.gsi import GsiStream
from protocol.aio.raw import RawStream
from protocol.aio.server import Server
from protocol.connection import Connection, Role
from protocol.contacts import JobContact
from protocol.errors import GramError, RemoteProtocolError
from protocol.messages import Callback, CallbackReply

MAX_EARLY: Final = 256
"""Callbacks about unknown jobs that are kept, as their job reply may be on its way."""

CALLBACK_TIMEOUT: Final = 30.0
"""Seconds in which a caller must have delivered its callback after the handshake."""

_log = logging.getLogger(__name__)


class CallbackListener:
    """Listens on one address; jobs are told apart by the path of their contact."""

    def __init__(self, own: Own) -> None:
        self._own = own
        self._server: Server | None = None
        self._feeds: dict[str, JobFeed] = {}
        self._early: list[tuple[str, JobEvent]] = []
        self.url = ""

    async def start(self, listening: Listening, bind: str) -> None:
        """Start to listen; `url` is set then.  Raises ConnectionFailed."""
        self._server, address = await listening.serve(self._handle, bind=bind)
        self.url = f"https://{address}/"

    async def aclose(self) -> None:
        """Stop listening."""
        if self._server is not None:
            await self._server.aclose()

    def feed(self, path: str) -> JobFeed:
        """Return the events of the job with this path, the early ones included."""
        feed = self._feeds.get(path)
        if feed is None:
            feed = self._feeds[path] = JobFeed()
            for _, event in filter(lambda item: item[0] == path, self._early):
                feed.post(event)
            self._early = [item for item in self._early if item[0] != path]
        return feed

    def forget(self, path: str) -> None:
        """Drop the events of a job."""
        self._feeds.pop(path, None)

    async def _handle(self, raw: RawStream) -> None:
        stream = await self._own.acceptor.accept(raw, gatekeeper=False)
        try:
            if stream.peer is None or stream.peer.identity != self._own.identity:
                caller = stream.refusal if stream.peer is None else stream.peer.identity
                _log.warning("callback from %s refused: caller is %s", stream.address, caller)
                return
            async with asyncio.timeout(CALLBACK_TIMEOUT):
                await self._receive(stream)
        except TimeoutError:
            _log.info("callback from %s: nothing complete in time", stream.address)
        finally:
            await stream.aclose()

    async def _receive(self, stream: GsiStream) -> None:
        connection = Connection(Role.CALLBACK_LISTENER)
        try:
            event = await read_message(stream, connection)
        except RemoteProtocolError as error:
            _log.warning("callback from %s cannot be read: %s", stream.address, error.message)
            await stream.send(connection.send(connection.refusal(error)))
            return
        if not isinstance(event, Callback):
            return  # it left without a word
        self._take(event, stream.address)
        await stream.send(connection.send(CallbackReply()))

    def _take(self, callback: Callback, address: str) -> None:
        try:
            path = JobContact.parse(callback.contact).path
        except GramError as error:
            _log.warning("callback from %s: %s", address, error.message)
            return
        status = JobStatus.from_wire(callback.state, callback.failure_code, callback.extensions)
        event = JobEvent(callback.contact, status)
        if path in self._feeds:
            self._feeds[path].post(event)
        else:
            self._early = [*self._early[1 - MAX_EARLY :], (path, event)]
