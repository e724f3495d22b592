"""Serves the HTTP application on one address, within limits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from gatekeeper.units import ListenAddress

MAX_CONNECTIONS = 128
MAX_AGE = 60.0
"""Seconds after which a connection is closed whatever it does; every answer is short."""


class _Closed(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class HttpServer:
    """A running server."""

    def __init__(
        self, runner: web.AppRunner, listener: asyncio.Server, old: asyncio.Task[None]
    ) -> None:
        self._runner = runner
        self._listener = listener
        self._old = old

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listener.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """Stop listening and close every connection."""
        self._listener.close()
        self._old.cancel()
        await asyncio.gather(self._old, return_exceptions=True)
        await self._runner.cleanup()


async def start_http(
    listen: ListenAddress, app: web.Application, *, allow_remote: bool = False
) -> HttpServer:
    """Serve an application.

    Raises ValueError for an address that others can reach unless `allow_remote`, OSError when it
    cannot be bound.
    """
    if not (listen.loopback or allow_remote):
        raise ValueError(f"{listen} can be reached from other machines")
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, keepalive_timeout=30.0, shutdown_timeout=2.0
    )
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("the runner was set up without a server")
    server = runner.server

    def accept() -> asyncio.Protocol:
        return server() if len(server.connections) < MAX_CONNECTIONS else _Closed()

    try:
        listener = await asyncio.get_running_loop().create_server(
            accept, listen.host, listen.port, backlog=64
        )
    except OSError:
        await runner.cleanup()
        raise
    return HttpServer(runner, listener, asyncio.create_task(_close_old(server)))


async def _close_old(server: web.Server) -> None:
    """Close connections that have been there for two rounds: slow clients hold nothing for long."""
    seen: set[asyncio.Protocol] = set()
    while True:
        await asyncio.sleep(MAX_AGE / 2)
        connections = set(server.connections)
        for connection in connections & seen:
            connection.force_close()
        seen = set(connections)
