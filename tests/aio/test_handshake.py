"""Handshakes in both roles and framings (wire-protocol.md 1.2 to 1.5, 8: P1 to P15, P20)."""

import asyncio
import ssl

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from gram.labca import LabCA
from protocol.aio import gsi
from protocol.aio.doubles import memory_pair
from protocol.aio.gsi import Acceptor
from protocol.aio.raw import RawStream
from protocol.errors import GramError
from protocol.gsi.directory import CADirectory
from protocol.gsi.proxies import ProxyFormat, ProxyPolicy
from protocol.gsi.proxy_init import create_proxy
from protocol.gsi.tls import TLSContext, TLSError, TLSSession
from protocol.gsi.tokens import TokenReader
from protocol.tables import ErrorCode
from tests.aio.lab import (
    Lab,
    OneByteAtATime,
    ScriptGatekeeper,
    establish,
    exchange,
    handshake,
    limit_tls,
    serving,
    split_records,
)
from tests.support.keys import rsa_key

VERSIONS = pytest.mark.parametrize(
    "version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["tls1.2", "tls1.3"]
)
GATEKEEPER = pytest.mark.parametrize("gatekeeper", [False, True], ids=["plain", "gatekeeper"])


@VERSIONS
@GATEKEEPER
async def test_both_ends_know_each_other(lab: Lab, version: int, gatekeeper: bool) -> None:
    acceptor = lab.acceptor()
    limit_tls(acceptor, version)
    pair = await establish(acceptor, lab.connector(), gatekeeper=gatekeeper)
    assert pair.server.peer is not None
    assert pair.server.peer.identity == lab.alice.identity
    assert not pair.server.peer.limited
    assert pair.client.peer is not None
    assert pair.client.peer.identity == lab.host.identity
    await exchange(pair)


@VERSIONS
@GATEKEEPER
async def test_a_connection_that_delivers_single_bytes(
    lab: Lab, version: int, gatekeeper: bool
) -> None:
    acceptor = lab.acceptor()
    limit_tls(acceptor, version)
    pair = await establish(acceptor, lab.connector(), gatekeeper=gatekeeper, wire=OneByteAtATime)
    await exchange(pair)


async def test_a_refused_client_that_delivers_single_bytes(lab: Lab) -> None:
    acceptor = Acceptor(lab.host, CADirectory(lab.path / "nothing"))
    pair = await establish(acceptor, lab.connector(), gatekeeper=True, wire=OneByteAtATime)
    assert pair.server.peer is None
    await exchange(pair)


async def test_p1_p3_one_token_follows_the_last_flight_in_tls13(lab: Lab) -> None:
    pair = await establish(lab.acceptor(), lab.connector(), gatekeeper=True)
    _, last = pair.server_wire.writes
    # OpenSSL's tickets in one token with a length; a sync byte as well would be fatal.
    assert int.from_bytes(last[:4], "big") == len(last) - 4
    assert [kind for kind, _ in split_records(last[4:])] == [23, 23]
    pair.server_wire.writes.clear()
    await exchange(pair)
    assert len(pair.server_wire.writes) == 1


async def test_p1_without_tickets_the_token_is_the_sync_byte(lab: Lab) -> None:
    context = TLSContext(lab.host, lab.directory, server=True)
    server = TLSSession(context)
    client = handshake(TLSContext(lab.proxy, lab.directory, server=False), server)
    assert client.decrypt() is None
    token = gsi._with_sync(server, TokenReader(), b"")
    assert [kind for kind, _ in split_records(token)] == [23]
    client.feed(token)
    assert client.decrypt() == b"\0"


async def test_p2_nothing_follows_the_finished_message_in_tls12(lab: Lab) -> None:
    acceptor = lab.acceptor()
    limit_tls(acceptor, SSL.TLS1_2_VERSION)
    pair = await establish(acceptor, lab.connector(), gatekeeper=True)
    _, last = pair.server_wire.writes
    assert [kind for kind, _ in split_records(last)] == [20, 22]


async def test_p3_other_listeners_send_no_sync_byte(lab: Lab) -> None:
    pair = await establish(lab.acceptor(), lab.connector())
    for write in pair.server_wire.writes:
        split_records(write)
    await exchange(pair)


async def test_p10_the_client_prefixes_its_tokens_until_the_context_is_complete(lab: Lab) -> None:
    pair = await establish(lab.acceptor(), lab.connector(), gatekeeper=True)
    await pair.client.send_token(b"0")
    await pair.client.send(b"POST")
    hello, flight, flag, request = pair.client_wire.writes
    for token in (hello, flight, flag):
        assert int.from_bytes(token[:4], "big") == len(token) - 4
        split_records(token[4:])
    assert [kind for kind, _ in split_records(request)] == [23]
    assert await pair.server.receive() == b"0"
    assert await pair.server.receive() == b"POST"


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls1.2", "tls1.3"]
)
async def test_a_client_with_bare_records_on_the_gatekeeper_port(
    lab: Lab, version: ssl.TLSVersion
) -> None:
    acceptor = lab.acceptor()

    async def handler(raw: RawStream) -> None:
        stream = await acceptor.accept(raw, gatekeeper=True)
        assert stream.peer is not None
        flag = await stream.receive(1)
        request = await stream.receive()
        await stream.send(flag + request + stream.peer.identity.encode())
        await stream.aclose()

    context = lab.standard_client(minimum_version=version, maximum_version=version)
    async with serving(handler) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        if version is ssl.TLSVersion.TLSv1_3:
            assert await reader.readexactly(1) == b"\0"
        writer.write(b"0")
        writer.write(b"POST")
        assert await reader.read() == b"0POST" + lab.alice.identity.encode()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize(
    ("version", "tickets", "sync"),
    [
        (ssl.TLSVersion.TLSv1_3, 0, b"\0"),
        (ssl.TLSVersion.TLSv1_3, 1, b""),
        (ssl.TLSVersion.TLSv1_3, 2, b""),
        (ssl.TLSVersion.TLSv1_3, 2, b"\0"),
        (ssl.TLSVersion.TLSv1_2, 0, b""),
    ],
)
async def test_the_client_takes_a_sync_byte_or_tickets(
    lab: Lab, version: ssl.TLSVersion, tickets: int, sync: bytes, apart: bool
) -> None:
    context = lab.standard_server(tickets, maximum_version=version)
    ours, theirs = memory_pair()
    script = asyncio.create_task(ScriptGatekeeper(context, sync=sync, apart=apart).serve(theirs))
    stream = await lab.connector(lab.alice).establish(ours, gatekeeper=True)
    await stream.send_token(b"0")
    await stream.send(b"request")
    assert await stream.receive() == b"reply"
    assert await script == b"0request"


async def test_the_client_refuses_other_data_in_place_of_the_sync_byte(lab: Lab) -> None:
    context = lab.standard_server(0)
    ours, theirs = memory_pair()
    script = asyncio.create_task(ScriptGatekeeper(context, sync=b"X", apart=False).serve(theirs))
    with pytest.raises(GramError) as error:
        await lab.connector(lab.alice).establish(ours, gatekeeper=True)
    assert error.value.code is ErrorCode.PROTOCOL_FAILED
    script.cancel()


@pytest.mark.parametrize(
    "usage",
    [
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.EMAIL_PROTECTION,
    ],
    ids=["clientAuth", "serverAuth", "emailProtection"],
)
@pytest.mark.parametrize("as_proxy", [False, True], ids=["certificate", "proxy"])
async def test_p5_extended_key_usage_does_not_matter_in_either_role(
    lab: Lab, usage: x509.ObjectIdentifier, as_proxy: bool
) -> None:
    extension = x509.ExtendedKeyUsage([usage])
    issued = lab.ca.user("Eku", key=rsa_key("eku"), extensions=((extension, True),))
    credential = issued.credential
    if as_proxy:
        credential = create_proxy(credential, key=rsa_key("proxy"))
    pair = await establish(lab.acceptor(credential), lab.connector(credential))
    assert pair.client.peer is not None
    assert pair.server.peer is not None
    assert pair.server.peer.identity == pair.client.peer.identity == issued.credential.identity


@pytest.mark.parametrize("format_", list(ProxyFormat))
@pytest.mark.parametrize("policy", [ProxyPolicy.FULL, ProxyPolicy.LIMITED])
async def test_p6_p12_proxies_of_every_format_in_either_role(
    lab: Lab, format_: ProxyFormat, policy: ProxyPolicy
) -> None:
    user = lab.ca.user("Formats", key=rsa_key("formats"), extensions=()).credential
    proxy = create_proxy(user, key=rsa_key("proxy"), format=format_, policy=policy)
    proxy = create_proxy(proxy, key=rsa_key("proxy2"), format=format_, policy=policy)
    pair = await establish(lab.acceptor(proxy), lab.connector(proxy))
    for peer in (pair.client.peer, pair.server.peer):
        assert peer is not None
        assert peer.identity == user.identity
        assert peer.limited is (policy is ProxyPolicy.LIMITED)


@pytest.mark.parametrize(
    "name", ["Alice Example", "Åsa Öberg", "127.0.0.1", "", "nul\0inside", "x" * 255, "x" * 300]
)
async def test_p7_any_server_name_works(lab: Lab, name: str) -> None:
    pair = await establish(lab.acceptor(), lab.connector(), server_name=name)
    await exchange(pair)


async def test_sni_is_the_host_as_typed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str | None] = []
    original = TLSSession.__init__

    def spy(self: TLSSession, context: TLSContext, *, server_name: str | None = None) -> None:
        if not context.server:
            names.append(server_name)
        original(self, context, server_name=server_name)

    monkeypatch.setattr(TLSSession, "__init__", spy)

    async def handler(raw: RawStream) -> None:
        await lab.acceptor().accept(raw, gatekeeper=await raw.first_byte() == 0)

    async with serving(handler) as server:
        connect = lab.connector().connect
        for gatekeeper, name in ((True, None), (True, "Alice Example"), (False, None)):
            stream = await connect("LocalHost", server.port, gatekeeper=gatekeeper,
                                   server_name=name)  # fmt: skip
            await stream.aclose()
    assert names == ["LocalHost", "Alice Example", None]


async def test_p8_the_chain_is_complete_on_both_sides(lab: Lab) -> None:
    deeper = create_proxy(lab.proxy, key=rsa_key("proxy2"))
    pair = await establish(lab.acceptor(deeper), lab.connector(deeper))
    for peer in (pair.client.peer, pair.server.peer):
        assert peer is not None
        assert peer.chain == deeper.certificates


async def test_p6_a_draft_proxy_below_an_ordinary_user_certificate(lab: Lab) -> None:
    """OpenSSL misses keyCertSign in the issuer of what it does not know as a proxy (error 32)."""
    proxy = create_proxy(lab.alice, key=rsa_key("proxy"), format=ProxyFormat.DRAFT)
    pair = await establish(lab.acceptor(proxy), lab.connector(proxy))
    for peer in (pair.client.peer, pair.server.peer):
        assert peer is not None
        assert peer.identity == lab.alice.identity


def test_p8_each_certificate_comes_once_in_both_roles(lab: Lab) -> None:
    server = TLSSession(TLSContext(lab.limited, lab.directory, server=True))
    client = handshake(TLSContext(lab.proxy, lab.directory, server=False), server)
    assert server._peer_chain() == list(lab.proxy.certificates)
    assert client._peer_chain() == list(lab.limited.certificates)


async def test_the_handshake_has_a_limit_of_size(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsi, "MAX_HANDSHAKE", 1000)
    ours, theirs = memory_pair()
    connecting = asyncio.create_task(lab.connector().establish(theirs, gatekeeper=True))
    with pytest.raises(GramError, match="too long"):
        await lab.acceptor().accept(ours, gatekeeper=True)
    with pytest.raises(GramError):
        await connecting


async def test_an_intermediate_ca_is_sent_and_a_root_is_not(lab: Lab) -> None:
    middle = LabCA(
        lab.path / "middle", subject="/O=Gram Lab/CN=Middle", base="/O=Gram Lab",
        key=rsa_key("middle"), parent=lab.ca,
    )  # fmt: skip
    middle.ca_directory(lab.directory.path)
    user = middle.user("Under the middle", key=rsa_key("under")).credential
    chain = (middle.certificate, lab.ca.certificate)
    credential = type(user)(user.certificate, user.private_key, chain)
    server = TLSSession(TLSContext(lab.host, lab.directory, server=True))
    handshake(TLSContext(credential, lab.directory, server=False), server)
    assert server.peer is not None
    assert server._peer_chain() == [user.certificate, middle.certificate]


@VERSIONS
async def test_p9_p15_a_client_without_certificate_is_refused(lab: Lab, version: int) -> None:
    acceptor = lab.acceptor()
    limit_tls(acceptor, version)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client = SSL.Connection(context)
    client.set_connect_state()
    ours, theirs = memory_pair()
    accepting = asyncio.create_task(acceptor.accept(ours, gatekeeper=False))
    outcome = None
    while outcome is None:
        try:
            client.recv(1)
        except SSL.WantReadError:
            await theirs.send(_output(client))
            data = await theirs.receive()
            if not data:
                outcome = "closed"
            else:
                client.bio_write(data)
        except SSL.Error as error:
            outcome = str(error)
    with pytest.raises(TLSError) as refused:
        await accepting
    assert refused.value.code is ErrorCode.AUTHORIZATION
    assert "certificate" in refused.value.message
    assert "alert" in outcome


def _output(connection: SSL.Connection) -> bytes:
    try:
        return connection.bio_read(65536)
    except SSL.WantReadError:
        return b""


async def test_the_certificate_request_names_no_ca(lab: Lab) -> None:
    client = SSL.Connection(TLSContext(lab.proxy, lab.directory, server=False).openssl)
    client.set_app_data([])
    client.set_connect_state()
    server = TLSSession(TLSContext(lab.host, lab.directory, server=True))
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    client.bio_write(server.advance(client.bio_read(65536)))
    client.do_handshake()
    assert client.get_client_ca_list() == []


async def test_p14_the_host_name_is_the_callers_business(lab: Lab) -> None:
    pair = await establish(lab.acceptor(lab.proxy), lab.connector(), server_name="localhost")
    assert pair.client.peer is not None
    assert pair.client.peer.identity == lab.alice.identity
