"""The doubles behave like the streams they stand in for."""

import asyncio

import pytest

from protocol.aio.doubles import PAIR_BUFFER, ScriptedStream, memory_pair
from protocol.aio.raw import ByteStream, ConnectionLost
from protocol.aio.stream import SecureStream


async def test_a_script_is_played_and_what_is_sent_recorded() -> None:
    stream = ScriptedStream(b"one", b"two")
    raw: ByteStream = stream
    secure: SecureStream = stream
    assert await raw.first_byte() == ord("o")
    assert await secure.receive(2) == b"on"
    assert await secure.receive() == b"e"
    assert await secure.receive() == b"two"
    assert await secure.receive() == b""
    await secure.send(b"a")
    await secure.send_token(b"b")
    assert stream.sent == [b"a", b"b"]
    assert stream.output == b"ab"
    await secure.aclose()
    assert stream.closed
    assert not stream.aborted
    with pytest.raises(ConnectionLost):
        await secure.send(b"c")


async def test_a_script_can_fail_or_hang() -> None:
    stream = ScriptedStream(b"x", ConnectionLost("reset"), ends=False)
    assert await stream.receive() == b"x"
    with pytest.raises(ConnectionLost):
        await stream.receive()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.receive(), 0.01)
    with pytest.raises(ConnectionLost):
        await ScriptedStream().first_byte()


async def test_a_pair_is_connected_both_ways() -> None:
    left, right = memory_pair()
    await left.send(b"ping")
    assert await right.first_byte() == ord("p")
    assert await right.receive(2) == b"pi"
    assert await right.receive() == b"ng"
    await right.send(b"pong")
    assert await left.receive() == b"pong"
    await left.send(b"last")
    await left.aclose()
    assert await right.receive() == b"last"
    assert await right.receive() == b""
    with pytest.raises(ConnectionLost):
        await right.first_byte()
    with pytest.raises(ConnectionLost):
        await right.send(b"x")


async def test_a_pair_holds_a_fast_sender_back() -> None:
    left, right = memory_pair()
    sending = asyncio.create_task(left.send(bytes(PAIR_BUFFER + 1)))
    await asyncio.sleep(0.01)
    assert not sending.done()
    await right.receive(1)
    await sending


async def test_an_abort_is_a_reset() -> None:
    left, right = memory_pair()
    reading = asyncio.create_task(right.receive())
    await asyncio.sleep(0)
    left.abort()
    with pytest.raises(ConnectionLost):
        await reading
