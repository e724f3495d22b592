"""Handshakes in both roles and framings (wire-protocol.md 1.2 to 1.5, 8: P1 to P15, P20)."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from gram.labca import USER_EXTENSIONS, LabCA, make_name
from protocol.aio import gsi
from protocol.aio.doubles import MemoryStream, memory_pair
from protocol.aio.gsi import Acceptor, Connector
from protocol.aio.raw import RawStream
from protocol.errors import GramError
from protocol.gsi import tls
from protocol.gsi.chain import ChainRefused, Refusal, verify_chain
from protocol.gsi.credential import Credential
from protocol.gsi.directory import CADirectory
from protocol.gsi.proxies import ProxyFormat, ProxyPolicy
from protocol.gsi.proxy_init import create_proxy
from protocol.gsi.tls import TLSContext, TLSError, TLSSession
from protocol.gsi.tokens import TokenReader
from protocol.tables import ErrorCode
from tests.aio.lab import (
    Lab,
    OneByteAtATime,
    Pair,
    Wiretap,
    establish,
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


async def exchange(pair: Pair) -> None:
    await pair.client.send(b"request")
    assert await pair.server.receive() == b"request"
    await pair.server.send(b"reply")
    assert await pair.client.receive() == b"reply"


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


def flawed(lab: Lab, flaw: str) -> tuple[Credential, CADirectory]:
    """A credential that breaks one rule, and the CA directory by which it does."""
    ca, key, now = lab.ca, rsa_key("flawed"), datetime.now(UTC)
    name, directory = make_name("/O=Gram Lab/CN=Flawed"), lab.directory
    start, days = now - timedelta(minutes=5), 1
    match flaw:
        case "expired":
            start = now - timedelta(days=9)
        case "future":
            start = now + timedelta(days=9)
        case "policy":
            name = make_name("/O=Elsewhere/CN=Flawed")
        case "foreign":
            ca = LabCA(lab.path / "far", subject="/O=Far/CN=CA", base="/O=Far", key=rsa_key("far"))
        case "critical":
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
            certificate = ca.sign(name, key.public_key(), ((extension, True),))
            return Credential(certificate, key), directory
        case "revoked":
            revoked = ca.crl([77])
            directory = CADirectory(ca.ca_directory(lab.path / "with-crl", crl=revoked))
    certificate = ca.sign(
        name, key.public_key(), USER_EXTENSIONS,
        not_before=start, lifetime=timedelta(days=days), serial=77,
    )  # fmt: skip
    return Credential(certificate, key), directory


FLAWS = pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ("expired", Refusal.EXPIRED),
        ("future", Refusal.NOT_YET_VALID),
        ("policy", Refusal.SIGNING_POLICY),
        ("foreign", Refusal.UNTRUSTED),
        ("critical", Refusal.CRITICAL_EXTENSION),
        ("revoked", Refusal.REVOKED),
    ],
)


@VERSIONS
@FLAWS
async def test_p20_a_refused_client_completes_the_handshake_and_can_be_answered(
    lab: Lab, version: int, flaw: str, reason: Refusal
) -> None:
    credential, directory = flawed(lab, flaw)
    acceptor = Acceptor(lab.host, directory)
    limit_tls(acceptor, version)
    pair = await establish(acceptor, lab.connector(credential), gatekeeper=True)
    assert pair.server.peer is None
    assert pair.server.refusal is not None
    assert pair.server.refusal.reason is reason
    await exchange(pair)


@VERSIONS
@FLAWS
async def test_a_server_that_policy_refuses_gets_nothing(
    lab: Lab, version: int, flaw: str, reason: Refusal
) -> None:
    credential, directory = flawed(lab, flaw)
    connector = Connector(lab.proxy, directory)
    limit_tls(connector, version)
    ends = memory_pair()
    wire = Wiretap(ends[0])
    accepting = asyncio.create_task(lab.acceptor(credential).accept(ends[1], gatekeeper=True))
    with pytest.raises(ChainRefused) as refused:
        await connector.establish(wire, gatekeeper=True)
    assert refused.value.reason is reason
    assert refused.value.code is ErrorCode.AUTHORIZATION
    # After its hello the client sends an alert at most, never its certificate.
    assert all(len(write) < 60 for write in wire.writes[1:])
    with pytest.raises(GramError):
        await accepting
    assert ends[0].closed


async def test_openssls_own_complaint_is_enough_to_refuse(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If our policy were blind to expiry, OpenSSL's verdict would still count."""
    credential, directory = flawed(lab, "expired")
    blind = verify_chain(lab.alice.certificates, directory)
    monkeypatch.setattr(tls, "verify_chain", lambda *_: blind)
    pair = await establish(Acceptor(lab.host, directory), lab.connector(credential))
    assert pair.server.peer is None
    assert pair.server.refusal is not None
    assert pair.server.refusal.reason is Refusal.EXPIRED
    with pytest.raises(ChainRefused):
        await establish(lab.acceptor(credential), lab.connector())


async def test_proof_of_possession_is_never_waived(lab: Lab) -> None:
    """Tolerance is about chains: a wrong signature of the handshake ends it."""
    server = TLSSession(TLSContext(lab.host, lab.directory, server=True))
    client = TLSSession(TLSContext(lab.alice, lab.directory, server=False))
    flight = bytearray(client.advance(server.advance(client.advance())))
    flight[-80] ^= 1
    with pytest.raises(TLSError):
        server.advance(bytes(flight))
    assert not server.established
    assert server.peer is None


@VERSIONS
async def test_a_server_refusal_in_the_handshake_reaches_the_client(lab: Lab, version: int) -> None:
    """Unlike us, most servers refuse with an alert; the client says so, code 7 (P20)."""
    context = lab.standard_server(0, maximum_version=ssl.TLSVersion.TLSv1_3)
    if version == SSL.TLS1_2_VERSION:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    credential, _ = flawed(lab, "expired")
    ours, theirs = memory_pair()

    async def gatekeeper() -> None:
        script = ScriptGatekeeper(context, sync=b"\0", apart=False)
        with pytest.raises(ssl.SSLError):
            await script.serve(theirs)

    script = asyncio.create_task(gatekeeper())
    with pytest.raises(TLSError, match="alert") as error:
        await lab.connector(credential).establish(ours, gatekeeper=True)
    assert error.value.code is ErrorCode.AUTHORIZATION
    await script


async def test_elliptic_curve_credentials_work(lab: Lab) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    host = lab.ca.host(["localhost"], key=key).credential
    pair = await establish(lab.acceptor(host), lab.connector())
    assert pair.client.peer is not None
    assert pair.client.peer.eec == host.certificate


@pytest.mark.parametrize("flaw", ["mismatch", "weak"])
def test_an_unusable_credential_is_reported_at_once(lab: Lab, flaw: str) -> None:
    key = rsa_key("weak", 1024)
    certificate = lab.alice.certificate
    if flaw == "weak":
        certificate = lab.ca.sign(make_name("/O=Gram Lab/CN=Weak"), key.public_key())
    for make in (Acceptor, Connector):
        with pytest.raises(TLSError) as error:
            make(Credential(certificate, key), lab.directory)
        assert error.value.code is ErrorCode.AUTHORIZATION


async def test_a_replaced_ca_is_noticed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lab.path / "renewed"
    old = LabCA(
        lab.path / "old", subject="/O=Again/CN=CA", base="/O=Again", key=rsa_key("again"),
        now=datetime.now(UTC) - timedelta(days=90),
    )  # fmt: skip
    new = LabCA(lab.path / "new", subject="/O=Again/CN=CA", base="/O=Again", key=rsa_key("again"))
    user = new.user("User", key=rsa_key("eve")).credential
    acceptor = Acceptor(lab.host, CADirectory(old.ca_directory(path)))
    pair = await establish(acceptor, lab.connector(user))
    assert pair.server.peer is None
    new.ca_directory(path)
    monkeypatch.setattr(gsi, "CONTEXT_LIFETIME", -1.0)
    pair = await establish(acceptor, lab.connector(user))
    assert pair.server.peer is not None
    assert pair.server.peer.identity == "/O=Again/CN=User"


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
