"""Listening sockets and the tasks that serve their connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from protocol.aio.raw import RawStream
from protocol.errors import GramError

LINGER: Final = 1.0
"""Seconds a server waits for the client to close first after the reply."""

_log = logging.getLogger(__name__)

Handler = Callable[[RawStream], Awaitable[None]]


class Server:
    """A listener; every connection is a task that `aclose` ends.  Made by `serve`."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The TCP port listened on (of the first socket); 0 when closed."""
        sockets = self._listener.sockets if self._listener is not None else ()
        return int(sockets[0].getsockname()[1]) if sockets else 0

    @property
    def connections(self) -> int:
        """How many connections are being served."""
        return len(self._tasks)

    def stop_accepting(self) -> None:
        """Close the listening sockets; connections go on."""
        if self._listener is not None:
            self._listener.close()

    async def aclose(self, grace: float = 0.0) -> None:
        """Stop accepting, give connections grace seconds to end, end the others, wait for all."""
        self.stop_accepting()
        if grace and self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def listen(
        self, host: str | None, port: int, sock: socket.socket | None, backlog: int
    ) -> None:
        """Start accepting (called once, by `serve`)."""
        loop = asyncio.get_running_loop()

        def connection() -> RawStream:
            return RawStream(on_connected=self._start, linger=LINGER)

        if sock is not None:
            self._listener = await loop.create_server(connection, sock=sock, backlog=backlog)
        else:
            self._listener = await loop.create_server(connection, host, port, backlog=backlog)

    def _start(self, stream: RawStream) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _serve(self, stream: RawStream) -> None:
        try:
            await self._handler(stream)
        except asyncio.CancelledError:
            stream.abort()
            raise
        except (GramError, OSError) as error:
            _log.info("connection from %s ended: %r", stream.peer_address, str(error))
        finally:
            await stream.aclose()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection's handler failed", exc_info=error)


async def serve(
    handler: Handler,
    *,
    host: str | None = "127.0.0.1",
    port: int = 0,
    sock: socket.socket | None = None,
    backlog: int = 256,
) -> Server:
    """Listen on host and port (0: any), or on a socket that is bound already.

    `handler` gets each connection's stream, which is closed when it returns.  Host `::` listens for
    IPv4 too.  When descriptors run out asyncio stops accepting for a second and goes on; clients
    that vanish before they are accepted are ignored.  Raises OSError when the address is not free.
    """
    server = Server(handler)
    if sock is None and host == "::" and socket.has_dualstack_ipv6():
        sock = socket.create_server(
            (host, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
        )
    try:
        await server.listen(host, port, sock, backlog)
    except OSError:
        with contextlib.suppress(OSError):
            if sock is not None:
                sock.close()
        raise
    return server
