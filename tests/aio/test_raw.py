"""Raw streams over real sockets: options, buffers, time limits, closing (P26; abuse 17, 18)."""

import asyncio
import socket
import struct

import pytest

from protocol.aio import raw as raw_module
from protocol.aio.raw import READ_BUFFER, WRITE_BUFFER, ConnectionLost, RawStream
from tests.aio.lab import serving


async def connect(port: int, **options: float) -> RawStream:
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(
        lambda: RawStream(**options), "127.0.0.1", port
    )  # fmt: skip
    return stream


def option(stream: RawStream, number: int) -> int:
    assert stream._socket is not None
    return stream._socket.getsockopt(socket.IPPROTO_TCP, number)


class Keeper:
    """A server that hands its streams to the test and keeps them open."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[RawStream] = asyncio.Queue()

    async def __call__(self, stream: RawStream) -> None:
        await self.streams.put(stream)
        await asyncio.Event().wait()


async def test_p26_acknowledgements_are_immediate_on_both_sides() -> None:
    keeper = Keeper()
    async with serving(keeper) as server:
        client = await connect(server.port)
        served = await keeper.streams.get()
        for stream in (client, served):
            assert option(stream, socket.TCP_NODELAY) == 1
            assert option(stream, socket.TCP_QUICKACK) == 1
        for _ in range(3):  # the kernel forgets after an exchange, so it is set after every read
            await client.send(b"flag")
            assert await served.receive() == b"flag"
            await served.send(b"reply")
            assert await client.receive() == b"reply"
            await client.send(b"request")
            assert await served.receive() == b"request"
            assert option(served, socket.TCP_QUICKACK) == 1
        await client.aclose()


async def test_addresses_are_numeric() -> None:
    keeper = Keeper()
    async with serving(keeper) as server:
        client = await connect(server.port)
        assert client.peer_address == "127.0.0.1"
        assert (await keeper.streams.get()).peer_address == "127.0.0.1"
        await client.aclose()


async def test_the_first_byte_is_not_consumed() -> None:
    keeper = Keeper()
    async with serving(keeper) as server:
        client = await connect(server.port)
        served = await keeper.streams.get()
        await client.send(b"\x16rest")
        assert await served.first_byte() == 0x16
        assert await served.first_byte() == 0x16
        assert await served.receive(2) == b"\x16r"
        assert await served.receive() == b"est"
        await client.aclose()
        with pytest.raises(ConnectionLost):
            await served.first_byte()


async def test_a_fast_sender_is_held_back() -> None:
    keeper = Keeper()
    async with serving(keeper) as server:
        client = await connect(server.port)
        served = await keeper.streams.get()
        sending = asyncio.create_task(client.send(bytes(50_000_000)))
        for _ in range(100):
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert not sending.done()
        assert served._buffered <= READ_BUFFER + 262144
        got = 0
        while got < 50_000_000:
            got += len(await served.receive())
        await sending
        await client.aclose()


async def test_a_peer_that_reads_nothing_is_given_up() -> None:
    keeper = Keeper()
    async with serving(keeper) as server:
        client = await connect(server.port, write_timeout=0.1)
        with pytest.raises(ConnectionLost, match="does not read"):
            await client.send(bytes(WRITE_BUFFER * 100))
        with pytest.raises(ConnectionLost):
            await client.send(b"more")
        await client.aclose()


async def test_closing_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_module, "CLOSE_TIMEOUT", 0.1)
    keeper = Keeper()
    async with serving(keeper) as server:
        client = await connect(server.port, write_timeout=0.1)
        for size in (16_000_000, 1):
            client._transport.write(bytes(size))  # type: ignore[union-attr]  # connected
        await client.aclose()
        assert client._transport.is_closing()  # type: ignore[union-attr]  # connected


async def test_half_closed_is_normal() -> None:
    async def handler(stream: RawStream) -> None:
        request = b""
        while piece := await stream.receive():
            request += piece
        await stream.send(b"got " + request)

    async with serving(handler) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"all of it")
        writer.write_eof()
        assert await reader.read() == b"got all of it"
        writer.close()
        await writer.wait_closed()


async def test_a_reply_survives_unread_bytes_of_the_client() -> None:
    """Closing over unread bytes would reset the connection and could destroy the reply."""

    async def handler(stream: RawStream) -> None:
        await stream.first_byte()
        await stream.send(b"403")

    async with serving(handler) as server:
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"request")
            await writer.drain()
            await asyncio.sleep(0.005)
            writer.write(b"and more")
            assert await reader.read() == b"403"
            writer.close()
            await writer.wait_closed()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def test_row_18_a_reset_is_an_error_for_the_reader() -> None:
    keeper = Keeper()
    async with serving(keeper) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        served = await keeper.streams.get()
        reading = asyncio.create_task(served.receive())
        await asyncio.sleep(0)
        reset(sock)
        with pytest.raises(ConnectionLost):
            await reading
        with pytest.raises(ConnectionLost):
            await served.send(b"x")
        await served.aclose()


async def test_bytes_before_a_reset_can_still_be_read() -> None:
    keeper = Keeper()
    async with serving(keeper) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        served = await keeper.streams.get()
        sock.sendall(b"last")
        await served.first_byte()
        reset(sock)
        await asyncio.sleep(0.02)
        assert await served.receive() == b"last"
        with pytest.raises(ConnectionLost):
            await served.receive()


async def test_a_stream_that_was_never_connected() -> None:
    with pytest.raises(ConnectionLost):
        await RawStream().send(b"x")


async def test_unix_sockets_work_too() -> None:
    left, right = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, one = await loop.create_connection(RawStream, sock=left)
    _, other = await loop.create_connection(RawStream, sock=right)
    await one.send(b"hello")
    assert await other.receive() == b"hello"
    await one.aclose()
    assert await other.receive() == b""
    await other.aclose()
