"""Where our own servers listen, and the name that others are told (callbacks, GASS)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gram.client.advice import Side
from gram.client.errors import ConnectionFailed, GramClientError
from protocol.aio.raw import RawStream
from protocol.aio.server import Server, serve
from protocol.tables import ErrorCode


@dataclass(frozen=True, slots=True)
class Listening:
    """How to listen.

    `host`: the name or address put into URLs; then all interfaces are listened on.  None: for each
    peer, the local address that leads to it, and only that one is listened on.
    `ports`: first and last TCP port to try; None: any free port.
    """

    host: str | None = None
    ports: tuple[int, int] | None = None

    @classmethod
    def from_environment(
        cls, host: str | None = None, ports: tuple[int, int] | None = None
    ) -> Listening:
        """Fill in from GLOBUS_HOSTNAME and GLOBUS_TCP_PORT_RANGE=min,max (wire-protocol.md 4.1).

        Raises GramClientError for a range that is none.
        """
        text = os.environ.get("GLOBUS_TCP_PORT_RANGE")
        if ports is None and text:
            first, _, last = text.replace(" ", ",", 1).partition(",")
            try:
                ports = int(first), int(last)
            except ValueError:
                ports = (0, 0)
        if ports is not None and not 0 < ports[0] <= ports[1] <= 65535:
            raise GramClientError(
                ErrorCode.INVALID_REQUEST, f"not a range of ports: {text or ports}", Side.HERE
            )
        return cls(host or os.environ.get("GLOBUS_HOSTNAME") or None, ports)

    async def serve(
        self, handler: Callable[[RawStream], Awaitable[None]], *, bind: str
    ) -> tuple[Server, str]:
        """Listen (on `bind`, unless a host is set) and return the server with its host:port.

        Raises ConnectionFailed when no port is free.
        """
        address = bind if self.host is None else _everywhere()
        first, last = self.ports or (0, 0)
        problem = ""
        for port in range(first, last + 1):
            try:
                server = await serve(handler, host=address, port=port)
            except OSError as error:
                problem = str(error)
                continue
            name = bind if self.host is None else self.host
            return server, f"[{name}]:{server.port}" if ":" in name else f"{name}:{server.port}"
        raise ConnectionFailed(
            ErrorCode.NO_RESOURCES,
            f"cannot listen on {address}: {problem}",
            Side.HERE,
            advice="Free a port, or widen GLOBUS_TCP_PORT_RANGE.",
        )


def _everywhere() -> str:
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - the user named a host under which we are reached


async def local_address(host: str, port: int) -> str:
    """Return the local address from which `host` is reached, IPv4 if there is one.

    No packet is sent.  Raises ConnectionFailed when the host is unknown or unreachable.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise _unreachable(host, port, error) from error
    problem: Exception | None = None
    for family, kind, protocol, _, address in sorted(found, key=lambda item: item[0]):
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.connect(address)
                return str(probe.getsockname()[0])
            except OSError as error:
                problem = error
    raise _unreachable(host, port, problem) from problem


def _unreachable(host: str, port: int, problem: Exception | None) -> ConnectionFailed:
    return ConnectionFailed(
        ErrorCode.CONNECTION_FAILED, f"cannot reach {host}:{port}: {problem}", Side.NETWORK
    )
