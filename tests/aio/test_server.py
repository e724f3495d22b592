"""Listeners: every connection is a task that ends with its server."""

import asyncio
import errno
import logging
import os
import resource
import socket

import pytest

from protocol.aio.raw import RawStream
from protocol.aio.server import serve
from protocol.errors import GramError
from protocol.tables import ErrorCode
from tests.aio.lab import serving


async def echo(stream: RawStream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def talk(port: int, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"hello")
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_many_connections_at_once() -> None:
    async with serving(echo) as server:
        assert await asyncio.gather(*(talk(server.port) for _ in range(50))) == [b"hello"] * 50


async def test_closing_ends_handlers_and_streams() -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def stuck(_stream: RawStream) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    server = await serve(stuck)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await begun.wait()
    assert server.connections == 1
    port = server.port
    await server.aclose()
    assert ended.is_set()
    assert server.connections == 0
    assert server.port == 0
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await talk(port)


async def test_closing_with_grace_lets_handlers_finish() -> None:
    begun = asyncio.Event()

    async def slow(stream: RawStream) -> None:
        begun.set()
        await stream.receive()
        await asyncio.sleep(0.05)
        await stream.send(b"done")

    server = await serve(slow)
    talking = asyncio.create_task(talk(server.port))
    await begun.wait()
    await server.aclose(grace=10)
    assert await talking == b"done"


async def test_a_handler_that_fails_is_logged_and_hurts_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def failing(stream: RawStream) -> None:
        data = await stream.receive()
        if data == b"hello":
            await stream.send(data)
        else:
            raise ZeroDivisionError

    async with serving(failing) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"boom")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert await talk(server.port) == b"hello"
    (record,) = [item for item in caplog.records if item.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_expected_errors_are_logged_without_control_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def refusing(_stream: RawStream) -> None:
        raise GramError(ErrorCode.AUTHORIZATION, "name with \n and \x1b[2J")

    async with serving(refusing) as server:
        assert await talk(server.port) == b""
    text = "".join(record.getMessage() for record in caplog.records if "ended" in record.message)
    assert "name with" in text
    assert text.isprintable()


async def test_a_bound_socket_can_be_given() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server = await serve(echo, sock=sock)
    assert server.port == port
    assert await talk(port) == b"hello"
    await server.aclose()


async def test_an_address_in_use_is_an_os_error() -> None:
    async with serving(echo) as server:
        with pytest.raises(OSError, match="in use") as error:
            await serve(echo, port=server.port)
        assert error.value.errno == errno.EADDRINUSE


async def test_the_ipv6_wild_card_serves_ipv4_under_its_own_address() -> None:
    addresses: list[str] = []

    async def note(stream: RawStream) -> None:
        addresses.append(stream.peer_address)
        await echo(stream)

    server = await serve(note, host="::")
    assert await talk(server.port) == b"hello"
    assert await talk(server.port, "::1") == b"hello"
    await server.aclose()
    assert addresses == ["127.0.0.1", "::1"]


async def test_running_out_of_descriptors_is_survived() -> None:
    out_of_descriptors = asyncio.Event()

    def note(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        assert "out of system resource" in str(context["message"])
        out_of_descriptors.set()

    async with serving(echo) as server:
        assert await talk(server.port) == b"hello"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = socket.socket()
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(note)
        used = len(os.listdir("/proc/self/fd"))
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        fillers = [os.dup(client.fileno()) for _ in range(highest + 1 - used)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        try:
            await loop.sock_connect(client, ("127.0.0.1", server.port))
            await loop.sock_sendall(client, b"hello")
            await asyncio.wait_for(out_of_descriptors.wait(), 20)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in fillers:
                os.close(descriptor)
        assert await loop.sock_recv(client, 100) == b"hello"
        client.close()
        assert await talk(server.port) == b"hello"
