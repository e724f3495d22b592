"""How connecting fails, and what is left behind then."""

import asyncio

import pytest

from protocol.aio.doubles import memory_pair
from protocol.aio.raw import RawStream
from protocol.errors import GramError
from protocol.tables import ErrorCode
from tests.aio.lab import (
    Lab,
    serving,
)


async def test_connecting_fails_with_a_stable_code(lab: Lab, unused_tcp_port: int) -> None:
    connector = lab.connector()
    for host, port in (
        ("127.0.0.1", unused_tcp_port),
        ("no-such-host.invalid", 1),
        ("a" * 70 + ".example", 1),
        ("127.0.0.1", 70000),
    ):
        with pytest.raises(GramError) as error:
            await connector.connect(host, port, gatekeeper=True, timeout=20)
        assert error.value.code is ErrorCode.CONNECTION_FAILED


async def test_a_server_that_says_nothing_is_given_up(lab: Lab) -> None:
    async def silent(raw: RawStream) -> None:
        await raw.receive()
        await raw.receive()

    async with serving(silent) as server:
        with pytest.raises(GramError) as error:
            await lab.connector().connect("127.0.0.1", server.port, gatekeeper=True, timeout=0.2)
    assert error.value.code is ErrorCode.CONNECTION_FAILED
    assert "0.2 seconds" in error.value.message


async def test_a_server_that_hangs_up_in_the_handshake(lab: Lab) -> None:
    async def rude(raw: RawStream) -> None:
        await raw.receive()
        raw.abort()

    async with serving(rude) as server:
        with pytest.raises(GramError) as error:
            await lab.connector().connect("127.0.0.1", server.port, gatekeeper=True)
    assert error.value.code is ErrorCode.CONNECTION_FAILED


async def test_a_server_that_does_not_speak_tls(lab: Lab) -> None:
    async def web(raw: RawStream) -> None:
        await raw.receive()
        await raw.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(web) as server:
        with pytest.raises(GramError) as error:
            await lab.connector().connect("127.0.0.1", server.port, gatekeeper=False)
    assert error.value.code is ErrorCode.PROTOCOL_FAILED


async def test_a_cancelled_handshake_closes_the_stream(lab: Lab) -> None:
    ours, _theirs = memory_pair()
    task = asyncio.create_task(lab.acceptor().accept(ours, gatekeeper=True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ours.aborted
