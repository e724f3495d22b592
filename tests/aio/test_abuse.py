"""Strangers on the gatekeeper port (gatekeeper.md 22, rows 1 to 19)."""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.aio import delegation
from protocol.aio.gsi import GsiStream
from protocol.aio.raw import RawStream
from protocol.aio.server import Server
from protocol.errors import GramError
from protocol.gsi.tokens import wrap_token
from tests.aio.lab import Lab, serving


class Gate:
    """A gatekeeper's front: handshake, flag, one request, one reply."""

    def __init__(self, lab: Lab) -> None:
        self.acceptor = lab.acceptor()
        self.timeout = 10.0
        self.outcomes: asyncio.Queue[GramError | bytes] = asyncio.Queue()
        self.server: Server

    async def __call__(self, raw: RawStream) -> None:
        try:
            stream = await self.acceptor.accept(raw, gatekeeper=True, timeout=self.timeout)
            outcome: GramError | bytes = await self.converse(stream)
        except GramError as error:
            outcome = error
        await self.outcomes.put(outcome)

    async def converse(self, stream: GsiStream) -> bytes:
        await delegation.read_flag(stream, timeout=self.timeout)
        request = await stream.receive()
        await stream.send(b"reply")
        await stream.aclose()
        return request


@pytest.fixture
async def gate(lab: Lab) -> AsyncIterator[Gate]:
    front = Gate(lab)
    async with serving(front) as server:
        front.server = server
        yield front
        # Whatever happened, the next client is served.
        front.timeout = 10.0
        stream = await lab.connector().connect("127.0.0.1", server.port, gatekeeper=True)
        await stream.send_token(b"0")
        await stream.send(b"still there?")
        assert await stream.receive() == b"reply"
        await stream.aclose()
        while await front.outcomes.get() != b"still there?":
            continue


async def send(gate: Gate, *pieces: bytes) -> bytes:
    """Connect, send pieces, return everything that comes until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await reader.read()
    except ConnectionResetError:
        return b"reset"
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            writer.transport.abort()


def client_hello(version: int = 0x0303, extensions: bytes | None = None) -> bytes:
    """A handshake message; without extensions given, one that TLS 1.3 can answer."""
    if extensions is None:
        share = X25519PrivateKey.generate().public_key().public_bytes(
            Encoding.Raw, PublicFormat.Raw
        )  # fmt: skip
        extensions = (
            bytes.fromhex("002b0003020304")  # supported_versions: 1.3
            + bytes.fromhex("000a00040002001d")  # supported_groups: x25519
            + bytes.fromhex("000d0006000408040401")  # signature_algorithms
            + bytes.fromhex("003300260024001d0020") + share
        )  # fmt: skip
    body = struct.pack(">H", version) + os.urandom(32) + b"\0"
    body += bytes.fromhex("00041302c0300100")
    body += struct.pack(">H", len(extensions)) + extensions
    return b"\1" + len(body).to_bytes(3, "big") + body


def records(message: bytes, kind: int = 22) -> bytes:
    pieces = [message[i : i + 16384] for i in range(0, len(message), 16384)]
    return b"".join(bytes([kind, 3, 1]) + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def is_alert(answer: bytes, description: int | None = None) -> bool:
    plain = answer[:1] == b"\x15" and len(answer) == 7
    return plain and description in (None, answer[6])


async def test_row_1_connect_and_close(gate: Gate) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", gate.server.port)
    writer.close()
    await writer.wait_closed()
    assert isinstance(await gate.outcomes.get(), GramError)


@pytest.mark.parametrize("piece", [b"", b"\0", b"\x16", b"\0\0\0\x10", b"\x16\x03\x01\x01\x00x"])
async def test_row_2_and_7_a_client_that_stalls_is_timed_out(gate: Gate, piece: bytes) -> None:
    gate.timeout = 0.1
    assert await send(gate, piece) == b""
    outcome = await gate.outcomes.get()
    assert isinstance(outcome, GramError)
    assert "0.1 seconds" in outcome.message


async def test_row_3_idle_connections_do_not_keep_others_out(gate: Gate, lab: Lab) -> None:
    idle = [socket.create_connection(("127.0.0.1", gate.server.port)) for _ in range(200)]
    stream = await lab.connector().connect("127.0.0.1", gate.server.port, gatekeeper=True)
    await stream.send_token(b"0")
    await stream.send(b"request")
    assert await stream.receive() == b"reply"
    await stream.aclose()
    for sock in idle:
        sock.close()


@pytest.mark.parametrize(
    "data",
    [
        b"POST /x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"EHLO example.org\r\n",
        b"\0\0\0\0",
        b"\0\0\0\5",
        b"\1\0\0\0",
        b"\1\0\0\1",
        b"\xff\xff\xff\xf0",
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01\xff\xffshort",
        b"\x1a\x03\x7f\xff\xff\xff",
        b"\x1a\x03\xff\xff\xff\xff",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
    ],
)
async def test_rows_4_to_9_what_is_not_tls_is_closed_without_an_answer(
    gate: Gate, data: bytes
) -> None:
    assert await send(gate, data) == b""
    assert isinstance(await gate.outcomes.get(), GramError)


async def test_row_8_megabytes_behind_a_bad_header_are_not_kept(gate: Gate) -> None:
    assert await send(gate, b"\x1a\x03\x7f\xff\xff\xff", *([bytes(65536)] * 64)) in (b"", b"reset")


async def test_row_10_old_tls_versions_get_an_alert(gate: Gate) -> None:
    for version in (0x0300, 0x0301, 0x0302):
        answer = await send(gate, records(client_hello(version, b"")))
        assert is_alert(answer, 70)


async def test_row_10_in_a_token(gate: Gate) -> None:
    assert is_alert(await send(gate, wrap_token(records(client_hello(0x0302, b"")))), 70)


async def test_row_11_a_hello_in_single_bytes_is_answered(gate: Gate) -> None:
    hello = wrap_token(records(client_hello()))
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port)
    for i in range(len(hello)):
        writer.write(hello[i : i + 1])
        await asyncio.sleep(0)
    assert (await reader.readexactly(6))[5] == 2  # ServerHello
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("count", [1000, 15000])
async def test_row_12_thousands_of_extensions(gate: Gate, count: int) -> None:
    gate.timeout = 2.0
    extensions = b"".join(struct.pack(">HH", 0x1000 + i, 0) for i in range(count))
    answer = await send(gate, records(client_hello(0x0303, extensions)))
    assert answer in (b"", b"reset") or answer[0] in (21, 22)


async def test_row_12_a_hello_that_never_ends(gate: Gate) -> None:
    body = b"\1\xff\xff\xff" + bytes(400_000)
    answer = await send(gate, records(body))
    assert answer in (b"", b"reset") or answer[0] == 21


async def test_row_13_application_data_before_the_handshake(gate: Gate) -> None:
    assert is_alert(await send(gate, records(b"POST /", 23)), 10)


@pytest.mark.parametrize("kind", [20, 21])
async def test_row_14_an_alert_or_cipher_change_first(gate: Gate, kind: int) -> None:
    body = b"\2\x28" if kind == 21 else b"\1"
    answer = await send(gate, records(body, kind))
    assert answer == b"" or is_alert(answer)


async def test_a_flood_of_warnings_ends(gate: Gate) -> None:
    answer = await send(gate, *([records(b"\1\x5a", 21)] * 1000))
    assert answer in (b"", b"reset") or answer[0] == 21


async def test_row_16_silence_after_the_handshake(gate: Gate, lab: Lab) -> None:
    gate.timeout = 0.3
    stream = await lab.connector().connect("127.0.0.1", gate.server.port, gatekeeper=True)
    assert await stream.receive() == b""
    outcome = await gate.outcomes.get()
    assert isinstance(outcome, GramError)
    assert "seconds" in outcome.message
    await stream.aclose()


async def test_row_17_half_closed_after_the_handshake(gate: Gate, lab: Lab) -> None:
    stream = await lab.connector().connect("127.0.0.1", gate.server.port, gatekeeper=True)
    sock = stream._raw._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # TCP
    sock.shutdown(socket.SHUT_WR)
    assert await stream.receive() == b""
    assert isinstance(await gate.outcomes.get(), GramError)
    await stream.aclose()


@pytest.mark.parametrize("phase", ["connected", "hello", "established", "flag", "request"])
async def test_row_18_a_reset_in_every_phase(gate: Gate, lab: Lab, phase: str) -> None:
    loop = asyncio.get_running_loop()
    _, raw = await loop.create_connection(RawStream, "127.0.0.1", gate.server.port)
    if phase == "hello":
        await raw.send(wrap_token(records(client_hello())))
        await raw.first_byte()
    elif phase != "connected":
        stream = await lab.connector().establish(raw, gatekeeper=True)
        if phase != "established":
            await stream.send_token(b"0")
        if phase == "request":
            await stream.send(b"POST")
    sock = raw._transport.get_extra_info("socket")  # type: ignore[union-attr]  # connected
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.abort()
    outcome = await gate.outcomes.get()
    assert isinstance(outcome, GramError) or phase == "request"


async def test_row_19_a_ticket_does_not_resume_anything(gate: Gate, lab: Lab) -> None:
    context = lab.standard_client(minimum_version=ssl.TLSVersion.TLSv1_3)

    def talk(session: ssl.SSLSession | None) -> tuple[bool | None, ssl.SSLSession | None]:
        with (
            socket.create_connection(("127.0.0.1", gate.server.port)) as sock,
            context.wrap_socket(sock, session=session) as tls,
        ):
            assert tls.recv(1) == b"\0"
            tls.sendall(b"0")
            tls.sendall(b"POST")
            assert tls.recv(100) == b"reply"
            return tls.session_reused, tls.session

    reused, session = await asyncio.to_thread(talk, None)
    assert session is not None
    assert session.has_ticket
    for _ in range(2):
        reused, _ = await asyncio.to_thread(talk, session)
        assert reused is False
        assert await gate.outcomes.get() == b"POST"
