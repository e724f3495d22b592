"""Certificates, servers and instrumented streams for the transport's tests."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from gram.labca import LabCA
from protocol.aio.doubles import MemoryStream, memory_pair
from protocol.aio.gsi import Acceptor, Connector
from protocol.aio.raw import ByteStream, RawStream
from protocol.aio.server import Server, serve
from protocol.aio.stream import GsiStream
from protocol.gsi.credential import Credential, key_pem
from protocol.gsi.directory import CADirectory
from protocol.gsi.proxies import ProxyPolicy
from protocol.gsi.proxy_init import create_proxy
from protocol.gsi.tls import TLSContext, TLSSession
from protocol.gsi.tokens import TokenReader
from tests.support.keys import rsa_key


@dataclass
class Lab:
    """A CA with a host, a user and her proxies."""

    path: Path
    ca: LabCA = field(init=False)
    directory: CADirectory = field(init=False)
    host: Credential = field(init=False)
    alice: Credential = field(init=False)
    proxy: Credential = field(init=False)
    limited: Credential = field(init=False)

    def __post_init__(self) -> None:
        self.ca = LabCA(self.path, key=rsa_key("ca"))
        self.directory = CADirectory(self.ca.ca_directory())
        self.host = self.ca.host(["localhost"], key=rsa_key("host")).credential
        self.alice = self.ca.user("Alice Example", key=rsa_key("alice")).credential
        self.proxy = create_proxy(self.alice, key=rsa_key("proxy"))
        self.limited = create_proxy(self.alice, key=rsa_key("proxy"), policy=ProxyPolicy.LIMITED)

    def acceptor(self, credential: Credential | None = None) -> Acceptor:
        return Acceptor(credential or self.host, self.directory)

    def connector(self, credential: Credential | None = None) -> Connector:
        return Connector(credential or self.proxy, self.directory)

    def standard_client(self, **versions: ssl.TLSVersion) -> ssl.SSLContext:
        """A client of Python's own ssl module that shows alice's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._load(context, self.alice)
        for name, version in versions.items():
            setattr(context, name, version)
        return context

    def standard_server(self, tickets: int, **versions: ssl.TLSVersion) -> ssl.SSLContext:
        """A server of Python's own ssl module with the host's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(capath=str(self.directory.path))
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VerifyFlags.VERIFY_ALLOW_PROXY_CERTS
        context.num_tickets = tickets
        self._load(context, self.host)
        for name, version in versions.items():
            setattr(context, name, version)
        return context

    def _load(self, context: ssl.SSLContext, credential: Credential) -> None:
        path = self.path / f"{credential.certificate.serial_number}.pem"
        if not path.exists():
            certificates = (item.public_bytes(Encoding.PEM) for item in credential.certificates)
            path.write_bytes(b"".join(certificates) + key_pem(credential.private_key))
        context.load_cert_chain(path)


class Wiretap:
    """A raw stream that notes every write."""

    def __init__(self, inner: ByteStream) -> None:
        self._inner = inner
        self.writes: list[bytes] = []

    @property
    def peer_address(self) -> str:
        return self._inner.peer_address

    async def receive(self, limit: int = 262144) -> bytes:
        return await self._inner.receive(limit)

    async def first_byte(self) -> int:
        return await self._inner.first_byte()

    async def send(self, data: bytes) -> None:
        self.writes.append(bytes(data))
        await self._inner.send(data)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def abort(self) -> None:
        self._inner.abort()


class OneByteAtATime(Wiretap):
    """A raw stream whose reads come in single bytes."""

    async def receive(self, limit: int = 262144) -> bytes:
        return await super().receive(1)


def split_records(data: bytes) -> list[tuple[int, bytes]]:
    """The TLS records in data: type and body; data must hold whole ones."""
    records = []
    while data:
        length = int.from_bytes(data[3:5], "big")
        assert len(data) >= 5 + length
        records.append((data[0], data[5 : 5 + length]))
        data = data[5 + length :]
    return records


@dataclass
class Pair:
    """Both ends of an established connection, and the wire between them."""

    server: GsiStream
    client: GsiStream
    server_wire: Wiretap
    client_wire: Wiretap


async def establish(
    acceptor: Acceptor,
    connector: Connector,
    *,
    gatekeeper: bool = False,
    server_name: str | None = None,
    wire: type[Wiretap] = Wiretap,
) -> Pair:
    """Do a handshake in memory; when a side fails its error is raised (the client's first)."""
    ends: tuple[MemoryStream, MemoryStream] = memory_pair()
    server_wire, client_wire = wire(ends[0]), wire(ends[1])
    client, server = await asyncio.gather(
        connector.establish(client_wire, gatekeeper=gatekeeper, server_name=server_name),
        acceptor.accept(server_wire, gatekeeper=gatekeeper),
        return_exceptions=True,
    )
    for outcome in (client, server):
        if isinstance(outcome, BaseException):
            raise outcome
    assert isinstance(client, GsiStream)
    assert isinstance(server, GsiStream)
    return Pair(server, client, server_wire, client_wire)


def limit_tls(target: Acceptor | Connector, version: int) -> None:
    """Allow nothing newer than version."""
    target._contexts.current().openssl.set_max_proto_version(version)


def handshake(context: TLSContext, server: TLSSession) -> TLSSession:
    """Let a client session with this context talk to a server session, without streams."""
    client = TLSSession(context)
    output = client.advance()
    while not (client.established and server.established):
        output = server.advance(output)
        if not client.established:
            output = client.advance(output)
    client.feed(output)
    return client


@asynccontextmanager
async def serving(handler: Callable[[RawStream], Awaitable[None]]) -> AsyncIterator[Server]:
    server = await serve(handler)
    try:
        yield server
    finally:
        await server.aclose()


async def exchange(pair: Pair) -> None:
    await pair.client.send(b"request")
    assert await pair.server.receive() == b"request"
    await pair.server.send(b"reply")
    assert await pair.client.receive() == b"reply"


class ScriptGatekeeper:
    """A gatekeeper on Python's ssl module, with tickets and sync byte as asked for."""

    def __init__(self, context: ssl.SSLContext, *, sync: bytes, apart: bool) -> None:
        self._context = context
        self._sync = sync
        self._apart = apart

    async def serve(self, raw: MemoryStream) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)
        reader = TokenReader()
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush(raw, outgoing)
                incoming.write(reader.feed(await raw.receive()))
            except ssl.SSLError:
                await self._flush(raw, outgoing)
                raise
        if self._apart:
            await self._flush(raw, outgoing)
            await asyncio.sleep(0.02)
        if self._sync:
            tls.write(self._sync)
        await self._flush(raw, outgoing)
        received = b""
        while len(received) < 8:
            try:
                received += tls.read()
            except ssl.SSLWantReadError:
                incoming.write(reader.feed(await raw.receive()))
        tls.write(b"reply")
        await self._flush(raw, outgoing)
        return received

    async def _flush(self, raw: MemoryStream, outgoing: ssl.MemoryBIO) -> None:
        for kind, body in split_records(outgoing.read()):
            await raw.send(bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body)
            await asyncio.sleep(0.005 if self._apart else 0)
