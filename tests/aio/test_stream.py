"""The GSI stream: records, ends, chatter (wire-protocol.md 1.9, 1.10; P4, P24, P25)."""

import asyncio
import hashlib
import subprocess

import pytest
from OpenSSL import SSL

from protocol.aio.doubles import MemoryStream
from protocol.aio.raw import ConnectionLost, RawStream
from protocol.aio.stream import MAX_CHATTER, GsiStream
from protocol.errors import GramError, RemoteProtocolError
from protocol.gsi.tls import RECORD, TLSError, TLSSession
from protocol.gsi.tokens import TokenReader
from protocol.tables import ErrorCode
from tests.aio.lab import Lab, Wiretap, establish, limit_tls, serving, split_records

VERSIONS = pytest.mark.parametrize(
    "version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["tls1.2", "tls1.3"]
)


async def read_all(stream: GsiStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.receive()
        assert piece
        data += piece
    return data


@VERSIONS
@pytest.mark.parametrize("size", [1, 100, RECORD - 1, RECORD])
async def test_p4_a_message_is_one_record_in_one_write(lab: Lab, version: int, size: int) -> None:
    acceptor = lab.acceptor()
    limit_tls(acceptor, version)
    pair = await establish(acceptor, lab.connector())
    pair.server_wire.writes.clear()
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    await pair.server.send(message)
    (write,) = pair.server_wire.writes
    assert [kind for kind, _ in split_records(write)] == [23]
    assert await pair.client.receive() == message


@pytest.mark.parametrize("size", [RECORD + 1, 64000, 16 * RECORD, 16 * RECORD + 1, 1_000_003])
async def test_long_messages_arrive_whole(lab: Lab, size: int) -> None:
    pair = await establish(lab.acceptor(), lab.connector())
    message = (hashlib.sha512(b"seed").digest() * (size // 64 + 1))[:size]
    reading = asyncio.create_task(read_all(pair.server, size))
    await pair.client.send(message)
    assert await reading == message
    await pair.client.send(memoryview(message)[:10])
    assert await pair.server.receive() == message[:10]


async def test_nothing_is_sent_for_no_data(lab: Lab) -> None:
    pair = await establish(lab.acceptor(), lab.connector())
    pair.client_wire.writes.clear()
    await pair.client.send(b"")
    assert pair.client_wire.writes == []


async def test_a_record_can_be_read_in_parts(lab: Lab) -> None:
    pair = await establish(lab.acceptor(), lab.connector())
    await pair.client.send(b"Drest")
    await pair.client.send(b"next")
    assert await pair.server.receive(1) == b"D"
    assert await pair.server.receive() == b"rest"
    assert await pair.server.receive() == b"next"


async def test_p24_an_end_without_goodbye_is_an_end(lab: Lab) -> None:
    pair = await establish(lab.acceptor(), lab.connector())
    await pair.client.send(b"last words")
    await pair.client_wire.aclose()
    assert await pair.server.receive() == b"last words"
    assert await pair.server.receive() == b""
    assert await pair.server.receive() == b""


async def test_p24_goodbye_is_an_end_too(lab: Lab) -> None:
    pair = await establish(lab.acceptor(), lab.connector())
    pair.client_wire.writes.clear()
    await pair.client.aclose()
    assert len(pair.client_wire.writes) == 1
    assert await pair.server.receive() == b""
    await pair.server.aclose()


async def test_p24_an_end_inside_a_record_is_an_end(lab: Lab) -> None:
    pair = await establish(lab.acceptor(), lab.connector())
    await pair.client_wire.send(b"\x17\x03\x03\x01\x00only a part")
    await pair.client_wire.aclose()
    assert await pair.server.receive() == b""


async def test_p25_bytes_behind_the_message_are_there_to_be_ignored(lab: Lab) -> None:
    pair = await establish(lab.acceptor(), lab.connector())
    await pair.server.send(b"reply" + b"\0")
    await pair.server.aclose()
    assert await pair.client.receive(5) == b"reply"
    await pair.client.aclose()


async def test_a_reset_is_not_an_end(lab: Lab) -> None:
    pair = await establish(lab.acceptor(), lab.connector())
    pair.client.abort()
    with pytest.raises(ConnectionLost) as error:
        await pair.server.receive()
    assert error.value.code is ErrorCode.PROTOCOL_FAILED
    with pytest.raises(ConnectionLost):
        await pair.server.send(b"x")
    await pair.server.aclose()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x1a\x03\x7f\xff\xff\xff" + bytes(100), b"\x00\xff\xff\xff\xff"],
)
async def test_garbage_after_the_handshake_is_refused(lab: Lab, garbage: bytes) -> None:
    pair = await establish(lab.acceptor(), lab.connector())
    await pair.client_wire.send(garbage)
    with pytest.raises(RemoteProtocolError):
        await pair.server.receive()


@VERSIONS
async def test_a_forged_record_is_refused(lab: Lab, version: int) -> None:
    acceptor = lab.acceptor()
    limit_tls(acceptor, version)
    pair = await establish(acceptor, lab.connector())
    await pair.client_wire.send(b"\x17\x03\x03\x00\x30" + bytes(48))
    with pytest.raises(TLSError) as error:
        await pair.server.receive()
    assert error.value.code is ErrorCode.PROTOCOL_FAILED
    await pair.server.aclose()
    with pytest.raises(TLSError, match="alert"):
        await pair.client.receive()


class _Chatty(TLSSession):
    """A session whose peer makes it answer to everything."""

    def __init__(self) -> None:
        self.established = True
        self.peer = self.refusal = None

    def decrypt(self, limit: int = RECORD) -> bytes | None:
        return None

    def feed(self, records: bytes) -> None:
        assert records

    def output(self, expected: int = 0) -> bytes:
        return b"answer"


async def test_a_peer_that_makes_us_answer_for_ever_is_cut_off() -> None:
    ours, theirs = MemoryStream(), MemoryStream()
    ours.connect(theirs)
    wire = Wiretap(ours)
    stream = GsiStream(wire, _Chatty(), TokenReader())

    async def flood() -> None:
        while True:
            await theirs.send(b"\x16\x03\x03\x00\x01x")

    flooding = asyncio.create_task(flood())
    with pytest.raises(RemoteProtocolError, match="renegotiating"):
        await stream.receive()
    with pytest.raises(ConnectionLost):
        await flooding
    assert len(wire.writes) == MAX_CHATTER


async def test_row_15_a_renegotiation_is_declined(lab: Lab) -> None:
    acceptor = lab.acceptor()
    limit_tls(acceptor, SSL.TLS1_2_VERSION)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(lab.alice.certificate)
    context.use_privatekey(lab.alice.private_key)
    client = SSL.Connection(context)
    client.set_connect_state()
    ours, theirs = MemoryStream(), MemoryStream()
    ours.connect(theirs)

    async def serve_one() -> bytes:
        stream = await acceptor.accept(ours, gatekeeper=False)
        return await stream.receive()

    async def handshake() -> None:
        while True:
            try:
                client.do_handshake()
                return
            except SSL.WantReadError:
                await theirs.send(client.bio_read(65536))
                client.bio_write(await theirs.receive())

    serving_one = asyncio.create_task(serve_one())
    await handshake()
    client.renegotiate()
    with pytest.raises(SSL.Error, match="no renegotiation"):
        await handshake()
    await theirs.aclose()
    assert await serving_one == b""


async def test_row_15_key_updates_are_bounded(lab: Lab) -> None:
    ended: asyncio.Future[GramError | bytes] = asyncio.get_running_loop().create_future()

    async def handler(raw: RawStream) -> None:
        stream = await lab.acceptor().accept(raw, gatekeeper=False)
        try:
            ended.set_result(await stream.receive())
        except GramError as error:
            ended.set_result(error)

    lab.standard_client()  # writes alice's file
    pem = lab.path / f"{lab.alice.certificate.serial_number}.pem"
    async with serving(handler) as server:
        client = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-tls1_3", "-connect", f"127.0.0.1:{server.port}"),
            *("-cert", str(pem), "-key", str(pem)),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert client.stdin is not None
        try:
            while not ended.done():
                client.stdin.write(b"K\n")  # asks for an update of both keys
                await asyncio.wait([ended], timeout=0.01)
        finally:
            if client.returncode is None:
                client.kill()
            await client.wait()
        assert isinstance(await ended, GramError)
